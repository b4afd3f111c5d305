using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Tests;

/// <summary>
/// An engine whose processors run a step of C# instead of guest instructions: what a machine does around its
/// processors can be tested without any of their own behaviour.
/// </summary>
internal sealed class ScriptedEngine(Func<ScriptedVcpu, VcpuExit?> step) : ICpuEngine
{
    public List<ScriptedVcpu> Vcpus { get; } = [];

    public string Name => "scripted";

    public IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs)
    {
        var vcpu = new ScriptedVcpu(index, environment, step);
        Vcpus.Add(vcpu);
        return vcpu;
    }
}

/// <summary>Keeps to the contract of <see cref="IVcpu"/>: a kick is sticky, only the first processor starts active.</summary>
internal sealed class ScriptedVcpu(int index, CpuEnvironment environment, Func<ScriptedVcpu, VcpuExit?> step) : IVcpu
{
    private readonly ManualResetEventSlim _work = new(false);
    private volatile bool _kicked;
    private CpuState _state;
    private int _running;

    public CpuEnvironment Environment => environment;

    public int Index => index;

    public long InstructionCount { get; private set; }

    public int Resets { get; private set; }

    /// <summary>Set when someone broke the rule that a vCPU is only touched while it does not run.</summary>
    public bool TouchedWhileRunning { get; private set; }

    /// <summary>Set when it went while a device could be telling it something.</summary>
    public bool DisposedWithoutGate { get; private set; }

    public VcpuExit Run(long budget)
    {
        Interlocked.Exchange(ref _running, 1);
        try
        {
            while (true)
            {
                if (_kicked)
                {
                    _kicked = false;
                    return VcpuExit.Kicked;
                }

                if (_state.Activity == ActivityState.WaitForSipi)
                    return VcpuExit.Halted;
                InstructionCount++;
                if (step(this) is { } exit)
                    return exit;
            }
        }
        finally
        {
            Interlocked.Exchange(ref _running, 0);
        }
    }

    public void Out(ushort port, ushort value, int size = 1) => environment.Ports.Write(port, size, value);

    public byte In(ushort port) => (byte)environment.Ports.Read(port, 1);

    public void Kick()
    {
        _kicked = true;
        _work.Set();
    }

    public void WaitForWork()
    {
        _work.Wait();
        _work.Reset();
    }

    /// <summary>Where it halts it waits for an interrupt: it is not through.</summary>
    public bool TakesInterrupts => true;

    public CpuState GetState() => Touch(_state);

    public void SetState(in CpuState state) => _state = Touch(state);

    public void Reset()
    {
        Resets++;
        _state = Touch(new CpuState { Rip = 0xFFF0, Activity = index == 0 ? ActivityState.Active : ActivityState.WaitForSipi });
    }

    /// <summary>What a debugger has asked for last.</summary>
    public Stepping Stepping { get; private set; }

    public DebugPoints Points { get; private set; } = DebugPoints.None;

    /// <summary>Set by the step that returns <see cref="VcpuExit.Debug"/>.</summary>
    public DebugEvent DebugEvent { get; set; }

    public void SetDebugPoints(DebugPoints points) => Points = Touch(points);

    public void SetStepping(in Stepping stepping) => Stepping = Touch(stepping);

    public string DescribeFault() => "the exceptions that led here";

    public string DescribeEngine() => "scripted";

    public void SetInterruptRequest(bool asserted) => _work.Set();

    public void RaiseNmi() => _work.Set();

    public void RaiseSmi() => _work.Set();

    public void RaiseInit() => _work.Set();

    public void RaiseStartup(byte vector) => _work.Set();

    public void Dispose()
    {
        TouchedWhileRunning |= _running != 0;
        DisposedWithoutGate |= !environment.Gate.IsHeld;
        _work.Dispose();
    }

    private T Touch<T>(T value)
    {
        TouchedWhileRunning |= Volatile.Read(ref _running) != 0;
        return value;
    }
}
