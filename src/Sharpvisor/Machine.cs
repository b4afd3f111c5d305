using System.Collections.ObjectModel;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boards;
using Sharpvisor.Boot;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Input;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;
using Sharpvisor.Debugging.Profiling;
using Sharpvisor.Debugging.Symbols;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Display;
using Sharpvisor.Input;

namespace Sharpvisor;

/// <summary>
/// A PC. One thread runs each processor, one the timers; what the host or a device asks of the machine as a whole
/// (reset, pause, sleep, end) is done in order by one <see cref="MachineLoop"/>, with every processor parked.
/// </summary>
public sealed partial class Machine : IAsyncDisposable, IMachineControl
{
    private const int DescribedFaults = 3;
    private const ulong PhysicalAddressLimit = 1UL << 52;

    private readonly MachineOptions _options;
    private readonly ILogger _logger;
    private readonly MachineGate _gate = new();
    private readonly HostClock _clock;
    private readonly Board _board;
    private readonly BootPlan? _plan;
    private readonly IVcpu[] _vcpus;
    private readonly VcpuThreads _threads;
    private readonly MachineLoop _loop;
    private readonly TaskCompletionSource<MachineExit> _exit = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private MachineActions _actions = new();
    private readonly TaskCompletionSource _started = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<IAsyncDisposable> _companions = [];
    private int _faults;
    private int _disposed;

    internal Machine(MachineOptions options)
    {
        _options = options;
        Actions = options.Actions;
        _logger = options.Logger;
        // Memory, clock and vCPUs are made below in an order that leaves nothing behind when one of them is refused.
        if (options.ProcessorCount is < 1 or > MachineOptions.MaximumProcessors)
            throw new ConfigurationException($"{options.ProcessorCount} processors: give 1 to {MachineOptions.MaximumProcessors}");
        var model = CpuModel.Parse(options.Cpu);
        Errors = new GuestErrorLog(_logger) { Trace = options.GuestErrorTrace };
        Memory = new GuestMemory(options.MemorySize, options.Below4GLimit);
        _clock = new HostClock(_gate, e => OnInternalError(e, "timer"));
        _clock.Pause();
        TracePoints = new TracePoints();
        try
        {
            Ports = new AddressSpace("io", 0x10000, _gate, Errors) { Trace = (TracePoints, TraceKind.Port) };
            Mmio = new AddressSpace("mmio", PhysicalAddressLimit, _gate, Errors) { Trace = (TracePoints, TraceKind.Mmio) };
            var context = new BoardContext(Memory, Ports, Mmio, _gate, _clock, Errors, this, ProcessorId(model), _logger);
            _board = options.Kind switch
            {
                MachineKind.XenPv => new XenPvBoard(context, options),
                MachineKind.XenPvh => new XenPvhBoard(context, options),
                _ => new PcBoard(context, options),
            };
            _plan = options.Kind == MachineKind.XenPv ? null : BootChoice.Plan(options, Memory);
            if (_plan is { Way: BootWay.Firmware })
                _board.AddKernel(_plan);
            Screen = _board.Vga is null ? null : new GuestScreen(_board.Vga, _gate, _exit.Task);
            Keyboard = new GuestKeyboard(_board.Keyboard ?? new(), _gate, _exit.Task);
            Balloon = FindBalloon();
            var environment = new CpuEnvironment
            {
                Memory = Memory,
                Mmio = Mmio,
                Ports = Ports,
                Clock = _clock,
                Gate = _gate,
                Errors = Errors,
                Logger = _logger,
                Model = model,
                ProcessorCount = options.ProcessorCount,
                RegisterPort = _board.RegisterPort,
                Hypervisor = _board.Xen,
                Paravirtual = _board.Xen?.Paravirtual,
                Trace = options.Trace,
                Points = TracePoints,
            };
            var engine = options.Engine ?? CpuEngines.CreateDefault();
            _vcpus = new IVcpu[options.ProcessorCount];
            for (var i = 0; i < _vcpus.Length; i++)
            {
                _vcpus[i] = engine.CreateVcpu(i, environment, _board.LocalApics[i], _board.MsrDevices(i));
                using (_gate.Enter())
                    _board.Connect(i, _vcpus[i]);
            }

            TracePoints.Changed += () => Array.ForEach(_vcpus, vcpu => vcpu.Kick());
            Debugger = new MachineDebugger(this);
            _threads = new VcpuThreads(
                _vcpus,
                OnTripleFault,
                vcpu => _loop!.RequestPause(MachineDebugger.StopOf(vcpu), RunState.Debug),
                OnInternalError,
                _board.Xen is { } xen ? new XenActivity(xen, _gate).Tell : null);
            foreach (var backend in options.Backends.OfType<ThreadedCharBackend>())
                backend.Faulted += e => OnInternalError(e, backend.Name);
            foreach (var drive in Drives)
                drive.Faulted += e => OnInternalError(e, drive.Name);
            _loop = new MachineLoop(_threads, _clock, _gate, Drives, _exit, Start, PowerDown, Debugger);
            _loop.Happened += Raise;
            foreach (var device in _board.VirtioDevices)
                device.Points = TracePoints;
            Parts = new MachineParts(options, _board);
            Start(MachineStart.Cold);
        }
        catch
        {
            TracePoints.Dispose();
            foreach (var vcpu in _vcpus ?? [])
                vcpu?.Dispose();
            _clock.Dispose();
            Memory.Dispose();
            throw;
        }
    }

