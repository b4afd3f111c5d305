// The back end of a disk of a Xen domain (vbd).
// Follows: Xen's public header io/blkif.h; which keys are written when, and what is checked, as Linux's xen-blkback.
// Leaves out: more than one ring (all of a machine's devices are behind one gate), secure discard, SCSI pass-through,
// sectors of other sizes than 512 bytes; a medium that is changed or grows is not told.

using System.Buffers.Binary;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Xen.Block;

/// <summary>A disk. All requests of its ring are with the drive at the same time, but for barriers.</summary>
public sealed class XenBlock : XenBackEnd
{
    /// <summary>Segments of one request: as many as Linux's back end offers.</summary>
    internal const int MaximumSegments = 256;

    private const int MaximumDirectSegments = 11, SegmentSize = 8, SectorsPerPage = GuestMemory.PageSize / IBlockImage.SectorSize;
    private const int SegmentsPerPage = GuestMemory.PageSize / SegmentSize, MaximumIndirectPages = (MaximumSegments + SegmentsPerPage - 1) / SegmentsPerPage;
    private const int MaximumRingOrder = 4;

    private readonly IBlockDrive _drive;
    private readonly XenBlockOptions _options;
    private readonly byte[] _segments = new byte[MaximumSegments * SegmentSize];
    private readonly Stack<XenBlockRequest> _idle = new();
    private readonly string _diskName;
    private XenBlockConnection? _connection;

    public XenBlock(IBlockDrive drive, XenBlockOptions options) : base("vbd", XenDiskNumber.Of(options.Index).Number)
    {
        _drive = drive;
        _options = options;
        _diskName = XenDiskNumber.Of(options.Index).Name;
    }

    protected override bool ServesWhileClosing => true;

    private bool IsReadOnly => _drive.IsReadOnly || _options.IsCdrom;

    private bool CanDiscard => _drive.CanDiscard && !IsReadOnly;

    private string DeviceType => _options.IsCdrom ? "cdrom" : "disk";

    protected override IEnumerable<(string Key, string Value)> Describe()
    {
        List<(string, string)> keys =
        [
            ("dev", _diskName), ("mode", IsReadOnly ? "r" : "w"), ("device-type", DeviceType), ("removable", _options.IsCdrom ? "1" : "0"), ("bootable", "1"),
            ("feature-flush-cache", "1"), ("feature-barrier", "1"), ("feature-persistent", _options.OffersPersistentGrants ? "1" : "0"),
            ("feature-max-indirect-segments", XenBus.Number(MaximumSegments)), ("max-ring-page-order", XenBus.Number(MaximumRingOrder)),
        ];
        if (CanDiscard)
            keys.AddRange([("feature-discard", "1"), ("discard-granularity", XenBus.Number(IBlockImage.SectorSize)), ("discard-alignment", "0"), ("discard-secure", "0")]);
        return keys;
    }

    protected override IEnumerable<(string Key, string Value)> DescribeFrontEnd() => [("virtual-device", XenBus.Number(Number)), ("device-type", DeviceType)];

    protected override string? TryConnect()
    {
        const int cdrom = 1, removable = 2, readOnly = 4;
        if (XenBlockLayout.Of(ReadFront("protocol")) is not { } layout)
            return "an unknown protocol";
        var order = ReadFrontNumber("ring-page-order");
        if (order > MaximumRingOrder)
            return "a ring of too many pages";
        Span<uint> references = stackalloc uint[1 << MaximumRingOrder];
        references = references[..(1 << (int)(order ?? 0))];
        for (var i = 0; i < references.Length; i++)
        {
            if (ReadFrontNumber(order is null ? "ring-ref" : $"ring-ref{i}") is not { } reference)
                return "no ring";
            references[i] = reference;
        }

        if (ReadFrontNumber("event-channel") is not { } port)
            return "no event channel";
        if (SharedRing.TryMap(Bus!.Memory, Bus.Domain.Grants, references, layout.EntrySize) is not { } ring)
            return "a ring that is not granted";
        var connection = new XenBlockConnection(ring, layout, port, _options.OffersPersistentGrants && ReadFrontNumber("feature-persistent") == 1);
        if (!Bus.Domain.Events.TryConnect(port, () => Serve(connection), () => connection.Port = 0))
        {
            ring.Unmap();
            return "an event channel that is not for us";
        }

        _connection = connection;
        Write("sectors", _drive.SectorCount);
        Write("sector-size", IBlockImage.SectorSize);
        Write("physical-sector-size", _options.PhysicalBlockSize);
        Write("info", (_options.IsCdrom ? cdrom | removable : 0) | (IsReadOnly ? readOnly : 0));
        return null;
    }

    protected override void OnConnected() => Serve(_connection!);

    protected override bool TryDisconnect()
    {
        if (_connection is not { } connection)
            return true;
        connection.IsStopped = true;
        if (connection.InFlight > 0)
            return false;
        Let(connection);
        return true;
    }

    protected override void OnAbandoned()
    {
        if (_connection is { } connection)
        {
            connection.IsStopped = connection.IsAbandoned = true;
            connection.Barrier = null;
        }

        _connection = null;
        _drive.Drain();
    }

