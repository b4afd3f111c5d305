using System.Runtime.InteropServices;

namespace Sharpvisor.Cpu.Decoding;

/// <summary>
/// One decoded instruction: the handler that executes it and its operands, as offsets into
/// <see cref="State.CpuContext"/>. A handler ends by jumping to the next one's.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct Op
{
    /// <summary><c>delegate*&lt;CpuContext*, Op*, void&gt;</c></summary>
    public nint Fn;

    /// <summary>The immediate; the taken target of a branch, relative to the block; or a pointer to what a rare instruction needs.</summary>
    public ulong Imm;

    public long Disp;

    /// <summary>Register operands.</summary>
    public ushort Dst, Src;

    /// <summary>Registers of the memory operand; <c>CpuContext.Zero</c> if absent.</summary>
    public ushort Base, Index;

    /// <summary>Shift count of the index.</summary>
    public byte Scale;

    /// <summary>Segment register of the memory operand: 0 es, 1 cs, 2 ss, 3 ds, 4 fs, 5 gs.</summary>
    public byte Segment;

    /// <summary>Address size in bits divided by 16: 1, 2 or 4.</summary>
    public byte AddressSize;

    /// <summary>Use is the handler's.</summary>
    public byte Extra;

    /// <summary>Distance of this instruction from the start of the block, in bytes.</summary>
    public ushort Offset;

    /// <summary>The same of the next instruction.</summary>
    public ushort Next;
}

/// <summary>A run of instructions within one page that is entered at its start only.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct Block
{
    /// <summary>Guest-physical address of the first byte.</summary>
    public ulong Physical;

    /// <summary>The page that an instruction at the end runs over into; all ones if none does.</summary>
    public ulong SecondPage;

    /// <summary><see cref="BlockMode"/>.</summary>
    public uint Mode;

    public ushort Count;

    /// <summary>Bytes of guest code.</summary>
    public ushort Length;

    /// <summary>Next in its hash bucket.</summary>
    public Block* HashNext;

    public bool Stale;

    /// <summary>How often it was executed, until it is worth a translation.</summary>
    public ushort Heat;

    /// <summary>How often of that it followed itself.</summary>
    public ushort Repeats;

    /// <summary>The number of a translation that starts here, perhaps for another privilege level, or perhaps dropped meanwhile; or 0.</summary>
    public int Translation;

    /// <summary>The first operation; <see cref="Count"/> of them and one that ends the block follow each other.</summary>
    public Op* Ops;
}

/// <summary>A remembered look-up: linear RIP and key to block.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct JumpEntry
{
    public ulong Rip;
    public ulong Key;
    public Block* Block;
}

/// <summary>What decoding depends on: part of a block's identity.</summary>
[Flags]
internal enum BlockMode : uint
{
    Code16 = 0,
    Code32 = 1,
    Code64 = 2,
    CodeMask = 3,

    /// <summary>The stack pointer is 32 bits wide (outside of 64-bit mode).</summary>
    Stack32 = 4,

    /// <summary>CS, DS, ES and SS are flat 4 GiB segments that may be read and written.</summary>
    Flat = 8,

    /// <summary>One instruction only: single step, breakpoints, interrupt shadow.</summary>
    Single = 16,

    /// <summary>Real or virtual-8086 mode: selectors are bases divided by 16.</summary>
    Real = 32,
    Virtual86 = 64,
}
