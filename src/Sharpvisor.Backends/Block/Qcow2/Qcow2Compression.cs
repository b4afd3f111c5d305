// Compressed clusters: read into a cluster that is kept for the next read, and packed one behind the other.
// Follows: QEMU's docs/interop/qcow2.txt, "Compressed Clusters Descriptor": raw deflate (RFC 1951) or zstd (RFC 8878).
using System.Buffers;
using System.IO.Compression;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Block.Qcow2;

internal sealed class Qcow2Compression(ImageFile file, Qcow2Header header) : IDisposable
{
    private const int Window = 4096;

    private readonly object _lock = new();
    private byte[]? _cluster;
    private ulong _cached;

    /// <summary>Reads a part of a compressed cluster.</summary>
    public void Read(ulong entry, int start, BlockBuffers buffers)
    {
        lock (_lock)
        {
            if (_cached != entry || _cluster is null)
            {
                _cached = 0;
                _cluster ??= new byte[header.ClusterSize];
                Decompress(entry, _cluster);
                _cached = entry;
            }

            buffers.CopyFrom(_cluster.AsSpan(start, buffers.Length));
        }
    }

    /// <summary>An entry will not mean the same any more.</summary>
    public void Forget(ulong entry)
    {
        if ((entry & Qcow2Entry.CompressedFlag) == 0)
            return;
        lock (_lock)
            _cached = 0;
    }

    /// <summary>Compresses a cluster; null: it would not get smaller.</summary>
    public byte[]? Compress(ReadOnlySpan<byte> cluster)
    {
        var packed = header.CompressionType == Qcow2Header.Zstd ? Zstd(cluster) : Deflate(cluster);
        return packed.Length > 0 && packed.Length < cluster.Length - 512 ? packed : null;
    }

    public void Dispose() => _cluster = null;

    private static byte[] Zstd(ReadOnlySpan<byte> cluster)
    {
        var packed = new byte[cluster.Length];
        return packed[..Math.Max(0, Zstandard.Compress(cluster, packed))];
    }

    /// <summary>
    /// Readers keep the last 4 KiB only, and .NET looks back for 32: each 4 KiB are deflated without those before them, and
    /// end on a whole byte, so that the next ones can follow.
    /// </summary>
    private static byte[] Deflate(ReadOnlySpan<byte> cluster)
    {
        using var all = new MemoryStream();
        for (var at = 0; at < cluster.Length; at += Window)
        {
            var end = Math.Min(at + Window, cluster.Length);
            var start = all.Length;
            using var deflate = new DeflateStream(all, CompressionLevel.Optimal, leaveOpen: true);
            deflate.Write(cluster[at..end]);
            deflate.Flush();
            var flushed = all.Length;
            deflate.Dispose();
            // The final block, which is empty, belongs behind the last piece alone.
            if (end < cluster.Length)
                all.SetLength(flushed);
            if (all.Length - start > 2 * Window || all.Length >= cluster.Length)
                return [];
        }

        return all.ToArray();
    }

    private void Decompress(ulong entry, byte[] cluster)
    {
        var (start, end) = Qcow2Entry.CompressedRange(entry, header.ClusterBits);
        var length = (int)(end - start);
        if (start >= file.Length)
            throw new BlockException($"is damaged: a compressed cluster lies at byte {start}, behind the end of the file; run sharpvisor image check");
        var packed = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            // The last sector of the file need not be whole.
            var count = file.Read(start, new BlockBuffers(packed.AsMemory(0, length)));
            if (!TryDecompress(packed.AsSpan(0, count), packed, count, cluster))
                throw new BlockException($"is damaged: the compressed cluster at byte {start} can't be decompressed; run sharpvisor image check");
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(packed);
        }
    }

    private bool TryDecompress(ReadOnlySpan<byte> data, byte[] packed, int count, byte[] cluster)
    {
        if (header.CompressionType == Qcow2Header.Zstd)
            return Zstandard.TryDecompress(data, cluster);
        try
        {
            using var deflate = new DeflateStream(new MemoryStream(packed, 0, count, writable: false), CompressionMode.Decompress);
            return deflate.ReadAtLeast(cluster, cluster.Length, throwOnEndOfStream: false) == cluster.Length;
        }
        catch (InvalidDataException)
        {
            return false;
        }
    }
}
