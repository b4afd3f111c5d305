// What a user-mode network counts. No specification: the names of drops are ours.
namespace Sharpvisor.Backends.Net.User;

/// <summary>Why a frame of the guest, or one for it, went no further.</summary>
public enum DropReason
{
    /// <summary>Headers that are cut off or contradict themselves.</summary>
    Malformed,

    /// <summary>A checksum that is wrong.</summary>
    Checksum,

    /// <summary>An Ethernet type or IP protocol that the network does not speak.</summary>
    Protocol,

    /// <summary>For another station's Ethernet address.</summary>
    OtherStation,

    /// <summary>A source address that the guest can't have.</summary>
    Source,

    /// <summary>A destination that can't be reached, or may not be.</summary>
    Destination,

    /// <summary>Fragments that overlap, come too late or are too many.</summary>
    Fragment,

    /// <summary>The guest had no room, nor had the backlog.</summary>
    NoRoom,

    /// <summary>The guest's Ethernet address is not known.</summary>
    NoAddress,

    /// <summary>Too many half-open connections or flows, or no descriptor left.</summary>
    Limit,

    /// <summary>TCP: outside of the window, or an acknowledgement of nothing.</summary>
    Sequence,

    /// <summary>TCP: behind a gap.</summary>
    OutOfOrder,

    /// <summary>TCP: the pool had nothing left.</summary>
    Pool,

    /// <summary>The host refused a datagram.</summary>
    Host,
}

/// <summary>What a <see cref="UserNetwork"/> has done so far, and holds.</summary>
/// <param name="FramesFromGuest">Those that were to be cut into segments count once; bytes without the Ethernet checksum.</param>
/// <param name="Connections">TCP, now, in any state.</param>
/// <param name="ConnectionsOpened">TCP, of either side.</param>
/// <param name="ConnectionsRefused">TCP, by the host, by its limits or by <c>restrict</c>.</param>
/// <param name="Retransmissions">TCP segments sent again.</param>
/// <param name="UdpFlows">Now.</param>
/// <param name="Drops">Only those that happened.</param>
public sealed record NetworkFigures(
    long FramesFromGuest,
    long BytesFromGuest,
    long FramesToGuest,
    long BytesToGuest,
    int Connections,
    long ConnectionsOpened,
    long ConnectionsRefused,
    long Retransmissions,
    int UdpFlows,
    PacketPoolFigures Pool,
    IReadOnlyDictionary<DropReason, long> Drops);

/// <summary>Of the pool that holds data on its way.</summary>
/// <param name="InUse">Bytes.</param>
/// <param name="Peak">Bytes, the most at one time.</param>
/// <param name="Limit">Bytes.</param>
/// <param name="Chunks">In use.</param>
/// <param name="Refusals">How often there was nothing left.</param>
public readonly record struct PacketPoolFigures(long InUse, long Peak, long Limit, int Chunks, long Refusals);

/// <summary>Counts on the network's thread; read by any.</summary>
internal sealed class NetworkCounters
{
    private readonly long[] _drops = new long[Enum.GetValues<DropReason>().Length];

    public long FramesFromGuest { get; set; }

    public long BytesFromGuest { get; set; }

    public long FramesToGuest { get; set; }

    public long BytesToGuest { get; set; }

    public long ConnectionsOpened { get; set; }

    public long ConnectionsRefused { get; set; }

    public long Retransmissions { get; set; }

    public void Drop(DropReason reason) => _drops[(int)reason]++;

    public IReadOnlyDictionary<DropReason, long> Drops =>
        Enum.GetValues<DropReason>().Where(r => _drops[(int)r] > 0).ToDictionary(r => r, r => _drops[(int)r]);
}
