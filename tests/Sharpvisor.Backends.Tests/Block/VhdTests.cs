using System.Buffers.Binary;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Block.Vhd;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>VHDs byte by byte, as their specification has them.</summary>
public sealed class VhdTests : IDisposable
{
    private const int Size = 5 << 20, BlockSize = 2 << 20;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-vhd-").FullName;
    private readonly ListLogger _log = new();

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public void A_new_dynamic_disk_is_laid_out_as_documented()
    {
        var bytes = Create("a", new ImageOptions { Size = Size });
        Assert.Equal("conectix", Encoding.ASCII.GetString(bytes, 0, 8));
        Assert.Equal(bytes[..512], bytes[^512..]);
        Assert.Equal(512UL, U64(bytes, 16));
        Assert.Equal(((ulong)Size, (ulong)Size, 3u), (U64(bytes, 40), U64(bytes, 48), U32(bytes, 60)));
        Assert.Equal("cxsparse", Encoding.ASCII.GetString(bytes, 512, 8));
        Assert.Equal((1536UL, 0x10000u, 3u, (uint)BlockSize), (U64(bytes, 528), U32(bytes, 536), U32(bytes, 540), U32(bytes, 544)));
        Assert.All(bytes[1536..2048], b => Assert.Equal(0xFF, b));
        Assert.Equal(2560, bytes.Length);
    }

    [Fact]
    public async Task A_block_has_its_bitmap_before_it_and_the_footer_behind_it()
    {
        Create("a", new ImageOptions { Size = Size });
        await using (var image = Open("a"))
            await image.WriteAsync(BlockSize + 1000, new BlockBuffers(new byte[] { 1, 2, 3 }));
        var bytes = Bytes("a");
        Assert.Equal((uint.MaxValue, uint.MaxValue), (U32(bytes, 1536), U32(bytes, 1544)));
        var start = (int)U32(bytes, 1540) * 512;
        Assert.All(bytes[start..(start + 512)], b => Assert.Equal(0xFF, b));
        Assert.Equal([0, 1, 2, 3, 0], bytes[(start + 512 + 999)..(start + 512 + 1004)]);
        Assert.Equal(start + 512 + BlockSize + 512, bytes.Length);
        Assert.Equal("conectix", Encoding.ASCII.GetString(bytes, bytes.Length - 512, 8));
    }

    [Fact]
    public async Task A_differencing_disk_names_its_parent_and_has_only_its_own_sectors()
    {
        Create("parent", new ImageOptions { Size = Size });
        await using (var parent = Open("parent"))
            await parent.WriteAsync(0, new BlockBuffers(Enumerable.Repeat((byte)7, 8192).ToArray()));
        var bytes = Create("child", new ImageOptions { BackingFile = "parent" });
        Assert.Equal(4u, U32(bytes, 60));
        Assert.Equal(Bytes("parent")[68..84], bytes[(512 + 40)..(512 + 56)]);
        Assert.Equal("parent", Encoding.BigEndianUnicode.GetString(bytes, 512 + 64, 12));
        var locators = Enumerable.Range(0, 3).Select(i => 512 + 576 + (i * 24)).ToDictionary(at => Encoding.ASCII.GetString(bytes, at, 4), at => bytes[(int)U64(bytes, at + 16)..((int)U64(bytes, at + 16) + (int)U32(bytes, at + 8))]);
        Assert.Equal(".\\parent", Encoding.Unicode.GetString(locators["W2ru"]));
        Assert.Equal(Path.Combine(_directory, "parent").Replace('/', '\\'), Encoding.Unicode.GetString(locators["W2ku"]));
        Assert.Equal("file://./parent", Encoding.UTF8.GetString(locators["MacX"]));

        await using (var child = Open("child"))
        {
            await child.WriteAsync(1024 + 10, new BlockBuffers(new byte[] { 9 }));
            var data = new byte[8192];
            await child.ReadAsync(0, new BlockBuffers(data));
            Assert.Equal(9, data[1034]);
            Assert.Equal(8191, data.Count(b => b == 7));
        }

        bytes = Bytes("child");
        var bitmap = (int)U32(bytes, 1536) * 512;
        Assert.Equal(0b0010_0000, bytes[bitmap]); // the third sector
        Assert.All(bytes[(bitmap + 1)..(bitmap + 512)], b => Assert.Equal(0, b));
        Assert.Empty(ImageCheck.Run(Path.Combine(_directory, "child"), null, ImageRepair.None).Messages);
    }

