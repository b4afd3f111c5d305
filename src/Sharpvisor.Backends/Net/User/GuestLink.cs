// The wire between a user-mode network and a NIC (IEEE 802.3 frames without their check sequence).
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User;

/// <summary>The cable to the guest. A connection waits while the guest has no room; datagrams are kept in a small backlog.</summary>
internal sealed class GuestLink
{
    private const int BacklogSize = 512 << 10;

    private readonly NetworkLoop _loop;
    private readonly NetworkCounters _counters;
    private readonly FrameQueue _backlog = new(BacklogSize);
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
        if (!_backlog.TryAdd(frame))
            _counters.Drop(DropReason.NoRoom);
    }

    /// <summary>The guest has room again.</summary>
    public void OnRoom()
    {
        _isFull = false;
        while (_backlog.TryPeek(out var waiting))
        {
            if (!TrySend(new EthernetFrame(waiting)))
                return;
            _backlog.Remove();
        }

        _loop.OnGuestHasRoom();
    }
}
