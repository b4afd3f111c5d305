using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>What a raw image does with files that are not as they should be.</summary>
public sealed class RawImageTests : IDisposable
{
    private static readonly DriveOptions Raw = new() { Format = "raw" }, ReadOnly = Raw with { IsReadOnly = true };

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-raw-").FullName;
    private readonly ListLogger _log = new();
    private readonly string _path;

    public RawImageTests() => _path = Path.Combine(_directory, "disk.img");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task What_the_host_has_in_memory_is_read_at_once_where_it_can_tell()
    {
        var bytes = Enumerable.Range(0, 8192).Select(i => (byte)(i * 5)).ToArray();
        File.WriteAllBytes(_path, bytes);
        await using var image = Open(Raw);
        var data = new byte[1000];
        await image.ReadAsync(0, new BlockBuffers(new byte[8192])); // from now on it is in memory
        if (image.TryReadAtOnce(500, new BlockBuffers(new[] { data.AsMemory(0, 1), data.AsMemory(1) })))
            Assert.Equal(bytes[500..1500], data);
        Assert.False(image.TryReadAtOnce(-1, new BlockBuffers(data)));
        Assert.False(image.TryReadAtOnce(8192, new BlockBuffers(data)));
        Assert.False(image.TryReadAtOnce(8000, new BlockBuffers(data)));
        Assert.False(image.TryReadAtOnce(long.MaxValue, new BlockBuffers(data)));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(511)]
    [InlineData(513)]
    public async Task The_last_sector_of_an_odd_file_ends_with_zeroes_and_can_be_filled(int length)
    {
        File.WriteAllBytes(_path, [.. Enumerable.Repeat((byte)7, length)]);
        var sectors = (length + 511) / 512;
        await using (var image = Open(Raw))
        {
            var last = await Read(image, (sectors - 1) * 512, 512);
            Assert.Equal(Enumerable.Repeat((byte)7, length - ((sectors - 1) * 512)).Concat(new byte[(sectors * 512) - length]), last);
            await image.WriteAsync((sectors - 1) * 512, new BlockBuffers(Enumerable.Repeat((byte)8, 512).ToArray()));
        }

        Assert.Equal(sectors * 512, new FileInfo(_path).Length);
    }

