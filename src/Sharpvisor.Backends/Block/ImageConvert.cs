// Copies a disk from one image to another: what reads as zeroes stays a hole.
// Follows: qemu-img(1), "convert".
using Sharpvisor.Backends.Block.Qcow2;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

public static class ImageConvert
{
    private const int ChunkSize = 2 << 20, ZeroUnit = 4096;

    /// <summary>Copies a disk, which the target has to be long enough for, and makes the copy safe.</summary>
    /// <param name="target">Has just been made.</param>
    /// <param name="compress">Clusters, in qcow2.</param>
    /// <param name="progress">Bytes that are done.</param>
    /// <exception cref="ConfigurationException">One of both can't be read or written.</exception>
    public static async Task RunAsync(DiskImage source, DiskImage target, bool compress, Action<long> progress, CancellationToken cancellation)
    {
        if (compress && target is not Qcow2Image)
            throw new ConfigurationException($"{target.Name}: only qcow2 images can be compressed; leave -c out, or give -O qcow2");
        // What was on a device is not zeroes; what a new image lies over shows through.
        var mustClear = target.HostFile.IsBlockDevice || target.BackingName is not null;
        var buffer = new byte[Math.Max(ChunkSize, compress ? target.Granularity : 0)];
        for (long at = 0; at < source.Length;)
        {
            cancellation.ThrowIfCancellationRequested();
            var extent = Guarded(source, () => source.Map(at, source.Length - at));
            if (extent.IsZero && !mustClear)
            {
                at += extent.Length;
            }
            else if (extent.IsZero)
            {
                await GuardedAsync(target, () => target.WriteZeroesAsync(at, extent.Length, mayDiscard: true, cancellation)).ConfigureAwait(false);
                at += extent.Length;
            }
            else
            {
                // Whole units of the target, whatever the source's extents are: back over zeroes that were left out.
                if (compress)
                    at &= -target.Granularity;
                var count = (int)Math.Min(buffer.Length - (at % (compress ? target.Granularity : ZeroUnit)), source.Length - at);
                var data = buffer.AsMemory(0, count);
                await GuardedAsync(source, () => source.ReadAsync(at, new BlockBuffers(data), cancellation)).ConfigureAwait(false);
                Guarded(target, () => Write(target, at, data, compress, mustClear));
                at += count;
            }

            progress(Math.Min(at, source.Length));
        }

        await GuardedAsync(target, () => target.FlushAsync(cancellation)).ConfigureAwait(false);
    }

    private static bool Write(DiskImage target, long at, Memory<byte> data, bool compress, bool mustClear)
    {
        var unit = compress ? target.Granularity : ZeroUnit;
        for (var start = 0; start < data.Length;)
        {
            var end = Math.Min(start + unit, data.Length);
            var isZero = IsZero(data[start..end]);
            while (!compress && end < data.Length && IsZero(data[end..Math.Min(end + unit, data.Length)]) == isZero)
                end = Math.Min(end + unit, data.Length);
            if (!isZero && !(compress && WriteCompressed((Qcow2Image)target, at + start, data[start..end])))
                target.Write(at + start, new BlockBuffers(data[start..end]));
            else if (isZero && mustClear)
                target.WriteZeroes(at + start, end - start, mayDiscard: true);
            start = end;
        }

        return true;
    }

    /// <summary>The last cluster is compressed as it is in the image: filled up.</summary>
    private static bool WriteCompressed(Qcow2Image target, long at, Memory<byte> data)
    {
        if (data.Length == target.Granularity)
            return target.TryWriteCompressed(at, data.Span);
        var whole = new byte[target.Granularity];
        data.CopyTo(whole);
        return target.TryWriteCompressed(at, whole);
    }

    private static bool IsZero(Memory<byte> data) => !data.Span.ContainsAnyExcept((byte)0);

    private static T Guarded<T>(DiskImage image, Func<T> action)
    {
        try
        {
            return action();
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{image.Name}: {e.Message}", e);
        }
    }

    private static async Task GuardedAsync(DiskImage image, Func<ValueTask> action)
    {
        try
        {
            await action().ConfigureAwait(false);
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{image.Name}: {e.Message}", e);
        }
    }
}
