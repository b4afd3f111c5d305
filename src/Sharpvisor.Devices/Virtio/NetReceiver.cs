// Receive queues: VIRTIO 1.2, 5.1.6.3 and 5.1.6.4.
using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.Virtio;

/// <summary>A receive queue of a NIC: puts frames into the driver's buffers, a long one into several.</summary>
internal sealed class NetReceiver(VirtioNet device, Virtqueue queue)
{
    private readonly List<DescriptorChain> _taken = [];
    private readonly Stack<DescriptorChain> _idle = new();

    /// <summary>Bytes that what is in <see cref="_taken"/> holds.</summary>
    private int _room;

    /// <summary>A frame waits for buffers.</summary>
    public bool IsWaited { get; set; }

    public Virtqueue Queue => queue;

    /// <summary>False: there are not enough buffers; those that there are are kept for the next attempt.</summary>
    public bool TryReceive(in EthernetFrame frame)
    {
        var headerLength = device.HeaderLength;
        if (!TryTake(headerLength + frame.Length))
            return false;
        if (!device.MergesBuffers && _taken[0].WritableLength < headerLength + frame.Length)
            return true; // the driver's buffers are too short for it: lost, as on a real NIC
        Span<byte> header = stackalloc byte[headerLength];
        NetHeader.Write(header, frame.Offload, _taken.Count);
        var source = new Pieces(header, frame);
        for (var i = 0; i < _taken.Count; i++)
        {
            var chain = _taken[i];
            var length = Math.Min(chain.WritableLength, source.Left);
            foreach (var part in chain.Writable.Slice(0, length))
                source.MoveTo(part.Span);
            queue.Push(chain, length, more: i < _taken.Count - 1); // a driver that sees a part of a frame drops it
            _idle.Push(chain);
        }

        _taken.Clear();
        _room = 0;
        queue.Interrupt();
        return true;
    }

    public void Reset()
    {
        _taken.Clear();
        _room = 0;
        IsWaited = false;
    }

    private bool TryTake(int length)
    {
        while (_taken.Count == 0 || (device.MergesBuffers && _room < length))
        {
            var chain = _idle.TryPop(out var idle) ? idle : new DescriptorChain();
            if (!queue.TryPop(chain))
            {
                _idle.Push(chain);
                return false;
            }

            if (chain.WritableLength < device.HeaderLength)
            {
                device.Fail("a receive buffer without room", $"{chain.WritableLength} bytes");
                return false;
            }

            _taken.Add(chain);
            _room = (int)Math.Min(int.MaxValue, (long)_room + chain.WritableLength);
        }

        return true;
    }

    /// <summary>What is left of a header and a frame.</summary>
    private ref struct Pieces(ReadOnlySpan<byte> header, in EthernetFrame frame)
    {
        private ReadOnlySpan<byte> _piece = header, _second = frame.First, _third = frame.Second, _fourth = frame.Third;

        public readonly int Left => _piece.Length + _second.Length + _third.Length + _fourth.Length;

        public void MoveTo(Span<byte> destination)
        {
            while (destination.Length > 0)
            {
                if (_piece.IsEmpty)
                {
                    _piece = _second;
                    _second = _third;
                    _third = _fourth;
                    _fourth = default;
                    continue;
                }

                var count = Math.Min(_piece.Length, destination.Length);
                _piece[..count].CopyTo(destination);
                _piece = _piece[count..];
                destination = destination[count..];
            }
        }
    }
}
