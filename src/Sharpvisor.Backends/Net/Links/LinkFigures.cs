// What a link counts.
namespace Sharpvisor.Backends.Net.Links;

/// <summary>What a link has moved so far.</summary>
/// <param name="BytesFromGuest">Without the Ethernet checksum.</param>
/// <param name="Dropped">Frames of either direction: nobody had the other end, or they made no sense.</param>
public readonly record struct LinkFigures(long FramesFromGuest, long BytesFromGuest, long FramesToGuest, long BytesToGuest, long Dropped);

/// <summary>Counts on the link's thread; read by any.</summary>
internal sealed class LinkCounters
{
    public long FramesFromGuest { get; set; }

    public long BytesFromGuest { get; set; }

    public long FramesToGuest { get; set; }

    public long BytesToGuest { get; set; }

    public long Dropped { get; set; }

    public LinkFigures Figures => new(FramesFromGuest, BytesFromGuest, FramesToGuest, BytesToGuest, Dropped);
}
