// New VHDs.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0. The creator is one whose size, not geometry,
// QEMU and Hyper-V believe; "tap" where there is a batmap, which Xen's tools look for only then.
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Block.Vhd;

internal static class VhdCreator
{
    public const long MaximumSize = 2040L << 30;

    /// <param name="file">Empty.</param>
    /// <param name="parent">Of a differencing one; its path.</param>
    /// <exception cref="ConfigurationException">An option is wrong.</exception>
    public static void Create(ImageFile file, ImageOptions options, (string Path, DiskImage Image)? parent)
    {
        var size = (options.Size!.Value + 511) & -512;
        if (size <= 0 || size > MaximumSize)
            throw new ConfigurationException($"{file.Path}: a VHD of {size} bytes can't be; give a size up to 2040G");
        if (options.IsFixed && (parent is not null || options.HasBatmap))
            throw new ConfigurationException($"{file.Path}: a fixed VHD has neither a backing image nor a batmap; give subformat=dynamic");
        if (!options.IsFixed && options.Preallocation != Preallocation.Off)
            throw new ConfigurationException($"{file.Path}: preallocation is for fixed VHDs; give subformat=fixed");
        try
        {
            var creator = options.HasBatmap ? VhdFooter.XenCreator : VhdFooter.SizedCreator;
            var type = options.IsFixed ? VhdType.Fixed : parent is null ? VhdType.Dynamic : VhdType.Differencing;
            var footer = VhdFooter.Create(type, size, creator, Guid.NewGuid());
            if (options.IsFixed)
                CreateFixed(file, footer, size, options.Preallocation);
            else
                CreateDynamic(file, footer, VhdHeader.Create(size, options.BlockSize), options.HasBatmap, parent);
        }
        catch (BlockException e)
        {
            throw new ConfigurationException($"{file.Path}: cannot be made: {e.Message}", e);
        }
    }

    private static void CreateFixed(ImageFile file, VhdFooter footer, long size, Preallocation preallocation)
    {
        if (preallocation == Preallocation.Full)
            file.Clear(0, size);
        else if (preallocation == Preallocation.Falloc)
            file.WriteZeroes(0, size, mayPunch: false);
        file.Write(size, footer.Bytes);
    }

    private static void CreateDynamic(ImageFile file, VhdFooter footer, VhdHeader header, bool hasBatmap, (string Path, DiskImage Image)? parent)
    {
        var table = new byte[header.TableBytes];
        table.AsSpan().Fill(0xFF);
        var end = header.TableOffset + header.TableBytes;
        if (hasBatmap)
        {
            VhdBatmap.Create(end, header.MaximumEntries).Write(file);
            end += VhdBatmap.LengthFor(header.MaximumEntries);
        }

        if (parent is { } found)
        {
            var id = found.Image is VhdImage vhd ? vhd.UniqueId : new byte[16];
            header.SetParent(id, found.Image is VhdImage dated ? dated.Timestamp : 0, Path.GetFileName(found.Path));
            end = VhdParent.Write(file, header, found.Path, end);
        }

        file.Write(header.TableOffset, table);
        file.Write(header.Offset, header.Bytes);
        file.Write(end, footer.Bytes);
        file.Write(0, footer.Bytes);
    }
}
