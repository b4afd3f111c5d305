using System.Text.RegularExpressions;
using Sharpvisor.Tests.Guests;

namespace Sharpvisor.Cli.Tests;

/// <summary>The whole machine is killed while its guest writes: what the guest had made safe is there, on a clean file system.</summary>
[Trait("Category", "Guest")]
public sealed partial class KilledMachineTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-kill-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData("raw", 4)]
    [InlineData("qcow2", 6)]
    [InlineData("vhd", 9)]
    public async Task A_file_system_is_clean_after_a_kill(string format, int files)
    {
        var image = Path.Combine(_directory, $"disk.{format}");
        Assert.Equal(0, (await RunAsync("image", "create", "-f", format, image, "128M")).Code);

        // Each file is named only when it is on the disk.
        const string write = "mkfs.ext4 -q /dev/vda; mount -t ext4 /dev/vda /root; cd /root; for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do "
            + "cp -r /modules m$i; dd if=/dev/urandom of=f$i bs=64k count=5 conv=fsync; sync; md5sum f$i; done; sleep 600";
        using var machine = ToolProcess.Start(Machine(image, format, write));
        var named = new Dictionary<string, string>();
        using (var limit = new CancellationTokenSource(Limit))
        {
            while (named.Count < files)
            {
                var line = await machine.StandardOutput.ReadLineAsync(limit.Token) ?? throw new InvalidOperationException($"ended: {await machine.StandardError.ReadToEndAsync(limit.Token)}");
                if (NamedFile().Match(line) is { Success: true } match)
                    named[match.Groups[2].Value] = match.Groups[1].Value;
            }
        }

        machine.Kill(); // SIGKILL
        await machine.WaitForExitAsync();

        if (format != "raw")
        {
            var check = await RunAsync("image", "check", image);
            Assert.True(check.Code is 0 or 3, check.Output); // clean, or nothing but leaks
        }

        var read = $"e2fsck -p /dev/vda; echo preened $?; e2fsck -fn /dev/vda; echo checked $?; mount -t ext4 /dev/vda /root; cd /root; md5sum {string.Join(' ', named.Keys)}";
        var after = await RunAsync(Machine(image, format, read));
        Assert.Equal(0, after.Code);
        Assert.Matches("preened [01]\r?\n", after.Output); // the journal was played back
        Assert.Matches("checked 0\r?\n", after.Output);
        Assert.All(named, f => Assert.Contains($"{f.Value}  {f.Key}", after.Output, StringComparison.Ordinal));
    }

    [GeneratedRegex("^([0-9a-f]{32})  (f[0-9]+)")]
    private static partial Regex NamedFile();

    private static string[] Machine(string image, string format, string command) =>
    [
        "run", "-m", "256", "-nographic", "-no-reboot", "-kernel", GuestCache.PathOf("cloud/vmlinuz"), "-initrd", GuestCache.PathOf("virtio/initrd.img"),
        "-drive", $"file={image},format={format},if=virtio", "-append", $"console=ttyS0 quiet demo.run=\"{command}\"",
    ];

    private static async Task<(int Code, string Output)> RunAsync(params string[] args)
    {
        var (code, output, errors) = await ToolProcess.RunAsync(Limit, args);
        return (code, output + errors);
    }
}
