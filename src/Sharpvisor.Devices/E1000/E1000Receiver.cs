// Follows: Intel's manual of the 8254x family (317453), 3.2 and 13.4.22; filters 13.5.
using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.E1000;

/// <summary>The receive ring (Intel's manual, 3.2): filters frames and writes them to the buffers of descriptors.</summary>
internal sealed class E1000Receiver(E1000Nic nic)
{
    private const int DescriptorLength = 16, ShortestFrame = 60, ChecksumLength = 4, LongestFrame = 1518, LongestLongFrame = 16384;
    private const int TypeOffset = 12, TagLength = 4;
    private const byte DD = 1, EOP = 2, IXSM = 4, VP = 8, TCPCS = 0x20, IPCS = 0x40; // status

    private readonly byte[] _frame = new byte[LongestLongFrame + ShortestFrame];

    /// <summary>False: too few descriptors; the frame may come again.</summary>
    public bool TryReceive(in EthernetFrame frame)
    {
        var control = nic[E1000Registers.RCTL];
        var limit = (control & E1000Registers.LPE) != 0 ? LongestLongFrame : LongestFrame + (IsTagged(frame.First) ? TagLength : 0) - ChecksumLength;
        if ((control & E1000Registers.RxEnable) == 0 || frame.Length > limit || !Passes(frame.First, control))
            return true;
        var length = Math.Max(ShortestFrame, frame.Length);
        frame.CopyTo(_frame);
        _frame.AsSpan(frame.Length, length - frame.Length).Clear();
        var tag = StripTag(ref length);
        if ((control & E1000Registers.SECRC) == 0)
        {
            _frame.AsSpan(length, ChecksumLength).Clear(); // drivers look at its length only
            length += ChecksumLength;
        }

        var size = BufferSize(control);
        if (nic.ReceiveCount < (length + size - 1) / size)
        {
            nic.Raise(E1000Registers.RXO);
            return false;
        }

        Span<byte> descriptor = stackalloc byte[DescriptorLength];
        for (var at = 0; at < length;)
        {
            var place = nic.TakeReceive();
            if (!nic.Dma.TryRead(place, descriptor))
                return true;
            var count = Math.Min(size, length - at);
            var address = BinaryPrimitives.ReadUInt64LittleEndian(descriptor);
            if (address != 0) // null: the driver wants that part thrown away
                nic.Dma.TryWrite(address, _frame.AsSpan(at, count));
            at += count;
            descriptor[8..].Clear();
            BinaryPrimitives.WriteUInt16LittleEndian(descriptor[8..], (ushort)count);
            descriptor[12] = (byte)(DD | (at == length ? EOP | (frame.Offload.IsValid ? IPCS | TCPCS : IXSM) : 0) | (tag is null ? 0 : VP));
            BinaryPrimitives.WriteUInt16LittleEndian(descriptor[14..], tag ?? 0);
            nic.Dma.TryWrite(place, descriptor);
        }

        nic.CountReceived(frame.First, length);
        nic.Raise(E1000Registers.RXT0 | (nic.IsReceiveLow ? E1000Registers.RXDMT0 : 0));
        return true;
    }

    private static int BufferSize(uint control)
    {
        var size = 2048 >> (int)(control >> 16 & 3);
        return (control & E1000Registers.BSEX) != 0 && size < 2048 ? size * 16 : size;
    }

    private bool IsTagged(ReadOnlySpan<byte> frame) =>
        frame.Length >= TypeOffset + TagLength && BinaryPrimitives.ReadUInt16BigEndian(frame[TypeOffset..]) == nic.VlanType;

    private ushort? StripTag(ref int length)
    {
        if (!nic.TagsVlans || !IsTagged(_frame.AsSpan(0, length)))
            return null;
        var tag = BinaryPrimitives.ReadUInt16BigEndian(_frame.AsSpan(TypeOffset + 2));
        _frame.AsSpan(TypeOffset + TagLength, length - TypeOffset - TagLength).CopyTo(_frame.AsSpan(TypeOffset));
        length -= TagLength;
        return tag;
    }

    private bool Passes(ReadOnlySpan<byte> frame, uint control)
    {
        if (frame.Length < EthernetFrame.HeaderLength)
            return false;
        if ((control & E1000Registers.VFE) != 0 && IsTagged(frame))
        {
            var id = BinaryPrimitives.ReadUInt16BigEndian(frame[(TypeOffset + 2)..]) & 0xFFF;
            if ((nic[E1000Registers.VFTA + (uint)(id >> 5 << 2)] >> (id & 31) & 1) == 0)
                return false;
        }

        var to = MacAddress.Read(frame);
        if (!to.IsGroup && (control & E1000Registers.UPE) != 0)
            return true;
        if (to.IsGroup && (control & E1000Registers.MPE) != 0)
            return true;
        if (to == MacAddress.Broadcast && (control & E1000Registers.BAM) != 0)
            return true;
        Span<byte> bytes = stackalloc byte[MacAddress.Length];
        to.Write(bytes);
        var (low, high) = (BinaryPrimitives.ReadUInt32LittleEndian(bytes), BinaryPrimitives.ReadUInt16LittleEndian(bytes[4..]));
        for (var at = E1000Registers.RAL0; at < E1000Registers.RAEnd; at += 8)
        {
            if ((nic[at + 4] & E1000Registers.AV) != 0 && nic[at] == low && (ushort)nic[at + 4] == high)
                return true;
        }

        if (!to.IsGroup)
            return false;
        // A hash of twelve bits of the last two bytes; which, says RCTL.MO (13.5.1).
        var shift = (control >> 12 & 3) switch { 0 => 4, 1 => 3, 2 => 2, _ => 0 };
        var hash = high >> shift & 0xFFF;
        return (nic[E1000Registers.MTA + (uint)(hash >> 5 << 2)] >> (hash & 31) & 1) != 0;
    }
}
