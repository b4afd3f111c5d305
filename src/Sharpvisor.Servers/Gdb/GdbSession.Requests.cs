// Packets that ask what there is: q and Q ("General Query Packets"), features, threads, monitor commands; QEMU's own
// (qqemu.*) with its names.
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Servers.Gdb;

// What a packet asks for: GDB manual, E.2 Packets and E.4 General Query Packets. An unknown one gets an empty reply.
internal sealed partial class GdbSession
{
    private int _general;
    private int? _control;
    private bool _knowsSoftwareBreak, _knowsHardwareBreak;
    private string _command = "";

    /// <summary>errno values, as QEMU has them.</summary>
    private static ReadOnlySpan<byte> NotPossible => "E01"u8;

    private static ReadOnlySpan<byte> BadAddress => "E14"u8;

    private static ReadOnlySpan<byte> InvalidArgument => "E22"u8;

    private static ReadOnlySpan<byte> Ok => "OK"u8;

    private RegisterView View => _commands.View;

    private Reaction Answer(ReadOnlySpan<byte> packet)
    {
        if (packet.IsEmpty)
            return Reaction.Reply;
        // Somebody else may have let the machine go on. Nobody looks at registers and memory that change.
        if (packet[0] is not ((byte)'q' or (byte)'Q' or (byte)'v' or (byte)'H' or (byte)'T' or (byte)'k' or (byte)'D') && !_target.IsStopped)
            return Fail(NotPossible);
        var rest = packet[1..];
        return packet[0] switch
        {
            (byte)'?' => Status(),
            (byte)'g' => ReadRegisters(),
            (byte)'G' => WriteRegisters(rest),
            (byte)'p' => ReadRegister(rest),
            (byte)'P' => WriteRegister(rest),
            (byte)'m' => ReadMemory(rest, isBinary: false),
            (byte)'x' => ReadMemory(rest, isBinary: true),
            (byte)'M' => WriteMemory(rest, isBinary: false),
            (byte)'X' => WriteMemory(rest, isBinary: true),
            (byte)'Z' => InsertBreakpoint(rest),
            (byte)'z' => RemoveBreakpoint(rest),
            (byte)'c' or (byte)'C' or (byte)'s' or (byte)'S' => ContinueOrStep(packet),
            (byte)'H' => SelectThread(rest),
            (byte)'T' => TryThread(rest, out var thread) && thread is not null ? Succeed() : Fail(InvalidArgument),
            (byte)'D' => Leave(),
            (byte)'k' => Reaction.Kill,
            (byte)'q' => Query(rest),
            (byte)'Q' => Set(rest),
            (byte)'v' => Verbose(rest),
            _ => Reaction.Reply,
        };
    }

    private Reaction Succeed()
    {
        _writer.Text(Ok);
        return Reaction.Reply;
    }

    private Reaction Fail(ReadOnlySpan<byte> error)
    {
        _writer.Text(error);
        return Reaction.Reply;
    }

    /// <summary>Whoever attaches is told of a trap, as by QEMU, whatever stopped the machine.</summary>
    private Reaction Status()
    {
        WriteStop(_target.LastStop, SignalTrap);
        return Reaction.Reply;
    }

    private Reaction Leave()
    {
        _writer.Text(Ok);
        return Reaction.Detach;
    }

    private Reaction SelectThread(ReadOnlySpan<byte> text)
    {
        if (text.IsEmpty || !TryThread(text[1..], out var processor))
            return Fail(InvalidArgument);
        switch (text[0])
        {
            case (byte)'g':
                _general = processor ?? _general;
                return Succeed();
            case (byte)'c':
                _control = processor;
                return Succeed();
            default:
                return Fail(InvalidArgument);
        }
    }

