using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Sharpvisor.Cpu.State;

/// <summary>A segment register with its hidden part (SDM vol. 3, 3.4.3).</summary>
[StructLayout(LayoutKind.Sequential)]
public struct SegmentRegister
{
    public ulong Base;

    /// <summary>The last valid offset, in bytes (granularity applied).</summary>
    public uint Limit;

    public ushort Selector;

    /// <summary>Bits 8 to 23 of a descriptor's second word: type, S, DPL, P in the low byte, AVL, L, D/B, G in bits 12 to 15.</summary>
    public ushort Attributes;

    public readonly int Dpl => (Attributes >> 5) & 3;

    public readonly int Type => Attributes & 15;

    public readonly bool Present => (Attributes & 0x80) != 0;

    /// <summary>S: a code or data segment rather than a system segment.</summary>
    public readonly bool IsCodeOrData => (Attributes & 0x10) != 0;

    public readonly bool IsCode => (Attributes & 0x18) == 0x18;

    /// <summary>L: 64-bit code.</summary>
    public readonly bool Long => (Attributes & 0x2000) != 0;

    /// <summary>D/B: 32-bit code, or a stack of 32 bits.</summary>
    public readonly bool Big => (Attributes & 0x4000) != 0;
}

/// <summary>GDTR or IDTR.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct TableRegister
{
    public ulong Base;
    public uint Limit;
}

/// <summary>Sixteen vector registers of 256 bits.</summary>
[InlineArray(16)]
public struct VectorRegisters
{
    private YmmValue _first;
}

/// <summary>256 bits of a vector register, lowest first.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct YmmValue
{
    public ulong Q0, Q1, Q2, Q3;
}

/// <summary>The 512 bytes of FXSAVE: here the x87 state; the XMM part and MXCSR are not kept in it.</summary>
[InlineArray(512)]
public struct FxArea
{
    private byte _first;
}

/// <summary>Sixteen general registers, in encoding order: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.</summary>
[InlineArray(16)]
public struct GeneralRegisters
{
    private ulong _rax;
}

/// <summary>Six segment registers, in encoding order: es, cs, ss, ds, fs, gs.</summary>
[InlineArray(6)]
public struct SegmentRegisters
{
    private SegmentRegister _es;
}

/// <summary>IA32_MTRR_PHYSBASEn and PHYSMASKn in turn, eight pairs.</summary>
[InlineArray(16)]
public struct VariableMtrrs
{
    private ulong _base0;
}

/// <summary>IA32_MTRR_FIX64K, two FIX16K, eight FIX4K.</summary>
[InlineArray(11)]
public struct FixedMtrrs
{
    private ulong _fix64K;
}

[InlineArray(8)]
public struct DebugRegisters
{
    private ulong _dr0;
}

/// <summary>What a processor is doing when it executes nothing.</summary>
public enum ActivityState
{
    Active,

    /// <summary>HLT: waits for an interrupt.</summary>
    Halted,

    /// <summary>Waits for a start-up IPI, as every processor but the first after INIT.</summary>
    WaitForSipi,

    /// <summary>A triple fault happened; only a reset helps.</summary>
    Shutdown,
}

/// <summary>
/// The architectural state of one x86 processor, with the names of Intel's SDM. One unmanaged value, shared by every
/// engine, the debugger and snapshots.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
public struct CpuState
{
    public GeneralRegisters Gpr;
    public ulong Rip;
    public ulong Rflags;
    public SegmentRegisters Segments;
    public SegmentRegister Ldtr;
    public SegmentRegister Tr;
    public TableRegister Gdtr;
    public TableRegister Idtr;
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8;
    public ulong Xcr0;
    public ulong Efer;
    public ulong Star, Lstar, Cstar, Fmask;
    public ulong KernelGsBase;
    public ulong SysenterCs, SysenterEsp, SysenterEip;
    public ulong TscAux;
    public ulong Pat;
    public ulong MiscEnable;

    /// <summary>IA32_MTRR_DEF_TYPE. The MTRRs are kept for the guest; all memory behaves as write back.</summary>
    public ulong MtrrDefaultType;
    public VariableMtrrs MtrrVariable;
    public FixedMtrrs MtrrFixed;

    /// <summary>Guest TSC = machine time in ns + this.</summary>
    public long TscOffset;

    public DebugRegisters Dr;
    public VectorRegisters Ymm;
    public FxArea X87;
    public uint Mxcsr;
    public ActivityState Activity;

    /// <summary>STI or MOV SS was just executed: no interrupt before the next instruction has ended.</summary>
    public bool InterruptShadow;

    /// <summary>An NMI was taken and no IRET executed since.</summary>
    public bool NmiBlocked;

    /// <summary>The linear address of the next instruction.</summary>
    public readonly ulong LinearRip
    {
        get
        {
            const ulong LongModeActive = 1 << 10, Virtual8086 = 1 << 17;
            var is64 = (Efer & LongModeActive) != 0 && Segments[1].Long && (Rflags & Virtual8086) == 0;
            return is64 ? Rip : (uint)(Segments[1].Base + Rip);
        }
    }
}
