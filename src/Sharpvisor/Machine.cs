using System.Diagnostics;
using System.Threading.Channels;
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
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Display;
using Sharpvisor.Input;

namespace Sharpvisor;

/// <summary>
/// A PC. One thread runs each processor, one the timers; what the host or a device asks of the machine as a whole
/// (reset, pause, end) is done in order by one loop, with every processor parked.
/// </summary>
public sealed class Machine : IAsyncDisposable, IMachineControl
{
    private const int DescribedFaults = 3;
    private const ulong PhysicalAddressLimit = 1UL << 52;

    private readonly MachineOptions _options;
    private readonly ILogger _logger;
    private readonly MachineGate _gate = new();
    private readonly HostClock _clock;
    private readonly PcBoard _board;
    private readonly BootPlan? _plan;
    private readonly IVcpu[] _vcpus;
    private readonly VcpuThreads _threads;
    private readonly Channel<Request> _requests = Channel.CreateUnbounded<Request>(new UnboundedChannelOptions { SingleReader = true });
    private readonly TaskCompletionSource<MachineExit> _exit = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<IAsyncDisposable> _owned = [];
    private Task? _loop;
    private int _faults;
    private int _resetRequested;
    private bool _isShutDown;
    private int _disposed;

    internal Machine(MachineOptions options)
    {
        _options = options;
        _logger = options.Logger;
        _owned.AddRange(options.Serial.OfType<IAsyncDisposable>());
        if (options.DebugConsole is { } console)
            _owned.Add(console.Backend);
        _owned.AddRange(options.PciDevices.SelectMany(d => d.Backends));
        _owned.AddRange(options.Drives);
        // Memory, clock and vCPUs are made below in an order that leaves nothing behind when one of them is refused.
        if (options.ProcessorCount is < 1 or > MachineOptions.MaximumProcessors)
            throw new ConfigurationException($"{options.ProcessorCount} processors: give 1 to {MachineOptions.MaximumProcessors}");
        var model = CpuModel.Parse(options.Cpu);
        Errors = new GuestErrorLog(_logger) { Trace = options.GuestErrorTrace };
        Memory = new GuestMemory(options.MemorySize, options.Below4GLimit);
        _clock = new HostClock(_gate, e => OnInternalError(e, "timer"));
        _clock.Pause();
        try
        {
            Ports = new AddressSpace("io", 0x10000, _gate, Errors);
            Mmio = new AddressSpace("mmio", PhysicalAddressLimit, _gate, Errors);
            _board = new PcBoard(new BoardContext(Memory, Ports, Mmio, _gate, _clock, Errors, this, ProcessorId(model)), options);
            _plan = Plan(options);
            if (_plan is { Way: BootWay.Firmware })
                _board.Firmware.AddKernel(_plan);
            Screen = _board.Vga is null ? null : new GuestScreen(_board.Vga, _gate, _exit.Task);
            Keyboard = new GuestKeyboard(_board.Keyboard, _gate, _exit.Task);
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
                Trace = options.Trace,
            };
            var engine = options.Engine ?? CpuEngines.CreateDefault();
            _vcpus = new IVcpu[options.ProcessorCount];
            for (var i = 0; i < _vcpus.Length; i++)
            {
                _vcpus[i] = engine.CreateVcpu(i, environment, _board.LocalApics[i], _board.MsrDevices(i));
                using (_gate.Enter())
                    _board.Connect(i, _vcpus[i]);
            }

            _threads = new VcpuThreads(_vcpus, OnTripleFault, OnInternalError);
            foreach (var backend in _owned.OfType<ThreadedCharBackend>())
                backend.Faulted += e => OnInternalError(e, backend.Name);
            foreach (var drive in Drives)
                drive.Faulted += e => OnInternalError(e, drive.Name);
            PowerOn();
        }
        catch
        {
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

    public IEnumerable<BlockDrive> Drives => _options.Drives;

    /// <summary>COM1, when the machine was made without connecting it to something else.</summary>
    /// <exception cref="InvalidOperationException">COM1 leads elsewhere.</exception>
    public MemoryCharBackend Serial => _options.Serial[0] as MemoryCharBackend
        ?? throw new InvalidOperationException($"COM1 leads to {_options.Serial[0]?.Name ?? "nothing"}; leave WithSerial out to use Serial");

    /// <summary>What the guest shows; null on a machine without a VGA (<see cref="MachineBuilder.WithVga()"/>).</summary>
    public GuestScreen? Screen { get; }

    public GuestKeyboard Keyboard { get; }

    /// <summary>The memory balloon; null on a machine without one (<see cref="VirtioMemoryBalloon"/>).</summary>
    public GuestBalloon? Balloon { get; }

    /// <summary>The mouse, used under <see cref="Gate"/>.</summary>
    public IPointerInput Mouse => _board.Mouse;

    /// <summary>What has to be held to use a device from outside of it.</summary>
    public MachineGate Gate => _gate;

    /// <summary>Completes when the machine has ended.</summary>
    public Task<MachineExit> Exit => _exit.Task;

    public bool IsPaused { get; private set; }

    public static MachineBuilder CreateBuilder() => new();

    /// <summary>Waits for backends that want a peer first, then lets the processors run.</summary>
    public async Task StartAsync(CancellationToken cancellation = default)
    {
        if (_loop is not null)
            throw new InvalidOperationException("the machine has been started already");
        foreach (var backend in _owned.OfType<IConnectableCharBackend>())
            await backend.WaitForPeerAsync(cancellation).ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
        _threads.Start();
        _clock.Resume();
        _threads.Release();
        _loop = Task.Run(LoopAsync, CancellationToken.None);
    }

    /// <summary>Waits until the machine has ended by itself or by <see cref="StopAsync"/>.</summary>
    public Task<MachineExit> WaitForExitAsync(CancellationToken cancellation = default) => _exit.Task.WaitAsync(cancellation);

    /// <summary>Stops processors and guest time.</summary>
    public Task PauseAsync(CancellationToken cancellation = default) => AskAsync(RequestKind.Pause, cancellation);

    /// <exception cref="InvalidOperationException">The guest has powered itself off: only a reset lets it start again.</exception>
    public Task ResumeAsync(CancellationToken cancellation = default) => Volatile.Read(ref _isShutDown)
        ? Task.FromException(new InvalidOperationException("the guest has powered off: reset the machine first"))
        : AskAsync(RequestKind.Resume, cancellation);

    /// <summary>As the reset button does, whatever was said about rebooting.</summary>
    public Task ResetAsync(CancellationToken cancellation = default) => AskAsync(RequestKind.Reset, cancellation);

    /// <summary>Ends the machine at once, as pulling the plug does.</summary>
    public Task<MachineExit> StopAsync(string message = "stopped", CancellationToken cancellation = default)
    {
        Stop(message);
        return WaitForExitAsync(cancellation);
    }

    /// <summary>Like <see cref="StopAsync"/>, without waiting for it.</summary>
    public void Stop(string message = "stopped") => End(new MachineExit(MachineExitReason.Stopped, 0, message));

    /// <summary>Presses the power button: a guest that listens to ACPI shuts down.</summary>
    public void PressPowerButton()
    {
        using (_gate.Enter())
            _board.PressPowerButton();
    }

    void IMachineControl.RequestReset(string source)
    {
        if (_options.NoReboot)
            ShutDown(new MachineExit(MachineExitReason.Reset, 0, $"the guest asked for a reset ({source})"));
        else
            RequestReset();
    }

    void IMachineControl.RequestPowerOff(string source) =>
        ShutDown(new MachineExit(MachineExitReason.PowerOff, 0, $"the guest powered off ({source})"));

    void IMachineControl.RequestExit(int exitCode, string source)
    {
        _threads?.Hold();
        End(new MachineExit(MachineExitReason.DebugExit, exitCode, $"the guest ended the machine with code {exitCode} ({source})"));
    }

    void IMachineControl.RequestPause(string reason)
    {
        _threads?.Hold();
        _logger.LogWarning("{Reason}; the machine is paused until it is told to go on", reason);
        Ask(new Request(RequestKind.Pause));
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        Stop("the machine was disposed");
        if (_loop is not null)
            await _loop.ConfigureAwait(false);
        // Backends first: what the guest said last is still to be written. Then the clock, whose timers use devices.
        foreach (var backend in _owned)
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
        _options.Firmware?.Dispose();
        _options.VgaBios?.Dispose();
        _options.Kernel?.Dispose();
        _options.Initrd?.Dispose();
        foreach (var module in _options.Modules)
            module.Source.Dispose();
        foreach (var device in _options.PciDevices)
            device.Rom?.Dispose();
    }

    /// <summary>Brings everything to the state at power-on. No vCPU runs.</summary>
    private void PowerOn()
    {
        using (_gate.Enter())
        {
            _board.Reset();
            foreach (var vcpu in _vcpus)
                vcpu.Reset();
            if (_plan is not { Way: BootWay.Direct })
                return;
            _board.ActAsFirmware();
            _plan.WriteTo(Memory);
            var state = _vcpus[0].GetState();
            _plan.ApplyTo(ref state);
            _vcpus[0].SetState(state);
        }
    }

    private BootPlan? Plan(MachineOptions options)
    {
        if (options.Kernel is null)
        {
            if (options.KernelBoot is not null)
                throw new ConfigurationException("kernel-boot is for a kernel: give one with -kernel");
            return options.Firmware is null ? throw new ConfigurationException("nothing to boot: give a kernel with -kernel, or firmware with -bios") : null;
        }

        var way = options.KernelBoot ?? (options.Firmware is null ? BootWay.Direct : BootWay.Firmware);
        if (options.KernelBoot is null && way == BootWay.Direct && BootPlan.NeedsFirmware(options.Kernel))
            throw new ConfigurationException($"{options.Kernel.Name}: starts in real mode, by an old boot protocol, which takes firmware: give it with -bios");
        if (way == BootWay.Firmware && options.Firmware is null)
            throw new ConfigurationException("a kernel is to be started through firmware, but there is none: give it with -bios");
        if (way == BootWay.Direct && options.Firmware is not null)
            throw new ConfigurationException("a kernel is to be started directly, but there is firmware: leave -bios or kernel-boot=direct out");
        return BootPlan.Create(new BootRequest
        {
            Kernel = options.Kernel,
            Initrd = options.Initrd,
            Modules = options.Modules,
            Way = way,
            CommandLine = options.CommandLine,
            Below4G = Memory.Below4G,
            Above4G = Memory.Above4G,
            RsdpAddress = way == BootWay.Direct ? PcFirmware.RsdpAddress : 0,
            HasTextScreen = _board.Vga is not null,
        });
    }

    private async Task LoopAsync()
    {
        MachineExit? exit = null;
        try
        {
            await foreach (var request in _requests.Reader.ReadAllAsync().ConfigureAwait(false))
            {
                exit = request.Exit;
                if (exit is not null)
                    break;
                await DoAsync(request.Kind).ConfigureAwait(false);
                request.Done?.TrySetResult();
            }
        }
        catch (ConfigurationException e)
        {
            exit = new MachineExit(MachineExitReason.Configuration, MachineExit.ConfigurationCode, e.Message);
        }
        catch (Exception e)
        {
            exit = Describe(e, "machine");
        }

        _requests.Writer.TryComplete();
        _clock.Pause();
        _threads.End();
        while (_requests.Reader.TryRead(out var late))
            late.Done?.TrySetException(new InvalidOperationException("the machine has ended"));
        foreach (var line in _owned.OfType<MemoryCharBackend>())
            line.End(exit!.Message);
        _exit.TrySetResult(exit!);
    }

    private async Task DoAsync(RequestKind kind)
    {
        switch (kind)
        {
            case RequestKind.Pause when !IsPaused:
                _threads.Park();
                _clock.Pause();
                await DrainAsync(cancelWaiting: false).ConfigureAwait(false);
                IsPaused = true;
                break;
            case RequestKind.Resume when IsPaused:
                IsPaused = false;
                _clock.Resume();
                using (_gate.Enter())
                {
                    foreach (var drive in Drives)
                        drive.Retry();
                }

                _threads.Release();
                break;
            case RequestKind.Reset:
                if (!IsPaused)
                    _threads.Park();
                await DrainAsync(cancelWaiting: true).ConfigureAwait(false);
                PowerOn();
                Volatile.Write(ref _resetRequested, 0);
                Volatile.Write(ref _isShutDown, false);
                if (!IsPaused)
                    _threads.Release();
                break;
        }
    }

    /// <summary>Waits until no drive moves anything to or from memory. No processor runs.</summary>
    private async Task DrainAsync(bool cancelWaiting)
    {
        foreach (var drive in Drives)
            await drive.DrainAsync(cancelWaiting).ConfigureAwait(false);
    }

    private void OnTripleFault(IVcpu vcpu)
    {
        var count = Interlocked.Increment(ref _faults);
        if (count <= DescribedFaults)
            _logger.LogError("triple fault on processor {Index}\n{Description}", vcpu.Index, vcpu.DescribeFault());
        if (_options.NoReboot)
            ShutDown(new MachineExit(MachineExitReason.TripleFault, MachineExit.TripleFaultCode, $"triple fault on processor {vcpu.Index}"));
        else
            RequestReset();
    }

    /// <summary>The guest resets the machine: nothing that follows the instruction is executed, and nobody asks twice.</summary>
    private void RequestReset()
    {
        _threads?.Hold();
        if (Interlocked.Exchange(ref _resetRequested, 1) == 0)
            Ask(new Request(RequestKind.Reset));
    }

    /// <summary>The guest is through: the machine ends, or stays for someone who looks at it.</summary>
    private void ShutDown(MachineExit exit)
    {
        _threads?.Hold();
        if (!_options.NoShutdown)
        {
            End(exit);
            return;
        }

        _logger.LogInformation("{Message}; the machine stays paused", exit.Message);
        Volatile.Write(ref _isShutDown, true);
        Ask(new Request(RequestKind.Pause));
    }

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

    private void OnInternalError(Exception e, string where) => End(Describe(e, where));

    /// <summary>The one place where an error of ours ends up: named by the device it came from, logged with its stack.</summary>
    private MachineExit Describe(Exception e, string where)
    {
        var device = new StackTrace(e).GetFrames().Select(f => f.GetMethod()?.DeclaringType)
            .FirstOrDefault(t => t?.Namespace?.StartsWith("Sharpvisor.Devices", StringComparison.Ordinal) == true)?.Name;
        var name = device is null ? where : $"{device}, called by {where}";
        _logger.LogCritical(e, "internal error in {Name}; please report it", name);
        return new MachineExit(MachineExitReason.InternalError, MachineExit.InternalErrorCode, $"internal error in {name}: {e.Message}");
    }

    private void End(MachineExit exit)
    {
        if (_loop is null && _disposed != 0)
            _exit.TrySetResult(exit); // never started: there is no loop to do it
        Ask(new Request(RequestKind.End, Exit: exit));
    }

    private bool Ask(Request request) => _requests.Writer.TryWrite(request);

    private Task AskAsync(RequestKind kind, CancellationToken cancellation)
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        if (_loop is null || !Ask(new Request(kind, done)))
            return Task.FromException(new InvalidOperationException(_loop is null ? "the machine has not been started" : "the machine has ended"));
        return done.Task.WaitAsync(cancellation);
    }

    private enum RequestKind
    {
        Pause,
        Resume,
        Reset,
        End,
    }

    private sealed record Request(RequestKind Kind, TaskCompletionSource? Done = null, MachineExit? Exit = null);
}
