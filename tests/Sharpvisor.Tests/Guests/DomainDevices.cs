using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Tests.Guests;

/// <summary>What the host gives to the disk and the NIC of a domain, and compares with what the guest makes of it.</summary>
internal sealed class DomainDevices : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-xen-").FullName;

    public DomainDevices()
    {
        new Random(1).NextBytes(Data);
        Files.Set("hello", "hello from the network"u8.ToArray());
        Files.Set("data", Data);
        ImagePath = MakeImage("disk");
    }

    /// <summary>What is on each new disk, and behind http://10.0.2.2/data.</summary>
    public byte[] Data { get; } = new byte[24 << 20];

    public string DataHash => Hash(Data);

    public string ImagePath { get; }

    private MemoryContent Files { get; } = new();

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    public BlockDrive OpenDisk() => Open("disk", ImagePath);

    /// <summary>Another disk with the same on it.</summary>
    public BlockDrive OpenSecondDisk() => Open("second", MakeImage("second"));

    public UserNetwork OpenNetwork() => new("user", new UserNetworkOptions { Files = Files, HostForwards = [new HostForward(false, IPAddress.Loopback, 0, null, 80)] }, NullLogger.Instance);

    /// <summary>The machine has ended: there is a file system in the image, and in it, without a gap, a file of 256 KiB.</summary>
    public void AssertImageHolds(string hash)
    {
        const int size = 256 << 10, block = 1024;
        var bytes = File.ReadAllBytes(ImagePath);
        Assert.Equal([0x53, 0xEF], bytes[1080..1082]); // the magic number of ext4
        Assert.Contains(hash, Enumerable.Range(0, (bytes.Length - size) / block).Select(at => Hash(bytes.AsSpan(at * block, size))));
    }

    private static BlockDrive Open(string name, string path) => BlockDrive.Open(name, path, new DriveOptions { Format = "raw", Discard = true }, NullLogger.Instance);

    private static string Hash(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private string MakeImage(string name)
    {
        var path = Path.Combine(_directory, name + ".img");
        File.WriteAllBytes(path, Data);
        return path;
    }
}

/// <summary>The shell of a guest in a domain, and what is done in it with a disk and a network, whoever drives them.</summary>
internal sealed class DomainShell(Machine machine, MemoryCharBackend console, DomainDevices devices, CancellationToken cancellation)
{
    private const string Prompt = ":~# ";

    public Task<string> AwaitPromptAsync() => console.ExpectAsync(Prompt, cancellation);

    public async Task<string> RunAsync(string command)
    {
        await console.WriteLineAsync(command, cancellation);
        return await AwaitPromptAsync();
    }

    /// <summary>Demands a word in what a command prints.</summary>
    public async Task ExpectAsync(string expected, string command) => Assert.Contains(expected, await RunAsync(command), StringComparison.Ordinal);

    /// <summary>A disk that holds the host's data becomes one with a file system, files come and go, blocks are given back.</summary>
    /// <returns>The hash of the file that stays.</returns>
    public async Task<string> FillDiskAsync(string disk)
    {
        await ExpectAsync(devices.DataHash, $"sha256sum {disk}");
        await RunAsync($"mkfs.ext4 -q {disk} && mount -t ext4 {disk} /root && dd if=/dev/urandom of=/root/random bs=64k count=4 iflag=fullblock; cp -r /modules /root/m; sync; rm -r /root/m; fstrim -v /root");
        var hash = (await RunAsync("sha256sum /root/random")).Split("sum /root/random", 2)[1].Trim()[..64];
        await ExpectAsync("0 errors", $"umount /root; e2fsck -fn {disk}; echo $? errors");
        return hash;
    }

    /// <summary>The host's data comes by HTTP, and goes back by a connection of its own.</summary>
    public async Task MoveDataAsync()
    {
        await ExpectAsync(devices.DataHash, "wget -q -O /tmp/data http://10.0.2.2/data; sha256sum /tmp/data");
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var received = ReceiveAsync(listener);
        await RunAsync($"nc 10.0.2.2 {((IPEndPoint)listener.LocalEndpoint).Port} </tmp/data; rm /tmp/data");
        Assert.Equal(devices.Data, await received);
    }

    /// <summary>A disk comes, and its file system is whole.</summary>
    public Task ExpectDiskAsync(string disk) =>
        ExpectAsync("0 errors", $"{Retry($"[ -b {disk} ]")}; e2fsck -fn {disk}; echo $? errors");

    /// <summary>A disk is taken out, and put in again.</summary>
    public async Task TakeOutAndInAsync(Func<XenBackEnd, bool> isIt, string disk)
    {
        var bus = machine.Parts.XenBus!;
        var device = bus.Devices.Single(isIt);
        var isOut = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        device.Forgotten = isOut.SetResult;
        using (machine.Gate.Enter())
            bus.Remove(device);
        await isOut.Task.WaitAsync(cancellation);
        await ExpectAsync("No such file", $"{Retry($"[ ! -e {disk} ]")}; ls {disk}"); // its driver is told when the store's directories are gone
        using (machine.Gate.Enter())
            bus.Add(device);
        await ExpectDiskAsync(disk);
    }

    public async Task PowerOffAsync()
    {
        await console.WriteLineAsync("poweroff", cancellation);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(cancellation)).Reason);
    }

    /// <summary>Waits some seconds for what comes by itself.</summary>
    private static string Retry(string condition) => $"for i in 1 2 3 4 5 6 7 8 9; do {condition} || sleep 0.3; done";

    private async Task<byte[]> ReceiveAsync(TcpListener listener)
    {
        using var client = await listener.AcceptTcpClientAsync(cancellation);
        using var bytes = new MemoryStream();
        await client.GetStream().CopyToAsync(bytes, cancellation);
        return bytes.ToArray();
    }
}
