using System.Buffers.Binary;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Servers.Gdb;

/// <summary>The x87 part of an FXSAVE area (SDM vol. 1, table 10-2, 64-bit form), as gdb's i387 registers show it.</summary>
internal static class X87Area
{
    public const int Registers = 32, RegisterSize = 16;

    public const int Control = 0, Status = 2, Opcode = 6, InstructionOffset = 8, InstructionSelector = 12, DataOffset = 16, DataSelector = 20;

    private const int AbridgedTags = 4;

    public static uint U16(in CpuState state, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(((ReadOnlySpan<byte>)state.X87)[offset..]);

    public static uint U32(in CpuState state, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(((ReadOnlySpan<byte>)state.X87)[offset..]);

    public static void SetU16(ref CpuState state, int offset, ulong value) => BinaryPrimitives.WriteUInt16LittleEndian(((Span<byte>)state.X87)[offset..], (ushort)value);

    public static void SetU32(ref CpuState state, int offset, ulong value) => BinaryPrimitives.WriteUInt32LittleEndian(((Span<byte>)state.X87)[offset..], (uint)value);

    /// <summary>The tag word of FSAVE: two bits a physical register (SDM vol. 1, 8.1.7), of which FXSAVE keeps one.</summary>
    public static ulong ReadTags(in CpuState state)
    {
        const ulong valid = 0, zero = 1, special = 2, empty = 3;
        ReadOnlySpan<byte> area = state.X87;
        var top = (int)(U16(in state, Status) >> 11) & 7;
        ulong tags = 0;
        for (var physical = 0; physical < 8; physical++)
        {
            var tag = empty;
            if ((area[AbridgedTags] & (1 << physical)) != 0)
            {
                var register = area.Slice(Registers + (((physical - top) & 7) * RegisterSize), 10);
                var mantissa = BinaryPrimitives.ReadUInt64LittleEndian(register);
                tag = (BinaryPrimitives.ReadUInt16LittleEndian(register[8..]) & 0x7FFF) switch
                {
                    0 => mantissa == 0 ? zero : special,
                    0x7FFF => special,
                    _ => (mantissa >> 63) != 0 ? valid : special,
                };
            }

            tags |= tag << (2 * physical);
        }

        return tags;
    }

    public static void WriteTags(ref CpuState state, ulong tags)
    {
        var abridged = 0;
        for (var physical = 0; physical < 8; physical++)
        {
            if (((tags >> (2 * physical)) & 3) != 3)
                abridged |= 1 << physical;
        }

        ((Span<byte>)state.X87)[AbridgedTags] = (byte)abridged;
    }
}
