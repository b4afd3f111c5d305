// debugcon: a port that prints each byte written to it.
// Follows: Bochs' port E9h hack and QEMU's isa-debugcon device: reading gives E9h, so that a guest can find it.
// Leaves out: input.

using Sharpvisor.Core;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Chipset;

/// <summary>One port, E9h or 402h by custom. It has no flow control: what a slow backend does not take waits here, up to a limit.</summary>
public sealed class DebugConsole : ByteWideDevice, ICharFrontend
{
    private const int WaitingLimit = 1 << 16;

    private readonly ICharBackend _backend;
    private readonly GuestErrorLog _errors;
    private readonly byte[] _waiting = new byte[WaitingLimit];
    private int _waitingCount;

    /// <param name="backend">Where output goes; the console attaches itself.</param>
    public DebugConsole(ICharBackend backend, MachineGate gate, GuestErrorLog errors)
    {
        _backend = backend;
        _errors = errors;
        backend.Attach(this, gate);
    }

    public int ReceiveCapacity => 0;

    public void Receive(ReadOnlySpan<byte> data)
    {
    }

    public void OnBreak()
    {
    }

    public void OnWritable()
    {
        if (_waitingCount == 0)
            return;
        var taken = Math.Clamp(_backend.Write(_waiting.AsSpan(0, _waitingCount)), 0, _waitingCount);
        _waiting.AsSpan(taken, _waitingCount - taken).CopyTo(_waiting);
        _waitingCount -= taken;
    }

    protected override byte ReadByte(uint offset) => 0xE9;

    protected override void WriteByte(uint offset, byte value)
    {
        if (_waitingCount == 0 && _backend.Write(new ReadOnlySpan<byte>(in value)) >= 1)
            return;
        if (_waitingCount < WaitingLimit)
            _waiting[_waitingCount++] = value;
        else
            _errors.Report("debugcon", "output dropped, the host is too slow");
    }
}