    [Fact]
    public async Task A_chain_moves_with_its_folder_and_another_parent_is_refused()
    {
        Create("base", new ImageOptions { Size = Size });
        Create("middle", new ImageOptions { BackingFile = "base" });
        Create("top", new ImageOptions { BackingFile = "middle" });
        var moved = Path.Combine(_directory, "moved");
        Directory.CreateDirectory(moved);
        foreach (var name in new[] { "base", "middle", "top" })
            File.Move(Path.Combine(_directory, name), Path.Combine(moved, name));
        await using (var top = Open("moved/top"))
        {
            await top.WriteAsync(Size - 512, new BlockBuffers(new byte[512]));
            // Who is below is shared by readers, and not to be written to.
            var inUse = Assert.Throws<ConfigurationException>(() => Open("moved/base"));
            Assert.Contains("has it open", inUse.Message, StringComparison.Ordinal);
        }

        ImageCreate.Run(Path.Combine(moved, "base"), "vhd", new ImageOptions { Size = Size }, NullLogger.Instance);
        var error = Assert.Throws<ConfigurationException>(() => Open("moved/top"));
        Assert.Contains("UUIDs differ", error.Message, StringComparison.Ordinal);
        File.Delete(Path.Combine(moved, "base"));
        error = Assert.Throws<ConfigurationException>(() => Open("moved/top"));
        Assert.Contains("its parent is not there: ./base", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_parent_named_by_Windows_is_found_beside_its_child()
    {
        Create("parent", new ImageOptions { Size = Size });
        var bytes = Create("child", new ImageOptions { BackingFile = "parent" });
        // The first locator of ours is W2ku, the absolute path; leave that one.
        var at = (int)U64(bytes, 512 + 576 + 16);
        var name = Encoding.Unicode.GetBytes("C:\\disks\\parent");
        name.CopyTo(bytes, at);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(512 + 576 + 8), (uint)name.Length);
        bytes.AsSpan(512 + 576 + 24, 48).Clear();
        bytes.AsSpan(512 + 36, 4).Clear();
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(512 + 36), ~(uint)bytes[512..1536].Sum(b => b));
        await File.WriteAllBytesAsync(Path.Combine(_directory, "child"), bytes);
        await using var child = Open("child");
        Assert.Equal(Path.Combine(_directory, "parent"), child.Backing?.Name);
    }

    [Fact]
    public async Task A_batmap_lies_behind_the_table_and_knows_whole_blocks()
    {
        Create("parent", new ImageOptions { Size = Size });
        var bytes = Create("a", new ImageOptions { BackingFile = "parent", HasBatmap = true });
        Assert.Equal("tap\0", Encoding.ASCII.GetString(bytes, 28, 4));
        Assert.Equal("tdbatmap", Encoding.ASCII.GetString(bytes, 2048, 8));
        Assert.Equal((2560UL, 1u, 0x10002u), (U64(bytes, 2056), U32(bytes, 2064), U32(bytes, 2068)));
        await using (var image = Open("a"))
        {
            Assert.True(((VhdImage)image).HasBatmap);
            await image.WriteAsync(0, new BlockBuffers(new byte[512]));
            await image.WriteAsync(BlockSize, new BlockBuffers(new byte[BlockSize]));
        }

        bytes = Bytes("a");
        Assert.Equal(0b0100_0000, bytes[2560]); // block 1
        Assert.Equal(~(uint)0b0100_0000, U32(bytes, 2072));
        Assert.Empty(ImageCheck.Run(Path.Combine(_directory, "a"), null, ImageRepair.None).Messages);

        // A wrong one is not believed, and made anew.
        bytes[2560] |= 0x80;
        await File.WriteAllBytesAsync(Path.Combine(_directory, "a"), bytes);
        await using (var image = Open("a"))
            Assert.False(((VhdImage)image).HasBatmap);
        Assert.Contains(_log.Lines, l => l.Contains("its batmap has a wrong checksum", StringComparison.Ordinal));
        Assert.True(ImageCheck.Run(Path.Combine(_directory, "a"), null, ImageRepair.All).IsClean);
        Assert.Empty(ImageCheck.Run(Path.Combine(_directory, "a"), null, ImageRepair.None).Messages);
    }

    [Fact]
    public async Task Geometry_is_the_size_of_images_of_Virtual_PC()
    {
        var path = Path.Combine(_directory, "a");
        var bytes = Create("a", new ImageOptions { Size = Size, IsFixed = true });
        Encoding.ASCII.GetBytes("vpc ").CopyTo(bytes, bytes.Length - 512 + 28);
        var footer = bytes.AsSpan(bytes.Length - 512);
        footer[64..68].Clear();
        uint sum = 0;
        foreach (var value in footer)
            sum += value;
        BinaryPrimitives.WriteUInt32BigEndian(footer[64..], ~sum);
        await File.WriteAllBytesAsync(path, bytes);
        await using var image = ImageFormat.Open(path, new DriveOptions { Format = "vpc" }, _log);
        Assert.Equal(BinaryPrimitives.ReadUInt16BigEndian(bytes.AsSpan(bytes.Length - 512 + 56)) * bytes[^454] * bytes[^453] * 512L, image.Length);
        Assert.InRange(image.Length, Size - (17 * 4 * 512), Size);
    }

    private byte[] Create(string name, ImageOptions options)
    {
        ImageCreate.Run(Path.Combine(_directory, name), "vhd", options, NullLogger.Instance);
        return Bytes(name);
    }

    private byte[] Bytes(string name) => File.ReadAllBytes(Path.Combine(_directory, name));

    private DiskImage Open(string name) => ImageFormat.Open(Path.Combine(_directory, name), new DriveOptions(), _log);

    private static uint U32(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(at));

    private static ulong U64(byte[] bytes, int at) => BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(at));
}
