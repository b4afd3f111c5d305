// The header of a qcow2 image and its extensions.
// Follows: QEMU's docs/interop/qcow2.txt, "Header", "Header extensions"; limits are those of QEMU's driver.
// Leaves out: encryption, external data files, extended L2 entries, which are refused by name; bitmaps, which stay in the
// image and are marked as out of date when it is written to.
using System.Buffers.Binary;
using System.Numerics;
using System.Text;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>What the header says. Offsets and sizes are in bytes.</summary>
internal sealed record Qcow2Header
{
    public const uint Magic = 0x514649FB;
    public const int MinimumClusterBits = 9, MaximumClusterBits = 21;
    public const int SizeAt = 24, L1SizeAt = 36, RefcountTableAt = 48, IncompatibleAt = 72, AutoclearAt = 88;
    public const ulong Dirty = 1, Corrupt = 2, DataFile = 4, CompressionTypeBit = 8, ExtendedL2 = 16;
    public const ulong LazyRefcounts = 1;
    public const int Zlib = 0, Zstd = 1;

    private const int LengthOfV2 = 72, LengthOfV3 = 112;
    public const int MaximumRefcountTableBytes = 8 << 20;

    private const int MaximumL1Bytes = 32 << 20, MaximumSnapshots = 65536, MaximumName = 1023;
    private const uint BackingFormatExtension = 0xE2792ACA, FeatureNamesExtension = 0x6803F857;

    public int Version { get; init; } = 3;

    public string? BackingFile { get; init; }

    /// <summary>Null: not said.</summary>
    public string? BackingFormat { get; init; }

    public int ClusterBits { get; init; } = 16;

    public int ClusterSize => 1 << ClusterBits;

    /// <summary>Of the disk.</summary>
    public long Size { get; init; }

    /// <summary>In entries.</summary>
    public int L1Size { get; init; }

    public long L1Offset { get; init; }

    public long RefcountTableOffset { get; init; }

    public int RefcountTableClusters { get; init; }

    public int SnapshotCount { get; init; }

    public long SnapshotsOffset { get; init; }

    public ulong Incompatible { get; init; }

    public ulong Compatible { get; init; }

    public ulong Autoclear { get; init; }

    /// <summary>A refcount has two to the power of this many bits.</summary>
    public int RefcountOrder { get; init; } = 4;

    public int CompressionType { get; init; }

    /// <summary>Entries of the L1 table that a disk of a size needs.</summary>
    public long L1SizeFor(long size) => (long)(((UInt128)size + (1UL << (ClusterBits * 2 - 3)) - 1) >> ((ClusterBits * 2) - 3));

    /// <summary>The largest disk that an L1 table may be made for.</summary>
    public long MaximumSize => (long)UInt128.Min((UInt128)(MaximumL1Bytes / 8) << ((ClusterBits * 2) - 3), long.MaxValue & ~511L);

