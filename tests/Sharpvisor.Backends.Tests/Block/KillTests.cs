using System.Diagnostics;
using System.Globalization;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>
/// A process that writes to an image is killed at any point: the image checks clean but for leaks, what was flushed is there,
/// and nothing is there that never was written. qemu-img (where it is installed) and <see cref="VhdLayout"/> agree. SHARPVISOR_KILLS=1000 for more kills of each kind.
/// </summary>
public sealed class KillTests : IDisposable
{
    private const long Size = 96 << 20;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-kill-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData("qcow2", false, 65536)]
    [InlineData("qcow2", true, 4096)]
    [InlineData("qcow2-lazy", true, 65536)]
    [InlineData("vhd", false, 0)]
    [InlineData("vhd", true, 0)]
    public async Task Nothing_is_lost_but_what_was_not_flushed(string kind, bool hasBacking, int clusterSize)
    {
        var kills = int.Parse(Environment.GetEnvironmentVariable("SHARPVISOR_KILLS") ?? "3", CultureInfo.InvariantCulture);
        var format = kind.Split('-')[0];
        var path = Path.Combine(_directory, "disk");
        var backing = Path.Combine(_directory, "backing");
        if (hasBacking)
            await MakeBacking(backing, format == "vhd" ? "vhd" : "raw");
        var options = new ImageOptions
        {
            Size = Size,
            ClusterSize = Math.Max(clusterSize, 512),
            LazyRefcounts = kind.EndsWith("lazy", StringComparison.Ordinal),
            BackingFile = hasBacking ? "backing" : null,
            HasBatmap = format == "vhd" && !hasBacking,
        };
        for (var kill = 0; kill < kills; kill++)
        {
            var seed = (kill * 7) + 1;
            ImageCreate.Run(path, format, options, NullLogger.Instance);
            var safe = await WriteUntilKilled(path, format, seed, 20 + (kill * 37 % 400));
            var check = ImageCheck.Run(path, format, options.LazyRefcounts ? ImageRepair.All : ImageRepair.None);
            Assert.True(check.Corruptions == check.FixedCorruptions, $"kill {kill}: {string.Join("; ", check.Messages.Take(5))}");
            if (format == "vhd")
                _ = new VhdLayout(await File.ReadAllBytesAsync(path), hasBacking ? new VhdLayout(await File.ReadAllBytesAsync(backing)) : null);
            else
                Assert.True(QemuImgTests.Check(path) is 0 or QemuImgTests.Leaks, $"kill {kill}: qemu-img check finds errors");
            Assert.True(ImageCheck.Run(path, format, ImageRepair.Leaks).IsClean, $"kill {kill}: leaks can't be repaired");
            Assert.Empty(ImageCheck.Run(path, format, ImageRepair.None).Messages);
            await using var image = ImageFormat.Open(path, new DriveOptions { Format = format, IsReadOnly = true }, NullLogger.Instance);
            // What the writer has begun after the last flush it told of is not known, but one step in thirty is a flush.
            var wrong = await ScriptedWriter.VerifyAsync(image, seed, safe, safe + 2000, s => hasBacking && s % 3 == 0 ? (ulong)s + 1 : 0);
            Assert.True(wrong.Count == 0, $"kill {kill}, safe up to step {safe}: {string.Join("; ", wrong)}");
        }
    }

    private static async Task<long> WriteUntilKilled(string path, string format, int seed, int milliseconds)
    {
        var start = new ProcessStartInfo("dotnet", [typeof(KillTests).Assembly.Location, "write", path, format, seed.ToString(CultureInfo.InvariantCulture)]) { RedirectStandardOutput = true };
        using var process = Process.Start(start)!;
        Assert.Equal("ready", await process.StandardOutput.ReadLineAsync());
        await Task.Delay(milliseconds);
        process.Kill();
        long safe = 0;
        while (await process.StandardOutput.ReadLineAsync() is { } line)
            safe = long.TryParse(line, out var number) ? number : safe;
        await process.WaitForExitAsync();
        return safe;
    }

    private static async Task MakeBacking(string path, string format)
    {
        ImageCreate.Run(path, format, new ImageOptions { Size = Size }, NullLogger.Instance);
        await using var image = ImageFormat.Open(path, new DriveOptions { Format = format }, NullLogger.Instance);
        var data = new byte[1 << 20];
        for (long at = 0; at < Size; at += data.Length)
        {
            for (var i = 0; i < data.Length; i += 512)
            {
                var sector = (at + i) / 512;
                System.Runtime.InteropServices.MemoryMarshal.Cast<byte, ulong>(data.AsSpan(i, 512)).Fill(sector % 3 == 0 ? (ulong)sector + 1 : 0);
            }

            await image.WriteAsync(at, new BlockBuffers(data));
        }

        await image.FlushAsync();
    }
}
