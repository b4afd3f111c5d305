using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core.Block;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>What images make of single failures of the host, which <see cref="CrashTests"/> would find by chance only.</summary>
public sealed class FailingHostTests : IDisposable
{
    private const int Size = 1 << 20;

    private static readonly BlockException Full = new(BlockError.NoSpace, "no space left on device");

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-failing-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData("raw")]
    [InlineData("qcow2")]
    [InlineData("vhd")]
    [InlineData("vhd fixed")]
    public async Task After_a_failed_fsync_no_flush_succeeds(string kind)
    {
        // Linux reports what could not be written once, and then forgets it.
        using var file = Make(kind, new ImageOptions { Size = Size, IsFixed = kind.EndsWith("fixed", StringComparison.Ordinal) });
        await using var image = Open(file, kind);
        await image.WriteAsync(0, Data(4096));
        file.Fails = (operation, _) => operation == FileOperation.Sync ? new BlockException("input/output error") : null;
        await Assert.ThrowsAsync<BlockException>(() => image.FlushAsync().AsTask());
        file.Fails = null;
        var error = await Assert.ThrowsAsync<BlockException>(() => image.FlushAsync().AsTask());
        Assert.Contains("the host could not write what was written before (input/output error)", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Without_the_hosts_cache_a_flush_can_be_tried_again()
    {
        using var file = new SimulatedFile(new byte[Size]) { Alignment = 4096 };
        await using var image = Open(file, "raw");
        file.Fails = (operation, _) => operation == FileOperation.Sync ? new BlockException("input/output error") : null;
        await Assert.ThrowsAsync<BlockException>(() => image.FlushAsync().AsTask());
        file.Fails = null;
        await image.FlushAsync();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Zeroes_beside_a_write_of_a_part_of_a_block_stay(bool mayDiscard)
    {
        using var file = new SimulatedFile([.. Enumerable.Repeat((byte)7, 8192)]) { Alignment = 4096 };
        await using var image = Open(file, "raw");
        Task? zeroes = null;
        file.Reading = _ =>
        {
            // The block has been read for the write, and is written back soon. Whoever does not wait now undoes nothing either.
            file.Reading = null;
            zeroes = Task.Run(async () => await image.WriteZeroesAsync(0, 512, mayDiscard));
            zeroes.Wait(TimeSpan.FromMilliseconds(200));
        };
        await image.WriteAsync(512, new BlockBuffers(Enumerable.Repeat((byte)9, 512).ToArray()));
        await zeroes!;
        var bytes = file.ToArray();
        Assert.Equal(new byte[512], bytes[..512]);
        Assert.Equal(Enumerable.Repeat((byte)9, 512), bytes[512..1024]);
        Assert.Equal(7, bytes[1024]);
    }

    [Fact]
    public async Task Bitmaps_of_qcow2_are_marked_as_out_of_date_before_the_first_change_even_if_that_fails_at_first()
    {
        ImageCreate.Run(NewPath(), "qcow2", new ImageOptions { Size = Size }, NullLogger.Instance);
        var bytes = File.ReadAllBytes(NewPath());
        bytes[95] = 1;
        using var file = new SimulatedFile(bytes);
        await using (var image = Open(file, "qcow2"))
        {
            file.Fails = (_, _) => Full;
            await Assert.ThrowsAsync<BlockException>(() => image.WriteAsync(0, Data(512)).AsTask());
            file.Fails = null;
            await image.WriteAsync(0, Data(512));
        }

        Assert.Equal(0UL, BinaryPrimitives.ReadUInt64BigEndian(file.ToArray().AsSpan(88)));
    }

    [Fact]
    public async Task Reads_of_qcow2_need_no_room_for_tables_that_wait_to_be_written()
    {
        const int places = 20, cluster = 2 << 20;
        const long covered = (long)cluster * cluster / 8;
        using var file = Make("qcow2", new ImageOptions { Size = 2 * places * covered, ClusterSize = cluster });
        await using (var image = Open(file, "qcow2"))
        {
            for (var i = 0; i < places; i++)
                await image.WriteAsync(i * covered, Data(512, i));
        }

        await using (var image = Open(file, "qcow2"))
        {
            // Data fit, their tables don't.
            for (var i = 0; i < 15; i++)
            {
                file.Room = file.AllocatedBytes + 4096;
                await image.WriteAsync((places + i) * covered, Data(512, places + i));
            }

            file.Room = file.AllocatedBytes;
            for (var i = 0; i < places; i++)
                await ExpectAsync(image, i * covered, Data(512, i));
            await Assert.ThrowsAsync<BlockException>(() => image.FlushAsync().AsTask());
            file.Room = long.MaxValue;
            await image.FlushAsync();
        }

        await using (var image = Open(file, "qcow2"))
        {
            for (var i = 0; i < places + 15; i++)
                await ExpectAsync(image, i * covered, Data(512, i));
        }
    }

    [Fact]
    public async Task A_table_of_qcow2_that_is_copied_when_there_are_many_is_not_forgotten()
    {
        const int places = 16, cluster = 2 << 20;
        const long covered = (long)cluster * cluster / 8;
        using var made = Make("qcow2", new ImageOptions { Size = places * covered, ClusterSize = cluster });
        await using (var image = Open(made, "qcow2"))
        {
            for (var i = 0; i < places; i++)
                await image.WriteAsync(i * covered, Data(512, i));
        }

        // As if a snapshot had them, too.
        var bytes = made.ToArray();
        var l1 = (int)BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(40));
        for (var i = 0; i < places; i++)
            bytes[l1 + (i * 8)] &= 0x7F;
        using var file = new SimulatedFile(bytes);
        await using (var image = Open(file, "qcow2"))
        {
            for (var i = 0; i < 2 * places; i++)
                await ExpectAsync(image, i % places * covered, Data(512, i % places));
            for (var i = places - 1; i >= 0; i--)
                await image.WriteAsync((i * covered) + cluster, Data(512, places + i));
        }

        await using (var image = Open(file, "qcow2"))
        {
            for (var i = 0; i < places; i++)
            {
                await ExpectAsync(image, i * covered, Data(512, i));
                await ExpectAsync(image, (i * covered) + cluster, Data(512, places + i));
            }
        }
    }

    [Theory]
    [InlineData("qcow2", 2 << 20, 0)]
    [InlineData("qcow2", 16 << 20, 0)]
    [InlineData("qcow2", 512 << 10, 0)]
    [InlineData("qcow2", 2 << 20, 4 << 20)]
    [InlineData("vhd", 2 << 20, 0)]
    [InlineData("vhd", 16 << 20, 0)]
    [InlineData("vhd", 512 << 10, 0)]
    [InlineData("vhd batmap", 16 << 20, 0)]
    [InlineData("vhd fixed", 2 << 20, 0)]
    [InlineData("vhd fixed", 512 << 10, 0)]
    public async Task Another_length_is_there_or_not(string kind, int length, int backing)
    {
        var format = kind.Split(' ')[0];
        if (backing > 0)
        {
            ImageCreate.Run(Path.Combine(_directory, "backing"), "raw", new ImageOptions { Size = backing }, NullLogger.Instance);
            File.WriteAllBytes(Path.Combine(_directory, "backing"), [.. Enumerable.Repeat((byte)0x77, backing)]);
        }

        var options = new ImageOptions
        {
            Size = Size + 512,
            ClusterSize = 4096,
            BlockSize = 64 << 10,
            IsFixed = kind.EndsWith("fixed", StringComparison.Ordinal),
            HasBatmap = kind.EndsWith("batmap", StringComparison.Ordinal),
            BackingFile = backing > 0 ? "backing" : null,
        };
        byte[] before;
        using (var first = Make(kind, options))
        {
            await using (var image = Open(first, kind))
            {
                await image.WriteAsync(0, Data(200_000, 1));
                await image.WriteAsync(Size - 100_000, Data(100_512, 2));
            }

            before = first.ToArray();
        }

        byte[] old;
        var count = 0;
        using (var file = new SimulatedFile(before))
        {
            await using (var image = Open(file, kind))
            {
                old = await ReadAllAsync(image);
                await image.ResizeAsync(length);
                count = file.Count;
            }

            // Killed on the way.
            for (var at = 0; at <= file.Count; at++)
            {
                using var left = file.AfterKill(at);
                var check = Check(left, format);
                Assert.True(check.Corruptions == 0, $"killed after {at} of {file.Count}: {string.Join("; ", check.Messages.Take(3))}");
                await ExpectLengthAsync(left, kind, old, length, $"killed after {at} of {file.Count}");
            }
        }

        // One operation fails, and the disk is used on.
        for (var failing = 0; failing < count; failing++)
        {
            using var file = new SimulatedFile(before);
            await using (var image = Open(file, kind))
            {
                var asked = 0;
                file.Fails = (operation, _) => asked++ == failing && operation != FileOperation.Sync ? Full : null;
                try
                {
                    await image.ResizeAsync(length);
                }
                catch (BlockException)
                {
                    Assert.True(image.Length == old.Length || image.Length == length, $"operation {failing} failed: {image.Length} bytes");
                }

                file.Fails = null;
                await image.WriteAsync(4096, Data(300_000, 3));
                await image.FlushAsync();
            }

            var check = Check(file, format);
            Assert.True(check.Corruptions == 0, $"operation {failing} failed: {string.Join("; ", check.Messages.Take(3))}");
            var model = old.ToArray();
            Gather(Data(300_000, 3)).CopyTo(model, 4096);
            await ExpectLengthAsync(file, kind, model, length, $"operation {failing} failed");
        }
    }

    [Fact]
    public async Task What_an_unsafe_cache_cannot_write_in_the_end_is_told()
    {
        using var file = Make("qcow2", new ImageOptions { Size = Size });
        var log = new ListLogger();
        var options = new DriveOptions { Format = "qcow2", Cache = CacheMode.Unsafe };
        var drive = new BlockDrive("drive0", ImageFormat.Open(file, NewPath(), options, NullLogger.Instance), options, log);
        var gate = new Core.MachineGate();
        var done = new TaskCompletionSource<BlockError>();
        using (gate.Enter())
            drive.Submit(new BlockRequest(r => done.SetResult(r.Error)).Write(0, Data(512)));
        Assert.Equal(BlockError.None, await done.Task);
        file.Fails = (_, _) => Full;
        await drive.DisposeAsync();
        Assert.Contains(log.Lines, l => l.Contains("what the guest wrote last may be lost", StringComparison.Ordinal));
    }

    private string NewPath() => Path.Combine(_directory, "disk");

    private SimulatedFile Make(string kind, ImageOptions options)
    {
        ImageCreate.Run(NewPath(), kind.Split(' ')[0], options, NullLogger.Instance);
        return new SimulatedFile(File.ReadAllBytes(NewPath()));
    }

    private DiskImage Open(SimulatedFile file, string kind, bool isReadOnly = false) =>
        ImageFormat.Open(file, NewPath(), new DriveOptions { Format = kind.Split(' ')[0], IsReadOnly = isReadOnly, Discard = true }, NullLogger.Instance);

    private ImageCheckResult Check(SimulatedFile file, string format) => ImageCheck.Run(new ImageFile(NewPath(), file, new DriveOptions()), format, ImageRepair.None);

    private async Task ExpectLengthAsync(SimulatedFile file, string kind, byte[] old, int length, string what)
    {
        await using var image = Open(file, kind, isReadOnly: true);
        Assert.True(image.Length == old.Length || image.Length == length, $"{what}: {image.Length} bytes");
        var data = await ReadAllAsync(image);
        // What a shorter length takes away may be gone before it is shorter.
        var kept = Math.Min(old.Length, length);
        Assert.True(data.AsSpan(0, kept).CommonPrefixLength(old) >= kept, $"{what}: byte {data.AsSpan(0, kept).CommonPrefixLength(old)} of {data.Length} has changed");
        // A fixed VHD has its old footer there for a moment, after the new one is behind it.
        var added = data.AsSpan(Math.Min(data.Length, old.Length + (kind == "vhd fixed" ? 512 : 0)));
        if (data.Length > old.Length)
            Assert.True(!added.ContainsAnyExcept((byte)0), $"{what}: it is longer by something else than zeroes");
    }

    private static async Task<byte[]> ReadAllAsync(DiskImage image)
    {
        var data = new byte[image.Length];
        await image.ReadAsync(0, new BlockBuffers(data));
        return data;
    }

    private static BlockBuffers Data(int length, int seed = 0)
    {
        var data = new byte[length];
        new Random(seed).NextBytes(data);
        return new BlockBuffers(data);
    }

    private static byte[] Gather(BlockBuffers buffers)
    {
        var data = new byte[buffers.Length];
        buffers.CopyTo(data);
        return data;
    }

    private static async Task ExpectAsync(DiskImage image, long offset, BlockBuffers expected)
    {
        var data = new byte[expected.Length];
        await image.ReadAsync(offset, new BlockBuffers(data));
        Assert.Equal(Gather(expected), data);
    }
}
