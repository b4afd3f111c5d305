using Sharpvisor.Backends.Block;
using Sharpvisor.Devices.Ide;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What a -drive is connected to.</summary>
internal enum DriveInterface
{
    Ide,

    /// <summary>What a -device says.</summary>
    None,

    Virtio,

    /// <summary>Of a Xen domain.</summary>
    Xen,
}

/// <summary>What -drive and its short forms say, nothing opened yet.</summary>
internal sealed record DriveSpec(string What)
{
    public string? File { get; init; }

    public DriveOptions Options { get; init; } = new();

    public string? Id { get; init; }

    public DriveInterface Interface { get; init; }

    public bool IsCdrom { get; init; }

    /// <summary>Channel times 2 plus unit; null: the first free one.</summary>
    public int? Index { get; init; }

    public string? Serial { get; init; }
}

/// <summary>What -device ide-hd and ide-cd say.</summary>
internal sealed record IdeDeviceSpec(string What)
{
    public bool IsCdrom { get; init; }

    public string? DriveId { get; init; }

    public int? Channel { get; init; }

    public int? Unit { get; init; }

    public int? BootIndex { get; init; }

    public string? Serial { get; init; }

    public string? Model { get; init; }

    public string? Version { get; init; }

    public DiskGeometry? Geometry { get; init; }

    public ErrorPolicy? WriteErrors { get; init; }

    public ErrorPolicy? ReadErrors { get; init; }
}

/// <summary>A drive with a place.</summary>
internal sealed record PlacedDrive(int Channel, int Unit, DriveSpec Drive, IdeDeviceSpec Device)
{
    public int Place => (Channel * 2) + Unit;
}
