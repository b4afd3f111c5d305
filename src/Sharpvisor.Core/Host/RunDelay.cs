using System.Buffers.Text;
using Microsoft.Win32.SafeHandles;

namespace Sharpvisor.Core.Host;

/// <summary>How long the host has kept a thread waiting for a processor though it had something to run: Linux' schedstat.</summary>
public sealed class RunDelay : IDisposable
{
    private readonly SafeFileHandle _file;

    private RunDelay(SafeFileHandle file) => _file = file;

    /// <summary>That of the calling thread; null on a host that does not tell.</summary>
    public static RunDelay? OfThisThread()
    {
        try
        {
            return new RunDelay(File.OpenHandle("/proc/thread-self/schedstat"));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>In ns since the thread began; 0 if it has ended. Any thread may ask.</summary>
    public long ReadNs()
    {
        // "time on a processor, time waiting for one, times there"
        Span<byte> line = stackalloc byte[64];
        try
        {
            line = line[..RandomAccess.Read(_file, line, 0)];
        }
        catch (IOException)
        {
            return 0;
        }

        var rest = line[(line.IndexOf((byte)' ') + 1)..];
        return Utf8Parser.TryParse(rest, out long delay, out _) ? delay : 0;
    }

    public void Dispose() => _file.Dispose();
}
