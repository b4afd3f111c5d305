using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu;

/// <summary>Why <see cref="IVcpu.Run"/> returned.</summary>
public enum VcpuExit
{
    /// <summary>The instruction budget is used up.</summary>
    Budget,

    /// <summary>Another thread called <see cref="IVcpu.Kick"/>.</summary>
    Kicked,

    /// <summary>HLT: nothing to execute until <see cref="IVcpu.WaitForWork"/> returns.</summary>
    Halted,

    /// <summary>It waits for its start-up IPI; the same.</summary>
    Off,

    /// <summary>A triple fault; <see cref="IVcpu.DescribeFault"/> tells why.</summary>
    Shutdown,

    /// <summary>A breakpoint, a watchpoint or the end of a step: <see cref="IVcpu.DebugEvent"/>.</summary>
    Debug,
}

/// <summary>One virtual processor of any engine. One thread runs it; <see cref="Kick"/> and the signal pins may be used from others.</summary>
public interface IVcpu : IProcessorSignals, IDisposable
{
    int Index { get; }

    /// <summary>Instructions executed since power-on, approximately while running on another thread.</summary>
    long InstructionCount { get; }

    /// <summary>Executes at most about <paramref name="budget"/> instructions.</summary>
    VcpuExit Run(long budget);

    /// <summary>Makes a running or waiting vCPU return soon; sticky until it has done so once.</summary>
    void Kick();

    /// <summary>Blocks until there is something to execute or the vCPU is kicked. Costs no host CPU.</summary>
    void WaitForWork();

    /// <summary>RFLAGS.IF: an interrupt ends a HLT. The vCPU must not be running.</summary>
    bool TakesInterrupts => (GetState().Rflags & (1UL << 9)) != 0;

    /// <summary>Copies the state out. The vCPU must not be running.</summary>
    CpuState GetState();

    /// <summary>Replaces the state. The vCPU must not be running.</summary>
    void SetState(in CpuState state);

    /// <summary>Why <see cref="Run"/> returned <see cref="VcpuExit.Debug"/> the last time.</summary>
    DebugEvent DebugEvent { get; }

    /// <summary>Says where a debugger wants it to stop; a reset changes nothing of it. The vCPU must not be running.</summary>
    void SetDebugPoints(DebugPoints points);

    /// <summary>Says how it goes on, until the next stop for a debugger. The vCPU must not be running.</summary>
    void SetStepping(in Stepping stepping);

    /// <summary>Puts the processor in its power-on state: the first one at the reset vector, the others waiting for SIPI.</summary>
    void Reset();

    /// <summary>Several lines for a person: the exceptions that led here, registers, the instructions around RIP.</summary>
    string DescribeFault();

    /// <summary>Several lines for a person: what the engine has done so far. The vCPU must not be running.</summary>
    string DescribeEngine();
}