    /// <exception cref="BlockException">It is damaged, or has what is not supported; says what to do.</exception>
    public static Qcow2Header Read(ImageFile file)
    {
        var fixedPart = new byte[LengthOfV3];
        file.ReadWhole(0, fixedPart.AsMemory(0, LengthOfV2), "qcow2 header");
        if (U32(fixedPart, 0) != Magic)
            throw new BlockException("is not a qcow2 image: its first bytes are not QFI\\xfb; leave format=qcow2 out");
        var version = U32(fixedPart, 4);
        if (version is not (2 or 3))
            throw new BlockException($"is a qcow image of version {version}; there are 2 and 3: convert it with qemu-img convert -O qcow2");
        if (version == 3)
            file.ReadWhole(0, fixedPart, "qcow2 header");
        var clusterBits = U32(fixedPart, 20);
        Require(clusterBits is >= MinimumClusterBits and <= MaximumClusterBits, $"clusters of 2^{clusterBits} bytes; there are 2^{MinimumClusterBits} to 2^{MaximumClusterBits}");
        var headerLength = version == 2 ? LengthOfV2 : (int)Math.Min(U32(fixedPart, 100), int.MaxValue);
        Require(version == 2 || headerLength is >= 104 and <= 1 << MinimumClusterBits && headerLength % 8 == 0, $"a header of {headerLength} bytes");
        var header = new Qcow2Header
        {
            Version = (int)version,
            ClusterBits = (int)clusterBits,
            Size = Signed(fixedPart, SizeAt, "a disk"),
            L1Size = (int)Math.Min(U32(fixedPart, L1SizeAt), int.MaxValue),
            L1Offset = Signed(fixedPart, 40, "an L1 table"),
            RefcountTableOffset = Signed(fixedPart, RefcountTableAt, "a refcount table"),
            RefcountTableClusters = (int)Math.Min(U32(fixedPart, 56), int.MaxValue),
            SnapshotCount = (int)Math.Min(U32(fixedPart, 60), int.MaxValue),
            SnapshotsOffset = Signed(fixedPart, 64, "a snapshot table"),
        };
        if (U32(fixedPart, 32) is not 0 and var method)
            throw new BlockException($"is encrypted ({(method == 1 ? "AES" : method == 2 ? "LUKS" : $"method {method}")}), which is not in this version; decrypt it with qemu-img convert");
        if (version == 3)
        {
            var order = U32(fixedPart, 96);
            Require(order <= 6, $"refcounts of 2^{order} bits; there are 1 to 64");
            header = header with
            {
                Incompatible = U64(fixedPart, IncompatibleAt),
                Compatible = U64(fixedPart, 80),
                Autoclear = U64(fixedPart, AutoclearAt),
                RefcountOrder = (int)order,
                CompressionType = headerLength > 104 ? fixedPart[104] : 0,
            };
        }

        header = header.WithExtensions(file, headerLength, (long)U64(fixedPart, 8), U32(fixedPart, 16));
        header.CheckTables();
        return header;
    }

    /// <summary>The first bytes of a new image: header, extensions, and the name of what it lies over.</summary>
    public byte[] ToBytes()
    {
        using var bytes = new MemoryStream();
        var fixedPart = new byte[Version == 2 ? LengthOfV2 : LengthOfV3];
        BinaryPrimitives.WriteUInt32BigEndian(fixedPart, Magic);
        Put(4, (uint)Version);
        Put(20, (uint)ClusterBits);
        Put64(SizeAt, (ulong)Size);
        Put(L1SizeAt, (uint)L1Size);
        Put64(40, (ulong)L1Offset);
        Put64(RefcountTableAt, (ulong)RefcountTableOffset);
        Put(56, (uint)RefcountTableClusters);
        if (Version == 3)
        {
            Put64(IncompatibleAt, Incompatible);
            Put64(80, Compatible);
            Put64(AutoclearAt, Autoclear);
            Put(96, (uint)RefcountOrder);
            Put(100, LengthOfV3);
            fixedPart[104] = (byte)CompressionType;
        }

        bytes.Write(fixedPart);
        if (BackingFormat is not null)
            AddExtension(bytes, BackingFormatExtension, Encoding.UTF8.GetBytes(BackingFormat));
        if (Version == 3 && ClusterSize >= 4096)
            AddExtension(bytes, FeatureNamesExtension, Qcow2Features.ToTable());
        AddExtension(bytes, 0, []);
        if (BackingFile is not null)
        {
            var name = Encoding.UTF8.GetBytes(BackingFile);
            if (name.Length > MaximumName || bytes.Length + name.Length > ClusterSize)
                throw new BlockException($"the name of the backing image has {name.Length} bytes, there is room for {Math.Min(MaximumName, ClusterSize - bytes.Length)}; give a shorter one");
            Put64(8, (ulong)bytes.Length);
            Put(16, (uint)name.Length);
            bytes.Write(name);
        }

        bytes.Position = 0;
        bytes.Write(fixedPart);
        return bytes.ToArray();

        void Put(int at, uint value) => BinaryPrimitives.WriteUInt32BigEndian(fixedPart.AsSpan(at), value);
        void Put64(int at, ulong value) => BinaryPrimitives.WriteUInt64BigEndian(fixedPart.AsSpan(at), value);
    }

    private static void AddExtension(MemoryStream bytes, uint type, byte[] data)
    {
        var start = new byte[8 + ((data.Length + 7) & ~7)];
        BinaryPrimitives.WriteUInt32BigEndian(start, type);
        BinaryPrimitives.WriteUInt32BigEndian(start.AsSpan(4), (uint)data.Length);
        data.CopyTo(start, 8);
        bytes.Write(start);
    }

