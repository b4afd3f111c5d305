// Makes new images of every format.
// Follows: qemu-img(1), "create".
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block.Qcow2;
using Sharpvisor.Backends.Block.Vhd;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

public static class ImageCreate
{
    /// <summary>Makes an image; what was in the file is gone.</summary>
    /// <exception cref="ConfigurationException">It can't be made, or an option is wrong.</exception>
    public static void Run(string path, string format, ImageOptions options, ILogger logger)
    {
        format = ImageFormat.Canonical(format);
        if (!ImageFormat.Names.Contains(format))
            throw new ConfigurationException($"{path}: images of format {format} can't be made in this version; there is {string.Join(", ", ImageFormat.Names)}");
        if (options.BackingFile is not null && format == ImageFormat.Raw)
            throw new ConfigurationException($"{path}: a raw image has no backing image; give -f qcow2");
        var backingPath = options.BackingFile is null ? null : ImageChain.PathOf(path, options.BackingFile);
        if (backingPath is not null && Path.GetFullPath(backingPath) == Path.GetFullPath(path))
            throw new ConfigurationException($"{path}: can't be its own backing image; give another one");
        using var backing = backingPath is null ? null : OpenBacking(path, backingPath, options, logger);
        if (backing is not null)
            options = options with { Size = options.Size ?? backing.Length, BackingFormat = options.BackingFormat ?? QemuName(backing.Format) };
        if (options.Size is null)
            throw new ConfigurationException($"{path}: has no size; give one, such as 10G");
        using var file = ImageFile.Create(path);
        switch (format)
        {
            case ImageFormat.Qcow2:
                Qcow2Creator.Create(file, options);
                break;
            case ImageFormat.Vhd:
                if (backing is not null && (options.Size + 511 & -512) != backing.Length)
                    throw new ConfigurationException($"{path}: a differencing VHD has the size of its parent, {backing.Length}; leave the size out");
                VhdCreator.Create(file, options, backing is null ? null : (backingPath!, backing));
                break;
            default:
                CreateRaw(file, options);
                break;
        }
    }

    /// <summary>What QEMU calls a format.</summary>
    public static string QemuName(string format) => format == ImageFormat.Vhd ? ImageFormat.Vpc : format;

    private static DiskImage OpenBacking(string path, string backing, ImageOptions options, ILogger logger)
    {
        try
        {
            return ImageFormat.Open(backing, new DriveOptions { Format = options.BackingFormat, IsReadOnly = true }, logger);
        }
        catch (ConfigurationException e)
        {
            throw new ConfigurationException($"{path}: its backing image cannot be opened: {e.Message}", e);
        }
    }

    private static void CreateRaw(ImageFile file, ImageOptions options)
    {
        try
        {
            if (options.Preallocation == Preallocation.Full)
                file.Clear(0, options.Size!.Value);
            else if (options.Preallocation == Preallocation.Falloc)
                file.WriteZeroes(0, options.Size!.Value, mayPunch: false);
            else if (!file.IsBlockDevice)
                file.SetLength(options.Size!.Value);
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{file.Path}: cannot be made: {e.Message}", e);
        }
    }
}