    public string Name => _options.Name;

    public GuestMemory Memory { get; }

    public AddressSpace Ports { get; }

    public AddressSpace Mmio { get; }

    /// <summary>What the guest did wrong, counted.</summary>
    public GuestErrorLog Errors { get; }

    /// <summary>How the kernel was loaded.</summary>
    public BootPlan? BootPlan => _plan;

    public IReadOnlyList<IVcpu> Processors => _vcpus;

    /// <summary>What the machine is put together from, for whoever shows it.</summary>
    public MachineParts Parts { get; }

    public IEnumerable<BlockDrive> Drives => _options.Drives;

    /// <summary>COM1, or the console of a PVH domain, when the machine was made without connecting it to something else.</summary>
    /// <exception cref="InvalidOperationException">It leads elsewhere.</exception>
    public MemoryCharBackend Serial
    {
        get
        {
            var console = _options.Kind is MachineKind.XenPvh or MachineKind.XenPv ? _options.Xen?.Console : _options.Serial[0];
            return console as MemoryCharBackend
                ?? throw new InvalidOperationException($"the first console leads to {console?.Name ?? "nothing"}; leave WithSerial and a console of WithXen out to use Serial");
        }
    }

    /// <summary>What the guest shows; null on a machine without a VGA (<see cref="MachineBuilder.WithVga()"/>).</summary>
    public GuestScreen? Screen { get; }

    public GuestKeyboard Keyboard { get; }

    /// <summary>The memory balloon; null on a machine without one (<see cref="VirtioMemoryBalloon"/>).</summary>
    public GuestBalloon? Balloon { get; }

    /// <summary>The mouse, used under <see cref="Gate"/>; null on a machine without one.</summary>
    public IPointerInput? Mouse => _board.Mouse;

    /// <summary>The Xen domain that the guest finds itself in, used under <see cref="Gate"/>; null: there is no Xen.</summary>
    public XenDomain? Xen => _board.Xen;

    /// <summary>What has to be held to use a device from outside of it.</summary>
    public MachineGate Gate => _gate;

    /// <summary>Completes when the machine was started.</summary>
    public Task Started => _started.Task;

    /// <summary>Completes when the machine has ended.</summary>
    public Task<MachineExit> Exit => _exit.Task;

    /// <summary>Something happened to the machine as a whole. Raised on any thread, perhaps with the gate held; it must not block.</summary>
    public event Action<MachineEvent>? Happened;

    public RunState State => _loop.State;

    public bool IsPaused => _loop.IsPaused;

    /// <summary>What becomes of the machine when its guest is through.</summary>
    public MachineActions Actions
    {
        get => Volatile.Read(ref _actions);
        set => Volatile.Write(ref _actions, value);
    }

