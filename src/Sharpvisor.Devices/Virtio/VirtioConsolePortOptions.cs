using Sharpvisor.Core.Char;

namespace Sharpvisor.Devices.Virtio;

/// <summary>A port of a <see cref="VirtioConsole"/>.</summary>
/// <param name="Number">Its own among the ports; that of 0 is all that a driver without multiport sees.</param>
public sealed record VirtioConsolePortOptions(int Number)
{
    /// <summary>A system uses it as a console (Linux: hvc0); otherwise it is for programs (/dev/virtio-ports).</summary>
    public bool IsConsole { get; init; }

    /// <summary>By which programs in the guest find it, in ASCII; null: it has none.</summary>
    public string? Name { get; init; }

    /// <summary>Where it leads; null: nowhere.</summary>
    public ICharBackend? Backend { get; init; }
}
