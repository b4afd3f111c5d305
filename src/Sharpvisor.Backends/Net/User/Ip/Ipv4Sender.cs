// IPv4 to the guest, with fragments (RFC 791, 3.2).
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Ip;

/// <summary>Sends IPv4 datagrams to the guest, in fragments if they are long.</summary>
internal sealed class Ipv4Sender
{
    public const int MaximumUnit = 1500, LongestPayload = 65535 - Ipv4Packet.HeaderLength;
    private const ushort MoreFragments = 0x2000;
    private const int FragmentPayload = (MaximumUnit - Ipv4Packet.HeaderLength) & ~7;
    private const int HeadersLength = EthernetFrame.HeaderLength + Ipv4Packet.HeaderLength;

    private readonly GuestLink _link;
    private readonly NetworkAddresses _addresses;
    private readonly NetworkCounters _counters;
    private readonly ArpTable _arp;
    private readonly byte[] _headers = new byte[HeadersLength];
    private ushort _identification;

    public Ipv4Sender(GuestLink link, NetworkAddresses addresses, NetworkCounters counters, ArpTable arp)
    {
        _link = link;
        _addresses = addresses;
        _counters = counters;
        _arp = arp;
    }

    /// <param name="payload">With its checksum; at most <see cref="LongestPayload"/>.</param>
    /// <param name="mac">Null: ARP tells.</param>
    public void Send(byte protocol, uint source, uint destination, ReadOnlySpan<byte> payload, MacAddress? mac = null)
    {
        if (mac is null)
        {
            if (destination == uint.MaxValue || destination == _addresses.Broadcast)
            {
                mac = MacAddress.Broadcast;
            }
            else if (_arp.TryResolve(destination, out var known))
            {
                mac = known;
            }
            else
            {
                _counters.Drop(DropReason.NoAddress);
                return;
            }
        }

        FrameHeaders.WriteEthernet(_headers, mac.Value, _addresses.Mac, FrameHeaders.Ipv4EtherType);
        _identification++;
        var offset = 0;
        do
        {
            var rest = payload.Length - offset;
            var isLast = rest <= MaximumUnit - Ipv4Packet.HeaderLength;
            var count = isLast ? rest : FragmentPayload;
            FrameHeaders.WriteIpv4(
                _headers.AsSpan(EthernetFrame.HeaderLength), Ipv4Packet.HeaderLength + count, _identification, (ushort)(offset / 8 | (isLast ? 0 : MoreFragments)), protocol, source, destination);
            _link.Send(new EthernetFrame(_headers, payload.Slice(offset, count)));
            offset += count;
        }
        while (offset < payload.Length);
    }
}