    private Reaction Query(ReadOnlySpan<byte> text)
    {
        if (TryTake(ref text, "Supported"u8))
        {
            _knowsSoftwareBreak = Contains(text, "swbreak+"u8);
            _knowsHardwareBreak = Contains(text, "hwbreak+"u8);
            _writer.Text("PacketSize="u8).Number((ulong)_limits.Packet)
                .Text(";QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+;ConditionalBreakpoints+;binary-upload+"u8);
        }
        else if (TryTake(ref text, "Xfer:features:read:target.xml:"u8))
        {
            return Describe(text);
        }
        else if (text.StartsWith("Xfer:features:read:"u8))
        {
            _writer.Text("E00"u8);
        }
        else if (text.SequenceEqual("fThreadInfo"u8))
        {
            for (var i = 0; i < _target.ProcessorCount; i++)
                _writer.Text(i == 0 ? "m"u8 : ","u8).Number((ulong)i + 1);
        }
        else if (text.SequenceEqual("sThreadInfo"u8))
        {
            _writer.Text("l"u8);
        }
        else if (TryTake(ref text, "ThreadExtraInfo,"u8))
        {
            if (!TryThread(text, out var processor) || processor is not { } index)
                return Fail(InvalidArgument);
            if (!_target.IsStopped)
                return Fail(NotPossible);
            var activity = _target.GetState(index).Activity switch
            {
                ActivityState.Active => "running",
                ActivityState.Halted => "halted",
                ActivityState.WaitForSipi => "not started",
                _ => "shut down",
            };
            _writer.Message($"CPU#{index} [{activity}]");
        }
        else if (text.SequenceEqual("C"u8))
        {
            _writer.Text("QC"u8).Number((ulong)_general + 1);
        }
        else if (text.StartsWith("Attached"u8))
        {
            _writer.Text("1"u8);
        }
        else if (TryTake(ref text, "Rcmd,"u8))
        {
            return Command(text);
        }
        else if (text.StartsWith("Symbol:"u8))
        {
            _writer.Text(Ok);
        }
        else if (text.SequenceEqual("qemu.PhyMemMode"u8))
        {
            _writer.Text(_isPhysical ? "1"u8 : "0"u8);
        }
        else if (text.SequenceEqual("qemu.sstepbits"u8))
        {
            _writer.Text("ENABLE=1,NOIRQ=2,NOTIMER=4"u8);
        }
        else if (text.SequenceEqual("qemu.sstep"u8))
        {
            _writer.Text(_stepsHoldInterrupts ? "0x7"u8 : "0x1"u8);
        }

        return Reaction.Reply;
    }

    private Reaction Set(ReadOnlySpan<byte> text)
    {
        if (text.SequenceEqual("StartNoAckMode"u8))
        {
            _acknowledges = _reader.ChecksSums = false;
            return Succeed();
        }

        if (TryTake(ref text, "qemu.PhyMemMode:"u8))
        {
            if (!Hex.TryNumber(text, out var mode))
                return Fail(InvalidArgument);
            _isPhysical = mode != 0;
            return Succeed();
        }

        if (TryTake(ref text, "qemu.sstep="u8))
        {
            const ulong noInterrupts = 2;
            TryTake(ref text, "0x"u8);
            if (!Hex.TryNumber(text, out var flags))
                return Fail(InvalidArgument);
            _stepsHoldInterrupts = (flags & noInterrupts) != 0;
            return Succeed();
        }

        return Reaction.Reply;
    }

    private Reaction Verbose(ReadOnlySpan<byte> text)
    {
        if (TryTake(ref text, "Cont;"u8))
            return _target.IsStopped ? Continue(text) : Reaction.Resume;
        if (text.SequenceEqual("Cont?"u8))
            _writer.Text("vCont;c;C;s;S;t;r"u8);
        if (!text.StartsWith("Kill;"u8))
            return Reaction.Reply;
        _writer.Text(Ok);
        return Reaction.ReplyAndKill;
    }

    /// <summary>target.xml from an offset on. From the start on it is a new description, by which registers are meant then.</summary>
    private Reaction Describe(ReadOnlySpan<byte> text)
    {
        if (!Hex.TryTakeNumber(ref text, ',', out var offset) || !Hex.TryNumber(text, out var length))
            return Fail(InvalidArgument);
        if (offset == 0)
            _commands.TakeView();
        var description = View.Description.AsSpan();
        if (offset > (ulong)description.Length)
            return Fail(InvalidArgument);
        var rest = description[(int)offset..];
        var part = rest[..(int)Math.Min(length, (ulong)Math.Min(rest.Length, _writer.Room / 2))];
        _writer.Text(part.Length == rest.Length ? "l"u8 : "m"u8);
        _writer.Binary(part);
        return Reaction.Reply;
    }

    private Reaction Command(ReadOnlySpan<byte> text)
    {
        var bytes = _scratch.AsSpan(0, text.Length / 2);
        if (!Hex.TryBytes(text, bytes))
            return Fail(InvalidArgument);
        _command = System.Text.Encoding.UTF8.GetString(bytes);
        return Reaction.Command;
    }

    private static bool TryTake(ref ReadOnlySpan<byte> text, ReadOnlySpan<byte> prefix)
    {
        if (!text.StartsWith(prefix))
            return false;
        text = text[prefix.Length..];
        return true;
    }

    private static bool Contains(ReadOnlySpan<byte> features, ReadOnlySpan<byte> feature)
    {
        foreach (var range in features.TrimStart((byte)':').Split((byte)';'))
        {
            if (features.TrimStart((byte)':')[range].SequenceEqual(feature))
                return true;
        }

        return false;
    }
}
