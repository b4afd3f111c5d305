using System.Buffers.Binary;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Tests.Xen.Block;

/// <summary>A segment of a request: sectors of a granted page, both included.</summary>
internal readonly record struct Segment(uint Reference, byte First, byte Last);

/// <summary>The driver of a disk in a domain.</summary>
internal sealed class BlockFront
{
    public const byte Read = 0, Write = 1, Barrier = 2, Flush = 3, Discard = 5, Indirect = 6;
    public const short Okay = 0, Error = -1, Unsupported = -2;

    private readonly XenBench _bench;
    private readonly XenBlock _disk;
    private readonly bool _is64;
    private ulong _nextId = 100;

    public BlockFront(XenBench bench, XenBlock disk, int? order = null, bool is64 = true)
    {
        _bench = bench;
        _disk = disk;
        _is64 = is64;
        Ring = new FrontRing(bench, 1 << (order ?? 0), is64 ? 112 : 108);
        Port = bench.MakePort();
        bench.Erase($"{bench.FrontOf(disk)}/ring-page-order"); // of the driver before
        if (order is not null)
            bench.SetFront(disk, "ring-page-order", order);
        for (var i = 0; i < Ring.References.Length; i++)
            bench.SetFront(disk, order is null ? "ring-ref" : $"ring-ref{i}", Ring.References[i]);
        bench.SetFront(disk, "event-channel", Port);
        bench.SetFront(disk, "protocol", is64 ? "x86_64-abi" : "x86_32-abi");
    }

    public FrontRing Ring { get; }

    public uint Port { get; }

    public void Connect()
    {
        _bench.SetState(_disk, XenbusState.Initialised);
        Assert.Equal(XenbusState.Connected, _bench.BackState(_disk));
        _bench.SetState(_disk, XenbusState.Connected);
    }

    /// <summary>Adds a request.</summary>
    /// <returns>Its id.</returns>
    public ulong Add(byte operation, ulong sector, params Segment[] segments)
    {
        var entry = new byte[_is64 ? 112 : 108];
        entry[0] = operation;
        entry[1] = (byte)segments.Length;
        PutIdAndSector(entry, sector);
        for (var i = 0; i < Math.Min(segments.Length, 11); i++)
            segments[i].WriteTo(entry.AsSpan((_is64 ? 24 : 20) + (i * 8)));
        Ring.Put(entry);
        return _nextId++;
    }

    public ulong AddIndirect(byte operation, ulong sector, int count, params uint[] pages)
    {
        var entry = new byte[_is64 ? 112 : 108];
        (entry[0], entry[1]) = (Indirect, operation);
        BinaryPrimitives.WriteUInt16LittleEndian(entry.AsSpan(2), (ushort)count);
        PutIdAndSector(entry, sector);
        for (var i = 0; i < pages.Length; i++)
            BinaryPrimitives.WriteUInt32LittleEndian(entry.AsSpan((_is64 ? 28 : 24) + (i * 4)), pages[i]);
        Ring.Put(entry);
        return _nextId++;
    }

    public ulong AddDiscard(ulong sector, ulong count, byte flag = 0)
    {
        var entry = new byte[_is64 ? 112 : 108];
        (entry[0], entry[1]) = (Discard, flag);
        PutIdAndSector(entry, sector);
        BinaryPrimitives.WriteUInt64LittleEndian(entry.AsSpan(_is64 ? 24 : 20), count);
        Ring.Put(entry);
        return _nextId++;
    }

    public void Kick()
    {
        if (Ring.Push())
            _bench.Send(Port);
    }

    /// <summary>Does what was added last, which has to complete at once.</summary>
    public short Finish(ulong id)
    {
        Kick();
        var (taken, status) = Take() ?? throw new InvalidOperationException("no answer");
        Assert.Equal(id, taken);
        return status;
    }

    public (ulong Id, short Status)? Take() => Ring.Take() is { } answer
        ? (BinaryPrimitives.ReadUInt64LittleEndian(answer), BinaryPrimitives.ReadInt16LittleEndian(answer.AsSpan(10)))
        : null;

    private void PutIdAndSector(Span<byte> entry, ulong sector)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(entry[(_is64 ? 8 : 4)..], _nextId);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[(_is64 ? 16 : 12)..], sector);
    }
}

internal static class SegmentExtensions
{
    public static void WriteTo(this Segment segment, Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(destination, segment.Reference);
        (destination[4], destination[5]) = (segment.First, segment.Last);
    }
}
