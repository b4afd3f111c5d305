using System.Buffers.Binary;
using System.Diagnostics;
using System.Globalization;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>
/// Images that someone has damaged, or made to do harm: an error of ours each time, in short time. The mutations are random;
/// SHARPVISOR_IMAGE_FUZZ is their number for each kind of image, SHARPVISOR_IMAGE_SEED the first one's seed.
/// </summary>
public sealed class HostileImageTests : IDisposable
{
    private const int Size = 1 << 20;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-hostile-").FullName;
    private readonly string _path;

    public HostileImageTests() => _path = Path.Combine(_directory, "disk");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData("qcow2", 65536)]
    [InlineData("qcow2", 512)]
    [InlineData("vhd", 0)]
    [InlineData("vhd-batmap", 0)]
    [InlineData("vhd-fixed", 0)]
    [InlineData("vhd-child", 0)]
    [InlineData("qcow2-child", 4096)]
    public async Task Mutated_images_throw_nothing_unexpected(string kind, int clusterSize)
    {
        var count = Setting("SHARPVISOR_IMAGE_FUZZ", 60);
        var first = Setting("SHARPVISOR_IMAGE_SEED", 1);
        var original = await Make(kind, clusterSize);
        for (var seed = first; seed < first + count; seed++)
        {
            var random = new Random(seed);
            await File.WriteAllBytesAsync(_path, Mutate(original, random));
            var time = Stopwatch.StartNew();
            try
            {
                await UseAll(kind.Split('-')[0], random);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"{kind}, seed {seed}: {e.Message}", e);
            }

            Assert.True(time.Elapsed < TimeSpan.FromSeconds(30), $"{kind}, seed {seed}: took {time.Elapsed}");
        }
    }

    [Theory]
    [InlineData("qcow2", 4096)]
    [InlineData("vhd-batmap", 0)]
    public async Task Images_truncated_anywhere_are_an_error_or_read_as_far_as_they_go(string kind, int clusterSize)
    {
        var original = await Make(kind, clusterSize);
        var format = kind.Split('-')[0];
        foreach (var length in Enumerable.Range(0, 60).Select(i => i * 512 + (i % 3)).Where(l => l < original.Length))
        {
            await File.WriteAllBytesAsync(_path, original[..length]);
            await UseAll(format, new Random(length));
        }

        await File.WriteAllBytesAsync(_path, original[..40]);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions { Format = format }, NullLogger.Instance));
        Assert.StartsWith($"{_path}: is truncated: ", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
    }

    [Fact]
    public void A_chain_that_ends_in_itself_is_named()
    {
        var other = Path.Combine(_directory, "other");
        ImageCreate.Run(other, "qcow2", new ImageOptions { Size = Size }, NullLogger.Instance);
        ImageCreate.Run(_path, "qcow2", new ImageOptions { BackingFile = "other" }, NullLogger.Instance);
        // By another name of the same file, and that in place of the image below.
        var link = Path.Combine(_directory, "link");
        ImageCreate.Run(link, "qcow2", new ImageOptions { Size = Size }, NullLogger.Instance);
        ImageCreate.Run(other, "qcow2", new ImageOptions { BackingFile = "link" }, NullLogger.Instance);
        File.Delete(link);
        File.CreateSymbolicLink(link, _path);
        foreach (var isReadOnly in new[] { true, false })
        {
            var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions { IsReadOnly = isReadOnly }, NullLogger.Instance));
            Assert.Contains("is its own backing image", error.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(24, 1L << 60, "a disk of 1152921504606846976 bytes")] // size
    [InlineData(40, 1L << 60, "its L1 table")]
    [InlineData(48, 1L << 60, "its refcount table")]
    [InlineData(56, 0x7FFF_FFFFL << 32, "a refcount table of 2147483647 clusters")]
    [InlineData(60, (long)0x7FFF_FFFF << 32, "2147483647 snapshots")]
    [InlineData(72, 1L << 40, "bit 40")]
    [InlineData(72, 1L << 4, "extended L2 entries")]
    [InlineData(72, 1L << 2, "external data file")]
    [InlineData(72, 2, "is marked as corrupt")]
    public async Task A_qcow2_header_that_claims_too_much_is_one_line(int at, long value, string message)
    {
        var bytes = await Make("qcow2", 65536);
        BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(at), value);
        await File.WriteAllBytesAsync(_path, bytes);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions(), NullLogger.Instance));
        Assert.StartsWith(_path + ": ", error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0)] // the header
    [InlineData(65536)] // the refcount table
    [InlineData(131072)] // a refcount block
    public async Task Data_over_a_table_is_not_written_and_the_image_is_marked_until_repaired(long target)
    {
        var bytes = await Make("qcow2", 65536);
        // The first L2 entry that is there leads to a table.
        var l1 = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(40));
        var l2 = (int)(BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(l1)) & 0x00FF_FFFF_FFFF_FE00);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(l2), (1UL << 63) | (ulong)target);
        if (target == 0)
            BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(l2), (1UL << 63) | 0x7FFF_0000_0000);
        await File.WriteAllBytesAsync(_path, bytes);
        await using (var image = ImageFormat.Open(_path, new DriveOptions(), NullLogger.Instance))
        {
            var error = await Assert.ThrowsAsync<BlockException>(async () => await image.WriteAsync(0, new BlockBuffers(new byte[4096])));
            Assert.Contains("is damaged", error.Message, StringComparison.Ordinal);
            await Assert.ThrowsAsync<BlockException>(async () => await image.WriteAsync(Size / 2, new BlockBuffers(new byte[4096])));
        }

        var refused = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions(), NullLogger.Instance));
        Assert.Contains("is marked as corrupt; repair it with sharpvisor image check -r all", refused.Message, StringComparison.Ordinal);
        var check = ImageCheck.Run(_path, "qcow2", ImageRepair.All);
        Assert.NotEqual(0, check.Corruptions);
        if (target != 0)
            return; // whose the table is can't be known
        Assert.True(check.IsClean);
        Assert.Empty(ImageCheck.Run(_path, "qcow2", ImageRepair.None).Messages);
        await ImageFormat.Open(_path, new DriveOptions(), NullLogger.Instance).DisposeAsync();
    }

    [Fact]
    public async Task The_name_of_a_backing_image_far_away_is_one_line()
    {
        var bytes = await Make("qcow2", 65536);
        BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(8), long.MaxValue);
        BinaryPrimitives.WriteInt32BigEndian(bytes.AsSpan(16), 10);
        await File.WriteAllBytesAsync(_path, bytes);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions(), NullLogger.Instance));
        Assert.Contains("outside of the first cluster", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("L1 table", "refcount table")]
    [InlineData("L1 table", "header")]
    [InlineData("L2 table", "refcount table")]
    [InlineData("L2 table", "refcount block")]
    [InlineData("L2 table", "header")]
    [InlineData("refcount block", "refcount table")]
    public async Task Tables_of_qcow2_over_each_other_are_not_written_to(string what, string where)
    {
        var bytes = await Make("qcow2", 4096);
        var places = new Dictionary<string, long> { ["header"] = 0, ["refcount table"] = 4096, ["refcount block"] = 8192 };
        var at = what switch
        {
            "L1 table" => 40,
            "L2 table" => (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(40)),
            _ => 4096,
        };
        // An L1 entry for cluster 0 would be none.
        if (what == "L2 table" && where == "header")
            BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(48), (long)(BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(at)) & ~(1UL << 63)));
        else
            BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(at), what == "L2 table" ? places[where] | (1L << 63) : places[where]);
        await File.WriteAllBytesAsync(_path, bytes);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions(), NullLogger.Instance));
        Assert.Contains("lies over another table", error.Message, StringComparison.Ordinal);
        var after = await File.ReadAllBytesAsync(_path);
        after[79] = bytes[79]; // it is marked as corrupt
        Assert.Equal(bytes, after);
        Assert.NotEqual(0, ImageCheck.Run(_path, "qcow2", ImageRepair.None).Corruptions);
        await ImageFormat.Open(_path, new DriveOptions { IsReadOnly = true }, NullLogger.Instance).DisposeAsync();
    }

    [Fact]
    public async Task Reserved_bits_of_an_entry_free_no_other_cluster()
    {
        var bytes = await Make("qcow2", 4096);
        var l1 = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(40));
        var l2 = (int)(BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(l1)) & 0x00FF_FFFF_FFFF_FE00);
        bytes[l2 + 7] |= 0x80;
        await File.WriteAllBytesAsync(_path, bytes);
        await using (var image = ImageFormat.Open(_path, new DriveOptions { Discard = true }, NullLogger.Instance))
        {
            await image.DiscardAsync(0, 4096);
            await image.FlushAsync();
        }

        Assert.Empty(ImageCheck.Run(_path, "qcow2", ImageRepair.None).Messages);
    }

    [Fact]
    public async Task Refcounts_that_were_lost_are_counted_anew()
    {
        var bytes = await Make("qcow2", 4096);
        bytes.AsSpan(4096, 8192).Clear(); // refcount table and block
        await File.WriteAllBytesAsync(_path, bytes);
        Assert.NotEqual(0, ImageCheck.Run(_path, "qcow2", ImageRepair.None).Corruptions);
        Assert.True(ImageCheck.Run(_path, "qcow2", ImageRepair.All).IsClean);
        Assert.Empty(ImageCheck.Run(_path, "qcow2", ImageRepair.None).Messages);
        await UseAll("qcow2", new Random(1));
        Assert.Empty(ImageCheck.Run(_path, "qcow2", ImageRepair.None).Messages);
    }

    [Fact]
    public async Task A_VHD_lives_with_one_footer_of_two()
    {
        var bytes = await Make("vhd", 0);
        var before = bytes.ToArray();
        foreach (var damage in new Action[] { () => bytes[100] ^= 1, () => bytes[^400] ^= 1 })
        {
            before.CopyTo(bytes, 0);
            damage();
            await File.WriteAllBytesAsync(_path, bytes);
            Assert.NotEqual(0, ImageCheck.Run(_path, "vhd", ImageRepair.None).Corruptions);
            await using (var image = ImageFormat.Open(_path, new DriveOptions { Format = "vhd" }, NullLogger.Instance))
                Assert.Equal(Size, image.Length);
            Assert.True(ImageCheck.Run(_path, "vhd", ImageRepair.All).IsClean);
            Assert.Empty(ImageCheck.Run(_path, "vhd", ImageRepair.None).Messages);
        }

        bytes[100] ^= 1;
        await File.WriteAllBytesAsync(_path, bytes);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions { Format = "vhd" }, NullLogger.Instance));
        Assert.Contains("has no VHD footer with a right checksum", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Blocks_of_a_VHD_over_each_other_are_not_written_to()
    {
        var bytes = await Make("vhd", 0);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(1536), 3); // the table's own place
        await File.WriteAllBytesAsync(_path, bytes);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions { Format = "vhd" }, NullLogger.Instance));
        Assert.Contains("lies over a header, a table or another block", error.Message, StringComparison.Ordinal);
        Assert.NotEqual(0, ImageCheck.Run(_path, "vhd", ImageRepair.None).Corruptions);
    }

    [Theory]
    [InlineData("its parent")]
    [InlineData("its length")]
    public async Task A_guest_cannot_write_the_footer_of_its_VHD(string what)
    {
        // The end of the file is lost, as when the host ends or is full: its last sector is one of the guest's now.
        var secret = Path.Combine(_directory, "secret");
        File.WriteAllBytes(secret, [.. Enumerable.Repeat((byte)'s', Size)]);
        var path = Path.Combine(_directory, "evil");
        ImageCreate.Run(path, "vhd", new ImageOptions { BackingFile = "secret", BackingFormat = "raw" }, NullLogger.Instance);
        var evil = await File.ReadAllBytesAsync(path);
        ImageCreate.Run(_path, "vhd", new ImageOptions { Size = 2 << 20 }, NullLogger.Instance);
        var footer = evil[..512];
        if (what == "its parent")
        {
            // The header, the table and the parent's name, too, somewhere on the disk: block 0 begins at 4096 of the file.
            BinaryPrimitives.WriteInt64BigEndian(footer.AsSpan(16), 4096 + 512);
            BinaryPrimitives.WriteInt64BigEndian(evil.AsSpan(512 + 16), 4096 + 1536);
            for (var i = 512 + 576; i < 512 + 768; i += 24)
                BinaryPrimitives.WriteInt64BigEndian(evil.AsSpan(i + 16), BinaryPrimitives.ReadInt64BigEndian(evil.AsSpan(i + 16)) + 4096);
        }
        else
        {
            footer = (await File.ReadAllBytesAsync(_path))[..512];
            footer[80] ^= 1; // of another disk
            BinaryPrimitives.WriteInt64BigEndian(footer.AsSpan(48), 1 << 20);
        }

        Seal(footer, 64);
        Seal(evil.AsSpan(512, 1024), 36);
        await using (var image = ImageFormat.Open(_path, new DriveOptions { Format = "vhd" }, NullLogger.Instance))
        {
            await image.WriteAsync(0, new BlockBuffers(evil));
            await image.WriteAsync((2 << 20) - 512, new BlockBuffers(footer));
        }

        var bytes = await File.ReadAllBytesAsync(_path);
        await File.WriteAllBytesAsync(_path, bytes[..^512]);
        await using (var image = ImageFormat.Open(_path, new DriveOptions { Format = "vhd" }, NullLogger.Instance))
        {
            Assert.Equal(2 << 20, image.Length);
            Assert.Null(image.Backing);
            await image.WriteAsync(4096, new BlockBuffers(new byte[] { 1 }));
        }

        Assert.Empty(ImageCheck.Run(_path, "vhd", ImageRepair.None).Messages);
    }

    [Fact]
    public async Task A_batmap_before_its_table_is_not_written()
    {
        ImageCreate.Run(_path, "vhd", new ImageOptions { Size = 8 << 20, HasBatmap = true }, NullLogger.Instance);
        var bytes = await File.ReadAllBytesAsync(_path);
        BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(2048 + 8), 512);
        uint sum = 0;
        foreach (var value in bytes.AsSpan(512, 512))
            sum += value;
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(2048 + 24), ~sum);
        await File.WriteAllBytesAsync(_path, bytes);
        await using (var image = ImageFormat.Open(_path, new DriveOptions { Format = "vhd" }, NullLogger.Instance))
            await image.WriteAsync(0, new BlockBuffers(new byte[4096]));
        Assert.Equal(bytes[512..1536], (await File.ReadAllBytesAsync(_path))[512..1536]);
        Assert.Empty(ImageCheck.Run(_path, "vhd", ImageRepair.None).Messages);
    }

    private static void Seal(Span<byte> bytes, int checksumAt)
    {
        bytes.Slice(checksumAt, 4).Clear();
        uint sum = 0;
        foreach (var value in bytes)
            sum += value;
        BinaryPrimitives.WriteUInt32BigEndian(bytes[checksumAt..], ~sum);
    }

    private static int Setting(string name, int otherwise) =>
        int.Parse(Environment.GetEnvironmentVariable(name) is { Length: > 0 } text ? text : otherwise.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);

    private async Task<byte[]> Make(string kind, int clusterSize)
    {
        var format = kind.Split('-')[0];
        var hasParent = kind.EndsWith("child", StringComparison.Ordinal);
        if (hasParent)
            ImageCreate.Run(Path.Combine(_directory, "parent"), format == "vhd" ? "vhd" : "raw", new ImageOptions { Size = Size }, NullLogger.Instance);
        var options = new ImageOptions
        {
            Size = Size,
            ClusterSize = Math.Max(512, clusterSize),
            BackingFile = hasParent ? "parent" : null,
            IsFixed = kind.EndsWith("fixed", StringComparison.Ordinal),
            HasBatmap = kind.EndsWith("batmap", StringComparison.Ordinal),
        };
        ImageCreate.Run(_path, format, options, NullLogger.Instance);
        await using (var image = ImageFormat.Open(_path, new DriveOptions { Format = format }, NullLogger.Instance))
        {
            var data = new byte[20_000];
            Array.Fill(data, (byte)0x5A);
            foreach (var at in new[] { 0, 100_000, Size - data.Length })
                await image.WriteAsync(at, new BlockBuffers(data));
        }

        return await File.ReadAllBytesAsync(_path);
    }

    /// <summary>Changes a few bytes, mostly where tables are, and sometimes the length.</summary>
    private static byte[] Mutate(byte[] original, Random random)
    {
        var bytes = original.ToArray();
        if (random.Next(8) == 0)
            Array.Resize(ref bytes, random.Next(bytes.Length));
        for (var changes = random.Next(1, 12); changes > 0 && bytes.Length > 0; changes--)
        {
            var area = random.Next(4) switch
            {
                0 => Math.Min(bytes.Length, 120),
                1 => Math.Min(bytes.Length, 4096),
                2 => Math.Min(bytes.Length, 400_000),
                _ => bytes.Length,
            };
            var at = random.Next(4) == 0 ? bytes.Length - 1 - random.Next(Math.Min(512, bytes.Length)) : random.Next(area);
            switch (random.Next(4))
            {
                case 0:
                    bytes[at] ^= (byte)(1 << random.Next(8));
                    break;
                case 1:
                    bytes[at] = (byte)random.Next(256);
                    break;
                case 2 when at + 8 <= bytes.Length:
                    // A number that leads somewhere, or nowhere.
                    BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(at & ~7), random.Next(3) == 0 ? random.NextInt64() : random.Next(0, bytes.Length) & -512);
                    break;
                default:
                    bytes[at] = 0xFF;
                    break;
            }
        }

        // A right checksum leads further.
        if (random.Next(2) == 0)
            SealVhd(bytes);
        return bytes;
    }

    private static void SealVhd(byte[] bytes)
    {
        foreach (var (start, length, checksumAt) in new[] { (0, 512, 64), (512, 1024, 36), (bytes.Length - 512, 512, 64) })
        {
            if (start < 0 || start + length > bytes.Length || (bytes[start] != 'c'))
                continue;
            Seal(bytes.AsSpan(start, length), checksumAt);
        }
    }

    /// <summary>Reads, maps, writes, discards, resizes, checks and repairs. Errors of ours are what is expected.</summary>
    private async Task UseAll(string format, Random random)
    {
        await Try(() =>
        {
            ImageCheck.Run(_path, format, ImageRepair.None);
            return Task.CompletedTask;
        });
        foreach (var isReadOnly in new[] { true, false })
            await Try(() => UseOpened(format, isReadOnly, random));
        await Try(() =>
        {
            ImageCheck.Run(_path, format, ImageRepair.All);
            return Task.CompletedTask;
        });
        await Try(() => UseOpened(format, false, random));
    }

    private async Task UseOpened(string format, bool isReadOnly, Random random)
    {
        await using var image = ImageFormat.Open(_path, new DriveOptions { Format = format, IsReadOnly = isReadOnly, Discard = true }, NullLogger.Instance);
        var data = new byte[64 << 10];
        var limit = Math.Min(image.Length, 4 * Size);
        for (long at = 0; at < limit; at += data.Length)
            await Try(() => image.ReadAsync(at, new BlockBuffers(data.AsMemory(0, (int)Math.Min(data.Length, limit - at)))).AsTask());
        await Try(() =>
        {
            var extents = 0;
            for (long at = 0; at < image.Length && extents < 2000; extents++)
                at += image.Map(at, image.Length - at).Length;
            return Task.CompletedTask;
        });
        if (isReadOnly)
            return;
        for (var i = 0; i < 12; i++)
        {
            var (at, length) = (random.NextInt64(Math.Max(1, limit - data.Length)), random.Next(data.Length));
            await Try(() => (i % 4) switch
            {
                0 => image.WriteZeroesAsync(at, Math.Min(length, limit - at), true).AsTask(),
                1 => image.DiscardAsync(at, Math.Min(length, limit - at)).AsTask(),
                2 => image.FlushAsync().AsTask(),
                _ => image.WriteAsync(at, new BlockBuffers(data.AsMemory(0, (int)Math.Min(length, limit - at)))).AsTask(),
            });
        }

        await Try(() => image.ResizeAsync(2 * Size).AsTask());
    }

    private static async Task Try(Func<Task> action)
    {
        try
        {
            await action();
        }
        catch (Exception e) when (e is BlockException or ConfigurationException)
        {
            Assert.DoesNotContain('\n', e.Message);
            Assert.NotEqual("", e.Message);
        }
    }
}
