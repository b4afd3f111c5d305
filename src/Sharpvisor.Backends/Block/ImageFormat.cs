// The formats of disk images by the magic numbers at their start.
// Follows: the formats' own specifications: qcow2 (docs/interop/qcow2.txt), QED, VHD 1.0, VHDX 1.0, VMDK 5.0, VDI,
// Parallels, LUKS.
// Leaves out: formats that nothing marks at the start of the file, such as a VHD of fixed size: they pass for raw.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

/// <summary>Opens an image by its format.</summary>
public static class ImageFormat
{
    public const string Raw = "raw";

    private static readonly (string Name, int Offset, byte[] Magic)[] Magics =
    [
        ("qcow2", 0, [.. "QFI"u8, 0xFB]),
        ("qed", 0, [.. "QED"u8, 0]),
        ("vhd", 0, [.. "conectix"u8]),
        ("vhdx", 0, [.. "vhdxfile"u8]),
        ("vmdk", 0, [.. "KDMV"u8]),
        ("vmdk", 0, [.. "COWD"u8]),
        ("vmdk", 0, [.. "# Disk DescriptorFile"u8]),
        ("vdi", 0x40, [0x7F, 0x10, 0xDA, 0xBE]),
        ("parallels", 0, [.. "WithoutFreeSpace"u8]),
        ("parallels", 0, [.. "WithouFreSpacExt"u8]),
        ("luks", 0, [.. "LUKS"u8, 0xBA, 0xBE]),
    ];

    /// <summary>The formats that can be opened.</summary>
    public static IReadOnlyList<string> Names { get; } = [Raw];

    /// <summary>The format whose magic number a file begins with, or <see cref="Raw"/>.</summary>
    /// <param name="start">The first sector.</param>
    public static string Guess(ReadOnlySpan<byte> start)
    {
        foreach (var (name, offset, magic) in Magics)
        {
            if (start.Length >= offset + magic.Length && start[offset..].StartsWith(magic))
                return name;
        }

        return Raw;
    }

    /// <param name="firstSector">What it begins with.</param>
    /// <exception cref="ConfigurationException">It can't be opened, is in use, or has a format that is not known.</exception>
    public static IBlockImage Open(string path, DriveOptions options, ILogger logger, out ReadOnlyMemory<byte> firstSector)
    {
        if (options.Format is { } format && !Names.Contains(format))
            throw new ConfigurationException($"{path}: images of format {format} are not in this version; there is {string.Join(", ", Names)}");
        var image = RawImage.Open(path, options, logger, isGuessed: options.Format is null);
        try
        {
            var start = new byte[IBlockImage.SectorSize];
            image.Read(0, new BlockBuffers(start));
            firstSector = start;
            if (options.Format is null && Guess(start) is var guess and not Raw)
                throw new ConfigurationException($"{path}: is a {guess} image, which is not in this version; convert it with qemu-img convert -O raw, or give format=raw if the guest shall see it as it is");
        }
        catch (Exception e)
        {
            image.Dispose();
            if (e is BlockException)
                throw new ConfigurationException($"{path}: its first sector cannot be read: {e.Message}; give another image", e);
            throw;
        }

        if (options is { Format: null, IsReadOnly: false })
        {
            logger.LogWarning(
                "{Image}: no format was given and it looks like raw; a guest must not turn it into something else, so writes of another format's header to the first sector are refused: give format=raw to allow them",
                path);
        }

        return image;
    }
}
