using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Sharpvisor.Cpu.State;

/// <summary>The part of <see cref="CpuContext"/> that generated code and the translator share.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct TranslatorContext
{
    /// <summary>The arithmetic flags as LAHF and SETO leave them: OF in bit 0, SF ZF AF PF CF at their places in bits 8 to 15; the bits above are anything.</summary>
    public ulong SavedFlags;

    /// <summary>RIP minus the offset within its page, for the block at work: generated code does not know where it runs.</summary>
    public ulong PageBase;

    /// <summary>What a remembered look-up must have been made under: <see cref="CpuContext.LookupKey"/> and more.</summary>
    public ulong Key;

    /// <summary>A number for it that fits the entries of the jump table.</summary>
    public uint KeyNumber;

    /// <summary>Non-zero: leave at the next block head. Set by any thread after <see cref="CpuContext.Pending"/>.</summary>
    public int Attention;

    /// <summary>Which way generated code was left: an index into the translator's exits.</summary>
    public int Exit;

    /// <summary>The host's stack pointer, and the scratch registers as they were at the exit.</summary>
    public ulong HostStack, Scratch14, Scratch15;

    /// <summary>A host address, and a jump target, kept while the scratch registers are needed.</summary>
    public ulong KeptAddress, JumpTarget;

    /// <summary>MXCSR of the host, and room to look at the present one.</summary>
    public uint HostMxcsr, PresentMxcsr;

    /// <summary>Non-zero: x87 instructions can't simply be executed, the interpreter has to look at them.</summary>
    public byte X87Slow;

    /// <summary>
    /// Whether the upper halves of the vector registers hold anything, as <see cref="UpperHalves"/>. Legacy SSE
    /// instructions are slow on some processors while they do, and moving them costs.
    /// </summary>
    public UpperHalves Upper;

    /// <summary>Instructions left in the budget, when they are counted.</summary>
    public long Remaining;

    /// <summary>
    /// What <see cref="Key"/> becomes by a change of privilege or of RFLAGS.AC in 64-bit mode, by the kind of TLB that
    /// goes with it: 0 user, 1 kernel with SMAP in force, 2 kernel without.
    /// </summary>
    public PrivilegeKeys Privileges;
}

/// <summary>By the kind of TLB.</summary>
[InlineArray(3)]
internal struct PrivilegeKeys
{
    private PrivilegeKey _first;
}

/// <summary><see cref="TranslatorContext.Key"/> and <see cref="TranslatorContext.KeyNumber"/>; the number is zero where they are not known.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PrivilegeKey
{
    public ulong Key;
    public uint Number;
}

/// <summary>The upper halves of YMM0 to YMM15.</summary>
internal enum UpperHalves : byte
{
    /// <summary>Zero, in the state too.</summary>
    Clean,

    /// <summary>In use.</summary>
    Used,
}
