namespace Sharpvisor.Core.Block;

/// <summary>
/// The bytes of a disk: a raw file, a format in a file, a layer over another image. An image is made over another one by
/// taking it in its constructor and disposing it.
/// </summary>
/// <remarks>
/// Any thread may call, several at a time, but not one that holds a machine's gate: an image over a file of the host
/// blocks its caller. It usually completes before it returns, and then allocates nothing. Transfers of any offset and
/// length are allowed; those that overlap each other have no order. Every method throws <see cref="BlockException"/>.
/// </remarks>
public interface IBlockImage : IAsyncDisposable
{
    /// <summary>For messages: the path of a file.</summary>
    string Name { get; }

    /// <summary>
    /// In bytes, of any value. What lies between it and the next multiple of <see cref="SectorSize"/> can be read (as
    /// zeroes) and written (which makes the image longer).
    /// </summary>
    long Length { get; }

    bool IsReadOnly { get; }

    /// <summary>Whether <see cref="DiscardAsync"/> frees anything.</summary>
    bool CanDiscard { get; }

    const int SectorSize = 512;

    /// <summary>Fills all of <paramref name="buffers"/>.</summary>
    ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default);

    /// <summary>
    /// Fills all of <paramref name="buffers"/> if that takes no waiting: the bytes are in memory. False, with some of
    /// <paramref name="buffers"/> perhaps filled: ask <see cref="ReadAsync"/>, which says what is wrong, too. Never throws.
    /// </summary>
    bool TryReadAtOnce(long offset, BlockBuffers buffers) => false;

    /// <summary>Writes all of <paramref name="buffers"/>: seen by every read after it, safe only after a flush.</summary>
    ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default);

    /// <summary>Whatever was written before survives an end of the process and of the host.</summary>
    ValueTask FlushAsync(CancellationToken cancellation = default);

    /// <summary>The guest does not need these bytes any more: afterwards they read as what they were or as zeroes.</summary>
    ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default);

    /// <summary>Like a write of zeroes.</summary>
    /// <param name="mayDiscard">The room they take may be given back.</param>
    ValueTask WriteZeroesAsync(long offset, long length, bool mayDiscard, CancellationToken cancellation = default);

    /// <summary>Makes the image longer, by zeroes, or shorter. For a layer above it, which keeps its own length.</summary>
    ValueTask ResizeAsync(long length, CancellationToken cancellation = default);
}
