// A port of a virtio console: a queue for what the guest receives, one for what it sends.
// Follows: VIRTIO 1.2, 5.3.6. What the guest sends stays in its buffer until the host takes it, what the host sends stays
// with the host until the guest has the port open and a buffer for it: nothing is kept here, nothing is lost.
// Leaves out: breaks of a serial line, which such a port has not.

using Sharpvisor.Core.Char;

namespace Sharpvisor.Devices.Virtio;

internal sealed class VirtioConsolePort : ICharFrontend
{
    /// <summary>No driver sends as much at once; it bounds how long the host is busy with a chain.</summary>
    private const int LimitOfBuffer = 4 << 20;

    private readonly VirtioConsole _device;
    private readonly Virtqueue _receive, _transmit;
    /// <summary>The buffers in use: those that their queue has given out.</summary>
    private readonly DescriptorChain _input = new(), _output = new();
    private int _sent;

    public VirtioConsolePort(VirtioConsole device, VirtioConsolePortOptions options, Virtqueue receive, Virtqueue transmit)
    {
        (_device, Options, _receive, _transmit) = (device, options, receive, transmit);
    }

    public VirtioConsolePortOptions Options { get; }

    /// <summary>A program in the guest, or its console, has it open.</summary>
    public bool IsOpen { get; private set; }

    int ICharFrontend.ReceiveCapacity
    {
        get
        {
            if (!IsOpen || (!_receive.Has(_input) && !_receive.TryPop(_input)))
                return 0;
            if (_input.WritableLength == 0)
                _device.Break("a receive buffer without room");
            return _receive.IsWaitingFor(_input) ? _input.WritableLength : 0;
        }
    }

    void ICharFrontend.Receive(ReadOnlySpan<byte> data)
    {
        _input.Writable.CopyFrom(data);
        _receive.Complete(_input, data.Length);
    }

    void ICharFrontend.OnWritable() => Transmit();

    void ICharFrontend.OnBreak()
    {
    }

    public void SetOpen(bool isOpen)
    {
        IsOpen = isOpen;
        if (isOpen)
            Options.Backend?.OnReceiveReady();
    }

    /// <summary>The driver has new buffers for input.</summary>
    public void OnReceiveNotify()
    {
        if (IsOpen)
            Options.Backend?.OnReceiveReady();
    }

    /// <summary>Sends what there is, as long as the host takes it.</summary>
    public void Transmit()
    {
        while (_transmit.Has(_output) || TryTakeOutput())
        {
            if (!_transmit.IsWaitingFor(_output) || !TrySend())
                break;
            _transmit.Push(_output, 0);
        }

        _transmit.Interrupt();
    }

    /// <summary>Past all queues, for a guest in need; lost if the host does not take it.</summary>
    public void SendAtOnce(byte value) => Options.Backend?.Write([value]);

    public void Reset() => IsOpen = false;

    private bool TryTakeOutput()
    {
        if (!_transmit.TryPop(_output))
            return false;
        _sent = 0;
        if (_output.ReadableLength > LimitOfBuffer)
            _device.Break("a buffer of more than 4 MiB to be sent");
        return true;
    }

    /// <summary>False: the host does not take all of it now.</summary>
    private bool TrySend()
    {
        if (Options.Backend is not { } backend)
            return true;
        foreach (var piece in _output.Readable.Slice(_sent))
        {
            var taken = Math.Clamp(backend.Write(piece.Span), 0, piece.Length);
            _sent += taken;
            if (taken < piece.Length)
                return false;
        }

        return true;
    }
}
