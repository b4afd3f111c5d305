using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.Virtio;

/// <summary>Which frames a driver wants to see: VIRTIO_NET_CTRL_RX, _MAC and _VLAN (VIRTIO 1.2, 5.1.6.5.1 to 5.1.6.5.3).</summary>
internal sealed class ReceiveFilter
{
    /// <summary>More addresses than this: all of their kind are let through.</summary>
    public const int TableLimit = 64;

    private const int VlanType = 0x8100, TypeOffset = 12;

    private readonly HashSet<MacAddress> _unicast = [], _multicast = [];
    private readonly HashSet<int> _vlans = [];
    private bool _allUnicastByOverflow, _allMulticastByOverflow;

    public bool Promiscuous { get; set; } = true;

    public bool AllMulticast { get; set; }

    public bool AllUnicast { get; set; }

    public bool NoMulticast { get; set; }

    public bool NoUnicast { get; set; }

    public bool NoBroadcast { get; set; }

    /// <summary>The driver has chosen among VLANs; without it all are let through.</summary>
    public bool FiltersVlans { get; set; }

    public void Reset()
    {
        Promiscuous = true;
        AllMulticast = AllUnicast = NoMulticast = NoUnicast = NoBroadcast = FiltersVlans = false;
        SetTables([], [], false, false);
        _vlans.Clear();
    }

    /// <param name="unicastOverflow">There were more than the table holds.</param>
    public void SetTables(IEnumerable<MacAddress> unicast, IEnumerable<MacAddress> multicast, bool unicastOverflow, bool multicastOverflow)
    {
        _unicast.Clear();
        _unicast.UnionWith(unicast);
        _multicast.Clear();
        _multicast.UnionWith(multicast);
        (_allUnicastByOverflow, _allMulticastByOverflow) = (unicastOverflow, multicastOverflow);
    }

    public void SetVlan(int id, bool isWanted)
    {
        if (isWanted)
            _vlans.Add(id);
        else
            _vlans.Remove(id);
    }

    /// <param name="frame">Its headers at least.</param>
    /// <param name="own">The NIC's address.</param>
    public bool Passes(ReadOnlySpan<byte> frame, MacAddress own)
    {
        if (frame.Length < EthernetFrame.HeaderLength)
            return false;
        if (Promiscuous)
            return true;
        if (FiltersVlans && frame.Length >= TypeOffset + 4 && (frame[TypeOffset] << 8 | frame[TypeOffset + 1]) == VlanType
            && !_vlans.Contains((frame[TypeOffset + 2] << 8 | frame[TypeOffset + 3]) & 0xFFF))
        {
            return false;
        }

        var to = MacAddress.Read(frame);
        if (to == MacAddress.Broadcast)
            return !NoBroadcast;
        return to.IsGroup
            ? !NoMulticast && (AllMulticast || _allMulticastByOverflow || _multicast.Contains(to))
            : !NoUnicast && (AllUnicast || _allUnicastByOverflow || to == own || _unicast.Contains(to));
    }
}
