using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User;

/// <summary>The cable to the guest. A connection waits while the guest has no room; datagrams are kept in a small backlog.</summary>
internal sealed class GuestLink
{
    private const int BacklogSize = 512 << 10;
    private const int LengthSize = 4;

    private readonly NetworkLoop _loop;
    private readonly NetworkCounters _counters;
    private readonly byte[] _backlog = new byte[BacklogSize];
    private int _backlogStart, _backlogEnd; // of frames behind their lengths; all between lies together
    private bool _isFull;
    private INetworkDevice? _device;

    public GuestLink(NetworkLoop loop, NetworkCounters counters)
    {
        _loop = loop;
        _counters = counters;
    }

    /// <summary>Whether a frame would be taken now.</summary>
    public bool HasRoom => !_isFull;

    /// <summary>Changes with the guest's driver.</summary>
    public ReceiveOffloads Offloads => _device!.ReceiveOffloads;

    public void Attach(INetworkDevice device) => _device = device;

    /// <summary>False: the guest has no room now; who has more to send waits for it.</summary>
    public bool TrySend(in EthernetFrame frame)
    {
        if (_isFull || !_device!.TryReceive(frame))
        {
            _isFull = true;
            return false;
        }

        _counters.FramesToGuest++;
        _counters.BytesToGuest += frame.Length;
        return true;
    }

    /// <summary>Sends it now or later; a datagram may get lost.</summary>
    public void Send(in EthernetFrame frame)
    {
        if (TrySend(frame))
            return;
        var length = frame.Length;
        if (_backlogEnd + LengthSize + length > BacklogSize && _backlogStart > 0)
        {
            _backlog.AsSpan(_backlogStart, _backlogEnd - _backlogStart).CopyTo(_backlog);
            _backlogEnd -= _backlogStart;
            _backlogStart = 0;
        }

        if (_backlogEnd + LengthSize + length > BacklogSize)
        {
            _counters.Drop(DropReason.NoRoom);
            return;
        }

        BinaryPrimitives.WriteInt32LittleEndian(_backlog.AsSpan(_backlogEnd), length);
        frame.CopyTo(_backlog.AsSpan(_backlogEnd + LengthSize));
        _backlogEnd += LengthSize + length;
    }

    /// <summary>The guest has room again.</summary>
    public void OnRoom()
    {
        _isFull = false;
        while (_backlogStart < _backlogEnd)
        {
            var length = BinaryPrimitives.ReadInt32LittleEndian(_backlog.AsSpan(_backlogStart));
            if (!TrySend(new EthernetFrame(_backlog.AsSpan(_backlogStart + LengthSize, length))))
                return;
            _backlogStart += LengthSize + length;
        }

        _backlogStart = _backlogEnd = 0;
        _loop.OnGuestHasRoom();
    }
}