    /// <summary>Registers, memory, breakpoints and steps.</summary>
    public MachineDebugger Debugger { get; }

    /// <summary>Interrupts, system calls, accesses to devices … for whoever wants to see them.</summary>
    public TracePoints TracePoints { get; }

    /// <summary>What the processors write to their debug log (<see cref="MachineBuilder.WithTrace"/>), which may be changed at any time.</summary>
    /// <exception cref="InvalidOperationException">They have no log that it could go to.</exception>
    public TraceKinds LoggedKinds
    {
        get => Parts.Options.Trace?.Kinds ?? TraceKinds.None;
        set
        {
            (Parts.Options.Trace ?? throw new InvalidOperationException("the processors of this machine have no debug log")).Kinds = value;
            foreach (var vcpu in _vcpus)
                vcpu.Kick();
        }
    }

    /// <summary>The Linux kernel that the guest runs, for names and call traces.</summary>
    public KernelCache Kernels { get; } = new();

    /// <summary>The guest sleeps (ACPI S3) until its alarm, a key, <see cref="PressPowerButton"/> or <see cref="WakeUp"/>.</summary>
    public bool IsSuspended => _loop.IsSuspended;

    public static MachineBuilder CreateBuilder() => new();

    /// <summary>Waits for backends that want a peer first, then lets the processors run, unless the machine is to start paused.</summary>
    public async Task StartAsync(CancellationToken cancellation = default)
    {
        if (_loop.IsStarted)
            throw new InvalidOperationException("the machine has been started already");
        foreach (var backend in _options.Backends.OfType<IConnectableCharBackend>())
            await backend.WaitForPeerAsync(cancellation).ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
        _ = GuestEventSource.PublishLaterAsync();
        _loop.Start(
            _options.StartPaused,
            e => MachineExit.OfInternalError(e, "machine", _logger),
            exit =>
            {
                foreach (var line in _options.Backends.OfType<MemoryCharBackend>())
                    line.End(exit.Message);
            });
        _started.TrySetResult();
    }

    /// <summary>Something that works on this machine from outside, and is disposed first when the machine is.</summary>
    public void AddCompanion(IAsyncDisposable companion)
    {
        lock (_companions)
            _companions.Add(companion);
    }

    /// <summary>Waits until the machine has ended by itself or by <see cref="StopAsync"/>.</summary>
    public Task<MachineExit> WaitForExitAsync(CancellationToken cancellation = default) => _exit.Task.WaitAsync(cancellation);

    /// <summary>Stops processors and guest time.</summary>
    public Task PauseAsync(CancellationToken cancellation = default) => _loop.PauseAsync(cancellation);

    /// <exception cref="InvalidOperationException">The guest has powered itself off: only a reset lets it start again.</exception>
    public Task ResumeAsync(CancellationToken cancellation = default) => ResumeAsync(ReadOnlyDictionary<int, Resumption>.Empty, cancellation);

    /// <param name="resumptions">How processors go on; those not named run.</param>
    internal Task ResumeAsync(IReadOnlyDictionary<int, Resumption> resumptions, CancellationToken cancellation = default) => _loop.IsShutDown
        ? Task.FromException(new InvalidOperationException("the guest has powered off: reset the machine first"))
        : _loop.ResumeAsync(resumptions, cancellation);

    /// <summary>As the reset button does, whatever was said about rebooting.</summary>
    public Task ResetAsync(CancellationToken cancellation = default) => _loop.ResetAsync(cancellation);

    /// <summary>
    /// Looks at processors and memory by <see cref="Debugger"/> between two instructions, whether the machine is paused or
    /// runs: the guest does not notice, nor does anybody who waits for the machine.
    /// </summary>
    public async Task<T> InspectAsync<T>(Func<MachineDebugger, T> look, CancellationToken cancellation = default)
    {
        var answer = default(T)!;
        Exception? error = null;
        await _loop.InspectAsync(
            () =>
            {
                try
                {
                    answer = look(Debugger);
                }
                catch (Exception e)
                {
                    error = e; // theirs: the machine goes on
                }
            },
            cancellation).ConfigureAwait(false);
        if (error is not null)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
        return answer;
    }

