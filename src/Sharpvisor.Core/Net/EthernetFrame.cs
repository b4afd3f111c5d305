namespace Sharpvisor.Core.Net;

/// <summary>
/// A frame on its way, without the frame check sequence, in up to three pieces: so headers made here and data that lies
/// in a ring buffer need not be copied together first.
/// </summary>
public readonly ref struct EthernetFrame(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second = default, ReadOnlySpan<byte> third = default)
{
    /// <summary>Destination, source and type.</summary>
    public const int HeaderLength = 14;

    /// <summary>The longest with offloads: 64 KiB behind headers.</summary>
    public const int MaximumLength = (64 << 10) + HeaderLength + 4 + 60 + 60;

    /// <summary>Holds all headers at least.</summary>
    public ReadOnlySpan<byte> First { get; } = first;

    public ReadOnlySpan<byte> Second { get; } = second;

    public ReadOnlySpan<byte> Third { get; } = third;

    public FrameOffload Offload { get; init; }

    public int Length => First.Length + Second.Length + Third.Length;

    /// <summary>Copies all of it.</summary>
    public void CopyTo(Span<byte> destination)
    {
        First.CopyTo(destination);
        Second.CopyTo(destination[First.Length..]);
        Third.CopyTo(destination[(First.Length + Second.Length)..]);
    }
}

/// <summary>What of a frame is left to whoever gets it: the meaning of struct virtio_net_hdr (VIRTIO 1.2, 5.1.6).</summary>
public readonly record struct FrameOffload
{
    /// <summary>A checksum is to be made: from <see cref="ChecksumStart"/> to the end, to <see cref="ChecksumOffset"/> behind that, over what lies there now (the pseudo header's sum).</summary>
    public bool NeedsChecksum { get; init; }

    /// <summary>The checksum is known to be right; nobody needs to look.</summary>
    public bool IsValid { get; init; }

    /// <summary>Bytes from the frame's start.</summary>
    public ushort ChecksumStart { get; init; }

    /// <summary>Bytes from <see cref="ChecksumStart"/>.</summary>
    public ushort ChecksumOffset { get; init; }

    /// <summary>The kind of segment that is to be cut.</summary>
    public Segmentation Segmentation { get; init; }

    /// <summary>Payload bytes of each piece.</summary>
    public ushort SegmentSize { get; init; }

    /// <summary>Bytes of all headers, a hint of the driver.</summary>
    public ushort HeaderLength { get; init; }
}

/// <summary>VIRTIO_NET_HDR_GSO_*.</summary>
public enum Segmentation : byte
{
    None = 0,
    Tcp4 = 1,
    Udp = 3,
    Tcp6 = 4,
    UdpL4 = 5,
}

/// <summary>Room for one frame of any length: who drives a cable has one and uses it again and again.</summary>
public sealed class PacketBuffer
{
    private readonly byte[] _bytes = GC.AllocateUninitializedArray<byte>(EthernetFrame.MaximumLength, pinned: true);

    /// <summary>Of the frame, in bytes.</summary>
    public int Length { get; set; }

    public FrameOffload Offload { get; set; }

    /// <summary>The frame.</summary>
    public Span<byte> Frame => _bytes.AsSpan(0, Length);

    /// <summary>The same for what keeps it beyond a call.</summary>
    public Memory<byte> FrameMemory => _bytes.AsMemory(0, Length);

    /// <summary>All room there is.</summary>
    public Memory<byte> Room => _bytes;
}
