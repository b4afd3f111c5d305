using System.Diagnostics;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>Random writes here, checked and compared by qemu-img; and images that qemu-img has made. Skipped where it is not installed.</summary>
public sealed class QemuImgTests : IDisposable
{
    private const long Size = 24 << 20;

    /// <summary>An exit code of <see cref="Check"/>.</summary>
    public const int Leaks = 3;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-qemu-").FullName;

    private static bool IsThere { get; } = (Environment.GetEnvironmentVariable("PATH") ?? "")
        .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
        .Any(f => File.Exists(Path.Combine(f, "qemu-img")));

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [QemuImgTheory]
    [InlineData("qcow2", "cluster_size=64K", "")]
    [InlineData("qcow2", "cluster_size=512,refcount_bits=1", "")]
    [InlineData("qcow2", "cluster_size=2M,refcount_bits=64", "")]
    [InlineData("qcow2", "compat=0.10,cluster_size=4K", "")]
    [InlineData("qcow2", "lazy_refcounts=on", "")]
    [InlineData("qcow2", "", "raw")]
    [InlineData("qcow2", "cluster_size=1K", "qcow2")]
    [InlineData("qcow2", "", "vpc")]
    [InlineData("vpc", "force_size=on", "")]
    [InlineData("vpc", "force_size=on,subformat=fixed", "")]
    public async Task An_image_of_qemu_img_takes_random_writes_and_stays_right_for_it(string format, string options, string backing)
    {
        var (path, model) = (Path.Combine(_directory, "disk"), Path.Combine(_directory, "model"));
        List<string> create = ["create", "-q", "-f", format];
        if (options.Length > 0)
            create.AddRange(["-o", options]);
        if (backing.Length > 0)
        {
            MakeBacking(backing, model);
            create.AddRange(["-b", "backing", "-F", backing]);
        }

        QemuImg([.. create, path, $"{Size}"]);
        await WriteBoth(path, format, model, seed: format.Length + options.Length);
        if (format == "qcow2")
            QemuImg("check", "-q", "-f", format, path);
        QemuImg("compare", "-q", "-f", format, "-F", "raw", path, model);
        // And what it writes then is right here.
        QemuImg(["convert", "-f", format, "-O", format, .. format == "vpc" ? new[] { "-o", "force_size=on" } : [], path, path + "2"]);
        await Compare(path + "2", format, model);
    }

    [QemuImgTheory]
    [InlineData("qcow2", "")]
    [InlineData("vhd", "")]
    [InlineData("vhd", "batmap")]
    [InlineData("vhd", "fixed")]
    public async Task An_image_made_here_is_right_for_qemu_img(string format, string what)
    {
        var (path, model) = (Path.Combine(_directory, "disk"), Path.Combine(_directory, "model"));
        ImageCreate.Run(path, format, new ImageOptions { Size = Size, HasBatmap = what == "batmap", IsFixed = what == "fixed" }, NullLogger.Instance);
        await WriteBoth(path, format, model, seed: 3);
        var qemu = ImageCreate.QemuName(format);
        if (format == "qcow2")
            QemuImg("check", "-q", "-f", qemu, path);
        QemuImg("compare", "-q", "-f", qemu, "-F", "raw", path, model);
        Assert.Empty(ImageCheck.Run(path, format, ImageRepair.None).Messages);
    }

    [QemuImgTheory]
    [InlineData("zlib")]
    [InlineData("zstd")]
    public async Task Compressed_clusters_and_snapshots_of_qemu_img(string compression)
    {
        var (path, model) = (Path.Combine(_directory, "disk"), Path.Combine(_directory, "model"));
        MakeBacking("raw", model);
        QemuImg("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", $"compression_type={compression}", model, path);
        await Compare(path, "qcow2", model);
        QemuImg("snapshot", "-c", "before", path);
        File.Copy(model, model + ".before");
        await WriteBoth(path, "qcow2", model, seed: 4);
        QemuImg("check", "-q", path);
        QemuImg("compare", "-q", "-F", "raw", path, model);
        QemuImg("convert", "-l", "before", "-O", "raw", path, path + ".raw");
        QemuImg("compare", "-q", path + ".raw", model + ".before");
        await Compare(path, "qcow2", model + ".before", "before");
        QemuImg("snapshot", "-a", "before", path);
        await WriteBoth(path, "qcow2", model + ".before", seed: 5);
        QemuImg("check", "-q", path);
        QemuImg("snapshot", "-d", "before", path);
        QemuImg("check", "-q", path);
        await Compare(path, "qcow2", model + ".before");
    }

