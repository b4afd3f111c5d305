// A VHD image: fixed, dynamic or differencing.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0.
// Leaves out: hard disks that are split over several files.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block.Vhd;

/// <summary>An image in the format of Virtual PC, Hyper-V, Azure and Xen.</summary>
public abstract class VhdImage : DiskImage
{
    private protected VhdImage(ImageFile file, DriveOptions options, VhdFooter footer) : base(file, options)
    {
        Footer = footer;
    }

    public override string Format => ImageFormat.Vhd;

    /// <summary>fixed, dynamic or differencing.</summary>
    public string Subformat => Footer.Type.ToString().ToLowerInvariant();

    /// <summary>Four characters that name the program which made it.</summary>
    public string Creator => Footer.Creator.TrimEnd('\0', ' ');

    public Guid Id => new(UniqueId.Span, bigEndian: true);

    public override IReadOnlyList<(string Name, object Value)> Details =>
    [
        ("subformat", Subformat),
        ("creator", Creator),
        ("uuid", Id.ToString()),
        ("batmap", HasBatmap),
    ];

    /// <summary>It has Xen's tdbatmap.</summary>
    public virtual bool HasBatmap => false;

    internal ReadOnlyMemory<byte> UniqueId => Footer.UniqueId;

    internal uint Timestamp => Footer.Timestamp;

    private protected VhdFooter Footer { get; }

    internal static VhdImage Open(ImageFile file, DriveOptions options, ImageChain chain)
    {
        var (footer, problem) = ReadFooter(file);
        if (problem is not null)
            chain.Logger.LogWarning("{Image}: {Problem}", file.Path, problem);
        if (footer.DiskSize > long.MaxValue / 2 || footer.DiskSize == 0)
            throw new BlockException($"is damaged: its VHD footer says that the disk has {footer.DiskSize} bytes; copy it again");
        if (footer.Type == VhdType.Fixed)
            return new VhdFixedImage(file, options, footer);
        if (file.IsBlockDevice && !options.IsReadOnly)
            throw new ConfigurationException($"{file.Path}: a VHD that grows can't be written on a block device; give readonly=on, or convert it to a file");
        var header = VhdHeader.Read(file, footer);
        var parent = footer.Type == VhdType.Differencing && !options.IsAlone ? VhdParent.Open(file, header, options, chain) : null;
        try
        {
            return new VhdDynamicImage(file, options, footer, header, parent, chain.Logger);
        }
        catch
        {
            parent?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// The footer at the end, or else its copy at the start; they differ in the length when a writer was ended between both.
    /// </summary>
    /// <remarks>
    /// Of a disk that grows the last sector is the guest's when the footer is missing, of a fixed one the first always is: what
    /// a guest writes there must not make a parent of any file of the host.
    /// </remarks>
    /// <exception cref="BlockException">There is none.</exception>
    internal static (VhdFooter Footer, string? Problem) ReadFooter(ImageFile file)
    {
        var (first, last) = (new byte[VhdFooter.Length], new byte[VhdFooter.Length]);
        var length = file.Length;
        if (length < VhdFooter.Length)
            throw new BlockException($"is truncated: a VHD has a footer of {VhdFooter.Length} bytes, and the file has {length}");
        file.ReadWhole(0, first, "copy of the footer");
        // Some programs wrote 511 bytes.
        var at = length - VhdFooter.Length + (length % 512 == 511 ? 1 : 0);
        file.ReadPadded(at, new BlockBuffers(last));
        var (copy, footer) = (VhdFooter.TryParse(first), VhdFooter.TryParse(last));
        if (footer is { Type: VhdType.Fixed } || (footer is not null && copy is not null && footer.IsOfSameDisk(copy)))
            return (Known(footer), null);
        if (copy is { Type: not VhdType.Fixed })
            return (Known(copy), "its last sector is no VHD footer, perhaps because it is truncated; the copy at its start is used");
        if (footer is not null)
            return (Known(footer), "the copy of its footer at its start is damaged; sharpvisor image check -r all repairs it");
        throw new BlockException("has no VHD footer with a right checksum, neither in its last sector nor in its first; copy it again, or leave format= out");
    }

    private static VhdFooter Known(VhdFooter footer) => Enum.IsDefined(footer.Type)
        ? footer
        : throw new BlockException($"is a VHD of type {(int)footer.Type}; there are 2 (fixed), 3 (dynamic) and 4 (differencing)");
}
