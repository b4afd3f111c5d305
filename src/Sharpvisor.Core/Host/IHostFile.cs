using Sharpvisor.Core.Block;

namespace Sharpvisor.Core.Host;

/// <summary>
/// What a disk image wants of the file it lies in: <see cref="HostFile"/>, or one that a test has in memory and lets fail.
/// </summary>
/// <remarks>Any thread may call, several at a time. Every failure is a <see cref="BlockException"/>.</remarks>
public interface IHostFile : IDisposable
{
    bool IsBlockDevice { get; }

    /// <summary>What offsets, lengths and addresses have to be multiples of: 1, or more without the host's cache.</summary>
    int Alignment { get; }

    /// <summary>In bytes, now.</summary>
    long Length { get; }

    /// <summary>What it takes on the host, in bytes: less than its length when it has holes.</summary>
    long AllocatedBytes { get; }

    /// <summary>Whether there are data at an offset, or a hole, which reads as zeroes, and where that ends: at the latest at the file's end.</summary>
    bool IsData(long offset, out long end);

    /// <summary>Whether a transfer keeps to <see cref="Alignment"/>.</summary>
    bool IsAligned(long offset, BlockBuffers buffers);

    /// <summary>Reads until the buffers are full or the file ends; the number of bytes.</summary>
    int Read(long offset, BlockBuffers buffers);

    /// <summary>Reads what the host has in memory, without waiting for a disk. False: not all of it, or the host can't tell.</summary>
    bool TryReadCached(long offset, BlockBuffers buffers);

    /// <summary>Writes all of the buffers, behind the end as well.</summary>
    void Write(long offset, BlockBuffers buffers);

    /// <summary>Waits until the data, and what is needed to find them, are on the medium.</summary>
    void Sync();

    /// <summary>Gives room back; what was there reads as zeroes or, on a device, as anything. False: the host can't do this here.</summary>
    bool TryPunchHole(long offset, long length);

    /// <summary>Makes a range read as zeroes without writing them, and the file as long as it has to be. False: the host can't do this here.</summary>
    bool TryZeroRange(long offset, long length);

    void SetLength(long length);
}
