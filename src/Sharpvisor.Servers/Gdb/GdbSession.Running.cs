// Packets that let the machine go on, and its stops: vCont, c, s, ? and their replies ("Stop Reply Packets"), in all-stop
// mode. The signal of C and S is ignored: no guest could take one.
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

internal sealed partial class GdbSession
{
    private const int SignalInterrupt = 2, SignalQuit = 3, SignalTrap = 5;

    private static readonly Dictionary<int, Resumption> NoResumptions = [];

    private readonly Dictionary<int, Resumption> _resumptions = [];

    /// <summary>QEMU's Qqemu.sstep: whether a step keeps interrupts back.</summary>
    private bool _stepsHoldInterrupts = true;

    private StepMode StepMode => _stepsHoldInterrupts ? StepMode.Step : StepMode.StepWithInterrupts;

    private async Task ResumeAsync(CancellationToken cancellation)
    {
        WaitForNews();
        try
        {
            await _target.ContinueAsync(_resumptions).ConfigureAwait(false);
        }
        catch (InvalidOperationException) when (!_target.Exit.IsCompleted)
        {
            // The guest has powered off: the machine stays as it is until somebody resets it.
            await ReportAsync(_target.LastStop, cancellation).ConfigureAwait(false);
        }
    }

    private void WaitForNews()
    {
        Volatile.Write(ref _news, new TaskCompletionSource<DebugStop>(TaskCreationOptions.RunContinuationsAsynchronously));
        _isWaiting = true;
    }

    private async Task ReportAsync(DebugStop stop, CancellationToken cancellation)
    {
        WaitForNews();
        bool isWanted, isOver;
        lock (_target.Turn)
        {
            isOver = !_target.IsStopped; // somebody else has let it go on: the next stop is told
            isWanted = !isOver && _breakpoints.IsWanted(in stop, View);
            if (!isWanted && !isOver && _isInterrupted)
                (stop, isWanted) = (new DebugStop(DebugStopKind.Paused, stop.Processor), true);
            if (isWanted)
                WriteReport(in stop);
        }

        if (isWanted)
            await SendAsync(_writer.Complete, cancellation).ConfigureAwait(false);
        else if (!isOver)
            await ResumeAsync(cancellation).ConfigureAwait(false);
    }

    private void WriteReport(in DebugStop stop)
    {
        _isWaiting = _isInterrupted = false;
        Volatile.Write(ref _news, null);
        _general = stop.Processor;
        _writer.Begin(acknowledges: false);
        WriteStop(in stop, SignalOf(stop.Kind));
        _writer.End();
    }

    private static int SignalOf(DebugStopKind kind) => kind switch
    {
        DebugStopKind.Paused => SignalInterrupt,
        DebugStopKind.ShutDown => SignalQuit, // as QEMU
        _ => SignalTrap,
    };

    private void WriteStop(in DebugStop stop, int signal)
    {
        _writer.Text("T"u8).Bytes([(byte)signal]).Text("thread:"u8).Number((ulong)stop.Processor + 1).Text(";"u8);
        switch (stop.Kind)
        {
            case DebugStopKind.Breakpoint when _knowsSoftwareBreak && _breakpoints.IsInserted(BreakpointKind.Software, stop.Address):
                _writer.Text("swbreak:;"u8);
                break;
            case DebugStopKind.Breakpoint when _knowsHardwareBreak:
                _writer.Text("hwbreak:;"u8);
                break;
            case DebugStopKind.Watchpoint:
                _writer.Text(_breakpoints.WatchAt(stop.Address, stop.Watch) switch
                {
                    BreakpointKind.WriteWatch => "watch:"u8,
                    BreakpointKind.ReadWatch => "rwatch:"u8,
                    _ => "awatch:"u8,
                }).Number(stop.Address).Text(";"u8);
                break;
        }

        // What every debugger asks for next.
        var state = _target.GetState(stop.Processor);
        Span<byte> value = stackalloc byte[8];
        ReadOnlySpan<int> wanted = [View.FramePointer, View.StackPointer, View.ProgramCounter];
        foreach (var number in wanted)
        {
            var register = View.Registers[number];
            register.Read(in state, value[..register.Size]);
            _writer.Bytes([(byte)number]).Text(":"u8).Bytes(value[..register.Size]).Text(";"u8);
        }
    }

