// A file that takes the guest's output; nothing is read from it. Each write goes to the host at once, so that a reader
// of the file sees it and an ending process loses nothing.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Char;

public sealed class FileCharBackend : ThreadedCharBackend
{
    private readonly FileStream _file;
    private bool _failing;

    /// <exception cref="ConfigurationException">The file can't be written.</exception>
    public FileCharBackend(string path, ILogger logger) : base("file:" + path, logger)
    {
        try
        {
            _file = new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            var reason = e switch
            {
                DirectoryNotFoundException => "no such directory",
                _ when Directory.Exists(path) => "is a directory",
                UnauthorizedAccessException => "this user may not write there",
                ArgumentException => "not a file name",
                _ => e.Message,
            };
            throw new ConfigurationException($"file:{path}: cannot be written: {reason}; give another path", e);
        }
    }

    protected override bool HasInput => false;

    protected override void WriteToHost(ReadOnlySpan<byte> data)
    {
        try
        {
            _file.Write(data);
            _failing = false;
        }
        catch (IOException e)
        {
            if (!_failing)
                Logger.LogError("{Backend}: {Reason}; the guest's output is lost until there is room", Name, e.Message);
            _failing = true;
        }
    }

    protected override void StopHost()
    {
    }

    protected override void CloseHost() => _file.Dispose();
}
