// The internal snapshots of a qcow2 image: each is an L1 table of its own.
// Follows: QEMU's docs/interop/qcow2.txt, "Snapshots".
// Leaves out: making, deleting and going back to snapshots, which qemu-img does; the state of a machine in them.
using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Qcow2;

/// <summary>A snapshot of a disk within its image.</summary>
/// <param name="Size">Of the disk then, in bytes.</param>
/// <param name="StateSize">Of the machine's state, in bytes; 0: the disk alone.</param>
public sealed record Qcow2Snapshot(string Id, string Name, long Size, DateTimeOffset Date, TimeSpan GuestTime, ulong StateSize)
{
    private const int FixedLength = 40;
    private const int MaximumTable = 64 << 20, MaximumL1Bytes = 32 << 20;

    internal long L1Offset { get; init; }

    internal int L1Size { get; init; }

    internal static IReadOnlyList<Qcow2Snapshot> ReadAll(ImageFile file, Qcow2Header header, out long tableLength)
    {
        List<Qcow2Snapshot> snapshots = [];
        var at = header.SnapshotsOffset;
        for (var i = 0; i < header.SnapshotCount; i++)
        {
            var what = $"snapshot {i + 1}";
            var start = new byte[FixedLength];
            file.ReadWhole(at, start, what);
            var extraLength = BinaryPrimitives.ReadUInt32BigEndian(start.AsSpan(36));
            Require(extraLength <= 1024, i, $"has {extraLength} bytes of extra data");
            int idLength = BinaryPrimitives.ReadUInt16BigEndian(start.AsSpan(12)), nameLength = BinaryPrimitives.ReadUInt16BigEndian(start.AsSpan(14));
            var rest = new byte[extraLength + idLength + nameLength];
            file.ReadWhole(at + FixedLength, rest, what);
            var extra = rest.AsSpan(0, (int)extraLength);
            var snapshot = new Qcow2Snapshot(
                Encoding.UTF8.GetString(rest, (int)extraLength, idLength),
                Encoding.UTF8.GetString(rest, (int)extraLength + idLength, nameLength),
                extra.Length >= 16 ? (long)BinaryPrimitives.ReadUInt64BigEndian(extra[8..]) : header.Size,
                DateTimeOffset.FromUnixTimeSeconds(BinaryPrimitives.ReadUInt32BigEndian(start.AsSpan(16))),
                TimeSpan.FromTicks((long)(BinaryPrimitives.ReadUInt64BigEndian(start.AsSpan(24)) / 100)),
                extra.Length >= 8 ? BinaryPrimitives.ReadUInt64BigEndian(extra) : BinaryPrimitives.ReadUInt32BigEndian(start.AsSpan(32)))
            {
                L1Offset = (long)BinaryPrimitives.ReadUInt64BigEndian(start),
                L1Size = (int)Math.Min(BinaryPrimitives.ReadUInt32BigEndian(start.AsSpan(8)), int.MaxValue),
            };
            Require(snapshot.L1Size <= MaximumL1Bytes / 8, i, $"has an L1 table of {snapshot.L1Size} entries");
            Require(snapshot.L1Offset >= 0 && (snapshot.L1Offset & (header.ClusterSize - 1)) == 0 && snapshot.L1Offset <= file.Length - (snapshot.L1Size * 8L), i, "has its L1 table outside of the file");
            Require(snapshot.Size >= 0 && snapshot.Size <= header.MaximumSize && header.L1SizeFor(snapshot.Size) <= snapshot.L1Size, i, $"has {snapshot.Size} bytes, more than its L1 table");
            snapshots.Add(snapshot);
            at += (FixedLength + rest.Length + 7) & ~7;
            Require(at - header.SnapshotsOffset <= MaximumTable, i, "lies behind 64 MiB of other snapshots");
        }

        tableLength = at - header.SnapshotsOffset;
        return snapshots;
    }

    private static void Require(bool condition, int index, string what)
    {
        if (!condition)
            throw new BlockException($"is damaged: its snapshot {index + 1} {what}; copy it again");
    }
}
