using System.Threading.Channels;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Time;
using Sharpvisor.Debugging;

namespace Sharpvisor;

/// <summary>How a machine starts to run.</summary>
internal enum MachineStart
{
    /// <summary>Power-on and every reset.</summary>
    Cold,

    /// <summary>The end of a sleep (S3).</summary>
    WakeUp,
}

/// <summary>What is asked of a machine as a whole, done in order by one task with every processor parked.</summary>
internal sealed class MachineLoop
{
    private readonly VcpuThreads _threads;
    private readonly HostClock _clock;
    private readonly MachineGate _gate;
    private readonly IReadOnlyList<BlockDrive> _drives;
    private readonly Action<MachineStart> _start;
    private readonly Action _powerDown;
    private readonly MachineDebugger _debugger;
    private readonly Channel<Request> _requests = Channel.CreateUnbounded<Request>(new UnboundedChannelOptions { SingleReader = true });
    private readonly TaskCompletionSource<MachineExit> _exit;
    private Task? _task;
    private readonly Queue<DebugStop> _untold = new();
    private int _resetRequested;

    /// <summary>Requests under way before which no processor may execute anything.</summary>
    private int _holds;
    private bool _isShutDown;
    private RunState _pausedAs = RunState.Prelaunch;

    /// <param name="exit">Completes when the machine has ended.</param>
    /// <param name="start">Brings processors and devices to the state that they start in.</param>
    /// <param name="powerDown">Takes the power from the devices for a sleep.</param>
    /// <param name="debugger">Is told of each stop, and says how processors go on.</param>
    public MachineLoop(VcpuThreads threads, HostClock clock, MachineGate gate, IEnumerable<BlockDrive> drives, TaskCompletionSource<MachineExit> exit, Action<MachineStart> start, Action powerDown, MachineDebugger debugger)
    {
        _threads = threads;
        _clock = clock;
        _gate = gate;
        _drives = [.. drives];
        _exit = exit;
        _start = start;
        _powerDown = powerDown;
        _debugger = debugger;
    }

    /// <summary>Raised by the loop; it must not block.</summary>
    public event Action<MachineEvent>? Happened;

    public bool IsPaused { get; private set; }

    public RunState State
    {
        get
        {
            if (!IsStarted)
                return RunState.Prelaunch;
            if (_exit.Task.IsCompletedSuccessfully)
                return _exit.Task.Result.Reason == MachineExitReason.InternalError ? RunState.InternalError : RunState.Shutdown;
            return IsPaused ? _pausedAs : IsSuspended ? RunState.Suspended : RunState.Running;
        }
    }

    public bool IsSuspended { get; private set; }

    /// <summary>The guest has powered off, and the machine stays for someone who looks at it.</summary>
    public bool IsShutDown => Volatile.Read(ref _isShutDown);

    /// <summary>Lets the processors run, or wait for <see cref="ResumeAsync"/>.</summary>
    /// <param name="paused">No processor executes anything yet, and time stands still.</param>
    /// <param name="describe">Turns an exception of ours into what ended the machine.</param>
    /// <param name="end">Called when everything stands, before the machine's exit completes.</param>
    public void Start(bool paused, Func<Exception, MachineExit> describe, Action<MachineExit> end)
    {
        IsStarted = true; // before a processor asks for anything
        _threads.Start();
        IsPaused = paused;
        if (!paused)
        {
            _clock.Resume();
            _threads.Release();
        }

        _task = Task.Run(() => RunAsync(describe, end), CancellationToken.None);
    }

    /// <summary>Requests are taken; they wait until the loop has begun.</summary>
    public bool IsStarted { get; private set; }

    /// <summary>Ends the machine, and waits until it has ended. One that was never started has ended at once.</summary>
    public Task EndAsync(MachineExit exit)
    {
        End(exit);
        if (_task is null)
            _exit.TrySetResult(exit);
        return _task ?? Task.CompletedTask;
    }

    public Task PauseAsync(CancellationToken cancellation) => AskAsync(new Request(RequestKind.Pause), cancellation);

    /// <param name="resumptions">How processors go on; those not named run.</param>
    public Task ResumeAsync(IReadOnlyDictionary<int, Resumption> resumptions, CancellationToken cancellation) =>
        AskAsync(new Request(RequestKind.Resume) { Resumptions = resumptions }, cancellation);

