// A qcow2 image: clusters that exist when they were written to, over another image or over nothing.
// Follows: QEMU's docs/interop/qcow2.txt, versions 2 and 3, and its driver where that leaves a choice: compressed
// clusters by zlib and zstd, internal snapshots to read from, lazy refcounts, the dirty and the corrupt bit.
// Leaves out: encryption, external data files, extended L2 entries, keeping bitmaps up to date.
//
// Transfers hold _transfers shared, so they run side by side; whoever takes clusters away holds it alone. Tables change
// under the lock of Qcow2Metadata. Clusters that are being made are in _making, and whoever wants the same ones waits.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>An image in QEMU's format.</summary>
public sealed partial class Qcow2Image : DiskImage
{
    private readonly ReaderWriterLockSlim _transfers = new();
    private readonly Qcow2Metadata _tables;
    private readonly Qcow2Compression _compression;
    private readonly DiskImage? _backing;
    private long _length;
    private bool _disposed;

    private Qcow2Image(ImageFile file, Qcow2Header header, Qcow2Metadata tables, DiskImage? backing, DriveOptions options) : base(file, options)
    {
        _tables = tables;
        _backing = backing;
        _compression = new Qcow2Compression(file, header);
        // A disk has whole sectors; what its last one lacks is in the image nevertheless.
        _length = (header.Size + SectorSize - 1) & -SectorSize;
    }

    public override long Length => Volatile.Read(ref _length);

    public override string Format => ImageFormat.Qcow2;

    public override DiskImage? Backing => _backing;

    internal Qcow2Header Header => _tables.Header;

    private int ClusterBits => _tables.Header.ClusterBits;

    private int ClusterSize => 1 << ClusterBits;

    /// <summary>Its internal snapshots.</summary>
    /// <exception cref="BlockException">They can't be read.</exception>
    public IReadOnlyList<Qcow2Snapshot> Snapshots => Qcow2Snapshot.ReadAll(File, Header, out _);

    public override string? BackingName => Header.BackingFile;

    public override string? BackingFormat => Header.BackingFormat;

    public override int Granularity => ClusterSize;

    public override IReadOnlyList<(string Name, object Value)> Details =>
    [
        ("compat", Header.Version == 2 ? "0.10" : "1.1"),
        ("compression type", Header.CompressionType == Qcow2Header.Zstd ? "zstd" : "zlib"),
        ("lazy refcounts", (Header.Compatible & Qcow2Header.LazyRefcounts) != 0),
        ("refcount bits", 1 << Header.RefcountOrder),
        ("dirty", (Header.Incompatible & Qcow2Header.Dirty) != 0),
        ("corrupt", (Header.Incompatible & Qcow2Header.Corrupt) != 0),
    ];

    internal static Qcow2Image Open(ImageFile file, DriveOptions options, ImageChain chain)
    {
        var header = Qcow2Header.Read(file);
        if (!options.IsReadOnly && !options.IsRepair && (header.Incompatible & Qcow2Header.Corrupt) != 0)
            throw new ConfigurationException($"{file.Path}: is marked as corrupt; repair it with sharpvisor image check -r all, or give readonly=on");
        if (header.CompressionType == Qcow2Header.Zstd && !Core.Host.Zstandard.IsAvailable)
            throw new ConfigurationException($"{file.Path}: is compressed by zstd, and this host has no libzstd.so.1; install the package libzstd1");
        if (options.Snapshot is { } name)
            header = AtSnapshot(file, header, name, options);
        if (!options.IsReadOnly && !options.IsRepair && (header.Incompatible & Qcow2Header.Dirty) != 0)
            header = Repair(file, header, chain);
        var tables = new Qcow2Metadata(file, header, options, chain.Logger);
        var backing = header.BackingFile is null || options.IsAlone ? null : chain.OpenBacking(file, header.BackingFile, header.BackingFormat, options);
        return new Qcow2Image(file, header, tables, backing, options);
    }

    /// <summary>Over an image that is open already, or over none, whatever its header says.</summary>
    internal static Qcow2Image Open(ImageFile file, DiskImage? backing, DriveOptions options, ILogger logger)
    {
        var header = Qcow2Header.Read(file);
        return new Qcow2Image(file, header, new Qcow2Metadata(file, header, options, logger), backing, options);
    }

