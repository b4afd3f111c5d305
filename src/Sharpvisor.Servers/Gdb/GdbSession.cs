// One client of the remote serial protocol (GDB manual, appendix E): which packet is whose, and interrupts (03h). The
// packets themselves are in the other parts of this class: requests, running, state.
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

/// <summary>What is to be done after a packet was looked at.</summary>
internal enum Reaction
{
    /// <summary>The reply is in the writer.</summary>
    Reply,

    /// <summary>The processors go on; the reply comes when they stop.</summary>
    Resume,

    /// <summary>A command for the monitor.</summary>
    Command,

    Detach,

    /// <summary>As by <c>k</c>, which has no reply.</summary>
    Kill,

    /// <summary>By <c>vKill</c>, which has one.</summary>
    ReplyAndKill,
}

/// <summary>One debugger: takes its packets one by one, and tells it when the machine stops.</summary>
internal sealed partial class GdbSession
{
    private readonly Stream _stream;
    private readonly IGdbTarget _target;
    private readonly GdbCommands _commands;
    private readonly GdbLimits _limits;
    private readonly PacketReader _reader;
    private readonly PacketWriter _writer;
    private readonly Breakpoints _breakpoints;
    private readonly byte[] _received = new byte[16 << 10];
    private readonly byte[] _scratch;
    private int _start, _end;
    private bool _acknowledges = true;

    /// <summary>The debugger has let the machine go on and waits to be told of the next stop.</summary>
    private bool _isWaiting;

    /// <summary>The debugger has interrupted a machine that stood still just then, for a stop that it may not want to hear of.</summary>
    private bool _isInterrupted;

    private bool _hasDetached, _hasKilled;

    /// <summary>Completes with the next stop; null: nobody waits for one.</summary>
    private TaskCompletionSource<DebugStop>? _news;

    public GdbSession(Stream stream, IGdbTarget target, Func<string, Task<string>>? monitor, GdbLimits limits)
    {
        _stream = stream;
        _target = target;
        _commands = new GdbCommands(target, monitor);
        _limits = limits;
        _reader = new PacketReader(limits.Packet);
        _writer = new PacketWriter(limits.Packet);
        _scratch = new byte[limits.Packet];
        _breakpoints = new Breakpoints(target);
    }

