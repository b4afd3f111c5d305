using System.Runtime.CompilerServices;
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>Which checks an instruction is subject to before it executes (SDM vol. 3, 2.5 and table 14-1).</summary>
public enum HostIsa
{
    /// <summary>General registers only: no check.</summary>
    Gpr,

    /// <summary>#NM by CR0.EM or CR0.TS (WAIT: by MP and TS).</summary>
    X87,

    /// <summary>#UD by CR0.EM, #NM by CR0.TS.</summary>
    Mmx,

    /// <summary>#UD by CR0.EM or a clear CR4.OSFXSR, #NM by CR0.TS.</summary>
    Sse,

    /// <summary>#UD without CR4.OSXSAVE and both bits of XCR0, #NM by CR0.TS.</summary>
    Avx,
}

/// <summary>How a thunk ended.</summary>
public enum ThunkResult
{
    Done,

    /// <summary>#XM: an unmasked SIMD floating-point exception. Registers and memory are unchanged, MXCSR has the flags.</summary>
    SimdException,

    /// <summary>#MF: an earlier x87 instruction left an unmasked exception. Nothing was executed.</summary>
    X87Exception,
}

/// <summary>
/// One guest instruction as code of the host. Keep the object, not a copy of <see cref="Code"/>: it holds the memory
/// that the code lies in.
/// </summary>
public sealed unsafe class HostThunk
{
    /// <summary>In a result of <see cref="Code"/>: nothing was executed, an exception is or may become due.</summary>
    public const ulong Attention = 1UL << 63;

    /// <summary>With <see cref="Attention"/>: #MF. Without it, MXCSR unmasks an exception.</summary>
    public const ulong PendingX87 = 1UL << 62;

    private const uint MxcsrFlags = 0x3F, PreComputation = 0x07, UnderflowFlag = 0x10, FlushToZero = 0x8000;
    private const uint UnderflowMask = 0x800, MxcsrMasks = 0x1F80;

    private readonly CodeSegment? _segment;

    internal HostThunk(byte* code, CodeSegment? segment)
    {
        Code = (delegate* unmanaged[SuppressGCTransition]<CpuState*, byte*, ulong, ulong>)code;
        _segment = segment;
    }

    /// <summary>
    /// Executes the instruction on the registers of a state, with its memory operand at a host address and the guest's
    /// arithmetic flags. Returns RFLAGS, of which the bits of <see cref="FlagsWritten"/> mean something; or
    /// <see cref="Attention"/>. Use <see cref="Run"/> unless the instruction can't get there
    /// (<see cref="NeedsX87"/> and <see cref="UsesMxcsr"/> both false).
    /// Null when <see cref="IsSpecial"/>.
    /// </summary>
    public delegate* unmanaged[SuppressGCTransition]<CpuState*, byte*, ulong, ulong> Code { get; }

    /// <summary>An x87 instruction on the whole environment: <see cref="HostX87.ExecuteSpecial"/> executes it.</summary>
    public bool IsSpecial => Code == null;

    /// <summary>Bytes of the memory operand, 0 without one.</summary>
    public int MemorySize { get; internal init; }

    public bool ReadsMemory { get; internal init; }

    public bool WritesMemory { get; internal init; }

    /// <summary>The memory operand must be a multiple of this (16 or 32), else #GP(0); 1 when it need not. A bounce buffer has to obey too.</summary>
    public int Alignment { get; internal init; } = 1;

    /// <summary>The thunk looks at the flags that it is given. Otherwise they may be anything.</summary>
    public bool ReadsFlags { get; internal init; }

    public bool WritesFlags => FlagsWritten != 0;

    /// <summary>The bits of RFLAGS that the instruction changes, undefined ones included.</summary>
    public ulong FlagsWritten { get; internal init; }

    public HostIsa Isa { get; internal init; }

    /// <summary>The instruction touches x87 or MMX registers: <see cref="HostX87.Load"/> must have been called on this thread.</summary>
    public bool NeedsX87 { get; internal init; }

    /// <summary>The instruction is subject to MXCSR.</summary>
    public bool UsesMxcsr { get; internal init; }

    /// <summary>VEX encoded: #UD in real and virtual-8086 mode, also when only general registers are used.</summary>
    public bool IsVex { get; internal init; }

    /// <summary>Executes the instruction with everything that can happen to it, and merges the flags that it changes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ThunkResult Run(CpuState* state, byte* memory, ref ulong flags)
    {
        var result = Code(state, memory, flags);
        if ((long)result < 0)
            return RunAttention(state, memory, ref flags, result);
        flags = (flags & ~FlagsWritten) | (result & FlagsWritten);
        return ThunkResult.Done;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private ThunkResult RunAttention(CpuState* state, byte* memory, ref ulong flags, ulong result) =>
        (result & PendingX87) != 0 ? ThunkResult.X87Exception : RunUnmasked(state, memory, ref flags);

    /// <summary>
    /// The guest unmasks a SIMD exception. The instruction runs on copies with all of them masked, so that the host
    /// gets no SIGFPE; what it raised decides whether the copies become real (SDM vol. 1, 11.5).
    /// </summary>
    private ThunkResult RunUnmasked(CpuState* state, byte* memory, ref ulong flags)
    {
        var guest = state->Mxcsr;
        var unmasked = ~(guest >> 7) & MxcsrFlags;
        var masked = (guest & ~MxcsrFlags) | MxcsrMasks;
        if ((guest & UnderflowMask) == 0)
            masked &= ~FlushToZero; // flushing happens only while underflow is masked
        var bounce = stackalloc byte[64 + 32];
        bounce = (byte*)(((nuint)bounce + 31) & ~(nuint)31);
        byte* x87 = stackalloc byte[512 + 16];
        x87 = (byte*)(((nuint)x87 + 15) & ~(nuint)15);
        if (NeedsX87)
            HostX87.SaveImage(x87);

        CpuState copy;
        var newFlags = RunMasked(state, &copy, masked, memory, bounce, flags);
        var raised = copy.Mxcsr & MxcsrFlags;
        if ((unmasked & UnderflowFlag) != 0 && (raised & UnderflowFlag) == 0)
        {
            // Unmasked, underflow is raised by a tiny result even when it is exact. Flushing tells.
            CpuState probe;
            if (NeedsX87)
                HostX87.RestoreImage(x87);
            RunMasked(state, &probe, masked | FlushToZero, memory, bounce + 32, flags);
            raised |= probe.Mxcsr & UnderflowFlag;
        }

        if ((raised & unmasked & PreComputation) != 0)
            raised &= PreComputation; // the operation was not begun
        if ((raised & unmasked) != 0)
        {
            if (NeedsX87)
                HostX87.RestoreImage(x87);
            state->Mxcsr = guest | raised;
            return ThunkResult.SimdException;
        }

        if (WritesMemory)
            Buffer.MemoryCopy(bounce, memory, MemorySize, MemorySize);
        *state = copy;
        state->Mxcsr = guest | raised;
        flags = (flags & ~FlagsWritten) | (newFlags & FlagsWritten);
        return ThunkResult.Done;
    }

    private ulong RunMasked(CpuState* state, CpuState* copy, uint mxcsr, byte* memory, byte* bounce, ulong flags)
    {
        *copy = *state;
        copy->Mxcsr = mxcsr;
        if (MemorySize != 0)
            Buffer.MemoryCopy(memory, bounce, 32, MemorySize);
        return Code(copy, MemorySize != 0 ? bounce : null, flags);
    }
}
