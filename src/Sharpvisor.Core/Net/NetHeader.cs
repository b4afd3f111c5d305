// Follows: VIRTIO 1.2, 5.1.6; include/uapi/linux/virtio_net.h of Linux for taps.
using System.Buffers.Binary;

namespace Sharpvisor.Core.Net;

/// <summary>struct virtio_net_hdr, which precedes each frame in a buffer of a virtio NIC (VIRTIO 1.2, 5.1.6), and in a tap of the host that has IFF_VNET_HDR.</summary>
public static class NetHeader
{
    /// <summary>With the number of buffers, and, of taps and of legacy drivers that don't merge them, without.</summary>
    public const int Length = 12, ShortLength = 10;

    private const byte NeedsChecksum = 1, DataValid = 2, Ecn = 0x80;

    /// <summary>What the sender asks for; false: what makes no sense for a frame of this length.</summary>
    public static bool TryRead(ReadOnlySpan<byte> header, int frameLength, out FrameOffload offload)
    {
        var needsChecksum = (header[0] & NeedsChecksum) != 0;
        offload = new FrameOffload
        {
            NeedsChecksum = needsChecksum,
            Segmentation = (Segmentation)(header[1] & ~Ecn),
            HeaderLength = BinaryPrimitives.ReadUInt16LittleEndian(header[2..]),
            SegmentSize = BinaryPrimitives.ReadUInt16LittleEndian(header[4..]),
            ChecksumStart = needsChecksum ? BinaryPrimitives.ReadUInt16LittleEndian(header[6..]) : (ushort)0,
            ChecksumOffset = needsChecksum ? BinaryPrimitives.ReadUInt16LittleEndian(header[8..]) : (ushort)0,
        };
        if (needsChecksum && offload.ChecksumStart + offload.ChecksumOffset + 2 > frameLength)
            return false;
        return offload.Segmentation == Segmentation.None || (needsChecksum && offload.SegmentSize > 0 && Enum.IsDefined(offload.Segmentation));
    }

    /// <summary>The host has looked at the checksum already. A guest may not say so.</summary>
    public static bool IsChecked(ReadOnlySpan<byte> header) => (header[0] & DataValid) != 0;

    public static void Write(Span<byte> header, in FrameOffload offload, int bufferCount)
    {
        header.Clear();
        header[0] = offload.NeedsChecksum ? NeedsChecksum : offload.IsValid ? DataValid : (byte)0;
        header[1] = (byte)offload.Segmentation;
        BinaryPrimitives.WriteUInt16LittleEndian(header[2..], offload.HeaderLength);
        BinaryPrimitives.WriteUInt16LittleEndian(header[4..], offload.SegmentSize);
        BinaryPrimitives.WriteUInt16LittleEndian(header[6..], offload.ChecksumStart);
        BinaryPrimitives.WriteUInt16LittleEndian(header[8..], offload.ChecksumOffset);
        if (header.Length >= Length)
            BinaryPrimitives.WriteUInt16LittleEndian(header[10..], (ushort)bufferCount);
    }
}
