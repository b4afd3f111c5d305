// A folder of the host as content; links lead nowhere outside (see Core/Host/HostFolder.cs).
using Microsoft.Win32.SafeHandles;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Services.Content;

/// <summary>The files of a folder of the host and of its subfolders, as they are when they are asked for.</summary>
/// <exception cref="ConfigurationException">There is no such folder.</exception>
public sealed class FolderContent(string path) : INamedContent
{
    private readonly HostFolder _folder = new(path);

    public OpenResult TryOpen(string name, out INamedFile? file)
    {
        file = null;
        if (!ContentName.TryNormalize(name, out var normal))
            return OpenResult.Refused;
        var result = _folder.TryOpen(normal, out var handle);
        if (handle is null)
            return result;
        try
        {
            file = new FolderFile(handle);
            return result;
        }
        catch (IOException)
        {
            handle.Dispose();
            return OpenResult.Failed;
        }
    }

    private sealed class FolderFile(SafeFileHandle handle) : INamedFile
    {
        public long Length { get; } = RandomAccess.GetLength(handle);

        public DateTimeOffset? Modified { get; } = File.GetLastWriteTimeUtc(handle);

        public void Read(long offset, Span<byte> buffer)
        {
            while (!buffer.IsEmpty)
            {
                var count = RandomAccess.Read(handle, buffer, offset);
                if (count == 0)
                    throw new IOException("the file has become shorter");
                buffer = buffer[count..];
                offset += count;
            }
        }

        public void Dispose() => handle.Dispose();
    }
}