    /// <summary>Serves the client until it goes, or the machine ends.</summary>
    /// <exception cref="OperationCanceledException">The server ends.</exception>
    /// <exception cref="TimeoutException">The client takes nothing.</exception>
    /// <exception cref="IOException">The connection broke.</exception>
    public async Task RunAsync(CancellationToken cancellation)
    {
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        using var registration = new ExitRegistration(_target.Exit, end);
        try
        {
            await _target.Started.WaitAsync(end.Token).ConfigureAwait(false);
            _target.Stopped += OnStopped;
            if (!_target.IsStopped)
                await _target.StopAsync().ConfigureAwait(false);
            await ListenAsync(end.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (_target.Exit.IsCompleted && e is OperationCanceledException or InvalidOperationException)
        {
            if (!_isWaiting)
                return;
            _writer.Begin(acknowledges: false).Text("W"u8).Bytes([(byte)await _target.Exit.ConfigureAwait(false)]).End();
            await _stream.WriteAsync(_writer.Complete, cancellation).AsTask().WaitAsync(_limits.Farewell, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Leaves nothing behind in the machine.</summary>
    /// <returns>Whether it stands still, with nobody there to let it go on.</returns>
    public async Task<bool> LeaveAsync()
    {
        _target.Stopped -= OnStopped;
        if (_hasKilled || _target.Exit.IsCompleted || !_target.Started.IsCompleted)
            return false;
        try
        {
            var isStopped = _target.IsStopped;
            if (!isStopped && _breakpoints.IsEmpty)
                return false;
            if (!isStopped)
                await _target.StopAsync().ConfigureAwait(false);
            _breakpoints.Clear();
            if (isStopped && !_hasDetached)
                return true;
            await _target.ContinueAsync(NoResumptions).ConfigureAwait(false);
            return false;
        }
        catch (InvalidOperationException)
        {
            return false; // it has ended meanwhile, or its guest has and only a reset lets it go on
        }
    }

    private void OnStopped(DebugStop stop) => Volatile.Read(ref _news)?.TrySetResult(stop);

    private async Task ListenAsync(CancellationToken cancellation)
    {
        Task<int>? reading = null;
        while (true)
        {
            // What the debugger says goes first: a condition that is never true may stop the machine all the time.
            if (_isWaiting && _news!.Task.IsCompleted && reading is not { IsCompleted: true } && _start == _end)
            {
                await ReportAsync(await _news.Task.ConfigureAwait(false), cancellation).ConfigureAwait(false);
                continue;
            }

            var incoming = Take();
            if (incoming != Incoming.Nothing)
            {
                if (!await HandleAsync(incoming, cancellation).ConfigureAwait(false))
                    return;
                continue;
            }

            _start = _end = 0;
            if (_isWaiting)
            {
                reading ??= _stream.ReadAsync(_received, cancellation).AsTask();
                if (await Task.WhenAny(reading, _news!.Task).ConfigureAwait(false) != reading)
                    continue;
            }

            // While the debugger has the word nothing is allocated.
            _end = reading is not null ? await reading.ConfigureAwait(false) : await _stream.ReadAsync(_received, cancellation).ConfigureAwait(false);
            reading = null;
            if (_end == 0)
                return;
        }
    }

    private Incoming Take()
    {
        ReadOnlySpan<byte> bytes = _received.AsSpan(_start, _end - _start);
        var incoming = _reader.Next(ref bytes);
        _start = _end - bytes.Length;
        return incoming;
    }

    /// <returns>False: the conversation is over.</returns>
    private async ValueTask<bool> HandleAsync(Incoming incoming, CancellationToken cancellation)
    {
        switch (incoming)
        {
            case Incoming.Interrupt:
                _isInterrupted = _isWaiting;
                if (!_target.IsStopped)
                    await _target.StopAsync().ConfigureAwait(false);
                return true;
            case Incoming.Resend:
                if (_acknowledges && _writer.Again.Length > 0)
                    await SendAsync(_writer.Again, cancellation).ConfigureAwait(false);
                return true;
            case Incoming.Damaged:
                await SendAsync("-"u8.ToArray(), cancellation).ConfigureAwait(false);
                return true;
            case Incoming.TooLong:
                _writer.Begin(_acknowledges).Text(InvalidArgument).End();
                await SendAsync(_writer.Complete, cancellation).ConfigureAwait(false);
                return true;
        }

        // Before QStartNoAckMode is answered, acknowledgments are still due.
        var acknowledges = _acknowledges;
        _writer.Begin(acknowledges);
        Reaction reaction;
        lock (_target.Turn)
            reaction = Answer(_reader.Packet);
        switch (reaction)
        {
            case Reaction.Resume:
                if (acknowledges)
                    await SendAsync("+"u8.ToArray(), cancellation).ConfigureAwait(false);
                await ResumeAsync(cancellation).ConfigureAwait(false);
                return true;
            case Reaction.Command:
                await CommandAsync(cancellation).ConfigureAwait(false);
                return true;
            case Reaction.Kill:
                if (acknowledges)
                    await SendAsync("+"u8.ToArray(), cancellation).ConfigureAwait(false);
                Kill();
                return false;
        }

        _writer.End();
        await SendAsync(_writer.Complete, cancellation).ConfigureAwait(false);
        if (reaction == Reaction.ReplyAndKill)
            Kill();
        _hasDetached = reaction == Reaction.Detach;
        return reaction == Reaction.Reply;
    }

    private void Kill()
    {
        _hasKilled = true;
        _target.Kill();
    }

    private async ValueTask SendAsync(ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        var writing = _stream.WriteAsync(data, cancellation);
        if (writing.IsCompletedSuccessfully)
            await writing.ConfigureAwait(false);
        else
            await writing.AsTask().WaitAsync(_limits.Write, cancellation).ConfigureAwait(false);
    }

    /// <summary>Output in packets of its own, then the reply.</summary>
    private async Task CommandAsync(CancellationToken cancellation)
    {
        const int part = 1024; // characters, each of up to three bytes
        var acknowledges = _acknowledges;
        var output = await _commands.RunAsync(_command).WaitAsync(cancellation).ConfigureAwait(false);
        for (var at = 0; at < output.Length; at += part)
        {
            _writer.Begin(acknowledges).Text("O"u8).Message(output.Substring(at, Math.Min(part, output.Length - at))).End();
            await SendAsync(_writer.Complete, cancellation).ConfigureAwait(false);
            acknowledges = false;
        }

        _writer.Begin(acknowledges).Text(Ok).End();
        await SendAsync(_writer.Complete, cancellation).ConfigureAwait(false);
    }

    /// <summary>Ends the session's waits when the machine has ended, as long as there is a session.</summary>
    private sealed class ExitRegistration : IDisposable
    {
        private readonly Lock _lock = new();
        private CancellationTokenSource? _end;

        public ExitRegistration(Task exit, CancellationTokenSource end)
        {
            _end = end;
            _ = exit.ContinueWith(_ => Cancel(), CancellationToken.None, TaskContinuationOptions.None, TaskScheduler.Default);
        }

        public void Dispose()
        {
            lock (_lock)
                _end = null;
        }

        private void Cancel()
        {
            lock (_lock)
                _end?.Cancel();
        }
    }
}
