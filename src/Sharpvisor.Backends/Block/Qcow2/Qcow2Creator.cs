// New qcow2 images: a header, a refcount table with one block, and an L1 table as long as the disk needs.
// Follows: QEMU's docs/interop/qcow2.txt.
using System.Buffers.Binary;
using System.Numerics;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block.Qcow2;

internal static class Qcow2Creator
{
    /// <param name="file">Empty.</param>
    /// <exception cref="ConfigurationException">An option is wrong.</exception>
    public static void Create(ImageFile file, ImageOptions options)
    {
        var header = HeaderOf(file.Path, options);
        if (options.Size < 0 || options.Size > header.MaximumSize)
            throw new ConfigurationException($"{file.Path}: {options.Size} bytes are too much for clusters of {header.ClusterSize} bytes; give {header.MaximumSize} at most, or a larger cluster_size");
        try
        {
            Write(file, header);
            Open(file, options).Preallocate(options.Preallocation);
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{file.Path}: cannot be made: {e.Message}", e);
        }
    }

    /// <summary>A temporary image over another one, with no name that anybody could find it by.</summary>
    public static Qcow2Image CreateTemporary(DiskImage backing, DriveOptions options, ILogger logger)
    {
        options = options with { IsReadOnly = false, Cache = CacheMode.Unsafe };
        var folder = Environment.GetEnvironmentVariable("TMPDIR") is { Length: > 0 } named ? named : "/var/tmp";
        var path = Path.Combine(folder, $"sharpvisor-{Guid.NewGuid():N}.qcow2");
        var file = ImageFile.Create(path, name: backing.Name, mustBeNew: true, options);
        try
        {
            // Even if we are killed nothing is left.
            System.IO.File.Delete(path);
            var size = (backing.Length + IBlockImage.SectorSize - 1) & -IBlockImage.SectorSize;
            Write(file, HeaderOf(path, new ImageOptions { Size = size }));
            var image = Qcow2Image.Open(file, backing, options, logger);
            image.ResizeNew(size);
            return image;
        }
        catch (BlockException e)
        {
            file.Dispose();
            throw new ConfigurationException($"{backing.Name}: no temporary image can be made in {folder}: {e.Message}; set TMPDIR to a folder with room", e);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static Qcow2Image Open(ImageFile file, ImageOptions options)
    {
        // Its backing image need not be there: nothing of it is read.
        var image = Qcow2Image.Open(file, null, new DriveOptions(), NullLogger.Instance);
        image.ResizeNew((options.Size!.Value + IBlockImage.SectorSize - 1) & -IBlockImage.SectorSize);
        return image;
    }

    private static Qcow2Header HeaderOf(string path, ImageOptions options)
    {
        var bits = BitOperations.Log2((uint)options.ClusterSize);
        if (!BitOperations.IsPow2(options.ClusterSize) || bits is < Qcow2Header.MinimumClusterBits or > Qcow2Header.MaximumClusterBits)
            throw new ConfigurationException($"{path}: cluster_size={options.ClusterSize}: give a power of two from 512 to 2M");
        if (!BitOperations.IsPow2(options.RefcountBits) || options.RefcountBits > 64)
            throw new ConfigurationException($"{path}: refcount_bits={options.RefcountBits}: give a power of two from 1 to 64");
        if (options.Version == 2 && (options.RefcountBits != 16 || options.LazyRefcounts))
            throw new ConfigurationException($"{path}: compat=0.10 has refcounts of 16 bits, which are not lazy; leave compat= out");
        if (options.UsesZstd && (options.Version == 2 || !Core.Host.Zstandard.IsAvailable))
            throw new ConfigurationException($"{path}: compression_type=zstd needs compat=1.1 and the host's libzstd.so.1; install the package libzstd1");
        if (options.Preallocation != Preallocation.Off && options.BackingFile is not null)
            throw new ConfigurationException($"{path}: preallocation would hide the backing image; leave one of them out");
        return new Qcow2Header
        {
            Version = options.Version,
            ClusterBits = bits,
            RefcountOrder = BitOperations.Log2((uint)options.RefcountBits),
            Compatible = options.LazyRefcounts ? Qcow2Header.LazyRefcounts : 0,
            CompressionType = options.UsesZstd ? Qcow2Header.Zstd : Qcow2Header.Zlib,
            Incompatible = options.UsesZstd ? Qcow2Header.CompressionTypeBit : 0,
            BackingFile = options.BackingFile,
            BackingFormat = options.BackingFile is null ? null : options.BackingFormat,
            RefcountTableOffset = 1L << bits,
            RefcountTableClusters = 1,
        };
    }

    /// <summary>Three clusters: the header of an empty disk, a refcount table, a refcount block that counts them.</summary>
    private static void Write(ImageFile file, Qcow2Header header)
    {
        var bytes = new byte[3 * header.ClusterSize];
        header.ToBytes().CopyTo(bytes, 0);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(header.ClusterSize), 2UL << header.ClusterBits);
        file.Write(0, bytes);
        var refcounts = new Qcow2Refcounts(file, header, what => new BlockException(what));
        for (var cluster = 0; cluster < 3; cluster++)
            refcounts.Set(cluster, 1);
        refcounts.Write();
    }
}
