// Follows: Intel's manual of the 8254x family (317453), 3.3 to 3.5.
using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.E1000;

/// <summary>
/// The transmit ring (Intel's manual, 3.3 to 3.5): gathers a frame from legacy and extended descriptors, makes its checksums,
/// cuts long TCP segments.
/// </summary>
internal sealed class E1000Transmitter(E1000Nic nic)
{
    private const int DescriptorLength = 16, LongestFrame = EthernetFrame.MaximumLength - 4;
    private const byte EOP = 1, IC = 4, TSE = 4, RS = 8, DEXT = 0x20, VLE = 0x40; // CMD, DCMD
    private const byte IXSM = 1, TXSM = 2; // POPTS
    private const byte IsTcp = 1, IsIpv4 = 2; // TUCMD
    private const uint DataType = 1 << 20, TypeMask = 0xF << 20;

    private readonly byte[] _frame = new byte[LongestFrame];
    private Context _context;
    private int _length;
    private byte _legacyStart, _legacyOffset, _options;
    private bool _hasLegacyChecksum, _isOverlong, _segments, _hasTag;
    private ushort _tag;

    /// <summary>Of a frame that is being cut: how much of its payload is gone; -1: there is none.</summary>
    private int _cutAt = -1, _cutCount;

    public void Reset()
    {
        _context = default;
        _cutAt = -1;
        Begin();
    }

    /// <summary>Takes the next finished frame.</summary>
    public bool TryTransmit(PacketBuffer packet)
    {
        if (_cutAt >= 0)
            return Cut(packet);
        var causes = 0u;
        var (isDone, wasWork) = (false, nic.TransmitCount > 0);
        // Once around at most: a guest that moves the tail on meanwhile is served by the next call.
        for (var left = nic.TransmitCount; left > 0 && !isDone && nic.TryTakeTransmit(out var at); left--)
            isDone = Process(at, packet, ref causes);
        if (wasWork && nic.TransmitCount == 0)
            causes |= E1000Registers.TXQE;
        if (causes != 0)
            nic.Raise(causes);
        return isDone;
    }

