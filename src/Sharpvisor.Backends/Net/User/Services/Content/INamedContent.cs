// What the servers give away. Where it comes from is not their business.
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Services.Content;

/// <summary>Files that the servers of the user-mode network give to the guest. Called by the network's thread.</summary>
public interface INamedContent
{
    /// <summary>Opens a file by the name that the guest gave, which may be any.</summary>
    OpenResult TryOpen(string name, out INamedFile? file);
}

/// <summary>An open file.</summary>
public interface INamedFile : IDisposable
{
    /// <summary>In bytes, when it was opened.</summary>
    long Length { get; }

    /// <summary>When it was changed last, if that is known.</summary>
    DateTimeOffset? Modified { get; }

    /// <summary>Fills the buffer from a place of the file that lies within <see cref="Length"/>.</summary>
    /// <exception cref="IOException">The host can't read it, or it has become shorter: nobody should take what is left for the whole.</exception>
    void Read(long offset, Span<byte> buffer);
}
