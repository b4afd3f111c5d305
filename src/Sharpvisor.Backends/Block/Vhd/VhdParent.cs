// Where the parent of a differencing VHD is: up to eight locators, and its name.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Parent Locator Entries"; Xen's blktap for
// MacX (a file URL, from systems that have no backslashes) and for parents without a format, whose UUID is all zeroes.
// Leaves out: locators of classic Mac OS aliases, and the deprecated Wi2r and Wi2k.
using System.Text;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block.Vhd;

internal static class VhdParent
{
    private const uint W2ru = 0x57327275, W2ku = 0x57326B75, MacX = 0x4D616358;
    private const int MaximumPath = 8192;

    /// <exception cref="ConfigurationException">It is not there, or is another image than it was.</exception>
    public static DiskImage Open(ImageFile child, VhdHeader header, DriveOptions options, ImageChain chain)
    {
        var names = Names(child, header).ToList();
        var folder = Path.GetDirectoryName(child.Path) ?? "";
        var path = names.Select(n => Path.Combine(folder, n)).FirstOrDefault(System.IO.File.Exists)
            ?? throw new ConfigurationException($"{child.Path}: its parent is not there: {(names.Count == 0 ? "it names none" : string.Join(", nor ", names))}; put it where the image is");
        var isRaw = !header.ParentId.Span.ContainsAnyExcept((byte)0);
        var parent = chain.OpenBacking(child, Path.GetFullPath(path), isRaw ? FormatOf(path) : ImageFormat.Vhd, options);
        if (isRaw || (parent is VhdImage vhd && vhd.UniqueId.Span.SequenceEqual(header.ParentId.Span)))
            return parent;
        parent.Dispose();
        throw new ConfigurationException($"{child.Path}: its parent {path} is not the image that it was made over (their UUIDs differ); put that one back");
    }

    /// <summary>The paths that an image has for its parent, the best first.</summary>
    public static IEnumerable<string> Names(ImageFile child, VhdHeader header)
    {
        var located = Enumerable.Range(0, VhdHeader.LocatorCount)
            .Select(i => header.Locator(i))
            .Where(l => l.Code is W2ru or W2ku or MacX && l.Length is > 0 and <= MaximumPath)
            .OrderBy(l => l.Code == W2ru ? 0 : l.Code == MacX ? 1 : 2);
        foreach (var (code, length, offset) in located)
        {
            var bytes = new byte[length];
            child.ReadWhole(offset, bytes, "parent locator");
            var name = (code == MacX ? Encoding.UTF8 : Encoding.Unicode).GetString(bytes).TrimEnd('\0');
            if (code == MacX && name.StartsWith("file://", StringComparison.Ordinal))
                name = Uri.UnescapeDataString(name["file://".Length..]);
            if (Plain(name) is { Length: > 0 } plain)
                yield return plain;
        }

        // By its name alone, beside the image.
        if (Path.GetFileName(Plain(header.ParentName)) is { Length: > 0 } file)
            yield return file;
    }

    /// <summary>Writes locators and name of a parent into a header, and the paths behind it.</summary>
    /// <param name="at">Where there is room in the file.</param>
    /// <returns>The end of what was written.</returns>
    public static long Write(ImageFile child, VhdHeader header, string path, long at)
    {
        var absolute = Path.GetFullPath(path);
        var relative = Path.GetRelativePath(Path.GetDirectoryName(Path.GetFullPath(child.Path))!, absolute);
        var dotted = relative.StartsWith("..", StringComparison.Ordinal) || Path.IsPathRooted(relative) ? relative : "./" + relative;
        (uint Code, byte[] Text)[] locators =
        [
            (W2ku, Encoding.Unicode.GetBytes(absolute.Replace('/', '\\'))),
            (W2ru, Encoding.Unicode.GetBytes(dotted.Replace('/', '\\'))),
            (MacX, Encoding.UTF8.GetBytes("file://" + dotted.Replace("%", "%25", StringComparison.Ordinal))),
        ];
        for (var i = 0; i < locators.Length; i++)
        {
            var (code, text) = locators[i];
            var padded = new byte[(text.Length + 511) & ~511];
            text.CopyTo(padded, 0);
            child.Write(at, padded);
            header.SetLocator(i, code, text.Length, at);
            at += padded.Length;
        }

        return at;
    }

    /// <summary>A parent whose UUID is not known: whatever it begins with, but never a guess at what is raw.</summary>
    private static string FormatOf(string path)
    {
        try
        {
            using var file = ImageFile.Open(path, new DriveOptions { IsReadOnly = true, IsShared = true });
            var start = new byte[IBlockImage.SectorSize];
            var count = file.Read(0, new BlockBuffers(start));
            return ImageFormat.Guess(start.AsSpan(0, count)) == ImageFormat.Vhd ? ImageFormat.Vhd : ImageFormat.Raw;
        }
        catch (BlockException)
        {
            return ImageFormat.Raw;
        }
    }

    private static string Plain(string name) => name.Replace('\\', '/').Split('\0')[0];
}