    private void MakeBacking(string format, string model)
    {
        var data = new byte[Size];
        var random = new Random(1);
        for (var i = 0; i < 60; i++)
            random.NextBytes(data.AsSpan(random.Next((int)Size - 70_000), random.Next(70_000)));
        File.WriteAllBytes(model, data);
        var backing = Path.Combine(_directory, "backing");
        if (format == "vpc")
            QemuImg("convert", "-f", "raw", "-O", format, "-o", "force_size=on", model, backing);
        else
            QemuImg("convert", "-f", "raw", "-O", format, model, backing);
    }

    /// <summary>The same steps to an image and to a raw one.</summary>
    private static async Task WriteBoth(string path, string format, string model, int seed)
    {
        if (!File.Exists(model))
            ImageCreate.Run(model, "raw", new ImageOptions { Size = Size }, NullLogger.Instance);
        await using var image = ImageFormat.Open(path, new DriveOptions { Format = format, Discard = true }, NullLogger.Instance);
        await using var raw = ImageFormat.Open(model, new DriveOptions { Format = "raw" }, NullLogger.Instance);
        Assert.Equal(Size, image.Length);
        foreach (var step in ScriptedWriter.Steps(seed, Size / 512).Take(250))
        {
            foreach (var each in new IBlockImage[] { image, raw })
            {
                if (step.Kind == ScriptedWriter.Kind.Write)
                    await each.WriteAsync(step.First * 512, new BlockBuffers(ScriptedWriter.Content(step)));
                else if (step.Kind == ScriptedWriter.Kind.Zero)
                    await each.WriteZeroesAsync(step.First * 512, step.Count * 512, mayDiscard: step.Number % 2 == 0);
                else
                    await each.FlushAsync();
            }
        }

        // What a discard leaves is the image's choice.
        foreach (var step in ScriptedWriter.Steps(seed + 1, Size / 512).Take(5))
        {
            await image.DiscardAsync(step.First * 512, step.Count * 512);
            var left = new byte[step.Count * 512];
            await image.ReadAsync(step.First * 512, new BlockBuffers(left));
            await raw.WriteAsync(step.First * 512, new BlockBuffers(left));
        }
    }

    private static async Task Compare(string path, string format, string model, string? snapshot = null)
    {
        await using var image = ImageFormat.Open(path, new DriveOptions { Format = format, IsReadOnly = true, Snapshot = snapshot }, NullLogger.Instance);
        var data = new byte[image.Length];
        await image.ReadAsync(0, new BlockBuffers(data));
        var expected = await File.ReadAllBytesAsync(model);
        Assert.Equal(data.Length, data.AsSpan().CommonPrefixLength(expected));
    }

    /// <summary>The exit code of qemu-img check; 0 where it is not installed.</summary>
    public static int Check(string path)
    {
        if (!IsThere)
            return 0;
        using var process = Process.Start(new ProcessStartInfo("qemu-img", ["check", "-q", path]) { RedirectStandardError = true, RedirectStandardOutput = true })!;
        process.WaitForExit();
        return process.ExitCode;
    }

    private static void QemuImg(params string[] args)
    {
        using var process = Process.Start(new ProcessStartInfo("qemu-img", args) { RedirectStandardError = true, RedirectStandardOutput = true })!;
        var errors = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"qemu-img {string.Join(' ', args)}: exit code {process.ExitCode}: {output} {errors.Result}");
    }

    private sealed class QemuImgTheoryAttribute : TheoryAttribute
    {
        public QemuImgTheoryAttribute()
        {
            if (!IsThere)
                Skip = "qemu-img is not installed (package qemu-utils)";
        }
    }
}
