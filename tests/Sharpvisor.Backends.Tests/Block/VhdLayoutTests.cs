using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>Chains of VHDs after random writes, read by <see cref="VhdLayout"/>.</summary>
public sealed class VhdLayoutTests : IDisposable
{
    private const int Size = 20 << 20, Sectors = Size / 512, SectorsOfBlock = 4096;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-layout-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_chain_is_laid_out_as_documented(bool hasBatmap)
    {
        Make("base", null, hasBatmap);
        await WriteAsync("base", seed: 1);
        Directory.CreateDirectory(Path.Combine(_directory, "below ä"));
        Make("below ä/middle", "../base", hasBatmap);
        var touched = await WriteAsync("below ä/middle", seed: 2);
        Make("top", "below ä/middle", hasBatmap);
        var touchedLast = await WriteAsync("top", seed: 3, wholeBlock: 3);

        var bottom = new VhdLayout(Bytes("base"));
        var middle = new VhdLayout(Bytes("below ä/middle"), bottom);
        var top = new VhdLayout(Bytes("top"), middle);
        Assert.All(new[] { bottom, middle, top }, l => Assert.Equal((Size, SectorsOfBlock * 512), (l.Size, l.BlockSize)));
        Assert.Equal(("", "base", "middle"), (bottom.ParentName, middle.ParentName, top.ParentName));
        Assert.Equal("..\\base", middle.Locators["W2ru"]);
        Assert.Equal(".\\below ä\\middle", top.Locators["W2ru"]);
        Assert.Equal(Path.Combine(_directory, "below ä/middle").Replace('/', '\\'), top.Locators["W2ku"]);
        Assert.Equal("file://./below ä/middle", top.Locators["MacX"]);

        // What nobody has written is the parent's.
        for (var sector = 0; sector < Sectors; sector++)
        {
            Assert.True(touched.Contains(sector) || !middle.Has(sector), $"the middle has sector {sector}, which nobody wrote");
            Assert.True(touchedLast.Contains(sector) || !top.Has(sector), $"the top has sector {sector}, which nobody wrote");
        }

        Assert.InRange(top.AllocatedBlocks, 2, Sectors / SectorsOfBlock);
        foreach (var (layout, name) in new[] { (bottom, "base"), (middle, "below ä/middle"), (top, "top") })
        {
            if (hasBatmap)
                Assert.Equal(layout.FullBlocks.Order(), layout.Whole!.Order());
            else
                Assert.Null(layout.Whole);
            await using var image = ImageFormat.Open(PathOf(name), new DriveOptions { Format = "vhd", IsReadOnly = true }, NullLogger.Instance);
            var data = new byte[Size];
            await image.ReadAsync(0, new BlockBuffers(data));
            for (var sector = 0; sector < Sectors; sector++)
                Assert.True(data.AsSpan(sector * 512, 512).SequenceEqual(layout.ReadSector(sector)), $"{name}: sector {sector} differs");
        }

        Assert.Contains(3, top.FullBlocks);
        Assert.NotEqual(Sectors / SectorsOfBlock, top.FullBlocks.Count());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_disk_that_has_become_longer_and_shorter_is_laid_out_as_documented(bool hasBatmap)
    {
        Make("disk", null, hasBatmap);
        await WriteAsync("disk", seed: 4);
        foreach (var size in new[] { 700L << 20, 9 << 20, 300 << 20 })
        {
            await using (var image = ImageFormat.Open(PathOf("disk"), new DriveOptions { Format = "vhd" }, NullLogger.Instance))
            {
                await image.ResizeAsync(size);
                await image.WriteAsync(size - 4096, new BlockBuffers(Enumerable.Repeat((byte)5, 4096).ToArray()));
            }

            var layout = new VhdLayout(Bytes("disk"));
            Assert.Equal(size, layout.Size);
            Assert.Equal(Enumerable.Repeat((byte)5, 512), layout.ReadSector((size / 512) - 1));
            if (hasBatmap)
                Assert.Equal(layout.FullBlocks.Order(), layout.Whole!.Order());
        }
    }

    private void Make(string name, string? parent, bool hasBatmap) =>
        ImageCreate.Run(PathOf(name), "vhd", new ImageOptions { Size = Size, BackingFile = parent, HasBatmap = hasBatmap }, NullLogger.Instance);

    /// <summary>Writes at random, over some of the disk, several times with the image opened anew.</summary>
    /// <returns>The sectors that were written.</returns>
    private async Task<HashSet<long>> WriteAsync(string name, int seed, int? wholeBlock = null)
    {
        HashSet<long> touched = [];
        foreach (var steps in ScriptedWriter.Steps(seed, Sectors, longest: 300).Take(120).Chunk(40))
        {
            await using var image = ImageFormat.Open(PathOf(name), new DriveOptions { Format = "vhd", Discard = true }, NullLogger.Instance);
            foreach (var step in steps)
            {
                await ScriptedWriter.PerformAsync(image, step);
                if (step.Kind is ScriptedWriter.Kind.Write or ScriptedWriter.Kind.Zero)
                    touched.UnionWith(Enumerable.Range(0, step.Count).Select(i => step.First + i));
            }

            if (wholeBlock is not { } block)
                continue;
            for (var sector = block * SectorsOfBlock; sector < (block + 1) * SectorsOfBlock; sector += 512)
                await image.WriteAsync(sector * 512L, new BlockBuffers(Enumerable.Repeat((byte)seed, 512 * 512).ToArray()));
            touched.UnionWith(Enumerable.Range(block * SectorsOfBlock, SectorsOfBlock).Select(i => (long)i));
        }

        return touched;
    }

    private string PathOf(string name) => Path.Combine(_directory, name);

    private byte[] Bytes(string name) => File.ReadAllBytes(PathOf(name));
}