    /// <summary>c, C, s, S: for the thread of Hc, the others run.</summary>
    private Reaction ContinueOrStep(ReadOnlySpan<byte> packet)
    {
        var isStep = packet[0] is (byte)'s' or (byte)'S';
        var address = packet[1..];
        if (packet[0] is (byte)'C' or (byte)'S')
        {
            // The signal before the address means nothing to a processor.
            var semicolon = address.IndexOf((byte)';');
            address = semicolon < 0 ? [] : address[(semicolon + 1)..];
        }

        var processor = _control ?? _general;
        if (address.Length > 0)
        {
            if (!Hex.TryNumber(address, out var linear))
                return Fail(InvalidArgument);
            var state = _target.GetState(processor);
            CodePointer.Set(ref state, linear);
            _target.SetState(processor, in state);
        }

        _resumptions.Clear();
        if (isStep)
            _resumptions[processor] = new Resumption(StepMode);
        return Reaction.Resume;
    }

    /// <summary>vCont;ACTION[:THREAD]...: of several actions the first that fits a thread counts; one without any stays.</summary>
    private Reaction Continue(ReadOnlySpan<byte> actions)
    {
        _resumptions.Clear();
        var runsAll = true;
        foreach (var range in actions.Split((byte)';'))
        {
            var action = actions[range];
            int? only = null;
            var colon = action.IndexOf((byte)':');
            if (colon >= 0)
            {
                if (!TryThread(action[(colon + 1)..], out only))
                    return Fail(InvalidArgument);
                action = action[..colon];
            }

            if (!TryResumption(action, out var resumption))
                return Fail(InvalidArgument);
            for (var i = only ?? 0; i <= (only ?? _target.ProcessorCount - 1); i++)
                runsAll &= !_resumptions.TryAdd(i, resumption) || resumption.Mode == StepMode.Run;
        }

        for (var i = 0; i < _target.ProcessorCount; i++)
            runsAll &= !_resumptions.TryAdd(i, new Resumption(StepMode.Stay));
        if (runsAll)
            _resumptions.Clear();
        if (_resumptions.Count == 0 || _resumptions.Values.Any(r => r.Mode != StepMode.Stay))
            return Reaction.Resume;
        WriteStop(new DebugStop(DebugStopKind.Paused, _general), 0);
        return Reaction.Reply;
    }

    private bool TryResumption(ReadOnlySpan<byte> action, out Resumption resumption)
    {
        resumption = default;
        if (action.IsEmpty)
            return false;
        var rest = action[1..];
        switch (action[0])
        {
            case (byte)'c' when rest.IsEmpty:
            case (byte)'C':
                resumption = new Resumption(StepMode.Run);
                return true;
            case (byte)'s' when rest.IsEmpty:
            case (byte)'S':
                resumption = new Resumption(StepMode);
                return true;
            case (byte)'t' when rest.IsEmpty:
                resumption = new Resumption(StepMode.Stay);
                return true;
            case (byte)'r' when Hex.TryTakeNumber(ref rest, ',', out var start) && Hex.TryNumber(rest, out var end):
                resumption = new Resumption(StepMode.StepRange, start, end);
                return true;
            default:
                return false;
        }
    }

    /// <param name="processor">Null: all, or any.</param>
    private bool TryThread(ReadOnlySpan<byte> text, out int? processor)
    {
        processor = null;
        if (text.SequenceEqual("-1"u8))
            return true;
        if (!Hex.TryNumber(text, out var number) || number > (ulong)_target.ProcessorCount)
            return false;
        if (number != 0)
            processor = (int)number - 1;
        return true;
    }
}