    public Task ResetAsync(CancellationToken cancellation) =>
        AskAsync(new Request(RequestKind.Reset) { Cause = ShutdownCause.HostQmpSystemReset }, cancellation);

    /// <summary>Looks at the processors between two instructions, whether the machine is paused or not: nobody notices.</summary>
    public Task InspectAsync(Action look, CancellationToken cancellation) => AskAsync(new Request(RequestKind.Inspect) { Look = look }, cancellation);

    /// <summary>A device or a processor wants the machine paused; like the ones below, it returns at once.</summary>
    /// <param name="state">What the machine is in then.</param>
    public void RequestPause(DebugStop stop, RunState state) => Hold(new Request(RequestKind.Pause) { Stop = stop, State = state });

    /// <summary>The guest resets the machine: nothing that follows the instruction is executed, and nobody asks twice.</summary>
    public void RequestReset()
    {
        if (Interlocked.Exchange(ref _resetRequested, 1) == 0)
            Hold(new Request(RequestKind.Reset) { Cause = ShutdownCause.GuestReset });
        else
            _threads.Hold();
    }

    public void RequestSuspend() => Hold(new Request(RequestKind.Suspend));

    public void RequestWakeUp() => Ask(new Request(RequestKind.WakeUp));

    /// <summary>The machine stays, paused, until somebody resets or ends it.</summary>
    public void ShutDown(int processor)
    {
        Volatile.Write(ref _isShutDown, true);
        RequestPause(new DebugStop(DebugStopKind.ShutDown, processor), RunState.Shutdown);
    }

    /// <summary>Lets no processor execute another instruction, and ends the machine.</summary>
    public void RequestEnd(MachineExit exit)
    {
        _threads.Hold();
        End(exit);
    }

    public void End(MachineExit exit) => Ask(new Request(RequestKind.End) { Exit = exit });

    private async Task RunAsync(Func<Exception, MachineExit> describe, Action<MachineExit> end)
    {
        MachineExit? exit = null;
        try
        {
            await foreach (var request in _requests.Reader.ReadAllAsync().ConfigureAwait(false))
            {
                exit = request.Exit;
                if (exit is not null)
                    break;
                if (request.IsHeld)
                    Interlocked.Decrement(ref _holds);
                await DoAsync(request).ConfigureAwait(false);
                request.Done?.TrySetResult();
            }
        }
        catch (ConfigurationException e)
        {
            exit = new MachineExit(MachineExitReason.Configuration, MachineExit.ConfigurationCode, e.Message);
        }
        catch (Exception e)
        {
            exit = describe(e);
        }

        _requests.Writer.TryComplete();
        _clock.Pause();
        _threads.End();
        Raise(MachineEventKind.Shutdown, exit!.Cause);
        while (_requests.Reader.TryRead(out var late))
            late.Done?.TrySetException(new InvalidOperationException("the machine has ended"));
        end(exit!);
        _exit.TrySetResult(exit!);
    }

    private async Task DoAsync(Request request)
    {
        switch (request.Kind)
        {
            case RequestKind.Pause:
                await PauseAsync(request.Stop, request.State).ConfigureAwait(false);
                break;
            case RequestKind.Resume when IsPaused && TryTakeUntold(out var untold):
                // A processor has come upon something while the machine stopped for another one: it is told now.
                TellResumed();
                TellStopped(untold, RunState.Debug);
                break;
            case RequestKind.Resume when IsPaused:
                _threads.SetStaying(_debugger.Prepare(request.Resumptions!));
                lock (_debugger.Turn)
                    IsPaused = false;
                TellResumed();
                _clock.Resume();
                using (_gate.Enter())
                {
                    foreach (var drive in _drives)
                        drive.Retry();
                }

                ReleaseUnlessStopped();
                break;
            case RequestKind.Reset:
                await StandStillAsync().ConfigureAwait(false);
                ForgetStops();
                IsSuspended = false;
                lock (_debugger.Turn)
                    _start(MachineStart.Cold);
                Volatile.Write(ref _resetRequested, 0);
                Volatile.Write(ref _isShutDown, false);
                if (_pausedAs is RunState.Shutdown or RunState.GuestPanicked)
                    _pausedAs = RunState.Paused;
                Raise(MachineEventKind.Reset, request.Cause);
                ReleaseUnlessStopped();
                break;
            case RequestKind.Suspend when !IsSuspended:
                await StandStillAsync().ConfigureAwait(false);
                _powerDown();
                IsSuspended = true; // time goes on: the alarm is to come
                Raise(MachineEventKind.Suspend);
                break;
            case RequestKind.WakeUp when IsSuspended:
                await StandStillAsync().ConfigureAwait(false);
                ForgetStops();
                IsSuspended = false;
                _start(MachineStart.WakeUp);
                Raise(MachineEventKind.WakeUp);
                ReleaseUnlessStopped();
                break;
            case RequestKind.Inspect:
                _threads.Park();
                try
                {
                    request.Look!();
                }
                finally
                {
                    ReleaseUnlessStopped();
                }

                break;
        }
    }

