using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;

namespace Sharpvisor.Cpu.State;

/// <summary>Why a running vCPU must leave its fast path: bits of <see cref="CpuContext.Pending"/>.</summary>
[Flags]
internal enum PendingEvents
{
    None = 0,

    /// <summary>The APIC asserts INTR.</summary>
    Interrupt = 1,
    Nmi = 2,
    Smi = 4,
    Init = 8,
    Startup = 16,
    Kick = 32,

    /// <summary>Another vCPU or a device changed code, or decodes from a page that was data: see <see cref="CodeCoherence"/>.</summary>
    Code = 64,

    /// <summary>The vCPU itself: it stops for a debugger.</summary>
    Debug = 128,
}

/// <summary>Why a vCPU executes one instruction at a time.</summary>
[Flags]
internal enum SlowReasons : byte
{
    None = 0,

    /// <summary>EFLAGS.TF, EFLAGS.RF, or a breakpoint in DR7.</summary>
    Debug = 1,

    /// <summary>STI or MOV SS was just executed.</summary>
    Shadow = 2,

    /// <summary>Blocks are written to the trace (these may have more than one instruction).</summary>
    Trace = 4,

    /// <summary>A debugger steps, or lets the processor go on from a breakpoint.</summary>
    Debugger = 8,
}

/// <summary>
/// What an engine works on while a vCPU runs: the architectural state, and everything derived from it or cached.
/// Lives in native memory at a fixed address, so that handlers and generated code reach it by one pointer.
/// </summary>
/// <remarks>
/// Arithmetic flags are lazy: <see cref="FlagResult"/> and <see cref="FlagAux"/> hold what they derive from
/// (see <see cref="Interpreter.Flags"/>); the arithmetic bits of <c>Arch.Rflags</c> are stale while running.
/// <c>Arch.Rip</c> is the start of the current block, in offsets from the CS base.
/// </remarks>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CpuContext
{
    public CpuState Arch;

    /// <summary>The last result, sign-extended to 64 bits.</summary>
    public ulong FlagResult;

    /// <summary>Carries and corrections that go with <see cref="FlagResult"/>.</summary>
    public ulong FlagAux;

    /// <summary>Always zero: the base or index of an address that has none.</summary>
    public ulong Zero;

    /// <summary><see cref="PendingEvents"/>, set by any thread.</summary>
    public int Pending;

    /// <summary>Whether anything is pending that the flags do not bar: interrupts need IF. Shadows and blocked NMIs are not looked at.</summary>
    public readonly bool HasEvents
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => (Volatile.Read(in Pending) & (~(int)PendingEvents.Interrupt | ((int)(Arch.Rflags >> 9) & (int)PendingEvents.Interrupt))) != 0;
    }

    /// <summary>The TLB for data accesses at the current privilege level.</summary>
    public TlbEntry* Tlb;

    /// <summary>A GCHandle of the vCPU object.</summary>
    public nint Self;

    /// <summary>Mode of the current code: the key that decoded blocks are kept by, see <see cref="Decoding.BlockMode"/>.</summary>
    public uint Mode;

    /// <summary>Current privilege level, 0 to 3.</summary>
    public byte Cpl;

    /// <summary>Why instructions must be executed one by one: bits of <see cref="SlowReasons"/>.</summary>
    public byte Slow;

    /// <summary>1 in 64-bit mode.</summary>
    public byte Is64;

    /// <summary>SSE, x87 and AVX instructions fault now: bits of <see cref="FpuTraps"/>.</summary>
    public byte FpuTrap;

    /// <summary>The guest's x87 registers are in the host FPU.</summary>
    public byte X87Live;

    /// <summary>All ones in 64-bit mode; 0xFFFFFFFF or 0xFFFF: what a stack pointer is cut to.</summary>
    public ulong StackMask;

    /// <summary>What an instruction pointer is cut to.</summary>
    public ulong RipMask;

    /// <summary>
    /// By segment register, outside of 64-bit mode: the last offset that may simply be read, or written; -1 where that
    /// takes a closer look (expand-down segments), or none may be.
    /// </summary>
    public SegmentLimits ReadLimits, WriteLimits;

    /// <summary>
    /// <see cref="Mode"/>, privilege, and a number that grows whenever a linear address may mean other code: what a
    /// cached block look-up must have been made under.
    /// </summary>
    public ulong LookupKey;

    /// <summary>The operation that is at work: set by whatever may fault, so that the fault knows its RIP.</summary>
    public Op* CurrentOp;

    public Block* CurrentBlock;

    /// <summary>The direct-mapped cache of block look-ups by RIP.</summary>
    public JumpEntry* JumpCache;

    public long InstructionCount;

    /// <summary>Holds the operand of an access that has no plain host address (page crossing, MMIO, watched pages).</summary>
    public YmmBounce Bounce;

    /// <summary>What generated code works with: see the translator.</summary>
    public TranslatorContext Translator;

    /// <summary>Exception being raised: vector, error code, and the operation that raised it.</summary>
    public int FaultVector;
    public uint FaultError;
    public byte FaultHasError;
    public ulong PendingDr6;
}

/// <summary>Which instruction classes CR0, CR4 and XCR0 make fault, and how.</summary>
[Flags]
internal enum FpuTraps : byte
{
    None = 0,

    /// <summary>x87: CR0.EM or CR0.TS, #NM.</summary>
    X87NotAvailable = 1,

    /// <summary>MMX: CR0.EM, #UD.</summary>
    MmxUndefined = 2,

    /// <summary>SSE: CR0.EM or no CR4.OSFXSR, #UD.</summary>
    SseUndefined = 4,

    /// <summary>AVX: no CR4.OSXSAVE or XCR0 without SSE and AVX, not in protected mode, #UD.</summary>
    AvxUndefined = 8,

    /// <summary>CR0.TS: #NM for MMX, SSE and AVX.</summary>
    TaskSwitched = 16,

    /// <summary>WAIT with CR0.MP and CR0.TS: #NM.</summary>
    WaitNotAvailable = 32,

    /// <summary>Real or virtual-8086 mode: VEX encodings are #UD.</summary>
    VexUndefined = 64,
}

/// <summary>A number for each segment register, in encoding order.</summary>
[InlineArray(6)]
internal struct SegmentLimits
{
    private long _es;
}

/// <summary>512 bytes, enough for any memory operand that goes through a bounce buffer.</summary>
[InlineArray(1024)]
internal struct YmmBounce
{
    private byte _first;
}
