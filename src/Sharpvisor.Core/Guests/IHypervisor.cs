using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Guests;

/// <summary>Memory as the code that runs on a processor sees it at this moment, by linear address, with the rights of its kernel.</summary>
public interface ILinearMemory
{
    /// <summary>False: some byte is not mapped to RAM; what was read is not to be used.</summary>
    bool TryRead(ulong linear, Span<byte> destination);

    /// <summary>False: some byte can't be written; some before it may have been.</summary>
    bool TryWrite(ulong linear, ReadOnlySpan<byte> source);

    /// <summary>The guest-physical address of one byte.</summary>
    bool TryTranslate(ulong linear, out ulong physical);
}

/// <summary>A hypercall: VMCALL or VMMCALL.</summary>
/// <param name="Processor">Who calls.</param>
/// <param name="Privilege">CPL, 0 to 3.</param>
/// <param name="Is64">Numbers and pointers have 64 bits.</param>
/// <param name="Number">RAX or EAX.</param>
public readonly record struct Hypercall(int Processor, int Privilege, bool Is64, ulong Number, ulong Arg1, ulong Arg2, ulong Arg3, ulong Arg4, ulong Arg5);

/// <summary>What a processor does after a hypercall.</summary>
public enum AfterHypercall
{
    GoOn,

    /// <summary>It waits for an event.</summary>
    Halt,

    /// <summary>It is off until another processor starts it.</summary>
    Offline,
}

/// <summary>What becomes of a hypercall.</summary>
/// <param name="Value">What RAX gets.</param>
/// <param name="IsAgain">The call is not through: the processor makes it again, after interrupts that wait. <paramref name="Value"/> is not used.</param>
/// <param name="Rest">The processor has nothing to do for now: it sleeps on this, without the gate, for a fraction of a millisecond.</param>
public readonly record struct HypercallResult(ulong Value, bool IsAgain = false, WakeableSleep? Rest = null, AfterHypercall After = AfterHypercall.GoOn);

/// <summary>What a processor does with its time.</summary>
public enum ProcessorActivity
{
    Running,

    /// <summary>Nothing, until an interrupt comes: HLT, or a hypercall that waits.</summary>
    Halted,

    /// <summary>Nothing, until another processor starts it: it waits for that, or has halted without interrupts.</summary>
    Off,
}

/// <summary>The interface of a hypervisor that a machine offers its guest, in place of the engine's own.</summary>
public interface IHypervisor
{
    /// <summary>Leaves 40000000h to 400000FFh of CPUID. Without the gate; zeroes where there is nothing.</summary>
    (uint Eax, uint Ebx, uint Ecx, uint Edx) QueryCpuid(int processor, uint leaf, uint subleaf);

    /// <summary>Serves a hypercall, with the machine's gate held.</summary>
    /// <param name="memory">Of paravirtual kernels an <see cref="IParavirtualProcessor"/>.</param>
    HypercallResult Call(in Hypercall call, ILinearMemory memory);

    /// <summary>A processor begins to do something else. With the machine's gate held.</summary>
    void SetActivity(int processor, ProcessorActivity activity);
}
