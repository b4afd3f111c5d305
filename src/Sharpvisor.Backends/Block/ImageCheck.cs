// Looks whether what an image says about itself is consistent, and makes it so.
// Follows: qemu-img(1), "check": what counts as a leak and what as corruption.
using Sharpvisor.Backends.Block.Qcow2;
using Sharpvisor.Backends.Block.Vhd;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block;

/// <summary>What a check may change.</summary>
public enum ImageRepair
{
    None,

    /// <summary>Room that counts as used and is not.</summary>
    Leaks,

    /// <summary>Everything that can be repaired.</summary>
    All,
}

/// <summary>What a check found.</summary>
public sealed class ImageCheckResult
{
    private const int MessageLimit = 1000;

    private readonly List<string> _messages = [];

    /// <summary>Room that counts as used and is not: harmless.</summary>
    public long Leaks { get; private set; }

    public long FixedLeaks { get; internal set; }

    /// <summary>What loses data, now or when it is written to.</summary>
    public long Corruptions { get; private set; }

    public long FixedCorruptions { get; internal set; }

    public long TotalClusters { get; internal set; }

    public long AllocatedClusters { get; internal set; }

    public long CompressedClusters { get; internal set; }

    /// <summary>In bytes: the last byte of the file that is used.</summary>
    public long ImageEnd { get; internal set; }

    /// <summary>A line each, the first thousand.</summary>
    public IReadOnlyList<string> Messages => _messages;

    public bool IsClean => Leaks == FixedLeaks && Corruptions == FixedCorruptions;

    internal void Leak(string message)
    {
        Leaks++;
        Say(message);
    }

    internal void Corruption(string message)
    {
        Corruptions++;
        Say(message);
    }

    private void Say(string message)
    {
        if (_messages.Count < MessageLimit)
            _messages.Add(message);
    }
}

public static class ImageCheck
{
    /// <param name="format">Null: by its content.</param>
    /// <exception cref="ConfigurationException">It can't be opened, has no format that can be checked, or is damaged beyond what a check can read.</exception>
    public static ImageCheckResult Run(string path, string? format, ImageRepair repair, bool isShared = false)
    {
        var options = new DriveOptions { Format = format, IsReadOnly = repair == ImageRepair.None, IsShared = isShared, IsRepair = true };
        using var file = ImageFile.Open(path, options);
        return Run(file, format, repair);
    }

    internal static ImageCheckResult Run(ImageFile file, string? format, ImageRepair repair)
    {
        try
        {
            var start = new byte[IBlockImage.SectorSize];
            var count = file.Read(0, new BlockBuffers(start));
            return ImageFormat.Canonical(format ?? ImageFormat.Guess(start.AsSpan(0, count))) switch
            {
                ImageFormat.Qcow2 => Qcow2Checker.Run(file, Qcow2Header.Read(file), repair),
                ImageFormat.Vhd => VhdChecker.Run(file, repair),
                var other => throw new ConfigurationException($"{file.Path}: images of format {other} have nothing that could be checked"),
            };
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{file.Path}: {e.Message}", e);
        }
    }
}