    /// <summary>True: the frame is whole, and in the packet.</summary>
    private bool Process(ulong at, PacketBuffer packet, ref uint causes)
    {
        Span<byte> descriptor = stackalloc byte[DescriptorLength];
        if (!nic.Dma.TryRead(at, descriptor))
            return false;
        var address = BinaryPrimitives.ReadUInt64LittleEndian(descriptor);
        var lower = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]);
        var command = descriptor[11];
        var isExtended = (command & DEXT) != 0;
        if ((command & RS) != 0)
        {
            descriptor[12] |= 1; // DD
            nic.Dma.TryWrite(at, descriptor);
            causes |= E1000Registers.TXDW;
        }

        if (isExtended && (lower & TypeMask) != DataType)
        {
            _context = Context.Read(descriptor);
            return false;
        }

        var length = isExtended ? (int)(lower & 0xFFFFF) : (int)(lower & 0xFFFF);
        if (isExtended)
        {
            if (_length == 0)
                (_options, _segments) = (descriptor[13], (command & TSE) != 0);
        }
        else if ((command & IC) != 0)
        {
            (_hasLegacyChecksum, _legacyOffset, _legacyStart) = (true, descriptor[10], descriptor[13]);
        }

        if (length > _frame.Length - _length || !nic.Dma.TryRead(address, _frame.AsSpan(_length, length)))
            _isOverlong = true; // or not in memory: dropped at its end
        else
            _length += length;
        if ((command & EOP) == 0)
            return false;
        if ((command & VLE) != 0 && nic.TagsVlans)
            (_hasTag, _tag) = (true, BinaryPrimitives.ReadUInt16LittleEndian(descriptor[14..]));
        return Finish(packet);
    }

    private bool Finish(PacketBuffer packet)
    {
        var isGood = !_isOverlong && _length >= EthernetFrame.HeaderLength;
        if (isGood && _segments && _context is { SegmentSize: > 0, HeaderLength: > 0 } && _context.HeaderLength < _length)
        {
            (_cutAt, _cutCount) = (0, 0);
            return Cut(packet);
        }

        if (isGood)
        {
            var frame = _frame.AsSpan(0, _length);
            if ((_options & IXSM) != 0)
                Checksum.Insert(frame, _context.IpStart, _context.IpEnd, _context.IpOffset);
            if ((_options & TXSM) != 0)
                Checksum.Insert(frame, _context.Start, _context.End, _context.Offset);
            if (_hasLegacyChecksum)
                Checksum.Insert(frame, _legacyStart, 0, _legacyOffset);
            Emit(frame, packet);
        }
        else
        {
            nic.ReportBadFrame(_length);
        }

        Begin();
        return isGood;
    }

    /// <summary>The next piece of a long segment (3.5): its own lengths, sequence number, flags and checksums.</summary>
    private bool Cut(PacketBuffer packet)
    {
        var headerLength = _context.HeaderLength;
        var payload = _length - headerLength;
        var count = Math.Min(_context.SegmentSize, payload - _cutAt);
        var isLast = _cutAt + count == payload;
        var length = headerLength + count;
        Span<byte> frame = packet.Room.Span[..length];
        _frame.AsSpan(0, headerLength).CopyTo(frame);
        _frame.AsSpan(headerLength + _cutAt, count).CopyTo(frame[headerLength..]);
        var isTcp = (_context.Command & IsTcp) != 0;
        if ((_context.Command & IsIpv4) != 0 && _context.IpStart + 20 <= length)
        {
            BinaryPrimitives.WriteUInt16BigEndian(frame[(_context.IpStart + 2)..], (ushort)(length - _context.IpStart));
            var id = frame[(_context.IpStart + 4)..];
            BinaryPrimitives.WriteUInt16BigEndian(id, (ushort)(BinaryPrimitives.ReadUInt16BigEndian(id) + _cutCount));
        }
        else if (_context.IpStart + 40 <= length)
        {
            BinaryPrimitives.WriteUInt16BigEndian(frame[(_context.IpStart + 4)..], (ushort)(length - _context.IpStart - 40));
        }

        if (isTcp && _context.Start + 20 <= length)
        {
            var sequence = frame[(_context.Start + 4)..];
            BinaryPrimitives.WriteUInt32BigEndian(sequence, BinaryPrimitives.ReadUInt32BigEndian(sequence) + (uint)_cutAt);
            if (!isLast)
                frame[_context.Start + 13] &= 0xF6; // FIN and PSH belong to the last one
        }
        else if (_context.Start + 8 <= length)
        {
            BinaryPrimitives.WriteUInt16BigEndian(frame[(_context.Start + 4)..], (ushort)(length - _context.Start));
        }

        if ((_options & IXSM) != 0)
            Checksum.Insert(frame, _context.IpStart, _context.IpEnd, _context.IpOffset);
        if ((_options & TXSM) != 0 && _context.Offset + 2 <= length)
        {
            // The driver has summed the pseudo header without a length.
            Checksum.Add(frame[_context.Offset..], (ushort)(length - _context.Start));
            Checksum.Insert(frame, _context.Start, _context.End, _context.Offset);
        }

        packet.Length = length;
        packet.Offload = default;
        InsertTag(packet);
        nic.CountTransmitted(packet.Length);
        _cutAt += count;
        _cutCount++;
        if (isLast)
        {
            _cutAt = -1;
            Begin();
        }

        return true;
    }

    private void Emit(ReadOnlySpan<byte> frame, PacketBuffer packet)
    {
        const int shortest = 60;
        frame.CopyTo(packet.Room.Span);
        packet.Length = frame.Length;
        packet.Offload = default;
        InsertTag(packet);
        if (packet.Length < shortest && nic.PadsShortFrames)
        {
            packet.Room.Span[packet.Length..shortest].Clear();
            packet.Length = shortest;
        }

        nic.CountTransmitted(packet.Length);
    }

    private void InsertTag(PacketBuffer packet)
    {
        const int tagAt = 12, tagLength = 4;
        if (!_hasTag)
            return;
        var room = packet.Room.Span;
        room[tagAt..packet.Length].CopyTo(room[(tagAt + tagLength)..]);
        BinaryPrimitives.WriteUInt16BigEndian(room[tagAt..], nic.VlanType);
        BinaryPrimitives.WriteUInt16BigEndian(room[(tagAt + 2)..], _tag);
        packet.Length += tagLength;
    }

    private void Begin()
    {
        _length = 0;
        _options = 0;
        _hasLegacyChecksum = _isOverlong = _segments = _hasTag = false;
    }

    /// <summary>A context descriptor (3.3.6): where headers and checksums lie. Ends are of the last byte; 0: the frame's end.</summary>
    private readonly record struct Context
    {
        public byte IpStart { get; private init; }

        public byte IpOffset { get; private init; }

        public ushort IpEnd { get; private init; }

        public byte Start { get; private init; }

        public byte Offset { get; private init; }

        public ushort End { get; private init; }

        public byte Command { get; private init; }

        public byte HeaderLength { get; private init; }

        public ushort SegmentSize { get; private init; }

        public static Context Read(ReadOnlySpan<byte> descriptor) => new()
        {
            IpStart = descriptor[0],
            IpOffset = descriptor[1],
            IpEnd = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[2..]),
            Start = descriptor[4],
            Offset = descriptor[5],
            End = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[6..]),
            Command = descriptor[11],
            HeaderLength = descriptor[13],
            SegmentSize = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[14..]),
        };
    }
}
