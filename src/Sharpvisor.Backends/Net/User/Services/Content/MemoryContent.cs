// Content that a program keeps in memory.
using System.Collections.Concurrent;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Services.Content;

/// <summary>Files in memory. They may be added, replaced and removed at any time, by any thread.</summary>
public sealed class MemoryContent : INamedContent
{
    private readonly ConcurrentDictionary<string, MemoryFile> _files = new(StringComparer.Ordinal);

    /// <summary>Adds or replaces a file; who is reading the old one reads it to its end.</summary>
    /// <param name="name">With slashes where it lies in folders; a slash in front means nothing.</param>
    /// <exception cref="ArgumentException">No guest could ask for it: empty, with "..", a backslash or control characters.</exception>
    public void Set(string name, ReadOnlyMemory<byte> bytes) =>
        _files[Normal(name)] = new MemoryFile(bytes, DateTimeOffset.UtcNow);

    /// <returns>False: there was none.</returns>
    public bool Remove(string name) => _files.TryRemove(Normal(name), out _);

    public OpenResult TryOpen(string name, out INamedFile? file)
    {
        file = null;
        if (!ContentName.TryNormalize(name, out var normal))
            return OpenResult.Refused;
        if (!_files.TryGetValue(normal, out var found))
            return OpenResult.NotFound;
        file = found;
        return OpenResult.Opened;
    }

    private static string Normal(string name) =>
        ContentName.TryNormalize(name, out var normal) ? normal : throw new ArgumentException($"\"{name}\" is no name for a file", nameof(name));

    private sealed class MemoryFile(ReadOnlyMemory<byte> bytes, DateTimeOffset modified) : INamedFile
    {
        public long Length => bytes.Length;

        public DateTimeOffset? Modified => modified;

        public void Read(long offset, Span<byte> buffer) => bytes.Span.Slice((int)offset, buffer.Length).CopyTo(buffer);

        public void Dispose()
        {
            // Others may be reading it.
        }
    }
}
