// Packets that read and change registers and memory: g, G, p, P, m, M, x, X, H, T ("Packets").
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

// Registers, memory and breakpoints.
internal sealed partial class GdbSession
{
    /// <summary>QEMU's Qqemu.PhyMemMode: addresses of memory are physical ones.</summary>
    private bool _isPhysical;

    private Reaction ReadRegisters()
    {
        var state = _target.GetState(_general);
        Span<byte> value = stackalloc byte[16];
        foreach (var register in View.Registers)
        {
            register.Read(in state, value[..register.Size]);
            _writer.Bytes(value[..register.Size]);
        }

        return Reaction.Reply;
    }

    /// <summary>Only what differs is written, and the program counter last: it depends on CS.</summary>
    private Reaction WriteRegisters(ReadOnlySpan<byte> text)
    {
        var values = _scratch.AsSpan(0, View.Size);
        if (!Hex.TryBytes(text, values))
            return Fail(InvalidArgument);
        var before = _target.GetState(_general);
        var state = before;
        var isDone = true;
        ReadOnlySpan<byte> pointer = default;
        var at = 0;
        for (var i = 0; i < View.Registers.Count; i++)
        {
            ReadOnlySpan<byte> value = values.Slice(at, View.Registers[i].Size);
            at += value.Length;
            if (i == View.ProgramCounter)
                pointer = value;
            else
                isDone &= Write(i, in before, ref state, value);
        }

        isDone &= Write(View.ProgramCounter, in before, ref state, pointer);
        _target.SetState(_general, in state);
        return isDone ? Succeed() : Fail(InvalidArgument);
    }

    private bool Write(int number, in CpuState before, ref CpuState state, ReadOnlySpan<byte> value)
    {
        var register = View.Registers[number];
        Span<byte> old = stackalloc byte[16];
        register.Read(in before, old);
        return value.SequenceEqual(old[..value.Length]) || register.TryWrite(ref state, value, _target);
    }

    private Reaction ReadRegister(ReadOnlySpan<byte> text)
    {
        if (!Hex.TryNumber(text, out var number) || number >= (ulong)View.Registers.Count)
            return Fail(InvalidArgument);
        var state = _target.GetState(_general);
        var register = View.Registers[(int)number];
        Span<byte> value = stackalloc byte[16];
        register.Read(in state, value[..register.Size]);
        _writer.Bytes(value[..register.Size]);
        return Reaction.Reply;
    }

    private Reaction WriteRegister(ReadOnlySpan<byte> text)
    {
        if (!Hex.TryTakeNumber(ref text, '=', out var number) || number >= (ulong)View.Registers.Count)
            return Fail(InvalidArgument);
        Span<byte> value = stackalloc byte[16];
        value = value[..View.Registers[(int)number].Size];
        if (!Hex.TryBytes(text, value))
            return Fail(InvalidArgument);
        var state = _target.GetState(_general);
        if (!View.Registers[(int)number].TryWrite(ref state, value, _target))
            return Fail(InvalidArgument);
        _target.SetState(_general, in state);
        return Succeed();
    }

    /// <summary>m and x: what can be read from the start on; an error if that is nothing.</summary>
    private Reaction ReadMemory(ReadOnlySpan<byte> text, bool isBinary)
    {
        if (!Hex.TryTakeNumber(ref text, ',', out var address) || !Hex.TryNumber(text, out var length))
            return Fail(InvalidArgument);
        // Two characters a byte, at the worst.
        var buffer = _scratch.AsSpan(0, (int)Math.Min(length, (ulong)(_writer.Room / 2) - 1));
        var read = _isPhysical ? _target.ReadPhysical(address, buffer) : _target.ReadLinear(_general, address, buffer);
        if (read == 0 && length > 0)
            return Fail(BadAddress);
        if (isBinary)
            _writer.Text("b"u8).Binary(buffer[..read]);
        else
            _writer.Bytes(buffer[..read]);
        return Reaction.Reply;
    }

    private Reaction WriteMemory(ReadOnlySpan<byte> text, bool isBinary)
    {
        if (!Hex.TryTakeNumber(ref text, ',', out var address) || !Hex.TryTakeNumber(ref text, ':', out var length) || length > (ulong)text.Length)
            return Fail(InvalidArgument);
        var data = text;
        if (!isBinary)
        {
            var bytes = _scratch.AsSpan(0, (int)length);
            if (!Hex.TryBytes(text, bytes))
                return Fail(InvalidArgument);
            data = bytes;
        }

        if (data.Length != (int)length)
            return Fail(InvalidArgument);
        var written = _isPhysical ? _target.WritePhysical(address, data) : _target.WriteLinear(_general, address, data);
        return written == data.Length ? Succeed() : Fail(BadAddress);
    }

    /// <summary>Z KIND,ADDRESS,LENGTH[;X LENGTH,CONDITION]...</summary>
    private Reaction InsertBreakpoint(ReadOnlySpan<byte> text)
    {
        var semicolon = text.IndexOf((byte)';');
        var place = semicolon < 0 ? text : text[..semicolon];
        if (!TryPlace(place, out var kind, out var address, out var length))
            return Fail(InvalidArgument);
        List<AgentExpression> conditions = [];
        var rest = semicolon < 0 ? [] : text[(semicolon + 1)..];
        while (rest.Length > 0)
        {
            if (!TryTake(ref rest, "X"u8) || !Hex.TryTakeNumber(ref rest, ',', out var size) || size > (ulong)rest.Length / 2)
                return Fail(InvalidArgument);
            var code = new byte[size];
            if (!Hex.TryBytes(rest[..(2 * code.Length)], code))
                return Fail(InvalidArgument);
            conditions.Add(new AgentExpression(code));
            rest = rest[(2 * code.Length)..];
            TryTake(ref rest, ";"u8);
        }

        return _breakpoints.TryInsert(kind, address, length, [.. conditions]) ? Succeed() : Fail(InvalidArgument);
    }

    private Reaction RemoveBreakpoint(ReadOnlySpan<byte> text)
    {
        if (!TryPlace(text, out var kind, out var address, out var length))
            return Fail(InvalidArgument);
        _breakpoints.Remove(kind, address, length);
        return Succeed();
    }

    private static bool TryPlace(ReadOnlySpan<byte> text, out BreakpointKind kind, out ulong address, out ulong length)
    {
        (kind, address, length) = (default, 0, 0);
        if (!Hex.TryTakeNumber(ref text, ',', out var digit) || digit > (ulong)BreakpointKind.AccessWatch)
            return false;
        kind = (BreakpointKind)digit;
        return Hex.TryTakeNumber(ref text, ',', out address) && Hex.TryNumber(text, out length);
    }
}
