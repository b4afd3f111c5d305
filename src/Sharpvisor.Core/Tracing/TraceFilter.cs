using System.Globalization;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Tracing;

/// <summary>
/// Which events are wanted: "interrupt", "exception:14", "syscall:0-2", "port:0x3f8-0x3ff", "mmio", "virtio:virtio-blk".
/// Behind the colon stand numbers (vectors, system calls, addresses; one, or first and last) or a part of a device's name.
/// </summary>
public sealed record TraceFilter(TraceKind Kind, ulong First, ulong Last, string Device)
{
    /// <summary>The names of the kinds, "all" aside.</summary>
    public static IReadOnlyList<string> Names { get; } = ["interrupt", "exception", "syscall", "port", "mmio", "virtio", "hypercall"];

    /// <exception cref="ConfigurationException">There is no such kind, or the numbers are none.</exception>
    public static TraceFilter Parse(string text)
    {
        var parts = text.Split(':', 2);
        var index = Names.ToList().IndexOf(parts[0]);
        if (index < 0 && parts[0] is not ("all" or "*"))
            throw new ConfigurationException($"trace \"{text}\": no such event; there are {string.Join(", ", Names)} and all");
        var kind = index < 0 ? TraceKind.All : (TraceKind)(1 << index);
        if (parts.Length == 1)
            return new TraceFilter(kind, 0, ulong.MaxValue, "");
        if (index < 0)
            throw new ConfigurationException($"trace \"{text}\": give a kind of event before the colon");
        var limits = parts[1].Split('-', 2);
        if (TryParse(limits[0], out var first))
        {
            if (!TryParse(limits[^1], out var last) || last < first)
                throw new ConfigurationException($"trace \"{text}\": give a number, or the first and the last one: {parts[0]}:1-3");
            return new TraceFilter(kind, first, last, "");
        }

        if (kind is not (TraceKind.Port or TraceKind.Mmio or TraceKind.Virtio))
            throw new ConfigurationException($"trace \"{text}\": \"{parts[1]}\" is no number");
        return new TraceFilter(kind, 0, ulong.MaxValue, parts[1]);
    }

    public bool Wants(in TraceEvent e) =>
        (Kind & e.Kind) != 0 && e.Number >= First && e.Number <= Last && (Device.Length == 0 || e.Device.Contains(Device, StringComparison.OrdinalIgnoreCase));

    /// <summary>As <see cref="Parse"/> takes it.</summary>
    public override string ToString()
    {
        var name = Kind == TraceKind.All ? "all" : Names[System.Numerics.BitOperations.TrailingZeroCount((int)Kind)];
        return Device.Length > 0 ? $"{name}:{Device}" : First == 0 && Last == ulong.MaxValue ? name : FormattableString.Invariant($"{name}:0x{First:x}-0x{Last:x}");
    }

    private static bool TryParse(string text, out ulong number) => text.StartsWith("0x", StringComparison.OrdinalIgnoreCase)
        ? ulong.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out number)
        : ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);
}
