// The ring of frames that a domain sends.
// Follows: Xen's public header io/netif.h; what is an error of one frame and what of the front end, as Linux's xen-netback.

using System.Buffers.Binary;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Xen.Net;

/// <summary>Takes frames out of a ring: each is copied, so that nothing stays in use.</summary>
internal sealed class XenNetTransmitter(XenNet device, SharedRing ring)
{
    /// <summary>As many as Linux's back end lets pass; a frame has 18 by the specification.</summary>
    private const int MaximumSlots = 20;

    private readonly Slot[] _slots = new Slot[MaximumSlots];
    private int _slotCount, _extraCount;
    private byte _segments;
    private ushort _segmentSize;
    private bool _isCommand;

    /// <summary>Takes the next frame that makes sense.</summary>
    /// <param name="wrong">What ends the connection; else null.</param>
    /// <returns>False: there is none.</returns>
    public bool TryTake(PacketBuffer packet, out string? wrong)
    {
        wrong = null;
        for (var refused = 0; refused <= 4 * ring.Size; refused++)
        {
            var waiting = ring.CountWaiting();
            if (waiting == 0)
                waiting = ring.Await();
            if (waiting == 0)
                return false;
            wrong = waiting < 0 ? "ring indices that can't be" : Gather(waiting);
            if (wrong is not null)
                return false;
            var isGood = !_isCommand && TryCopy(packet) && TryDescribe(packet);
            Answer(isGood ? XenNetLayout.Okay : XenNetLayout.Error);
            if (isGood)
                return true;
            device.CountBadFrame();
        }

        wrong = "bad frames without end";
        return false;
    }

    /// <summary>Takes the entries of one frame out of the ring.</summary>
    /// <returns>Null, or what is wrong.</returns>
    private string? Gather(int waiting)
    {
        Span<byte> entry = stackalloc byte[XenNetLayout.TransmitEntry];
        (_slotCount, _extraCount, _segments, _segmentSize, _isCommand) = (0, 0, 0, 0, false);
        if (!ring.TryPeek(0, entry))
            return "a ring that is no memory";
        var at = 1;
        var first = _slots[_slotCount++] = Slot.Read(entry);
        for (var isMore = (first.Flags & XenNetLayout.TransmitExtra) != 0; isMore; isMore = (entry[1] & XenNetLayout.ExtraMore) != 0)
        {
            if (at == waiting || !ring.TryPeek(at++, entry[..XenNetLayout.ExtraSize]))
                return "a frame that is not all there";
            _extraCount++;
            if (ReadExtra(entry) is { } wrong)
                return wrong;
        }

        var rest = 0;
        for (var flags = first.Flags; (flags & XenNetLayout.TransmitMoreData) != 0;)
        {
            if (at == waiting || !ring.TryPeek(at++, entry))
                return "a frame that is not all there";
            if (_slotCount == MaximumSlots)
                return "a frame in too many pieces";
            var slot = _slots[_slotCount++] = Slot.Read(entry);
            rest += slot.Size;
            flags = slot.Flags;
        }

        // The first piece names the size of all.
        if (rest > first.Size)
            return "a piece that is longer than its frame";
        _slots[0] = first with { Size = first.Size - rest };
        foreach (var slot in _slots.AsSpan(0, _slotCount))
        {
            if (slot.Offset + slot.Size > GuestMemory.PageSize)
                return "a piece that crosses a page";
        }

        ring.Take(at);
        return null;
    }

    private string? ReadExtra(ReadOnlySpan<byte> extra)
    {
        switch (extra[0])
        {
            case XenNetLayout.ExtraSegments:
                (_segmentSize, _segments) = (BinaryPrimitives.ReadUInt16LittleEndian(extra[2..]), extra[4]);
                return _segmentSize > 0 && _segments is XenNetLayout.SegmentsTcp4 or XenNetLayout.SegmentsTcp6 ? null : "segments of no kind or size";
            case XenNetLayout.ExtraAddGroup or XenNetLayout.ExtraRemoveGroup:
                _isCommand = true; // of a feature that was not offered: it gets an error
                return null;
            case XenNetLayout.ExtraHash:
                return null;
            default:
                return "an unknown kind of extra";
        }
    }

    private bool TryCopy(PacketBuffer packet)
    {
        packet.Length = 0;
        foreach (var slot in _slots.AsSpan(0, _slotCount))
        {
            if (slot.Size == 0)
                continue;
            if (!device.TryReadGranted(slot.Reference, slot.Offset, packet.Room.Span.Slice(packet.Length, slot.Size)))
                return false;
            packet.Length += slot.Size;
        }

        return packet.Length >= EthernetFrame.HeaderLength;
    }

    /// <summary>Says what is left to do; false: the frame is none of which that can be said.</summary>
    private bool TryDescribe(PacketBuffer packet)
    {
        packet.Offload = default;
        if (_segments == 0 && (_slots[0].Flags & XenNetLayout.TransmitChecksumBlank) == 0)
            return true;
        var frame = packet.Frame;
        if (!TransportChecksum.TryFind(frame, out var checksum))
            return false;
        checksum.PutPseudoHeader(frame);
        if (_segments == 0 && !device.LeavesChecksums)
        {
            TransportChecksum.Finish(frame, checksum.Start, checksum.Offset);
            return true;
        }

        // Segments have their checksums made when they are cut, whatever the front end says.
        if (_segments != 0 && (!device.LeavesChecksums || !checksum.IsTcp || checksum.IsIPv6 != (_segments == XenNetLayout.SegmentsTcp6)))
            return false;
        packet.Offload = new FrameOffload
        {
            NeedsChecksum = true,
            ChecksumStart = (ushort)checksum.Start,
            ChecksumOffset = (ushort)checksum.Offset,
            Segmentation = _segments switch { 0 => Segmentation.None, XenNetLayout.SegmentsTcp4 => Segmentation.Tcp4, _ => Segmentation.Tcp6 },
            SegmentSize = _segmentSize,
            HeaderLength = _segments == 0 ? (ushort)0 : (ushort)checksum.HeaderEnd(frame),
        };
        return true;
    }

    private void Answer(short status)
    {
        Put(_slots[0].Id, status);
        for (var i = 0; i < _extraCount; i++)
            Put(0, XenNetLayout.Null);
        foreach (var slot in _slots.AsSpan(1, _slotCount - 1))
            Put(slot.Id, status);
        if (ring.Push())
            device.NotifyTransmit();
    }

    private void Put(ushort id, short status)
    {
        Span<byte> answer = stackalloc byte[XenNetLayout.TransmitAnswer];
        BinaryPrimitives.WriteUInt16LittleEndian(answer, id);
        BinaryPrimitives.WriteInt16LittleEndian(answer[2..], status);
        ring.Respond(answer);
    }

    private readonly record struct Slot(uint Reference, int Offset, ushort Flags, ushort Id, int Size)
    {
        public static Slot Read(ReadOnlySpan<byte> entry) => new(
            BinaryPrimitives.ReadUInt32LittleEndian(entry),
            BinaryPrimitives.ReadUInt16LittleEndian(entry[4..]),
            BinaryPrimitives.ReadUInt16LittleEndian(entry[6..]),
            BinaryPrimitives.ReadUInt16LittleEndian(entry[8..]),
            BinaryPrimitives.ReadUInt16LittleEndian(entry[10..]));
    }
}
