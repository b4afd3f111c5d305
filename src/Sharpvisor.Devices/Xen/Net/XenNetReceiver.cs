// The ring of frames that a domain gets.
// Follows: Xen's public header io/netif.h; features as Linux's xen-netback takes them.

using System.Buffers.Binary;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Xen.Net;

/// <summary>What a front end can get.</summary>
/// <param name="Scatter">A frame in several pages (feature-sg).</param>
/// <param name="Checksum4">TCP and UDP over IPv4 whose checksum is blank.</param>
internal readonly record struct XenNetReceives(bool Scatter, bool Checksum4, bool Checksum6, bool Tcp4, bool Tcp6);

/// <summary>Copies frames into the pages that a domain has put into its ring.</summary>
internal sealed class XenNetReceiver(XenNet device, SharedRing ring, XenNetReceives receives)
{
    private readonly (ushort Id, uint Reference)[] _slots = new (ushort, uint)[(EthernetFrame.MaximumLength / GuestMemory.PageSize) + 2];
    private byte[]? _finished;

    /// <summary>A frame waits for pages.</summary>
    public bool IsWaited { get; set; }

    public XenNetReceives Receives => receives;

    /// <param name="wrong">What ends the connection; else null.</param>
    /// <returns>False: there are not enough pages.</returns>
    public bool TryGive(in EthernetFrame frame, out string? wrong)
    {
        var isSegments = frame.Offload.Segmentation != Segmentation.None;
        var pages = (frame.Length + GuestMemory.PageSize - 1) / GuestMemory.PageSize;
        var count = pages + (isSegments ? 1 : 0);
        wrong = null;
        if (frame.Length == 0 || frame.Length > EthernetFrame.MaximumLength || !Accepts(frame, pages))
        {
            device.CountDropped();
            return true;
        }

        var waiting = ring.CountWaiting();
        if (waiting >= 0 && waiting < count)
            waiting = ring.Await(count);
        if (waiting < 0)
        {
            wrong = "ring indices that can't be";
            return true;
        }

        if (waiting < count)
            return false;
        Span<byte> entry = stackalloc byte[XenNetLayout.ReceiveEntry];
        for (var i = 0; i < count; i++)
        {
            if (!ring.TryPeek(i, entry))
            {
                wrong = "a ring that is no memory";
                return true;
            }

            _slots[i] = (BinaryPrimitives.ReadUInt16LittleEndian(entry), BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]));
        }

        ring.Take(count);
        if (NeedsFinishing(frame))
            Put(Finish(frame), isSegments, count);
        else
            Put(frame, isSegments, count);
        if (ring.Push())
            device.NotifyReceive();
        return true;
    }

    private bool Accepts(in EthernetFrame frame, int pages) => (pages == 1 || receives.Scatter) && frame.Offload.Segmentation switch
    {
        Segmentation.None => true,
        Segmentation.Tcp4 => receives.Tcp4,
        Segmentation.Tcp6 => receives.Tcp6,
        _ => false,
    };

    /// <summary>The network leaves a checksum to the guest, by what it knows of both versions of IP together.</summary>
    private bool NeedsFinishing(in EthernetFrame frame)
    {
        if (frame.Offload is not { NeedsChecksum: true, Segmentation: Segmentation.None })
            return false;
        return !(TransportChecksum.TryFind(frame.First, out var found) && (found.IsIPv6 ? receives.Checksum6 : receives.Checksum4));
    }

    private EthernetFrame Finish(in EthernetFrame frame)
    {
        _finished ??= GC.AllocateUninitializedArray<byte>(EthernetFrame.MaximumLength);
        var bytes = _finished.AsSpan(0, frame.Length);
        frame.CopyTo(bytes);
        var (start, offset) = (frame.Offload.ChecksumStart, frame.Offload.ChecksumOffset);
        if (start + offset + sizeof(ushort) <= bytes.Length)
            TransportChecksum.Finish(bytes, start, offset);
        return new EthernetFrame(bytes) { Offload = new FrameOffload { IsValid = true } };
    }

    private void Put(in EthernetFrame frame, bool isSegments, int count)
    {
        var (isGood, left, piece) = (true, frame.Length, 0);
        var source = frame.First;
        var flags = (ushort)(frame.Offload.NeedsChecksum ? XenNetLayout.ReceiveChecksumBlank | XenNetLayout.ReceiveValidated : frame.Offload.IsValid ? XenNetLayout.ReceiveValidated : 0);
        if (isSegments)
            flags |= XenNetLayout.ReceiveExtra;
        Span<byte> answer = stackalloc byte[XenNetLayout.ReceiveEntry];
        for (var i = 0; i < count; i++)
        {
            var (id, reference) = _slots[i];
            answer.Clear();
            if (isSegments && i == 1)
            {
                // The page of this one is not used; the front end keeps it.
                answer[0] = XenNetLayout.ExtraSegments;
                BinaryPrimitives.WriteUInt16LittleEndian(answer[2..], frame.Offload.SegmentSize);
                answer[4] = frame.Offload.Segmentation == Segmentation.Tcp4 ? XenNetLayout.SegmentsTcp4 : XenNetLayout.SegmentsTcp6;
                ring.Respond(answer);
                continue;
            }

            var length = Math.Min(left, GuestMemory.PageSize);
            isGood = isGood && device.TryAcquire(reference, out var page) && TryFill(page, length, frame, ref source, ref piece);
            left -= length;
            if (left > 0)
                flags |= XenNetLayout.ReceiveMoreData;
            else
                flags &= unchecked((ushort)~XenNetLayout.ReceiveMoreData);
            BinaryPrimitives.WriteUInt16LittleEndian(answer, id);
            BinaryPrimitives.WriteUInt16LittleEndian(answer[4..], flags);
            BinaryPrimitives.WriteInt16LittleEndian(answer[6..], isGood ? (short)length : XenNetLayout.Error);
            ring.Respond(answer);
            flags = 0;
        }

        if (!isGood)
            device.CountDropped();
    }

    private bool TryFill(in GrantedPage page, int length, in EthernetFrame frame, ref ReadOnlySpan<byte> source, ref int piece)
    {
        var isFilled = true;
        for (var done = 0; done < length && isFilled;)
        {
            while (source.IsEmpty)
                source = ++piece == 1 ? frame.Second : frame.Third;
            var part = source[..Math.Min(source.Length, length - done)];
            isFilled = device.TryWriteGranted(page, done, part);
            source = source[part.Length..];
            done += part.Length;
        }

        device.Release(page);
        return isFilled;
    }
}