    private async Task PauseAsync(DebugStop? stop, RunState state)
    {
        if (stop is { Kind: DebugStopKind.Watchpoint } late && IsPaused)
        {
            _untold.Enqueue(late);
        }
        else if (!IsPaused)
        {
            _threads.Park();
            _clock.Pause();
            await DrainAsync(cancelWaiting: false).ConfigureAwait(false);
            IsPaused = true;
            TellStopped(stop ?? new DebugStop(DebugStopKind.Paused, 0), state);
        }
        else if (stop is { Kind: DebugStopKind.ShutDown } end && _debugger.LastStop.Kind != DebugStopKind.ShutDown)
        {
            TellStopped(end, state);
        }
    }

    private void TellStopped(DebugStop stop, RunState state)
    {
        _pausedAs = state;
        Raise(MachineEventKind.Stop);
        _debugger.OnStopped(stop);
    }

    private void TellResumed()
    {
        Raise(MachineEventKind.Resume);
        _debugger.OnResumed();
    }

    /// <summary>Processors are elsewhere now.</summary>
    private void ForgetStops()
    {
        _untold.Clear();
        _debugger.OnReset();
    }

    /// <summary>A stop that nobody was told of, and that still is one. A breakpoint is not: the processor comes upon it again.</summary>
    private bool TryTakeUntold(out DebugStop stop)
    {
        while (_untold.TryDequeue(out stop))
        {
            if (_debugger.IsWatched(stop))
                return true;
        }

        return false;
    }

    /// <summary>Returns when no processor runs and no drive moves anything to or from memory.</summary>
    private Task StandStillAsync()
    {
        _threads.Park();
        return DrainAsync(cancelWaiting: true);
    }

    private async Task DrainAsync(bool cancelWaiting)
    {
        foreach (var drive in _drives)
            await drive.DrainAsync(cancelWaiting).ConfigureAwait(false);
    }

    private void ReleaseUnlessStopped()
    {
        // Nor for a moment while somebody holds the processors for a request behind this one.
        if (!IsPaused && !IsSuspended && Volatile.Read(ref _holds) == 0)
            _threads.Release();
    }

    private void Raise(MachineEventKind kind, ShutdownCause? cause = null) => Happened?.Invoke(new MachineEvent(kind, cause));

    private bool Ask(Request request) => _requests.Writer.TryWrite(request);

    /// <summary>Lets no processor execute another instruction before the request is done.</summary>
    private void Hold(Request request)
    {
        Interlocked.Increment(ref _holds);
        _threads.Hold();
        Ask(request with { IsHeld = true });
    }

    private Task AskAsync(Request request, CancellationToken cancellation)
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        if (!IsStarted || !Ask(request with { Done = done }))
            return Task.FromException(new InvalidOperationException(IsStarted ? "the machine has ended" : "the machine has not been started"));
        return done.Task.WaitAsync(cancellation);
    }

    private enum RequestKind
    {
        Pause,
        Resume,
        Reset,
        Suspend,
        WakeUp,
        Inspect,
        End,
    }

    private sealed record Request(RequestKind Kind)
    {
        public TaskCompletionSource? Done { get; init; }

        public MachineExit? Exit { get; init; }

        /// <summary>Why it is to pause; null: somebody asked for it.</summary>
        public DebugStop? Stop { get; init; }

        /// <summary>What a paused machine is in.</summary>
        public RunState State { get; init; } = RunState.Paused;

        public IReadOnlyDictionary<int, Resumption>? Resumptions { get; init; }

        /// <summary>Of a reset.</summary>
        public ShutdownCause? Cause { get; init; }

        public Action? Look { get; init; }

        /// <summary>No processor executes anything before it is done.</summary>
        public bool IsHeld { get; init; }
    }
}