    [Fact]
    public async Task A_file_that_was_truncated_in_use_reads_as_zeroes_and_says_so_once()
    {
        File.WriteAllBytes(_path, [.. Enumerable.Repeat((byte)7, 4096)]);
        await using var image = Open(Raw);
        using (var file = new FileStream(_path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            file.SetLength(1000);
        Assert.Equal(new byte[512], await Read(image, 1024, 512));
        Assert.Equal(Enumerable.Repeat((byte)7, 488).Concat(new byte[24]), await Read(image, 512, 512));
        Assert.Single(_log.Lines, l => l.Contains("has become shorter", StringComparison.Ordinal));
        await image.WriteAsync(3584, new BlockBuffers(Enumerable.Repeat((byte)9, 512).ToArray()));
        Assert.Equal(4096, new FileInfo(_path).Length);
    }

    [Fact]
    public async Task A_file_that_grew_in_use_keeps_its_length()
    {
        File.WriteAllBytes(_path, new byte[512]);
        await using var image = Open(Raw);
        using (var file = new FileStream(_path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            file.SetLength(4096);
        Assert.Equal(512, image.Length);
        await Assert.ThrowsAsync<BlockException>(() => Read(image, 512, 512));
    }

    [Fact]
    public async Task Discards_and_zeroes_make_holes()
    {
        File.WriteAllBytes(_path, [.. Enumerable.Repeat((byte)7, 1 << 20)]);
        var before = Blocks();
        await using var image = Open(Raw with { Discard = true });
        await image.DiscardAsync(0, 512 << 10);
        await image.WriteZeroesAsync(512 << 10, 256 << 10, mayDiscard: true);
        await image.FlushAsync();
        Assert.Equal(new byte[768 << 10], await Read(image, 0, 768 << 10));
        Assert.Equal(7, (await Read(image, 768 << 10, 1))[0]);
        Assert.InRange(Blocks(), 0, before / 2);
    }

    [Fact]
    public async Task Without_discard_room_is_kept()
    {
        File.WriteAllBytes(_path, [.. Enumerable.Repeat((byte)7, 4096)]);
        await using var image = Open(Raw);
        Assert.False(image.CanDiscard);
        await image.DiscardAsync(0, 4096);
        Assert.Equal(7, (await Read(image, 0, 1))[0]);
    }

    [Fact]
    public async Task Readers_share_an_image_and_a_writer_is_alone()
    {
        File.WriteAllBytes(_path, new byte[512]);
        var writer = Open(Raw);
        Refused(Raw);
        Refused(ReadOnly);
        await writer.DisposeAsync();

        await using var first = Open(ReadOnly);
        await using var second = Open(ReadOnly);
        Refused(Raw);
    }

    [Theory]
    [InlineData("missing.img", "no such file or directory; check the path")]
    [InlineData("", "is a directory; check the path")]
    [InlineData("empty.img", "is empty; a disk has one sector at least: make it longer, as with truncate -s 1G PATH")]
    public void A_file_that_is_no_disk_is_one_line(string name, string message)
    {
        File.WriteAllBytes(Path.Combine(_directory, "empty.img"), []);
        var path = Path.Combine(_directory, name);
        var error = Assert.Throws<ConfigurationException>(() => RawImage.Open(path, Raw, NullLogger.Instance));
        Assert.Equal($"{path}: {message.Replace("PATH", path, StringComparison.Ordinal)}", error.Message);
    }

    [Theory]
    [InlineData("QED\0", 0, "qed")]
    [InlineData("vhdxfile", 0, "vhdx")]
    [InlineData("KDMV", 0, "vmdk")]
    [InlineData("\u007f\u0010\u00da\u00be", 0x40, "vdi")]
    public async Task Another_format_is_recognized_and_can_be_forced_to_be_raw(string magic, int at, string format)
    {
        var bytes = new byte[1024];
        System.Text.Encoding.Latin1.GetBytes(magic).CopyTo(bytes, at);
        File.WriteAllBytes(_path, bytes);
        var error = Assert.Throws<ConfigurationException>(() => ImageFormat.Open(_path, new DriveOptions(), _log, out _));
        Assert.StartsWith($"{_path}: is a {format} image", error.Message, StringComparison.Ordinal);
        await ImageFormat.Open(_path, Raw, _log, out var first).DisposeAsync();
        Assert.Equal(bytes[..512], first.ToArray());
    }

    [Fact]
    public async Task A_guessed_image_cannot_be_made_another_format_by_its_guest()
    {
        File.WriteAllBytes(_path, new byte[1024]);
        await using var image = ImageFormat.Open(_path, new DriveOptions(), _log, out _);
        Assert.Single(_log.Lines, l => l.Contains("format=raw", StringComparison.Ordinal));
        var sector = new byte[1024];
        System.Text.Encoding.Latin1.GetBytes("QFI\u00fb").CopyTo(sector, 0);
        var error = await Assert.ThrowsAsync<BlockException>(async () => await image.WriteAsync(0, new BlockBuffers(sector)));
        Assert.Equal(BlockError.ReadOnly, error.Error);
        // Nor piece by piece.
        await image.WriteAsync(0, new BlockBuffers(sector.AsMemory(0, 2)));
        await Assert.ThrowsAsync<BlockException>(async () => await image.WriteAsync(2, new BlockBuffers(sector.AsMemory(2, 2))));
        // Other sectors are the guest's own.
        await image.WriteAsync(512, new BlockBuffers(sector.AsMemory(0, 512)));
    }

    private RawImage Open(DriveOptions options) => RawImage.Open(_path, options, _log);

    private void Refused(DriveOptions options)
    {
        var error = Assert.Throws<ConfigurationException>(() => Open(options));
        Assert.StartsWith($"{_path}: another process or drive has it open", error.Message, StringComparison.Ordinal);
    }

    private static async Task<byte[]> Read(IBlockImage image, long offset, int length)
    {
        var data = new byte[length];
        await image.ReadAsync(offset, new BlockBuffers(data));
        return data;
    }

    private long Blocks()
    {
        using var stat = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("stat", ["-c", "%b", _path]) { RedirectStandardOutput = true })!;
        return long.Parse(stat.StandardOutput.ReadToEnd(), System.Globalization.CultureInfo.InvariantCulture);
    }
}
