// The formats of disk images by the magic numbers at their start, and how one is opened by its format.
// Follows: the formats' own specifications: qcow2 (docs/interop/qcow2.txt), QED, VHD 1.0, VHDX 1.0, VMDK 5.0, VDI,
// Parallels, LUKS.
// Leaves out: formats that nothing marks at the start of the file, such as a VHD of fixed size: they pass for raw, with a
// hint; a guest writes the end of its disk as it likes.
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block.Qcow2;
using Sharpvisor.Backends.Block.Vhd;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Block;

/// <summary>Opens an image by its format.</summary>
public static class ImageFormat
{
    public const string Raw = "raw", Qcow2 = "qcow2", Vhd = "vhd";

    /// <summary>QEMU's name for <see cref="Vhd"/>.</summary>
    public const string Vpc = "vpc";

    private static readonly (string Name, int Offset, byte[] Magic)[] Magics =
    [
        (Qcow2, 0, [.. "QFI"u8, 0xFB]),
        ("qed", 0, [.. "QED"u8, 0]),
        (Vhd, 0, [.. "conectix"u8]),
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
    public static IReadOnlyList<string> Names { get; } = [Raw, Qcow2, Vhd, Vpc];

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

    /// <summary>The same name for what has two.</summary>
    public static string Canonical(string format) => format == Vpc ? Vhd : format;

    /// <param name="firstSector">What the disk begins with.</param>
    /// <exception cref="ConfigurationException">It can't be opened, is in use, is damaged, or has a format that is not known.</exception>
    public static DiskImage Open(string path, DriveOptions options, ILogger logger, out ReadOnlyMemory<byte> firstSector)
    {
        var image = Open(path, options, logger);
        try
        {
            var start = new byte[IBlockImage.SectorSize];
            image.ReadBelow(0, new BlockBuffers(start));
            firstSector = start;
            return image;
        }
        catch (BlockException e)
        {
            image.Dispose();
            throw new ConfigurationException($"{path}: its first sector cannot be read: {e.Message}; give another image", e);
        }
    }

    /// <summary>The image in a file that is open already.</summary>
    /// <param name="path">What the image names beside it is looked for there.</param>
    internal static DiskImage Open(IHostFile file, string path, DriveOptions options, ILogger logger) =>
        new ImageChain(logger).Open(new ImageFile(path, file, options), options);

    /// <inheritdoc cref="Open(string, DriveOptions, ILogger, out ReadOnlyMemory{byte})"/>
    public static DiskImage Open(string path, DriveOptions options, ILogger logger)
    {
        if (!options.IsTemporary)
            return new ImageChain(logger).Open(path, options);
        var backing = new ImageChain(logger).Open(path, options with { IsReadOnly = true, IsTemporary = false, Discard = false });
        try
        {
            return Qcow2Creator.CreateTemporary(backing, options, logger);
        }
        catch
        {
            backing.Dispose();
            throw;
        }
    }
}
