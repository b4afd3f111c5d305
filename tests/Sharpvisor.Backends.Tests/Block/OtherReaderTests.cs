using System.Diagnostics;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>Random writes here, read by <see cref="OtherReader"/>: every byte is the same.</summary>
[Trait("Category", "Guest")]
public sealed class OtherReaderTests : IDisposable
{
    private const long Size = 24 << 20;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-readers-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [OtherReaderTheory("vhd")]
    [InlineData("fixed")]
    [InlineData("dynamic")]
    [InlineData("dynamic", "batmap")]
    [InlineData("dynamic", "resized")]
    public async Task A_VHD_reads_the_same(string subformat, string what = "")
    {
        var options = new ImageOptions { Size = Size, IsFixed = subformat == "fixed", HasBatmap = what == "batmap" };
        var path = await WriteAsync("disk", "vhd", options, seed: 1);
        if (what == "resized")
        {
            await using var image = ImageFormat.Open(path, new DriveOptions { Format = "vhd" }, NullLogger.Instance);
            await image.ResizeAsync(600 << 20); // a longer table, at another place
            await image.WriteAsync(Size - 5000, new BlockBuffers(Enumerable.Repeat((byte)0x5A, 10_000).ToArray()));
        }

        // libvhdi takes the original size for the size.
        await CompareAsync("vhd", [path], Size);
    }

    [OtherReaderTheory("vhd")]
    [InlineData("")]
    [InlineData("batmap")]
    public async Task A_chain_of_VHDs_reads_the_same(string what)
    {
        var bottom = await WriteAsync("base", "vhd", new ImageOptions { Size = Size }, seed: 2);
        // libvhdi (20210425) takes the last sectors of a byte of a bitmap for the child's if the first ones are.
        var middle = await WriteAsync("middle", "vhd", new ImageOptions { BackingFile = "base", HasBatmap = what == "batmap" }, seed: 3, sectorsAtOnce: 8);
        var top = await WriteAsync("top", "vhd", new ImageOptions { BackingFile = "middle", HasBatmap = what == "batmap" }, seed: 4, sectorsAtOnce: 8);
        await CompareAsync("vhd", [bottom, middle], Size);
        await CompareAsync("vhd", [bottom, middle, top], Size);
    }

    [OtherReaderTheory("qcow2")]
    [InlineData(2, 65536)]
    [InlineData(2, 4096)]
    public async Task A_qcow2_image_reads_the_same(int version, int clusterSize)
    {
        var path = await WriteAsync("disk", "qcow2", new ImageOptions { Size = Size, Version = version, ClusterSize = clusterSize }, seed: 5);
        await CompareAsync("qcow2", [path], Size);
    }

    [OtherReaderTheory("qcow2")]
    [InlineData(65536)]
    public async Task Compressed_clusters_of_qcow2_read_the_same(int clusterSize)
    {
        var source = await WriteAsync("source", "raw", new ImageOptions { Size = Size }, seed: 6);
        var path = Path.Combine(_directory, "disk");
        ImageCreate.Run(path, "qcow2", new ImageOptions { Size = Size, Version = 2, ClusterSize = clusterSize }, NullLogger.Instance);
        await using (var image = ImageFormat.Open(path, new DriveOptions { Format = "qcow2" }, NullLogger.Instance))
        await using (var raw = ImageFormat.Open(source, new DriveOptions { Format = "raw", IsReadOnly = true }, NullLogger.Instance))
            await ImageConvert.RunAsync(raw, image, compress: true, _ => { }, CancellationToken.None);
        await CompareAsync("qcow2", [path], Size);
    }

    private async Task<string> WriteAsync(string name, string format, ImageOptions options, int seed, int sectorsAtOnce = 1)
    {
        var path = Path.Combine(_directory, name);
        ImageCreate.Run(path, format, options, NullLogger.Instance);
        await using var image = ImageFormat.Open(path, new DriveOptions { Format = format, Discard = true }, NullLogger.Instance);
        foreach (var step in ScriptedWriter.Steps(seed, Size / 512 / sectorsAtOnce, longest: 1024 / sectorsAtOnce).Take(200))
            await ScriptedWriter.PerformAsync(image, step with { First = step.First * sectorsAtOnce, Count = step.Count * sectorsAtOnce });
        return path;
    }

    private static async Task CompareAsync(string format, string[] paths, long size)
    {
        await using var image = ImageFormat.Open(paths[^1], new DriveOptions { Format = format, IsReadOnly = true }, NullLogger.Instance);
        string[] arguments = [typeof(OtherReaderTests).Assembly.Location, "read", format, .. paths];
        using var process = Process.Start(new ProcessStartInfo("dotnet", arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        var errors = process.StandardError.ReadToEndAsync();
        using var copy = new MemoryStream();
        await process.StandardOutput.BaseStream.CopyToAsync(copy);
        await process.WaitForExitAsync();
        Assert.True(process.ExitCode == 0, await errors);
        Assert.Equal(size, copy.Length);
        var data = new byte[size];
        await image.ReadAsync(0, new BlockBuffers(data));
        var same = data.AsSpan().CommonPrefixLength(copy.ToArray());
        Assert.True(same == size, $"{paths[^1]}: the byte at {same} differs");
        Assert.True(data.AsSpan().ContainsAnyExcept((byte)0));
    }

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class OtherReaderTheoryAttribute : TheoryAttribute
    {
        public OtherReaderTheoryAttribute(string format)
        {
            if (!OtherReader.IsThere(format))
                Skip = $"run eng/guests.sh first: no {(format == "vhd" ? "libvhdi" : "libqcow")}.so.1";
        }
    }
}
