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

    /// <summary>
    /// Done, but nothing was stored or popped: an x87 instruction that stores to memory raised an unmasked exception
    /// before that. The next waiting instruction will raise #MF (SDM vol. 1, 8.5).
    /// </summary>
    NotStored,

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
    /// <summary>In a result of <see cref="Code"/>: not simply done, see <see cref="ResultOf"/>.</summary>
    public const ulong Attention = 1UL << 63;

    private readonly CodeSegment? _segment;

    internal HostThunk(byte* code, CodeSegment? segment)
    {
        Code = (delegate* unmanaged[SuppressGCTransition]<CpuState*, byte*, ulong, ulong>)code;
        _segment = segment;
    }

    /// <summary>
    /// Executes the instruction on the registers of a state, with its memory operand at a host address and the guest's
    /// arithmetic flags. Returns RFLAGS, of which the bits of <see cref="FlagsWritten"/> mean something; or, when the
    /// highest bit is set, what <see cref="ResultOf"/> explains.
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

    /// <summary>The instruction is subject to MXCSR, and may end in <see cref="ThunkResult.SimdException"/>.</summary>
    public bool UsesMxcsr { get; internal init; }

    /// <summary>VEX encoded: #UD in real and virtual-8086 mode, also when only general registers are used.</summary>
    public bool IsVex { get; internal init; }

    /// <summary>Executes the instruction with everything that can happen to it, and merges the flags that it changes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ThunkResult Run(CpuState* state, byte* memory, ref ulong flags)
    {
        var result = Code(state, memory, flags);
        if ((long)result < 0)
            return ResultOf(result);
        flags = (flags & ~FlagsWritten) | (result & FlagsWritten);
        return ThunkResult.Done;
    }

    /// <summary>How a thunk ended that returned <paramref name="result"/>.</summary>
    public static ThunkResult ResultOf(ulong result) => (long)result < 0 ? (ThunkResult)(uint)result : ThunkResult.Done;

    internal static ulong Failure(ThunkResult result) => Attention | (uint)result;
}
