using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>Every format, and what it is over, keeps to the contract of images; and checks clean afterwards.</summary>
public sealed class FormatContractTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-formats-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData("qcow2", "")]
    [InlineData("qcow2", "v2")]
    [InlineData("qcow2", "cluster=512")]
    [InlineData("qcow2", "cluster=512,refcounts=1")]
    [InlineData("qcow2", "cluster=4096,refcounts=64")]
    [InlineData("qcow2", "cluster=2097152")]
    [InlineData("qcow2", "lazy")]
    [InlineData("qcow2", "v2,backing")]
    [InlineData("qcow2", "cluster=1024,backing")]
    [InlineData("qcow2", "backing=vhd")]
    [InlineData("qcow2", "cluster=4096,preallocation")]
    [InlineData("qcow2", "direct")]
    [InlineData("vhd", "")]
    [InlineData("vhd", "fixed")]
    [InlineData("vhd", "batmap")]
    [InlineData("vhd", "backing=vhd")]
    [InlineData("vhd", "batmap,backing=vhd")]
    [InlineData("vhd", "direct")]
    public async Task An_image_keeps_to_the_contract(string format, string what)
    {
        var words = what.Split(',');
        var path = Path.Combine(_directory, "disk");
        var backing = Array.Find(words, w => w.StartsWith("backing", StringComparison.Ordinal));
        var options = new ImageOptions
        {
            Version = words.Contains("v2") ? 2 : 3,
            ClusterSize = Number(words, "cluster", 65536),
            RefcountBits = Number(words, "refcounts", 16),
            LazyRefcounts = words.Contains("lazy"),
            IsFixed = words.Contains("fixed"),
            HasBatmap = words.Contains("batmap"),
            Preallocation = words.Contains("preallocation") ? Preallocation.Metadata : Preallocation.Off,
            BackingFile = backing is null ? null : "backing",
        };
        var drive = new DriveOptions { Discard = true, Cache = words.Contains("direct") ? CacheMode.None : CacheMode.Writeback };
        var contract = new BlockImageContract(
            length =>
            {
                if (backing is not null)
                    ImageCreate.Run(Path.Combine(_directory, "backing"), backing == "backing=vhd" ? "vhd" : "raw", new ImageOptions { Size = length }, NullLogger.Instance);
                ImageCreate.Run(path, format, options with { Size = length }, NullLogger.Instance);
                return ImageFormat.Open(path, drive with { Format = format }, NullLogger.Instance);
            },
            isReadOnly => ImageFormat.Open(path, drive with { Format = format, IsReadOnly = isReadOnly }, NullLogger.Instance))
        {
            HasAnyLength = false,
        };
        Assert.Empty(await contract.RunAsync());
        var check = ImageCheck.Run(path, format, ImageRepair.None);
        Assert.Equal([], check.Messages);
    }

    [Fact]
    public async Task A_temporary_overlay_keeps_to_the_contract_and_leaves_its_image_alone()
    {
        var path = Path.Combine(_directory, "disk");
        var drive = new DriveOptions { Format = "raw", IsTemporary = true, Discard = true };
        var opened = 0;
        var contract = new BlockImageContract(
            length =>
            {
                File.WriteAllBytes(path, new byte[length]);
                opened++;
                return ImageFormat.Open(path, drive, NullLogger.Instance);
            },
            isReadOnly => ImageFormat.Open(path, drive with { IsReadOnly = isReadOnly }, NullLogger.Instance));
        var wrong = await contract.RunAsync();
        // What is temporary is gone when it is opened again, and never read-only; its length is one of whole sectors.
        Assert.Equal(["persistence", "read-only", "tail"], wrong.Select(w => w.Split(':')[0]).Order());
        Assert.True(opened > 5);
        Assert.DoesNotContain(File.ReadAllBytes(path), b => b != 0);
    }

    private static int Number(string[] words, string key, int otherwise) =>
        Array.Find(words, w => w.StartsWith(key + "=", StringComparison.Ordinal)) is { } word ? int.Parse(word[(key.Length + 1)..], System.Globalization.CultureInfo.InvariantCulture) : otherwise;
}
