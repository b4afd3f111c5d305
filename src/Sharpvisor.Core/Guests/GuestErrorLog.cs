using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;

namespace Sharpvisor.Core.Guests;

/// <summary>
/// Counts and reports what a guest does wrong: registers written with reserved values, accesses to nowhere, broken
/// rings. A guest can do so in a loop, so each kind is logged once and then only counted.
/// </summary>
public sealed class GuestErrorLog
{
    private readonly ILogger _logger;
    private readonly ConcurrentDictionary<string, long> _counts = new();

    public GuestErrorLog(ILogger logger)
    {
        _logger = logger;
    }

    /// <summary>Set to see every unassigned access and guest error (<c>-d guest_errors</c>, <c>-d unimp</c>).</summary>
    public Action<string>? Trace { get; set; }

    /// <summary>How often each kind happened, by "device: kind".</summary>
    public IReadOnlyDictionary<string, long> Counts => _counts;

    /// <summary>The guest broke a protocol of <paramref name="device"/>. <paramref name="kind"/> is constant, <paramref name="detail"/> has the values.</summary>
    public void Report(string device, string kind, string detail = "")
    {
        var key = device + ": " + kind;
        var count = _counts.AddOrUpdate(key, 1, (_, n) => n + 1);
        Trace?.Invoke(detail.Length == 0 ? key : key + " " + detail);
        if (count == 1 && _logger.IsEnabled(LogLevel.Debug))
            _logger.LogDebug("guest error in {Device}: {Kind} {Detail}", device, kind, detail);
    }

    /// <summary>An access that no device answers.</summary>
    internal void Unassigned(string space, ulong address, int size, bool write)
    {
        if (Trace is null)
            return;
        Trace($"{space}: unassigned {(write ? "write" : "read")} of {size} at 0x{address:x}");
    }
}
