using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu.Cpuid;

namespace Sharpvisor.Cpu;

/// <summary>What the processors of one machine share: the buses they drive and what CPUID tells.</summary>
public sealed class CpuEnvironment
{
    public required GuestMemory Memory { get; init; }
    public required AddressSpace Mmio { get; init; }
    public required AddressSpace Ports { get; init; }
    public required Clock Clock { get; init; }
    public required MachineGate Gate { get; init; }
    public required GuestErrorLog Errors { get; init; }
    public required ILogger Logger { get; init; }
    public required CpuModel Model { get; init; }

    /// <summary>How many processors the machine has.</summary>
    public required int ProcessorCount { get; init; }

    /// <summary>A port of which IN sees and changes the general registers; null: there is none.</summary>
    public IRegisterPort? RegisterPort { get; init; }

    /// <summary>Whose CPUID leaves and hypercalls the guest finds; null: those of KVM that the engine has itself.</summary>
    public IHypervisor? Hypervisor { get; init; }

    /// <summary>Given, the processors are those of a paravirtual domain: its kernel is in ring 3 and has no privileged instructions.</summary>
    public IParavirtualDomain? Paravirtual { get; init; }

    /// <summary>What <c>-d</c> asked for, and where it goes.</summary>
    public CpuTrace? Trace { get; init; }

    /// <summary>Who is told of interrupts, exceptions and system calls; after a change of what is wanted a vCPU has to be kicked.</summary>
    public TracePoints? Points { get; init; }
}

/// <summary>What a processor writes to the debug log.</summary>
[Flags]
public enum TraceKinds
{
    None = 0,

    /// <summary>Interrupts and exceptions, with registers.</summary>
    Int = 1,

    /// <summary>Each block before it is executed.</summary>
    Exec = 2,

    /// <summary>Each block when it is decoded, disassembled.</summary>
    InAsm = 4,

    /// <summary>Processor resets.</summary>
    CpuReset = 8,

    /// <summary>What the engine did, when the machine ends.</summary>
    Jit = 16,
}

/// <summary>The debug log of the processors.</summary>
/// <param name="write">Called with whole lines, from any vCPU thread.</param>
public sealed class CpuTrace(TraceKinds kinds, Action<string> write)
{
    private int _kinds = (int)kinds;

    /// <summary>What is written. After a change a vCPU has to be kicked.</summary>
    public TraceKinds Kinds
    {
        get => (TraceKinds)Volatile.Read(ref _kinds);
        set => Volatile.Write(ref _kinds, (int)value);
    }

    public Action<string> Write { get; } = write;
}

/// <summary>Makes the processors of a machine.</summary>
public interface ICpuEngine
{
    /// <summary>As given to <c>-accel</c>.</summary>
    string Name { get; }

    /// <param name="apic">The processor's local APIC, whose signals end at the returned vCPU.</param>
    /// <param name="msrs">Further registers, asked in order after the processor's own and the APIC's.</param>
    IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs);
}
