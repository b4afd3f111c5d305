using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Cli.Tests;

/// <summary>Monitors and QMP of the tool as a process: on its standard input, on sockets, from another process.</summary>
public sealed class ControlProcessTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);
    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-monitor-").FullName;

    private string Kernel => Path.Combine(_directory, "tiny");

    [Fact]
    public async Task Ctrl_A_c_switches_between_the_guest_and_the_monitor()
    {
        using var tool = Start("-serial", "mon:stdio");
        await ReadUntil(tool, "Hi");
        await tool.StandardInput.WriteAsync("a\u0001c");
        Assert.Contains("monitor - type 'help'", await ReadUntil(tool, "(qemu) "), StringComparison.Ordinal);
        await tool.StandardInput.WriteAsync("stop\rinfo status\r");
        await ReadUntil(tool, "VM status: paused");
        // A guest that does not read keeps nobody from the monitor.
        await tool.StandardInput.WriteAsync("cont\u0001c" + new string('b', 200) + "Z\u0001c\r");
        await ReadUntil(tool, "(qemu) cont\r\n");
        Assert.Equal(200, (await ReadUntil(tool, "Z")).Count(c => c == 'b')); // perhaps with the monitor's prompt between them
        await tool.StandardInput.WriteAsync("quit\r");
        Assert.Equal(0, await ExitCode(tool));
    }

    [Fact]
    public async Task Another_process_finds_the_machine_by_its_name()
    {
        var name = $"cli-{Guid.NewGuid():N}";
        using var tool = Start("-name", name, "-no-shutdown");
        await ReadUntil(tool, "Hi");
        while (!MachineDirectory.List().Any(m => m.Name == name))
            await Task.Delay(20);
        Assert.Contains($"{tool.Id,-8} running         {name}", (await Run("list")).Output, StringComparison.Ordinal);
        Assert.Equal((0, $"VM status: running{Environment.NewLine}", ""), await Run("monitor", name, "info status"));
        Assert.Equal((0, $"VM status: running{Environment.NewLine}", ""), await Run("monitor", $"{tool.Id}", "info", "status"));
        Assert.Equal(1, (await Run("monitor", name, "nonsense")).Code);
        Assert.Equal((0, "", ""), await Run("monitor", name, "quit"));
        Assert.Equal(0, await ExitCode(tool));
        Assert.DoesNotContain(MachineDirectory.List(), m => m.Name == name);
        var (code, _, errors) = await Run("monitor", name, "info status");
        Assert.Equal(2, code);
        Assert.StartsWith($"sharpvisor: no machine {name}", errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_store_of_a_Xen_domain_from_another_process()
    {
        var name = $"xen-{Guid.NewGuid():N}";
        var file = Path.Combine(_directory, "vm.cfg");
        TinyGuest.WriteEcho(Kernel);
        await File.WriteAllTextAsync(file, $"name = '{name}'\ntype = 'hvm'\nmemory = 64\nkernel = '{Kernel}'\nvif = ['bridge=b']\n");
        using var tool = StartTool(["run", "--xl", file, "-xen-domid", "7"]);
        await ReadUntil(tool, "Hi");
        while (!MachineDirectory.List().Any(m => m.Name == name))
            await Task.Delay(20);
        var line = Environment.NewLine;
        Assert.Equal((0, $"7{line}", ""), await Run("xenstore", "read", name, "domid"));
        Assert.Equal((0, "", ""), await Run("xenstore", "write", name, "/data/a", "-1"));
        Assert.Equal((0, $"a = \"-1\"{line}", ""), await Run("xenstore", "ls", name, "/data"));
        Assert.Contains($"/local/domain/7/device/vif/0/mac = \"", (await Run("xenstore", "ls", "-f", name)).Output, StringComparison.Ordinal);

        using var watch = StartTool(["xenstore", "watch", "-n", "2", name, "/data"]);
        Assert.Equal("/data", await watch.StandardOutput.ReadLineAsync().WaitAsync(Limit));
        Assert.Equal((0, "", ""), await Run("xenstore", "rm", name, "/data/a"));
        Assert.Equal("/data/a", await watch.StandardOutput.ReadLineAsync().WaitAsync(Limit));
        Assert.Equal(0, await ExitCode(watch));

        Assert.Equal((1, "", $"sharpvisor: xenstore read: /data/a: there is no such node{line}"), await Run("xenstore", "read", name, "/data/a"));
        Assert.Equal(2, (await Run("xenstore", "read", name, "-z", "/data/a")).Code);
        Assert.Equal((0, "", ""), await Run("monitor", name, "quit"));
        Assert.Equal(0, await ExitCode(tool));
        Assert.Contains("vm.cfg:5: vif: bridge=b: the NIC is on a user network", await tool.StandardError.ReadToEndAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_server_that_waits_has_the_machine_wait()
    {
        var path = Path.Combine(_directory, "q");
        using var tool = Start("-qmp", $"unix:{path},server=on", "-device", "isa-debug-exit,iobase=0xf4");
        Assert.Contains("waits for a connection", await tool.StandardError.ReadLineAsync().WaitAsync(Limit), StringComparison.Ordinal);
        Assert.True(File.Exists(path));
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(path));
        await ReadUntil(tool, "Hi");
        using var stream = new NetworkStream(socket);
        using var reader = new StreamReader(stream);
        Assert.StartsWith("{\"QMP\":", await reader.ReadLineAsync().WaitAsync(Limit), StringComparison.Ordinal);
        await stream.WriteAsync("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}"u8.ToArray());
        Assert.Equal(0, await ExitCode(tool));
        var rest = await reader.ReadToEndAsync().WaitAsync(Limit);
        Assert.Contains("\"event\":\"SHUTDOWN\"", rest, StringComparison.Ordinal); // said before the end
        Assert.False(File.Exists(path));
    }

    [Theory]
    [InlineData("-monitor", "nonsense", "-monitor nonsense: unknown")]
    [InlineData("-qmp", "tcp:127.0.0.1:99999", "no port")]
    [InlineData("-qmp", "unix:/nowhere/at/all,server=on", "cannot listen on /nowhere/at/all")]
    [InlineData("-mon", "mode=control", "chardev= is missing")]
    [InlineData("-mon", "chardev=x", "there is no chardev \"x\"")]
    [InlineData("-on-crash", "dance", "-on-crash dance: the nearest is")]
    [InlineData("-on-crash", "destroy,core=x", "core= is for coredump-ACTION")]
    public async Task Mistakes_are_one_line(string flag, string value, string error)
    {
        TinyGuest.WriteEcho(Kernel);
        var (code, _, errors) = await Run("run", "-m", "64", "-kernel", Kernel, flag, value);
        Assert.Equal(2, code);
        Assert.Contains(error, errors, StringComparison.Ordinal);
        Assert.Single(errors.TrimEnd().Split('\n'));
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private Process Start(params string[] args)
    {
        TinyGuest.WriteEcho(Kernel);
        return StartTool(["run", "-m", "64", "-kernel", Kernel, .. args]);
    }

    private static Process StartTool(string[] args)
    {
        var start = new ProcessStartInfo("dotnet") { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        start.ArgumentList.Add(typeof(CommandLineTool).Assembly.Location);
        foreach (var arg in args)
            start.ArgumentList.Add(arg);
        return Process.Start(start)!;
    }

    private static async Task<(int Code, string Output, string Errors)> Run(params string[] args)
    {
        using var tool = StartTool(args);
        var errors = tool.StandardError.ReadToEndAsync();
        var output = await tool.StandardOutput.ReadToEndAsync().WaitAsync(Limit);
        return (await ExitCode(tool), output, await errors);
    }

    private static async Task<int> ExitCode(Process process)
    {
        try
        {
            await process.WaitForExitAsync().WaitAsync(Limit);
        }
        catch (TimeoutException)
        {
            process.Kill(entireProcessTree: true);
            throw;
        }

        return process.ExitCode;
    }

    private static async Task<string> ReadUntil(Process tool, string text)
    {
        await tool.StandardInput.FlushAsync();
        var read = new StringBuilder();
        var buffer = new char[1];
        while (!read.ToString().EndsWith(text, StringComparison.Ordinal))
        {
            try
            {
                Assert.True(await tool.StandardOutput.ReadAsync(buffer).AsTask().WaitAsync(Limit) > 0, $"ended without \"{text}\": {read}");
            }
            catch (TimeoutException)
            {
                tool.Kill(entireProcessTree: true);
                throw new TimeoutException($"no \"{text}\" in: {read}");
            }

            read.Append(buffer[0]);
        }

        return read.ToString();
    }
}
