// An image and what it lies over, file by file: each named by the one above, so that a file may name one that is there
// already, one on another machine, or one that is not a file at all.
// Follows: QEMU for names in qcow2: relative to the folder of the image that has them, "file:" before a path.
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block.Qcow2;
using Sharpvisor.Backends.Block.Vhd;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

internal sealed class ImageChain(ILogger logger)
{
    /// <summary>More images over each other than this are a mistake, and each takes a file, memory and stack.</summary>
    private const int Limit = 256;

    private readonly HashSet<(ulong, ulong)> _files = [];

    public ILogger Logger => logger;

    /// <exception cref="ConfigurationException">It can't be opened, is in use, is damaged, or has a format that is not known.</exception>
    public DiskImage Open(string path, DriveOptions options)
    {
        if (options.Format is { } given && !ImageFormat.Names.Contains(given))
            throw new ConfigurationException($"{path}: images of format {given} are not in this version; there is {string.Join(", ", ImageFormat.Names)}");
        CheckCycle(path);
        return Open(ImageFile.Open(path, options), options);
    }

    /// <summary>The image in a file that is open, which is closed with it, or when there is none.</summary>
    public DiskImage Open(ImageFile file, DriveOptions options)
    {
        var path = file.Path;
        try
        {
            var start = new byte[IBlockImage.SectorSize];
            var count = file.Read(0, new BlockBuffers(start));
            var format = ImageFormat.Canonical(options.Format ?? ImageFormat.Guess(start.AsSpan(0, count)));
            if (options.Snapshot is { } snapshot && format != ImageFormat.Qcow2)
                throw new ConfigurationException($"{path}: has no snapshot \"{snapshot}\": only qcow2 images have any");
            switch (format)
            {
                case ImageFormat.Qcow2:
                    return Qcow2Image.Open(file, options, this);
                case ImageFormat.Vhd:
                    return VhdImage.Open(file, options, this);
                case ImageFormat.Raw:
                    return OpenRaw(file, options);
                default:
                    throw new ConfigurationException($"{path}: is a {format} image, which is not in this version; convert it with qemu-img convert -O qcow2, or give format=raw if the guest shall see it as it is");
            }
        }
        catch (BlockException e)
        {
            file.Dispose();
            throw new ConfigurationException($"{path}: {e.Message}", e);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Opens what an image lies over, for reading.</summary>
    /// <param name="name">As the image above has it.</param>
    /// <param name="format">As the image above has it; null: it does not say.</param>
    public DiskImage OpenBacking(ImageFile above, string name, string? format, DriveOptions options)
    {
        var path = PathOf(above.Path, name);
        try
        {
            return Open(path, new DriveOptions { Format = format, IsReadOnly = true, Cache = options.Cache, IsShared = options.IsShared });
        }
        catch (ConfigurationException e)
        {
            throw new ConfigurationException($"{above.Path}: its backing image cannot be opened: {e.Message}", e);
        }
    }

    /// <summary>The path of an image that another one names.</summary>
    public static string PathOf(string above, string name)
    {
        if (name.StartsWith("json:", StringComparison.Ordinal))
            throw new ConfigurationException($"{above}: its backing image is described by JSON ({Shorten(name)}), which is not in this version; give it a path with qemu-img rebase -u -b");
        if (name.StartsWith("file:", StringComparison.Ordinal))
            name = name["file:".Length..];
        else if (name.IndexOf(':', StringComparison.Ordinal) is > 0 and var colon && !name.AsSpan(0, colon).Contains('/'))
            throw new ConfigurationException($"{above}: its backing image {Shorten(name)} is reached by a protocol, which is not in this version; make a copy in a file and name that with qemu-img rebase -u -b");
        return Path.IsPathRooted(name) ? name : Path.Combine(Path.GetDirectoryName(above) ?? "", name);
    }

    private static string Shorten(string text) => text.Length <= 60 ? text : string.Concat(text.AsSpan(0, 60), "...");

    private RawImage OpenRaw(ImageFile file, DriveOptions options)
    {
        var isGuessed = options.Format is null;
        var image = RawImage.Open(file, options, logger, isGuessed);
        if (isGuessed && !options.IsReadOnly)
        {
            logger.LogWarning(
                "{Image}: no format was given and it looks like raw; a guest must not turn it into something else, so writes of another format's header to the first sector are refused: give format=raw to allow them",
                file.Path);
        }

        if (isGuessed && VhdFooter.EndsFixedDisk(file))
            logger.LogWarning("{Image}: ends like a VHD of fixed size, but counts as raw, because a guest can write the end of its disk: give format=vhd if it is one", file.Path);
        return image;
    }

    private void CheckCycle(string path)
    {
        if (_files.Count == Limit)
            throw new ConfigurationException($"{path}: more than {Limit} images lie over each other; merge some with qemu-img commit or convert");
        // Before its locks are taken: one that is there already would look like one in use.
        try
        {
            using var file = Core.Host.HostFile.Open(path, writable: false, direct: false);
            if (!_files.Add(file.Identity))
                throw new ConfigurationException($"{path}: is its own backing image, directly or over others; give one of them another with qemu-img rebase -u -b");
        }
        catch (BlockException)
        {
            // To be named when it is opened.
        }
    }
}
