// Looks whether the tables of a VHD are consistent, and repairs footers and batmap.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0.
// Leaves out: blocks that two entries of the table share, of which nobody can know whose they are.
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

internal static class VhdChecker
{
    public static ImageCheckResult Run(ImageFile file, ImageRepair repair)
    {
        var result = new ImageCheckResult();
        var (footer, problem) = VhdImage.ReadFooter(file);
        if (problem is not null)
            Found(result, problem, repair);
        result.ImageEnd = file.Length;
        if (footer.Type == VhdType.Fixed)
        {
            if ((long)footer.DiskSize > file.Length - VhdFooter.Length + 1)
                result.Corruption($"the disk has {footer.DiskSize} bytes, and the file {file.Length}");
            return result;
        }

        var header = VhdHeader.Read(file, footer);
        var table = new VhdTable(file, header, footer, isWritable: repair != ImageRepair.None, NullLogger.Instance);
        foreach (var (block, start) in table.Overlaps())
            result.Corruption($"block {block} at byte {start} lies over a header, a table or another block");
        foreach (var (block, start) in table.Behind(file.Length))
            result.Corruption($"block {block} at byte {start} ends behind the end of the file");
        result.TotalClusters = table.Entries.Count;
        result.AllocatedClusters = table.Entries.Count(e => e != VhdTable.Unused);
        CheckBatmap(table, result, repair);
        if (repair == ImageRepair.All && result.Corruptions > 0)
        {
            table.Repair();
            table.Write();
            file.Sync();
        }

        return result;
    }

    private static void Found(ImageCheckResult result, string message, ImageRepair repair)
    {
        result.Corruption(message);
        if (repair == ImageRepair.All)
            result.FixedCorruptions++;
    }

    private static void CheckBatmap(VhdTable table, ImageCheckResult result, ImageRepair repair)
    {
        if (table.HasBadBatmap)
            Found(result, "its batmap is damaged", repair);
        if (table.Batmap is not { } batmap || result.Corruptions > 0)
            return;
        for (var block = 0; block < table.Entries.Count; block++)
        {
            if (!batmap[block])
                continue;
            var isWrong = table.Entries[block] == VhdTable.Unused || !table.HasAllSectors(block);
            if (!isWrong)
                continue;
            Found(result, $"the batmap says that block {block} is whole, and it is not", repair);
            if (repair == ImageRepair.All)
                batmap[block] = false;
        }
    }
}