    private Qcow2Header WithExtensions(ImageFile file, int headerLength, long nameOffset, uint nameLength)
    {
        Require(nameOffset == 0 || nameLength is > 0 and <= MaximumName, $"the name of a backing image of {nameLength} bytes");
        Require(nameOffset == 0 || (nameOffset > 0 && nameOffset <= ClusterSize - nameLength), $"the name of its backing image at byte {nameOffset}, outside of the first cluster");
        var first = new byte[ClusterSize];
        file.ReadPadded(0, new BlockBuffers(first));
        string? format = null;
        var names = Qcow2Features.Known;
        var end = nameOffset > 0 ? (int)nameOffset : ClusterSize;
        for (var at = headerLength; at <= end - 8;)
        {
            var (type, length) = (U32(first, at), U32(first, at + 4));
            if (type == 0)
                break;
            Require(length <= end - at - 8, $"a header extension 0x{type:x8} of {length} bytes, which does not fit");
            var data = first.AsSpan(at + 8, (int)length);
            if (type == BackingFormatExtension)
                format = Encoding.UTF8.GetString(data).TrimEnd('\0');
            if (type == FeatureNamesExtension)
                names = Qcow2Features.Parse(data);
            at += 8 + (int)((length + 7) & ~7u);
        }

        const ulong supported = Dirty | Corrupt | CompressionTypeBit;
        if ((Incompatible & ~supported) is not 0 and var unknown)
        {
            var list = Enumerable.Range(0, 64).Where(b => (unknown >> b & 1) != 0).Select(b => names.GetValueOrDefault((Qcow2Features.Incompatible, b), $"bit {b}"));
            throw new BlockException($"needs what is not in this version: {string.Join(", ", list)}; convert it with qemu-img convert -O qcow2");
        }

        var hasType = (Incompatible & CompressionTypeBit) != 0;
        if (CompressionType is not (Zlib or Zstd) || hasType != (CompressionType != Zlib))
            throw new BlockException($"is damaged: its header names the compression {CompressionType}; copy it again");
        return this with { BackingFile = nameOffset == 0 ? null : Encoding.UTF8.GetString(first.AsSpan((int)nameOffset, (int)nameLength)), BackingFormat = format };
    }

    /// <summary>Every table that is read into memory has a limit.</summary>
    private void CheckTables()
    {
        Require(L1Size <= MaximumL1Bytes / 8, $"an L1 table of {L1Size} entries, more than {MaximumL1Bytes / 8}");
        Require(Size <= MaximumSize && L1SizeFor(Size) <= L1Size, $"a disk of {Size} bytes, more than its L1 table of {L1Size} entries has room for");
        RequireAligned(L1Offset, "L1 table");
        Require(RefcountTableClusters > 0 && RefcountTableClusters <= Math.Max(1, MaximumRefcountTableBytes >> ClusterBits), $"a refcount table of {RefcountTableClusters} clusters");
        Require(RefcountTableOffset > 0, "no refcount table");
        RequireAligned(RefcountTableOffset, "refcount table");
        Require(SnapshotCount <= MaximumSnapshots, $"{SnapshotCount} snapshots, more than {MaximumSnapshots}");
        if (SnapshotCount > 0)
            RequireAligned(SnapshotsOffset, "snapshot table");
    }

    private void RequireAligned(long offset, string what) =>
        Require((offset & (ClusterSize - 1)) == 0 && BitOperations.LeadingZeroCount((ulong)offset) >= 8, $"its {what} at byte {offset}, which is not where a cluster can begin");

    private static long Signed(byte[] header, int at, string what)
    {
        var value = U64(header, at);
        Require(value <= long.MaxValue - (1 << 30), $"{what} at or of 0x{value:x} bytes");
        return (long)value;
    }

    private static void Require(bool condition, string what)
    {
        if (!condition)
            throw new BlockException($"is damaged: its qcow2 header says {what}; copy it again");
    }

    private static uint U32(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(at));

    private static ulong U64(byte[] bytes, int at) => BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(at));
}
