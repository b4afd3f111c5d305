// Address resolution on Ethernet (RFC 826): answers for the addresses of the network, learns those of the guest.
// Leaves out: probes against address conflicts; whoever speaks last has the address.
using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Ip;

internal sealed class ArpTable
{
    public const ushort EtherType = 0x0806;
    private const int Length = 28, Most = 256;
    private const ushort Request = 1, Reply = 2;

    private readonly GuestLink _link;
    private readonly NetworkAddresses _addresses;
    private readonly Func<uint, bool> _isOurs;
    private readonly Dictionary<uint, MacAddress> _entries = [];
    private readonly byte[] _frame = new byte[EthernetFrame.HeaderLength + Length];
    private (uint Address, MacAddress Mac) _last;

    /// <param name="isOurs">Whether the network answers for an address.</param>
    public ArpTable(GuestLink link, NetworkAddresses addresses, Func<uint, bool> isOurs)
    {
        _link = link;
        _addresses = addresses;
        _isOurs = isOurs;
    }

    /// <summary>An address that was not known has become so.</summary>
    public event Action<uint>? Learned;

    public void OnPacket(ReadOnlySpan<byte> data, NetworkCounters counters)
    {
        // Ethernet and IPv4 only.
        if (data.Length < Length || BinaryPrimitives.ReadUInt64BigEndian(data) >> 16 != 0x0001_0800_0604)
        {
            counters.Drop(DropReason.Malformed);
            return;
        }

        var operation = BinaryPrimitives.ReadUInt16BigEndian(data[6..]);
        var mac = MacAddress.Read(data[8..]);
        var sender = BinaryPrimitives.ReadUInt32BigEndian(data[14..]);
        var target = BinaryPrimitives.ReadUInt32BigEndian(data[24..]);
        Learn(sender, mac);
        if (operation == Request && sender != target && _isOurs(target))
            Send(Reply, mac, target, mac, sender);
    }

    /// <summary>The guest spoke from this address.</summary>
    public void Learn(uint address, MacAddress mac)
    {
        if (_last == (address, mac) || mac.IsGroup || mac == _addresses.Mac || !_addresses.CanBeGuest(address))
            return;
        _last = (address, mac);
        if (_entries.Count >= Most && !_entries.ContainsKey(address))
            _entries.Clear(); // a guest that takes all addresses
        if (!_entries.TryGetValue(address, out var old) || old != mac)
        {
            _entries[address] = mac;
            Learned?.Invoke(address);
        }
    }

    /// <summary>Asks for it if it is not known.</summary>
    public bool TryResolve(uint address, out MacAddress mac)
    {
        if (_last.Address == address)
        {
            mac = _last.Mac;
            return address != 0;
        }

        if (_entries.TryGetValue(address, out mac))
            return true;
        if (_addresses.CanBeGuest(address))
            Send(Request, MacAddress.Broadcast, _addresses.Host, default, address);
        return false;
    }

    private void Send(ushort operation, MacAddress to, uint sender, MacAddress targetMac, uint target)
    {
        FrameHeaders.WriteEthernet(_frame, to, _addresses.Mac, EtherType);
        var packet = _frame.AsSpan(EthernetFrame.HeaderLength);
        BinaryPrimitives.WriteUInt64BigEndian(packet, 0x0001_0800_0604_0000UL | operation);
        _addresses.Mac.Write(packet[8..]);
        BinaryPrimitives.WriteUInt32BigEndian(packet[14..], sender);
        targetMac.Write(packet[18..]);
        BinaryPrimitives.WriteUInt32BigEndian(packet[24..], target);
        _link.Send(new EthernetFrame(_frame));
    }
}
