// The bytes of a kernel or an initial RAM disk, wherever they come from: a file (read when needed, so that a large
// initrd goes straight into guest RAM), a stream, or bytes already in guest RAM. The last two are copied at once,
// because a machine that resets needs them again and the guest may have overwritten them by then.
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Boot;

/// <summary>Bytes to boot from, readable at any offset and more than once.</summary>
public abstract class BootSource : IDisposable
{
    private BootSource(string name)
    {
        Name = name;
    }

    /// <summary>For messages: a path, or what the caller called it.</summary>
    public string Name { get; }

    /// <summary>In bytes.</summary>
    public abstract long Length { get; }

    /// <summary>Opens a file.</summary>
    /// <exception cref="ConfigurationException">It is missing, a directory, or unreadable.</exception>
    public static BootSource FromFile(string path)
    {
        try
        {
            return new FileSource(path, File.OpenHandle(path));
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new ConfigurationException($"{path}: no such file; check the path", e);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new ConfigurationException(
                Directory.Exists(path)
                    ? $"{path}: is a directory; give a file"
                    : $"{path}: may not be read by this user; check its permissions (chmod +r, or copy it)",
                e);
        }
        catch (Exception e) when (e is IOException or ArgumentException or NotSupportedException)
        {
            throw new ConfigurationException($"{path}: cannot be opened: {e.Message}", e);
        }
    }

    /// <summary>Reads a stream to its end.</summary>
    /// <param name="name">What messages call it.</param>
    public static async Task<BootSource> FromStreamAsync(Stream stream, string name, CancellationToken cancellation = default)
    {
        using var copy = new MemoryStream();
        await stream.CopyToAsync(copy, cancellation).ConfigureAwait(false);
        return new MemorySource(name, copy.GetBuffer().AsMemory(0, (int)copy.Length));
    }

    /// <param name="name">What messages call it.</param>
    public static BootSource FromBytes(ReadOnlyMemory<byte> bytes, string name) => new MemorySource(name, bytes);

    /// <summary>Takes bytes that are in guest RAM already.</summary>
    /// <exception cref="ConfigurationException">The range is not RAM.</exception>
    public static BootSource FromGuestMemory(GuestMemory memory, ulong address, int length, string name)
    {
        var bytes = new byte[length];
        if (!memory.TryRead(address, bytes))
            throw new ConfigurationException($"{name}: 0x{address:x}+0x{length:x} is not guest RAM; load it elsewhere or give more memory");
        return new MemorySource(name, bytes);
    }

    /// <summary>Fills <paramref name="destination"/> from <paramref name="offset"/> on.</summary>
    /// <exception cref="ConfigurationException">The source is shorter, or can't be read.</exception>
    public void Read(long offset, Span<byte> destination)
    {
        if (offset < 0 || offset > Length - destination.Length)
            throw new ConfigurationException($"{Name}: truncated: {offset + destination.Length} bytes expected, {Length} there; copy it again");
        ReadCore(offset, destination);
    }

    public byte[] Read(long offset, int length)
    {
        // Before the allocation: a length from a corrupt header may be anything.
        if (length < 0 || offset < 0 || offset > Length - length)
            throw new ConfigurationException($"{Name}: truncated or corrupt: {(uint)length} bytes expected at offset {offset}, {Length} in all; copy it again");
        var bytes = new byte[length];
        ReadCore(offset, bytes);
        return bytes;
    }

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected abstract void ReadCore(long offset, Span<byte> destination);

    protected virtual void Dispose(bool disposing)
    {
    }

    private sealed class FileSource : BootSource
    {
        private readonly Microsoft.Win32.SafeHandles.SafeFileHandle _handle;

        public FileSource(string path, Microsoft.Win32.SafeHandles.SafeFileHandle handle) : base(path)
        {
            _handle = handle;
            Length = RandomAccess.GetLength(handle);
        }

        public override long Length { get; }

        protected override void ReadCore(long offset, Span<byte> destination)
        {
            try
            {
                while (destination.Length > 0)
                {
                    var read = RandomAccess.Read(_handle, destination, offset);
                    if (read == 0)
                        throw new ConfigurationException($"{Name}: became shorter while in use; do not change it while the machine runs");
                    destination = destination[read..];
                    offset += read;
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new ConfigurationException($"{Name}: cannot be read: {e.Message}", e);
            }
        }

        protected override void Dispose(bool disposing)
        {
            _handle.Dispose();
            base.Dispose(disposing);
        }
    }

    private sealed class MemorySource(string name, ReadOnlyMemory<byte> bytes) : BootSource(name)
    {
        public override long Length => bytes.Length;

        protected override void ReadCore(long offset, Span<byte> destination) =>
            bytes.Span.Slice((int)offset, destination.Length).CopyTo(destination);
    }
}
