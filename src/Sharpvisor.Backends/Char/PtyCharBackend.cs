// A pseudo terminal (pty(7)) for a terminal program of the user's choice. While nobody has the other end open, output
// is dropped as on an unplugged cable; it may be opened and closed any number of times.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Char;

public sealed class PtyCharBackend : ThreadedCharBackend
{
    private const int LookEveryMilliseconds = 100;
    private readonly Descriptor _master;

    /// <exception cref="ConfigurationException">The host has no pseudo terminals.</exception>
    public PtyCharBackend(ILogger logger) : base("pty", logger)
    {
        try
        {
            _master = Descriptor.OpenPseudoTerminal(out var path);
            Path = path;
            Name = "pty:" + path;
            // Linux reports a hang-up only after the other end was open once.
            using (new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0))
            {
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ConfigurationException($"pty: {e.Message}; use stdio, file: or tcp: instead", e);
        }
    }

    /// <summary>Of the other end: /dev/pts/N.</summary>
    public string Path { get; }

    protected override void ReadLoop()
    {
        var buffer = new byte[4096];
        var wasThere = false;
        while (!Stopping)
        {
            var count = _master.Read(buffer);
            if (count > 0)
            {
                wasThere = true;
                if (!Deliver(buffer.AsSpan(0, count)))
                    return;
            }
            else
            {
                if (wasThere)
                    DeliverHangUp();
                wasThere = false;
                _master.Pause(LookEveryMilliseconds);
            }
        }
    }

    protected override void WriteToHost(ReadOnlySpan<byte> data)
    {
        while (data.Length > 0 && _master.IsConnected())
        {
            var count = _master.Write(data);
            if (count <= 0)
                return;
            data = data[count..];
        }
    }

    protected override void StopHost() => _master.Stop();

    protected override void CloseHost() => _master.Dispose();
}