    /// <summary>Ends the use of all that is the front end's.</summary>
    private void Let(XenBlockConnection connection)
    {
        var domain = Bus!.Domain;
        if (connection.Port != 0)
            domain.Events.Disconnect(connection.Port);
        foreach (var page in connection.Persistent.Values)
            domain.Grants.Release(page);
        connection.Ring.Unmap();
        _connection = null;
    }

    private void Serve(XenBlockConnection connection)
    {
        if (connection.IsServing)
            return;
        connection.IsServing = true;
        ServeRing(connection);
        connection.IsServing = false;
    }

    private void ServeRing(XenBlockConnection connection)
    {
        var refused = 0;
        while (!connection.IsStopped && connection.Barrier is null)
        {
            var waiting = connection.Ring.CountWaiting();
            if (waiting == 0)
                waiting = connection.Ring.Await();
            if (waiting == 0)
                return;
            var request = _idle.TryPop(out var idle) ? idle : new XenBlockRequest(OnDone);
            if (waiting < 0 || !TryTake(connection, request, out var status))
            {
                _idle.Push(request);
                Fail("ring indices that can't be");
                return;
            }

            if (status == XenBlockStatus.Okay)
            {
                Submit(request);
                continue;
            }

            // What goes to the drive takes its time; a guest that is refused at once could keep us here.
            Bus!.Errors.Report(Name, status == XenBlockStatus.Error ? "a request that makes no sense" : "an operation that was not offered", $"{request.Operation}");
            Finish(request, status);
            if (++refused <= 4 * connection.Ring.Size)
                continue;
            Fail("bad requests without end");
            return;
        }
    }

    /// <returns>False: the ring is gone.</returns>
    private bool TryTake(XenBlockConnection connection, XenBlockRequest request, out XenBlockStatus status)
    {
        status = XenBlockStatus.Error;
        var layout = connection.Layout;
        Span<byte> entry = stackalloc byte[layout.EntrySize];
        if (!connection.Ring.TryPeek(0, entry))
            return false;
        connection.Ring.Take(1);
        request.Clear();
        request.Connection = connection;
        request.Id = BinaryPrimitives.ReadUInt64LittleEndian(entry[layout.Id..]);
        request.Operation = (XenBlockOperation)entry[0];
        status = Parse(request, entry);
        return true;
    }

    private XenBlockStatus Parse(XenBlockRequest request, ReadOnlySpan<byte> entry)
    {
        const byte secure = 1;
        var layout = request.Connection.Layout;
        var sector = BinaryPrimitives.ReadUInt64LittleEndian(entry[layout.Sector..]);
        var segments = _segments.AsSpan();
        switch (request.Operation)
        {
            case XenBlockOperation.Read or XenBlockOperation.Write or XenBlockOperation.WriteBarrier or XenBlockOperation.FlushDiskCache:
                int count = entry[1];
                if (count > MaximumDirectSegments)
                    return XenBlockStatus.Error;
                entry.Slice(layout.Segments, count * SegmentSize).CopyTo(segments);
                segments = segments[..(count * SegmentSize)];
                break;
            case XenBlockOperation.Indirect:
                request.Operation = (XenBlockOperation)entry[1];
                count = BinaryPrimitives.ReadUInt16LittleEndian(entry[2..]);
                if (request.Operation is not (XenBlockOperation.Read or XenBlockOperation.Write) || count is 0 or > MaximumSegments)
                    return XenBlockStatus.Error;
                segments = segments[..(count * SegmentSize)];
                if (!TryReadSegments(entry[layout.Pages..], segments))
                    return XenBlockStatus.Error;
                break;
            case XenBlockOperation.Discard:
                var sectors = BinaryPrimitives.ReadUInt64LittleEndian(entry[layout.DiscardLength..]);
                if (!CanDiscard || (entry[1] & secure) != 0)
                    return XenBlockStatus.Unsupported;
                if (sectors is 0 or > long.MaxValue / IBlockImage.SectorSize)
                    return XenBlockStatus.Error;
                request.Length = (long)sectors * IBlockImage.SectorSize;
                return TryLocate(request, sector) ? XenBlockStatus.Okay : XenBlockStatus.Error;
            default:
                return XenBlockStatus.Unsupported;
        }

        var (isWrite, isFlush) = (request.Operation != XenBlockOperation.Read, request.Operation is XenBlockOperation.WriteBarrier or XenBlockOperation.FlushDiskCache);
        request.FlushesFirst = isFlush;
        if (segments.IsEmpty)
            return isFlush ? XenBlockStatus.Okay : XenBlockStatus.Error;
        if (isWrite && IsReadOnly)
            return XenBlockStatus.Error;
        return TryHold(request, segments, isWrite) && TryLocate(request, sector) ? XenBlockStatus.Okay : XenBlockStatus.Error;
    }

