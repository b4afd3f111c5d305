using System.Numerics;

namespace Sharpvisor.Cpu.Translator;

/// <summary>
/// Which host registers hold the guest's. RAX to RDI but RSP keep their names, because high bytes and implicit operands
/// need that; RSP lives in R13; R8 to R12 hold five of the guest's R8 to R15, and the other three are in the state.
/// A map is named by the mask of those five: bit n is R(8+n).
/// </summary>
internal static class RegisterMap
{
    public const int PoolSize = 5;
    public const int Spilled = -1;

    /// <summary>What indirect jumps and the jump cache agree on: what compilers use most.</summary>
    public const byte Canonical = 0b0111_0011;

    private static readonly sbyte[] s_homes = [8, 9, -1, -1, 12, 10, 11, -1];
    private static readonly sbyte[][] s_maps = [.. Enumerable.Range(0, 256).Select(mask => Make((byte)mask))];

    /// <summary>Host register of each of the sixteen guest registers, or <see cref="Spilled"/>.</summary>
    public static sbyte[] Of(byte mask) => s_maps[mask];

    /// <summary>
    /// The map for a block: what it uses most stays in registers, and of the rest what the predecessor has there.
    /// </summary>
    /// <param name="uses">How often each of R8 to R15 is used.</param>
    public static byte Choose(ReadOnlySpan<int> uses, byte predecessor)
    {
        byte mask = 0;
        while (BitOperations.PopCount(mask) < PoolSize)
        {
            var best = -1;
            var bestScore = -1;
            for (var i = 0; i < 8; i++)
            {
                if ((mask >> i & 1) != 0)
                    continue;
                var score = (uses[i] * 4) + ((predecessor >> i & 1) * 2) + (Canonical >> i & 1);
                if (score > bestScore)
                {
                    best = i;
                    bestScore = score;
                }
            }

            mask |= (byte)(1 << best);
        }

        return mask;
    }

    private static sbyte[] Make(byte mask)
    {
        var map = new sbyte[16];
        for (var i = 0; i < 8; i++)
            map[i] = (sbyte)i;
        map[4] = Host.GuestRsp;
        var taken = 0;
        for (var i = 0; i < 8; i++)
        {
            map[8 + i] = Spilled;
            if ((mask >> i & 1) == 0 || s_homes[i] < 0)
                continue;
            map[8 + i] = s_homes[i];
            taken |= 1 << s_homes[i];
        }

        for (var i = 0; i < 8; i++)
        {
            if ((mask >> i & 1) == 0 || s_homes[i] >= 0)
                continue;
            for (sbyte host = 8; host <= 12; host++)
            {
                if ((taken >> host & 1) != 0)
                    continue;
                map[8 + i] = host;
                taken |= 1 << host;
                break;
            }
        }

        return map;
    }
}
