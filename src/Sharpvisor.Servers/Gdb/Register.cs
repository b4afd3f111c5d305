// Registers by the types of target descriptions (GDB manual, appendix G): sizes, names and groups as gdb's i386 features.
using System.Buffers.Binary;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

/// <summary>One register as a debugger sees it: little-endian bytes that are a part of a processor's state.</summary>
internal abstract class Register(string name, int bits, string type, string? group)
{
    public string Name => name;

    public int Bits => bits;

    public int Size => bits / 8;

    /// <summary>Of the target description: a predefined one, or one of <see cref="RegisterTypes"/>.</summary>
    public string Type => type;

    /// <summary>What <c>info registers GROUP</c> shows; null: by type, most in the general group.</summary>
    public string? Group => group;

    /// <param name="value"><see cref="Size"/> bytes.</param>
    public abstract void Read(in CpuState state, Span<byte> value);

    /// <param name="view">For what the state refers to in memory.</param>
    /// <returns>False: it can't be changed to this.</returns>
    public abstract bool TryWrite(ref CpuState state, ReadOnlySpan<byte> value, IGuestView view);
}

/// <summary>Up to 64 bits.</summary>
internal sealed class NumberRegister(string name, int bits, string type, string? group, NumberRegister.Getter get, NumberRegister.Setter set) : Register(name, bits, type, group)
{
    public delegate ulong Getter(in CpuState state);

    public delegate void Setter(ref CpuState state, ulong value);

    public override void Read(in CpuState state, Span<byte> value)
    {
        Span<byte> all = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(all, get(in state));
        all[..Size].CopyTo(value);
    }

    public override bool TryWrite(ref CpuState state, ReadOnlySpan<byte> value, IGuestView view)
    {
        Span<byte> all = stackalloc byte[8];
        all.Clear();
        value.CopyTo(all);
        set(ref state, BinaryPrimitives.ReadUInt64LittleEndian(all));
        return true;
    }
}

/// <summary>ST(i), 80 bits.</summary>
internal sealed class StackRegister(int index) : Register($"st{index}", 80, "i387_ext", null)
{
    private readonly int _at = X87Area.Registers + (X87Area.RegisterSize * index);

    public override void Read(in CpuState state, Span<byte> value) => ((ReadOnlySpan<byte>)state.X87).Slice(_at, Size).CopyTo(value);

    public override bool TryWrite(ref CpuState state, ReadOnlySpan<byte> value, IGuestView view)
    {
        value.CopyTo(((Span<byte>)state.X87).Slice(_at, Size));
        return true;
    }
}

/// <summary>The lower or upper 128 bits of a vector register.</summary>
internal sealed class VectorRegister(string name, string type, int index, bool isUpper) : Register(name, 128, type, isUpper ? null : "vector")
{
    public override void Read(in CpuState state, Span<byte> value)
    {
        ref readonly var register = ref state.Ymm[index];
        BinaryPrimitives.WriteUInt64LittleEndian(value, isUpper ? register.Q2 : register.Q0);
        BinaryPrimitives.WriteUInt64LittleEndian(value[8..], isUpper ? register.Q3 : register.Q1);
    }

    public override bool TryWrite(ref CpuState state, ReadOnlySpan<byte> value, IGuestView view)
    {
        ref var register = ref state.Ymm[index];
        var (low, high) = (BinaryPrimitives.ReadUInt64LittleEndian(value), BinaryPrimitives.ReadUInt64LittleEndian(value[8..]));
        if (isUpper)
            (register.Q2, register.Q3) = (low, high);
        else
            (register.Q0, register.Q1) = (low, high);
        return true;
    }
}

/// <summary>
/// A segment selector. Another one is loaded as the processor would: base 16 * selector in real mode, from the
/// descriptor table in protected mode; the null selector leaves the segment unusable.
/// </summary>
internal sealed class SelectorRegister(string name, int index) : Register(name, 32, "int32", null)
{
    public override void Read(in CpuState state, Span<byte> value) => BinaryPrimitives.WriteUInt32LittleEndian(value, state.Segments[index].Selector);

    public override bool TryWrite(ref CpuState state, ReadOnlySpan<byte> value, IGuestView view)
    {
        const ulong protectedMode = 1, virtual8086 = 1 << 17;
        ref var segment = ref state.Segments[index];
        var selector = (ushort)BinaryPrimitives.ReadUInt32LittleEndian(value);
        if (selector == segment.Selector)
            return true;
        if ((state.Cr0 & protectedMode) == 0 || (state.Rflags & virtual8086) != 0)
        {
            segment.Selector = selector;
            segment.Base = (ulong)selector << 4;
            return true;
        }

        if ((selector & ~3) == 0)
        {
            segment = new SegmentRegister { Selector = selector };
            return true;
        }

        // SDM vol. 3, 3.4.5: a descriptor of 8 bytes.
        var isLocal = (selector & 4) != 0;
        var (table, limit) = isLocal ? (state.Ldtr.Base, state.Ldtr.Limit) : (state.Gdtr.Base, state.Gdtr.Limit);
        var offset = (uint)(selector & ~7);
        Span<byte> bytes = stackalloc byte[8];
        if (offset + 7 > limit || view.ReadLinear(in state, table + offset, bytes) < bytes.Length)
            return false;
        var low = BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        var high = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        var loaded = new SegmentRegister
        {
            Selector = selector,
            Base = (low >> 16) | ((high & 0xFF) << 16) | (high & 0xFF00_0000),
            Limit = (low & 0xFFFF) | (high & 0xF_0000),
            Attributes = (ushort)((high >> 8) & 0xF0FF),
        };
        if ((loaded.Attributes & 0x8000) != 0)
            loaded.Limit = (loaded.Limit << 12) | 0xFFF;
        if (!loaded.Present || !loaded.IsCodeOrData)
            return false;
        segment = loaded;
        return true;
    }
}
