// IPv4 from the guest (RFC 791, 3.1; RFC 1122, 3.2): checks, and who gets it.
using Sharpvisor.Backends.Net.User.Tcp;
using Sharpvisor.Backends.Net.User.Udp;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Ip;

/// <summary>Looks at what the guest sends and gives it to whoever it is for.</summary>
internal sealed class Ipv4Layer
{
    private readonly NetworkLoop _loop;
    private readonly NetworkAddresses _addresses;
    private readonly NetworkCounters _counters;
    private readonly ArpTable _arp;
    private readonly IcmpLayer _icmp;
    private readonly UdpLayer _udp;
    private readonly TcpLayer _tcp;
    private readonly Ipv4Reassembly _reassembly;

    public Ipv4Layer(NetworkLoop loop, NetworkAddresses addresses, NetworkCounters counters, ArpTable arp, IcmpLayer icmp, UdpLayer udp, TcpLayer tcp)
    {
        _loop = loop;
        _addresses = addresses;
        _counters = counters;
        _arp = arp;
        _icmp = icmp;
        _udp = udp;
        _tcp = tcp;
        _reassembly = new Ipv4Reassembly(counters);
    }

    public void OnPacket(MacAddress from, ReadOnlySpan<byte> data, FrameOffload offload)
    {
        if (!Ipv4Packet.TryParse(data, offload, out var packet, out var reason))
        {
            _counters.Drop(reason);
            return;
        }

        if (_addresses.CanBeGuest(packet.Source))
        {
            _arp.Learn(packet.Source, from);
        }
        else if (packet.Source != 0 || packet.Protocol != Ipv4Packet.Udp)
        {
            // Without an address a guest can only ask for one.
            _counters.Drop(DropReason.Source);
            return;
        }

        var isOurs = _addresses.IsInside(packet.Destination) || packet.Destination == uint.MaxValue;
        if (packet.TimeToLive == 0 || packet.TimeToLive == 1 && !isOurs)
        {
            _icmp.SendError(packet, IcmpLayer.TimeExceeded, 0);
            return;
        }

        if (packet.IsFragment)
        {
            if (_reassembly.TryComplete(packet, _loop.NowMs, out var whole))
                Dispatch(packet.Reassembled(whole));
            return;
        }

        Dispatch(packet);
    }

    private void Dispatch(in Ipv4Packet packet)
    {
        switch (packet.Protocol)
        {
            case Ipv4Packet.Tcp:
                _tcp.OnPacket(packet);
                break;
            case Ipv4Packet.Udp:
                _udp.OnPacket(packet);
                break;
            case Ipv4Packet.Icmp:
                _icmp.OnPacket(packet);
                break;
            default:
                _counters.Drop(DropReason.Protocol);
                break;
        }
    }
}