    /// <summary>Begins to count where the processors are; one profile at a time.</summary>
    /// <param name="frequency">Samples of each processor a second, 1 to 1000.</param>
    /// <exception cref="ConfigurationException">There is one already, or the frequency is out of range.</exception>
    public Profiler StartProfile(int frequency = Profiler.DefaultFrequency) => new(this, _threads, frequency);

    /// <summary>Ends the machine at once, as pulling the plug does.</summary>
    public Task<MachineExit> StopAsync(string message = "stopped", CancellationToken cancellation = default)
    {
        Stop(message);
        return WaitForExitAsync(cancellation);
    }

    /// <summary>Like <see cref="StopAsync"/>, without waiting for it.</summary>
    public void Stop(string message = "stopped", ShutdownCause cause = ShutdownCause.HostUi) => _loop.End(Stopped(message) with { Cause = cause });

    /// <summary>
    /// Presses the power button: a guest that listens to ACPI shuts down, one that sleeps wakes up. A Xen domain is asked
    /// by its control/shutdown, too, as xl shutdown does.
    /// </summary>
    public void PressPowerButton()
    {
        using (_gate.Enter())
        {
            _board.PressPowerButton();
            if (!IsSuspended)
                _board.Xen?.RequestShutdown("poweroff");
        }

        Raise(new MachineEvent(MachineEventKind.PowerDown));
    }

    /// <summary>Wakes a guest that sleeps (ACPI S3), as QEMU's system_wakeup does. It runs soon after.</summary>
    /// <exception cref="InvalidOperationException">It does not sleep.</exception>
    public void WakeUp()
    {
        if (!IsSuspended)
            throw new InvalidOperationException("the guest does not sleep: there is nothing to wake");
        using (_gate.Enter())
            _board.WakeUp("host");
    }

    void IMachineControl.RequestReset(string source) =>
        Reboot(new MachineExit(MachineExitReason.Reset, 0, $"the guest asked for a reset ({source})"));

    void IMachineControl.RequestPowerOff(string source) =>
        ShutDown(new MachineExit(MachineExitReason.PowerOff, 0, $"the guest powered off ({source})"));

    void IMachineControl.RequestSuspend(string source)
    {
        _logger.LogInformation("the guest is suspended to RAM ({Source}): its alarm, a key, or the power button wakes it", source);
        _loop.RequestSuspend();
    }

    void IMachineControl.RequestWakeUp(string source)
    {
        _logger.LogInformation("the guest wakes up ({Source})", source);
        _loop.RequestWakeUp();
    }

    void IMachineControl.RequestExit(int exitCode, string source) =>
        _loop.RequestEnd(new MachineExit(MachineExitReason.DebugExit, exitCode, $"the guest ended the machine with code {exitCode} ({source})"));

    void IMachineControl.RequestPause(string reason)
    {
        _logger.LogWarning("{Reason}; the machine is paused until it is told to go on", reason);
        _loop.RequestPause(new DebugStop(DebugStopKind.Paused, 0), RunState.IoError);
    }

    void IMachineControl.ReportPanic(string source, bool isHandled)
    {
        if (isHandled)
            Raise(new MachineEvent(MachineEventKind.GuestCrashLoaded, PanicAction: "run"));
        else
            Crash(new MachineExit(MachineExitReason.GuestPanic, 0, $"the guest's kernel has crashed ({source})"));
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        await _loop.EndAsync(Stopped("the machine was disposed")).ConfigureAwait(false);
        IAsyncDisposable[] companions;
        lock (_companions)
            companions = [.. _companions];
        foreach (var companion in companions)
            await companion.DisposeAsync().ConfigureAwait(false);
        TracePoints.Dispose();
        // Backends first: what the guest said last is still to be written. Then the clock, whose timers use devices.
        foreach (var backend in _options.Backends)
            await backend.DisposeAsync().ConfigureAwait(false);
        _clock.Dispose();
        using (_gate.Enter())
        {
            // A device, reached from another thread, may be telling a processor something.
            foreach (var vcpu in _vcpus)
                vcpu.Dispose();
        }

        Screen?.End();
        Memory.Dispose();
        foreach (var file in _options.Files)
            file.Dispose();
    }

