using System.Runtime.InteropServices;

namespace Conformance.Fuzzing;

/// <summary>Operand values near which processors and their imitations differ.</summary>
public static class Values
{
    /// <summary>Memory to take the scratch contents from, at any 8-byte offset.</summary>
    public const int PoolSize = 1 << 18;

    private static readonly double[] s_doubles =
    [
        0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.0, 1e-310, -1e-310, double.Epsilon, double.MaxValue, double.MinValue,
        double.PositiveInfinity, double.NegativeInfinity, double.NaN, 2147483647.5, -2147483648.5, 9.223372036854775e18, 4503599627370497.5,
        2.2250738585072014e-308, Math.PI, 1e100, 1e-100,
    ];

    private static readonly ulong[] s_signalling = [0x7FF0000000000001, 0xFFF4000000000000, 0x7FA000007FA00000, 0xFF800001FF800001];

    public static ulong Integer(Random random)
    {
        switch (random.Next(8))
        {
            case 0:
                return (ulong)random.Next(0, 4) - (ulong)random.Next(0, 3);
            case 1:
                return (1UL << random.Next(64)) - (ulong)random.Next(0, 2);
            case 2:
                return ~(1UL << random.Next(64)) + (ulong)random.Next(0, 2);
            case 3:
                return (ulong)random.Next(256);
            case 4:
                return (ulong)(long)(int)random.NextInt64();
            case 5:
                var word = (ulong)random.Next(65536);
                return word | (word << 16) | (word << 32) | (word << 48);
            default:
                return (ulong)random.NextInt64(long.MinValue, long.MaxValue);
        }
    }

    /// <summary>64 bits that are an integer, a double or two singles.</summary>
    public static ulong Lane(Random random)
    {
        switch (random.Next(6))
        {
            case 0:
                return BitConverter.DoubleToUInt64Bits(s_doubles[random.Next(s_doubles.Length)]);
            case 1:
                return Single(random) | ((ulong)Single(random) << 32);
            case 2:
                return BitConverter.DoubleToUInt64Bits((random.NextDouble() - 0.5) * Math.Pow(2, random.Next(-70, 70)));
            case 3:
                return random.Next(8) == 0 ? s_signalling[random.Next(s_signalling.Length)] : Integer(random);
            default:
                return Integer(random);
        }
    }

    public static byte[] MakePool(Random random)
    {
        var pool = new byte[PoolSize];
        foreach (ref var lane in MemoryMarshal.Cast<byte, ulong>(pool.AsSpan()))
            lane = Lane(random);
        return pool;
    }

    private static uint Single(Random random) => random.Next(2) == 0
        ? BitConverter.SingleToUInt32Bits((float)s_doubles[random.Next(s_doubles.Length)])
        : BitConverter.SingleToUInt32Bits((float)((random.NextDouble() - 0.5) * Math.Pow(2, random.Next(-30, 30))));
}