    /// <summary>Copies segments from the pages that the domain has put them in.</summary>
    private bool TryReadSegments(ReadOnlySpan<byte> references, Span<byte> segments)
    {
        for (var i = 0; i < MaximumIndirectPages && segments.Length > 0; i++)
        {
            var reference = BinaryPrimitives.ReadUInt32LittleEndian(references[(i * sizeof(uint))..]);
            if (!Bus!.Domain.Grants.TryAcquire(reference, writable: false, out var page))
                return false;
            var part = segments[..Math.Min(segments.Length, GuestMemory.PageSize)];
            var isRead = Bus.Memory.TryRead(page.Page, part);
            Bus.Domain.Grants.Release(page);
            if (!isRead)
                return false;
            segments = segments[part.Length..];
        }

        return segments.IsEmpty;
    }

    /// <summary>Takes the pages of all segments in use.</summary>
    private bool TryHold(XenBlockRequest request, ReadOnlySpan<byte> segments, bool isWrite)
    {
        for (; segments.Length > 0; segments = segments[SegmentSize..])
        {
            var reference = BinaryPrimitives.ReadUInt32LittleEndian(segments);
            var (first, last) = (segments[4], segments[5]);
            if (first > last || last >= SectorsPerPage || !TryHold(request, reference, isWrite, out var page)
                || !request.TryAdd(Bus!.Memory, page + ((ulong)first * IBlockImage.SectorSize), (last - first + 1) * IBlockImage.SectorSize))
                return false;
        }

        return true;
    }

    private bool TryHold(XenBlockRequest request, uint reference, bool isWrite, out ulong address)
    {
        var connection = request.Connection;
        var grants = Bus!.Domain.Grants;
        address = 0;
        if (connection.Persistent.TryGetValue(reference, out var page))
        {
            address = page.Page;
            return true;
        }

        // What is kept is used in both directions.
        var isKept = connection.IsPersistent && connection.Persistent.Count < XenBlockConnection.PersistentLimit;
        if (!grants.TryAcquire(reference, writable: isKept || !isWrite, out page))
            return false;
        address = page.Page;
        if (isKept)
            connection.Persistent.Add(reference, page);
        else
            request.Hold(page);
        return true;
    }

    /// <summary>False: a part of it lies behind the end.</summary>
    private bool TryLocate(XenBlockRequest request, ulong sector)
    {
        var sectors = (ulong)_drive.SectorCount;
        if (sector > sectors || (ulong)request.Length / IBlockImage.SectorSize > sectors - sector)
            return false;
        request.Offset = (long)sector * IBlockImage.SectorSize;
        return true;
    }

    private void Submit(XenBlockRequest request)
    {
        var connection = request.Connection;
        var isBarrier = request.Operation == XenBlockOperation.WriteBarrier;
        if (isBarrier)
            connection.Barrier = request;
        if (!isBarrier || connection.InFlight == 0)
            Start(request);
    }

    private void Start(XenBlockRequest request)
    {
        request.Connection.InFlight++;
        Begin(request);
    }

    private void Begin(XenBlockRequest request) => _drive.Submit(request switch
    {
        { FlushesFirst: true } => request.Block.Flush(),
        { Operation: XenBlockOperation.Read } => request.Block.Read(request.Offset, request.Buffers),
        { Operation: XenBlockOperation.Discard } => request.Block.Discard(request.Offset, request.Length),
        _ => request.Block.Write(request.Offset, request.Buffers, isSafe: request.Operation == XenBlockOperation.WriteBarrier),
    });

    private void OnDone(XenBlockRequest request)
    {
        var connection = request.Connection;
        var error = request.Block.Error;
        if (request.FlushesFirst && error == BlockError.None && request.Length > 0 && !connection.IsAbandoned)
        {
            request.FlushesFirst = false;
            Begin(request);
            return;
        }

        connection.InFlight--;
        if (request.Operation == XenBlockOperation.Read && Bus is { } bus)
            request.MarkWritten(bus.Memory);
        if (connection.Barrier == request)
            connection.Barrier = null;
        Finish(request, error switch
        {
            BlockError.None => XenBlockStatus.Okay,
            BlockError.Unsupported => XenBlockStatus.Unsupported,
            _ => XenBlockStatus.Error,
        });
        if (connection.IsAbandoned)
            return;
        if (connection is { Barrier: { } barrier, InFlight: 0 })
        {
            Start(barrier);
        }
        else if (connection is { IsStopped: true, InFlight: 0 })
        {
            Let(connection);
            OnDisconnected();
        }
        else
        {
            Serve(connection); // what waits behind a barrier
        }
    }

    private void Finish(XenBlockRequest request, XenBlockStatus status)
    {
        var connection = request.Connection;
        if (!connection.IsAbandoned)
        {
            request.Release(Bus!.Domain.Grants);
            Span<byte> response = stackalloc byte[connection.Layout.ResponseSize];
            response.Clear();
            BinaryPrimitives.WriteUInt64LittleEndian(response, request.Id);
            response[XenBlockLayout.ResponseOperation] = (byte)request.Operation;
            BinaryPrimitives.WriteInt16LittleEndian(response[XenBlockLayout.ResponseStatus..], (short)status);
            connection.Ring.Respond(response);
            if (connection.Ring.Push() && connection.Port != 0)
                Bus.Domain.Events.Notify(connection.Port);
        }

        _idle.Push(request);
    }
}
