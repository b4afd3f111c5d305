using System.Diagnostics;
using System.Net.Sockets;
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
        await ToolProcess.ReadUntilAsync(tool, "Hi");
        await tool.StandardInput.WriteAsync("a\u0001c");
        Assert.Contains("monitor - type 'help'", await ToolProcess.ReadUntilAsync(tool, "(qemu) "), StringComparison.Ordinal);
        await tool.StandardInput.WriteAsync("stop\rinfo status\r");
        await ToolProcess.ReadUntilAsync(tool, "VM status: paused");
        // A guest that does not read keeps nobody from the monitor.
        await tool.StandardInput.WriteAsync("cont\u0001c" + new string('b', 200) + "Z\u0001c\r");
        await ToolProcess.ReadUntilAsync(tool, "(qemu) cont\r\n");
        Assert.Equal(200, (await ToolProcess.ReadUntilAsync(tool, "Z")).Count(c => c == 'b')); // perhaps with the monitor's prompt between them
        await tool.StandardInput.WriteAsync("quit\r");
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(tool));
    }

    [Fact]
    public async Task Another_process_finds_the_machine_by_its_name()
    {
        var name = $"cli-{Guid.NewGuid():N}";
        using var tool = Start("-name", name, "-no-shutdown");
        await ToolProcess.ReadUntilAsync(tool, "Hi");
        while (!MachineDirectory.List().Any(m => m.Name == name))
            await Task.Delay(20);
        Assert.Contains($"{tool.Id,-8} running         {name}", (await ToolProcess.RunAsync("list")).Output, StringComparison.Ordinal);
        Assert.Equal((0, $"VM status: running{Environment.NewLine}", ""), await ToolProcess.RunAsync("monitor", name, "info status"));
        Assert.Equal((0, $"VM status: running{Environment.NewLine}", ""), await ToolProcess.RunAsync("monitor", $"{tool.Id}", "info", "status"));
        Assert.Equal(1, (await ToolProcess.RunAsync("monitor", name, "nonsense")).Code);
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "quit"));
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(tool));
        Assert.DoesNotContain(MachineDirectory.List(), m => m.Name == name);
        var (code, _, errors) = await ToolProcess.RunAsync("monitor", name, "info status");
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
        using var tool = ToolProcess.Start("run", "--xl", file, "-xen-domid", "7");
        await ToolProcess.ReadUntilAsync(tool, "Hi");
        while (!MachineDirectory.List().Any(m => m.Name == name))
            await Task.Delay(20);
        var line = Environment.NewLine;
        Assert.Equal((0, $"7{line}", ""), await ToolProcess.RunAsync("xenstore", "read", name, "domid"));
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("xenstore", "write", name, "/data/a", "-1"));
        Assert.Equal((0, $"a = \"-1\"{line}", ""), await ToolProcess.RunAsync("xenstore", "ls", name, "/data"));
        Assert.Contains($"/local/domain/7/device/vif/0/mac = \"", (await ToolProcess.RunAsync("xenstore", "ls", "-f", name)).Output, StringComparison.Ordinal);

        using var watch = ToolProcess.Start("xenstore", "watch", "-n", "2", name, "/data");
        Assert.Equal("/data", await watch.StandardOutput.ReadLineAsync().WaitAsync(Limit));
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("xenstore", "rm", name, "/data/a"));
        Assert.Equal("/data/a", await watch.StandardOutput.ReadLineAsync().WaitAsync(Limit));
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(watch));

        Assert.Equal((1, "", $"sharpvisor: xenstore read: /data/a: there is no such node{line}"), await ToolProcess.RunAsync("xenstore", "read", name, "/data/a"));
        Assert.Equal(2, (await ToolProcess.RunAsync("xenstore", "read", name, "-z", "/data/a")).Code);
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "quit"));
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(tool));
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
        await ToolProcess.ReadUntilAsync(tool, "Hi");
        using var stream = new NetworkStream(socket);
        using var reader = new StreamReader(stream);
        Assert.StartsWith("{\"QMP\":", await reader.ReadLineAsync().WaitAsync(Limit), StringComparison.Ordinal);
        await stream.WriteAsync("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}"u8.ToArray());
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(tool));
        var rest = await reader.ReadToEndAsync().WaitAsync(Limit);
        Assert.Contains("\"event\":\"SHUTDOWN\"", rest, StringComparison.Ordinal); // said before the end
        Assert.False(File.Exists(path));
    }

    [Fact]
    public async Task Another_process_looks_into_the_machine()
    {
        var (name, log, stacks) = ($"cli-{Guid.NewGuid():N}", Path.Combine(_directory, "log"), Path.Combine(_directory, "stacks"));
        using var tool = Start("-name", name, "-smp", "2", "-D", log);
        await ToolProcess.ReadUntilAsync(tool, "Hi");
        while (!MachineDirectory.List().Any(m => m.Name == name))
            await Task.Delay(20);

        // It is no Linux: registers and code, without names.
        var context = await ToolProcess.RunAsync("ctx", name, "--cpu", "0");
        Assert.Equal((0, ""), (context.Code, context.Errors));
        Assert.Matches("(?s)^symbols: none.*vcpu0:.*Code \\(instr addr", context.Output);
        Assert.DoesNotContain("vcpu1", context.Output, StringComparison.Ordinal);
        Assert.Equal(2, (await ToolProcess.RunAsync("ctx", name, "--cpu", "2")).Code);

        var profile = await ToolProcess.RunAsync("profile", "-t", "1", "-F", "200", "-o", stacks, name);
        Assert.Equal((0, ""), (profile.Code, profile.Errors));
        Assert.Matches("(?m)^\\[unknown\\] [1-9][0-9]*$", await File.ReadAllTextAsync(stacks)); // the one that waits for a letter

        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "trace-event port:0x3f8 on"));
        Assert.Contains("port : state 1 port:0x3f8", (await ToolProcess.RunAsync("monitor", name, "info trace-events")).Output, StringComparison.Ordinal);
        await tool.StandardInput.WriteAsync("A");
        await ToolProcess.ReadUntilAsync(tool, "A");
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "trace-event all off"));
        await tool.StandardInput.WriteAsync("B");
        await ToolProcess.ReadUntilAsync(tool, "B");

        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "log exec,guest_errors"));
        await tool.StandardInput.WriteAsync("C");
        await ToolProcess.ReadUntilAsync(tool, "C");
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "log none"));
        Assert.Contains("unknown item \"dance\"; there are int, exec", (await ToolProcess.RunAsync("monitor", name, "log dance")).Output, StringComparison.Ordinal);
        Assert.Equal((0, "", ""), await ToolProcess.RunAsync("monitor", name, "quit"));
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(tool));

        var lines = await File.ReadAllLinesAsync(log);
        Assert.Equal(["port read 0x3f8 size 1 value 0x41 device com1", "port write 0x3f8 size 1 value 0x41 device com1"], lines.Where(l => l.StartsWith("port", StringComparison.Ordinal)));
        Assert.Contains(lines, l => l.StartsWith("Trace 0: ", StringComparison.Ordinal));
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
        var (code, _, errors) = await ToolProcess.RunAsync("run", "-m", "64", "-kernel", Kernel, flag, value);
        Assert.Equal(2, code);
        Assert.Contains(error, errors, StringComparison.Ordinal);
        Assert.Single(errors.TrimEnd().Split('\n'));
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private Process Start(params string[] args)
    {
        TinyGuest.WriteEcho(Kernel);
        return ToolProcess.Start(["run", "-m", "64", "-kernel", Kernel, .. args]);
    }
}
