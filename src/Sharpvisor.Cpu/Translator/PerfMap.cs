using System.Globalization;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cpu.Translator;

/// <summary>
/// The file by which Linux's perf gives names to generated code: /tmp/perf-PID.map, a line with address, length and
/// name for each block (tools/perf/Documentation/jit-interface.txt of the kernel). Blocks are named by guest RIP.
/// </summary>
public sealed class PerfMap : IDisposable
{
    private readonly Lock _lock = new();
    private readonly StreamWriter _writer;

    /// <exception cref="ConfigurationException">The file can't be written.</exception>
    public PerfMap(string path)
    {
        try
        {
            _writer = new StreamWriter(new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite)) { AutoFlush = true };
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ConfigurationException($"-perfmap: {path} cannot be written ({e.Message}): perf looks for the file there only");
        }
    }

    /// <summary>Where perf looks for the map of this process.</summary>
    public static string DefaultPath => string.Create(CultureInfo.InvariantCulture, $"/tmp/perf-{Environment.ProcessId}.map");

    public void Add(ulong address, ulong length, ulong rip)
    {
        lock (_lock)
            _writer.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{address:x} {length:x} guest_{rip:x}"));
    }

    public void Dispose()
    {
        lock (_lock)
            _writer.Dispose();
    }
}