    /// <summary>CR8: the upper half of the local APIC's task priority.</summary>
    internal ulong GetTaskPriority(int processor)
    {
        using (_gate.Enter())
            return _board.LocalApics[processor].TaskPriority;
    }

    internal void SetTaskPriority(int processor, ulong cr8)
    {
        using (_gate.Enter())
        {
            if (_board.LocalApics[processor].TaskPriority != cr8)
                _board.LocalApics[processor].TaskPriority = (byte)cr8;
        }
    }

    private static MachineExit Stopped(string message) => new(MachineExitReason.Stopped, 0, message);

    /// <summary>Brings everything to the state that it starts in. No vCPU runs.</summary>
    private void Start(MachineStart start)
    {
        using (_gate.Enter())
        {
            if (start == MachineStart.WakeUp)
                _board.PowerUp();
            else
                _board.Reset();
            foreach (var vcpu in _vcpus)
                vcpu.Reset();
            if (_board is XenPvBoard paravirtual)
            {
                var state = _vcpus[0].GetState();
                paravirtual.EnterKernel(ref state);
                _vcpus[0].SetState(state);
            }
            else if (_plan is { Way: BootWay.Direct } plan && (start == MachineStart.Cold || !TryResume()))
                EnterKernel(plan);
        }
    }

    /// <summary>What firmware does at the end of a sleep, where there is none.</summary>
    /// <returns>False: the guest has not said where it wants to go on, and gets a cold start as from firmware.</returns>
    private bool TryResume()
    {
        if (_board.ActAsResumingFirmware() is not (> 0 and < (uint)E820.OneMiB and var vector))
            return false;
        var state = _vcpus[0].GetState();
        EntryState.SetRealMode(ref state, vector);
        _vcpus[0].SetState(state);
        return true;
    }

    private void EnterKernel(BootPlan plan)
    {
        _board.ActAsFirmware();
        plan.WriteTo(Memory);
        var state = _vcpus[0].GetState();
        plan.ApplyTo(ref state);
        _vcpus[0].SetState(state);
    }

    private void PowerDown()
    {
        using (_gate.Enter())
            _board.PowerDown();
    }

    private void OnTripleFault(IVcpu vcpu)
    {
        var count = Interlocked.Increment(ref _faults);
        if (count <= DescribedFaults)
            _logger.LogError("triple fault on processor {Index}\n{Description}{CallTrace}", vcpu.Index, vcpu.DescribeFault(), DescribeCalls(vcpu));
        var exit = new MachineExit(MachineExitReason.TripleFault, MachineExit.TripleFaultCode, $"triple fault on processor {vcpu.Index}");
        if (Actions.IsTripleFaultPanic)
            Crash(exit, vcpu.Index);
        else
            Reboot(exit, vcpu.Index);
    }

    /// <summary>Empty, unless the guest runs Linux. Others may run: of their state nothing is asked.</summary>
    private string DescribeCalls(IVcpu vcpu)
    {
        var snapshot = new ProcessorSnapshot(Debugger, [vcpu.GetState()]);
        return Kernels.Find(snapshot) is { } kernel ? ContextDump.WriteTrace(snapshot, kernel, 0) : "";
    }

    private void Raise(MachineEvent happened) => Happened?.Invoke(happened);

    private GuestBalloon? FindBalloon() => _board.VirtioDevices.OfType<VirtioBalloon>().ToList() switch
    {
        [] => null,
        [var device] => new GuestBalloon(device, Memory.Size, _gate, _exit.Task),
        _ => throw new ConfigurationException("two memory balloons: a machine has one; leave the others out"),
    };

    private static ulong ProcessorId(CpuModel model)
    {
        var leaf = model.Query(1, 0, new CpuidContext { ApicId = 0, ProcessorCount = 1 });
        return leaf.Eax | ((ulong)leaf.Edx << 32);
    }

    private void OnInternalError(Exception e, string where) => _loop.End(MachineExit.OfInternalError(e, where, _logger));
}
