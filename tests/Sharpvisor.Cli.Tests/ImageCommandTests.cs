using System.Text.Json;

namespace Sharpvisor.Cli.Tests;

/// <summary>sharpvisor image, as a user types it.</summary>
public sealed class ImageCommandTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-image-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData("qcow2", "")]
    [InlineData("qcow2", "-c ")]
    [InlineData("qcow2", "-o cluster_size=4K,compat=0.10 ")]
    [InlineData("vpc", "")]
    [InlineData("vhd", "-o subformat=fixed ")]
    [InlineData("vhd", "-o batmap=on ")]
    [InlineData("raw", "")]
    public async Task Converts_there_and_back_and_keeps_holes(string format, string options)
    {
        var data = new byte[8 << 20];
        new Random(1).NextBytes(data.AsSpan(1 << 20, 300_000));
        Array.Fill(data, (byte)3, 5 << 20, 5000);
        await File.WriteAllBytesAsync(Path.Combine(_directory, "source"), data);
        await Run(0, $"convert -q -f raw -O {format} {options}DIR/source DIR/there");
        await Run(0, $"convert -q -f {format} -O raw DIR/there DIR/back");
        Assert.Equal(data.Length, (await File.ReadAllBytesAsync(Path.Combine(_directory, "back"))).AsSpan().CommonPrefixLength(data));
        await Run(format == "raw" ? 63 : 0, $"check -f {format} DIR/there");
        var info = JsonDocument.Parse(await Run(0, $"info --json -f {format} DIR/there")).RootElement;
        Assert.Equal(data.Length, info.GetProperty("virtual-size").GetInt64());
        Assert.InRange(info.GetProperty("actual-size").GetInt64(), 4096, 3 << 20);
    }

    [Fact]
    public async Task Chains_are_made_described_mapped_and_resized()
    {
        await Run(0, "create -f raw DIR/base 1M");
        await Run(0, "create -f qcow2 -b base -F raw -o lazy_refcounts=on DIR/top");
        var text = await Run(0, "info --backing-chain DIR/top");
        Assert.Contains("backing file: base (actual path: DIR/base)".Replace("DIR", _directory, StringComparison.Ordinal), text, StringComparison.Ordinal);
        Assert.Contains("lazy refcounts: true", text, StringComparison.Ordinal);
        Assert.Contains("file format: raw", text, StringComparison.Ordinal);
        Assert.Equal("DIR/top: 2 MiB (2097152 bytes)".Replace("DIR", _directory, StringComparison.Ordinal), (await Run(0, "resize DIR/top +1M")).Trim());
        var map = JsonDocument.Parse(await Run(0, "map --output=json DIR/top")).RootElement.EnumerateArray().ToList();
        Assert.Equal(2 << 20, map.Sum(e => e.GetProperty("length").GetInt64()));
        Assert.All(map, e => Assert.True(e.GetProperty("zero").GetBoolean()));
    }

    private async Task<string> Run(int expected, string arguments)
    {
        using StringWriter output = new(), errors = new();
        string[] args = ["image", .. arguments.Split(' ').Select(a => a.Replace("DIR", _directory, StringComparison.Ordinal))];
        var code = await CommandLineTool.RunAsync(args, output, errors);
        Assert.True(code == expected, $"exit code {code}: {errors}{output}");
        return output.ToString();
    }
}
