using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Output;

/// <summary>Where -d writes: standard error, or the file of -D. Lines may come from any thread.</summary>
internal sealed class DebugLog : IAsyncDisposable
{
    private readonly Lock _lock = new();
    private readonly TextWriter _writer;
    private readonly bool _owned;

    /// <param name="path">Null for <paramref name="errors"/>.</param>
    /// <exception cref="ConfigurationException">The file can't be written.</exception>
    public DebugLog(string? path, TextWriter errors)
    {
        _writer = errors;
        if (path is null)
            return;
        try
        {
            _writer = new StreamWriter(path, append: false);
            _owned = true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new ConfigurationException($"-D {path}: cannot be written: {e.Message}; give another path", e);
        }
    }

    public void WriteLine(string line)
    {
        lock (_lock)
            _writer.WriteLine(line);
    }

    public async ValueTask DisposeAsync()
    {
        if (_owned)
            await _writer.DisposeAsync().ConfigureAwait(false);
    }
}