    private protected override bool TryReadCached(long offset, BlockBuffers buffers)
    {
        if (!_transfers.TryEnterReadLock(0))
            return false;
        try
        {
            if (!_tables.IsInMemory(offset >> ClusterBits) || !_tables.IsInMemory((offset + buffers.Length - 1) >> ClusterBits))
                return false;
            var run = RunAt(offset, buffers.Length);
            return run.Kind == ClusterKind.Standard && run.Length == buffers.Length && File.TryReadCached(run.FileOffset, buffers);
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    internal override void Read(long offset, BlockBuffers buffers)
    {
        _transfers.EnterReadLock();
        try
        {
            for (var done = 0; done < buffers.Length;)
            {
                var run = RunAt(offset + done, buffers.Length - done);
                ReadRun(run, offset + done, buffers.Slice(done, run.Length));
                done += run.Length;
            }
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    internal override ImageExtent MapOwn(long offset, long length)
    {
        // By whole L2 tables where there are none.
        var cluster = offset >> ClusterBits;
        if (cluster << ClusterBits >= Length || !_tables.HasTable(cluster))
        {
            var end = cluster;
            do
                end = ((end >> _tables.L2Bits) + 1) << _tables.L2Bits;
            while (end << ClusterBits < offset + length && end << ClusterBits < Length && !_tables.HasTable(end));
            return new ImageExtent(Math.Min((end << ClusterBits) - offset, length));
        }

        _transfers.EnterReadLock();
        try
        {
            var run = RunAt(offset, (int)Math.Min(length, 1 << 30));
            return new ImageExtent(run.Length)
            {
                IsPresent = run.Kind != ClusterKind.Unallocated,
                IsZero = run.Kind == ClusterKind.Zero,
                IsCompressed = run.Kind == ClusterKind.Compressed,
                FileOffset = run.Kind == ClusterKind.Standard ? run.FileOffset : null,
                File = run.Kind is ClusterKind.Standard or ClusterKind.Compressed ? Name : null,
            };
        }
        finally
        {
            _transfers.ExitReadLock();
        }
    }

    protected override void Dispose(bool disposing)
    {
        if (!_disposed)
        {
            _disposed = true;
            try
            {
                if (!IsReadOnly)
                {
                    lock (_tables.Lock)
                        _tables.Close();
                }
            }
            catch (BlockException)
            {
                // Who wanted to keep what was written has flushed it; what is lost are clusters that count as used.
            }

            _transfers.Dispose();
            _compression.Dispose();
        }

        base.Dispose(disposing);
    }

    private static Qcow2Header AtSnapshot(ImageFile file, Qcow2Header header, string name, DriveOptions options)
    {
        var snapshots = Qcow2Snapshot.ReadAll(file, header, out _);
        var found = snapshots.FirstOrDefault(s => s.Id == name) ?? snapshots.FirstOrDefault(s => s.Name == name);
        if (found is null)
            throw new ConfigurationException($"{file.Path}: has no snapshot \"{name}\"; {(snapshots.Count == 0 ? "it has none at all" : $"it has {string.Join(", ", snapshots.Take(20).Select(s => s.Name))}")}");
        if (!options.IsReadOnly)
            throw new ConfigurationException($"{file.Path}: a snapshot can only be read; give readonly=on, or snapshot=on for changes that are thrown away");
        return header with { L1Offset = found.L1Offset, L1Size = found.L1Size, Size = found.Size };
    }

    /// <summary>Counts anew what a writer with lazy refcounts did not write before it ended.</summary>
    private static Qcow2Header Repair(ImageFile file, Qcow2Header header, ImageChain chain)
    {
        var result = Qcow2Checker.Run(file, header, ImageRepair.All);
        if (result.Corruptions > result.FixedCorruptions)
            throw new BlockException($"was not closed, and is damaged: {result.Messages[0]}; repair it with sharpvisor image check -r all");
        chain.Logger.LogInformation("{Image}: was not closed; its refcounts were made right", file.Path);
        return Qcow2Header.Read(file);
    }

    /// <summary>The clusters of one kind that a range begins with, data one after the other in the file.</summary>
    private Run RunAt(long offset, int length)
    {
        var inCluster = (int)(offset & (ClusterSize - 1));
        var cluster = offset >> ClusterBits;
        var entry = _tables.Lookup(cluster);
        var kind = Qcow2Entry.KindOf(entry);
        long run = ClusterSize - inCluster;
        if (kind == ClusterKind.Standard)
            CheckEntry(cluster, entry);
        for (var next = entry; run < length && kind != ClusterKind.Compressed; run += ClusterSize)
        {
            next = kind == ClusterKind.Standard ? next + (ulong)ClusterSize : next;
            var actual = _tables.Lookup(++cluster);
            if (Qcow2Entry.KindOf(actual) != kind || (kind == ClusterKind.Standard && ((actual ^ next) & (Qcow2Entry.OffsetMask | Qcow2Entry.Copied)) != 0))
                break;
            if (kind == ClusterKind.Standard && !IsInFile(actual))
                break;
        }

        return new Run(kind, Qcow2Entry.OffsetOf(entry) + inCluster, (int)Math.Min(run, length), entry);
    }

    private void CheckEntry(long cluster, ulong entry)
    {
        if ((entry & Qcow2Entry.OffsetMask & (ulong)(ClusterSize - 1)) != 0 || !IsInFile(entry))
            throw _tables.Damaged($"the L2 entry of the cluster at byte {cluster << ClusterBits} is 0x{entry:x}, which is no cluster of the file");
    }

    private bool IsInFile(ulong entry) => Qcow2Entry.OffsetOf(entry) < Volatile.Read(ref _knownEnd) || Qcow2Entry.OffsetOf(entry) < (_knownEnd = File.Length);

    private long _knownEnd;

    private void ReadRun(Run run, long offset, BlockBuffers buffers)
    {
        switch (run.Kind)
        {
            case ClusterKind.Standard:
                File.ReadPadded(run.FileOffset, buffers);
                break;
            case ClusterKind.Compressed:
                _compression.Read(run.Entry, (int)(offset & (ClusterSize - 1)), buffers);
                break;
            case ClusterKind.Unallocated when _backing is not null:
                ReadBacking(offset, buffers);
                break;
            default:
                buffers.Clear();
                break;
        }
    }

    /// <summary>The backing image may be longer than this one: what is behind our end is never seen.</summary>
    private void ReadBacking(long offset, BlockBuffers buffers)
    {
        var count = (int)Math.Clamp(Length - offset, 0, buffers.Length);
        _backing!.ReadBelow(offset, buffers.Slice(0, count));
        if (count < buffers.Length)
            buffers.Slice(count).Clear();
    }

    /// <param name="FileOffset">Of the first byte, when it is <see cref="ClusterKind.Standard"/>.</param>
    /// <param name="Length">In bytes.</param>
    /// <param name="Entry">Of the first cluster.</param>
    private readonly record struct Run(ClusterKind Kind, long FileOffset, int Length, ulong Entry);
}
