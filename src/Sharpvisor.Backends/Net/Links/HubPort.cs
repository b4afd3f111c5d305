// A port of a hub, which a NIC sees as its network.
// Follows: see NetworkHub.cs.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>Made by <see cref="NetworkHub.AddPort"/>.</summary>
public sealed class HubPort : LinkBackend
{
    private readonly NetworkHub _hub;
    private readonly PacketBuffer _outgoing = new(), _incoming = new();
    private bool _hasOutgoing, _hasIncoming;

    internal HubPort(NetworkHub hub, ILogger logger) : base(hub.Name, logger)
    {
        _hub = hub;
        Inner = new Side(hub, this);
    }

    internal NetworkHub.Port Inner { get; }

    private protected override bool Work()
    {
        var hasMore = Send();
        return Receive() || hasMore;
    }

    private protected override void Close() => _hub.Remove(Inner);

    private bool Send()
    {
        for (var i = 0; i < AtOnce; i++)
        {
            if (!_hasOutgoing && !TryTake(_outgoing))
                return false;
            _hasOutgoing = !Inner.TryFlood(new EthernetFrame(_outgoing.Frame));
            if (_hasOutgoing)
                return false;
        }

        return true;
    }

    private bool Receive()
    {
        for (var i = 0; i < AtOnce; i++)
        {
            if (!_hasIncoming && !Inner.TryTake(_incoming))
                return false;
            _hasIncoming = !TryGive(new EthernetFrame(_incoming.Frame));
            if (_hasIncoming)
                return false;
        }

        return true;
    }

    private sealed class Side(NetworkHub hub, HubPort port) : NetworkHub.Port(hub)
    {
        protected override void OnFrame() => port.Poller.Wake();

        protected override void OnRoom() => port.Poller.Wake();
    }
}
