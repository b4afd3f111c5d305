using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Ide;

namespace Sharpvisor;

/// <summary>A disk or a CD-ROM drive on the PC's IDE controller.</summary>
/// <param name="Channel">0: primary, 1: secondary.</param>
/// <param name="Unit">0: the channel's device 0 (master), 1: its device 1.</param>
public sealed record IdeDrive(BlockDrive Drive, int Channel, int Unit)
{
    /// <summary>The devices that the two channels have room for.</summary>
    public const int MaximumCount = 4;

    public bool IsCdrom { get; init; }

    /// <summary>Up to 20 characters; null: one by its place.</summary>
    public string? Serial { get; init; }

    /// <summary>Up to 40 characters.</summary>
    public string? Model { get; init; }

    /// <summary>Up to 8 characters.</summary>
    public string? Firmware { get; init; }

    /// <summary>When firmware tries to start it: the lowest of all first; null: after those that have one.</summary>
    public int? BootIndex { get; init; }

    /// <summary>Null: guessed from the partition table and the size.</summary>
    public DiskGeometry? Geometry { get; init; }

    /// <summary>The name that QEMU has for a drive at a place: "ide0-hd0", "ide1-cd0".</summary>
    public static string NameOf(int channel, int unit, bool isCdrom) => $"ide{channel}-{(isCdrom ? "cd" : "hd")}{unit}";

    internal IdeIdentity Identity => new(
        Serial ?? $"SV{(Channel * 2) + Unit + 1:D5}",
        Model ?? (IsCdrom ? IdeIdentity.CdromModel : IdeIdentity.DiskModel),
        Firmware ?? "1.0");

    /// <summary>Makes the device, for the board.</summary>
    /// <exception cref="ConfigurationException">It has no medium and needs one.</exception>
    internal IdeDevice Create()
    {
        if (IsCdrom)
            return new AtapiCdrom(Drive, Identity);
        if (!Drive.HasMedium)
            throw new ConfigurationException($"{Drive.Name}: a hard disk needs an image; give it a file");
        return new AtaDisk(Drive, Geometry ?? DiskGeometry.Of(Drive.SectorCount, Drive.FirstSector.Span), Identity);
    }
}
