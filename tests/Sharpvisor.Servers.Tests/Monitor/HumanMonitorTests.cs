using Sharpvisor.Cpu;
using Sharpvisor.Servers.Tests.Control;

namespace Sharpvisor.Servers.Tests.Monitor;

/// <summary>Commands of the monitor, right ones and wrong ones.</summary>
public sealed class HumanMonitorTests
{
    [Fact]
    public async Task Memory_and_expressions_as_QEMU_prints_them()
    {
        await using var machine = await ControlledMachine.StartAsync();
        machine.Machine.Memory.TryWrite(0x20_0000, [.. Enumerable.Range(0, 64).Select(i => (byte)i), 0x90, 0x0F, 0x05, 0xC3]);
        async Task Prints(string command, string text) => Assert.Equal(text.ReplaceLineEndings("\r\n"), await machine.Monitor.ExecuteAsync(command));
        await Prints("xp/2xw 0x200000", "0000000000200000: 0x03020100 0x07060504\n");
        await Prints("x/3xg 0x200000", "0000000000200000: 0x0706050403020100 0x0f0e0d0c0b0a0908\n0000000000200010: 0x1716151413121110\n");
        await Prints("xp/9xb 0x200000", "0000000000200000: 0x00 0x01 0x02 0x03 0x04 0x05 0x06 0x07\n0000000000200008: 0x08\n");
        await Prints("xp/2dh 0x200000", "0000000000200000:   256   770\n");
        await Prints("xp/3c 0x200021", "0000000000200021: '!' '\"' '#'\n");
        await Prints("xp/1oh 0x200001", "0000000000200001:  01001\n");
        await Prints("xp/2xg 0x3fffff8", "0000000003fffff8: 0x0000000000000000\n0000000004000000: Cannot access memory\n");
        await Prints("xp /2xw 0x200000", "0000000000200000: 0x03020100 0x07060504\n");
        await Prints("gva2gpa 0x200000+1", "gpa: 0x200001\n");
        await Prints("gva2gpa 0x800000000000", "Unmapped\n");
        await Prints("print/x 2*0x10", "0x20\n");
        await Prints("p 7-9", "-2\n");
        await Prints("print/c 65", "'A'\n");
        await Prints("info status", "VM status: running\n");
        await Prints("stop", "");
        await Prints("info status", "VM status: paused\n");
        await Prints("info name", "scripted\n");
        await Prints("info version", "1.2.3\n");
        await Prints("nonsense", "unknown command: 'nonsense'\n");
        await Prints("info nonsense", "unknown command: 'info nonsense'\n");
        await Prints("savevm a", "unknown command: 'savevm' (states of machines are not saved; dump-guest-memory keeps one to look at)\n");
        await Prints("", "");
        Assert.Contains("syscall", await machine.Monitor.ExecuteAsync("xp/3i 0x200040"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task The_tree_of_devices()
    {
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithCdrom(null).WithVirtioDevice(new VirtioMemoryBalloon()));
        var tree = (await machine.Monitor.ExecuteAsync("info qtree")).ReplaceLineEndings("\n");
        Assert.StartsWith("bus: main-system-bus\n  type System\n  dev: ioapic, id \"\"\n    mmio 00000000fec00000/0000000000001000\n", tree, StringComparison.Ordinal);
        Assert.Contains("  dev: i440FX-pcihost, id \"\"\n    bus: pci.0\n      type PCI\n      dev: i440fx, id \"\"\n        addr = 00.0\n        class Host bridge, addr 00:00.0, pci id 8086:1237 (sub 1af4:1100)\n", tree, StringComparison.Ordinal);
        Assert.Contains("        bus: isa.0\n          type ISA\n", tree, StringComparison.Ordinal);
        Assert.Contains("          dev: rtc, id \"\"\n            isa ports 0x70-0x73 (rtc)\n", tree, StringComparison.Ordinal);
        Assert.Contains("        bus: ide.1\n          type IDE\n          dev: ide-cd, id \"\"\n            drive = \"ide1-cd0\"\n            unit = 0\n", tree, StringComparison.Ordinal);
        Assert.Contains("      dev: virtio-balloon-pci, id \"\"\n        addr = 03.0\n", tree, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Registers_of_each_processor()
    {
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithProcessors(2));
        var all = await machine.Monitor.ExecuteAsync("info registers -a");
        Assert.Contains("CPU#0\r\nRAX=0000000000000000 RBX=", all, StringComparison.Ordinal);
        Assert.Contains("CPU#1\r\nEAX=", all, StringComparison.Ordinal); // it waits in real mode
        Assert.Contains("DPL=0 CS64 [-RA]\r\n", all, StringComparison.Ordinal);
        var rip = machine.Machine.BootPlan!.Entry;
        Assert.Equal($"0x{rip:x}\r\n", await machine.Monitor.ExecuteAsync("print/x $rip"));
        Assert.Equal("0xfff0\r\n", await machine.Monitor.ExecuteAsync("print/x $rip", 1));
        Assert.Contains("Invalid parameter 'cpu-index'", await machine.Monitor.ExecuteAsync("cpu 7"), StringComparison.Ordinal);
        Assert.False(machine.Machine.IsPaused);
    }

    [Fact]
    public async Task A_session_on_a_socket_echoes_and_prompts()
    {
        await using var machine = await ControlledMachine.StartAsync();
        using var client = new RawClient(machine.MonitorPath);
        Assert.StartsWith("Sharpvisor 1.2.3 monitor", await client.ReadUntilAsync("(qemu) "), StringComparison.Ordinal);
        await client.WriteAsync("info sta\t\n");
        Assert.Equal("info status \r\nVM status: running\r\n(qemu) ", await client.ReadUntilAsync("(qemu) "));
        await client.WriteAsync("stop\ninfo status\n");
        await client.ReadUntilAsync("(qemu) ");
        Assert.Contains("VM status: paused", await client.ReadUntilAsync("(qemu) "), StringComparison.Ordinal);
        await client.WriteAsync("info history\n");
        Assert.Contains("1: 'stop'", await client.ReadUntilAsync("(qemu) "), StringComparison.Ordinal);
        await client.WriteAsync("quit\n");
        Assert.Equal(ShutdownCause.HostQmpQuit, (await machine.Machine.WaitForExitAsync().WaitAsync(RawClient.Limit)).Cause);
    }

    /// <summary>Nothing that is typed throws, hangs or ends the machine.</summary>
    [Fact]
    public async Task Every_command_takes_every_wrong_argument()
    {
        string[] arguments =
        [
            "", "1", "-1", "99999999999999999999", "0x", "$rip", "$", "/", "/x", "/99999999999x 0", "/4xw", "/4xw 0xfffffffffffffff8", "/3i 0xfff", "ide1-cd0", "-f", "\"", "\"a b",
            "vnc", "vnc password", "a b c d e f", "ctrl-alt-nokey", "ctrl-ctrl 99999999", "'", "(((((((", "1 2 /nowhere/file", "0 0 /nowhere/file", "/2xw ((1", "/1xb 0x71", "/8xb 0x71", "none", "null",
            "\u00e9\u0000\u0001", new string('x', 5000),
        ];
        await using var machine = await ControlledMachine.StartAsync(null, b => b.WithCdrom(null));
        foreach (var command in machine.Monitor.Commands.Where(c => c.Name is not "quit"))
        {
            foreach (var argument in arguments)
            {
                var line = argument.StartsWith('/') && argument.Length > 1 && !argument.StartsWith("/nowhere", StringComparison.Ordinal) ? command.Name + argument : $"{command.Name} {argument}";
                if (command.Name is "screendump" or "dump-guest-memory" && argument.Length > 0 && !argument.StartsWith('-'))
                    line = $"{command.Name} /nowhere/{argument.Trim('/')} {argument}";
                var text = await machine.Monitor.ExecuteAsync(line).WaitAsync(RawClient.Limit);
                Assert.True(text.Length == 0 || text.EndsWith("\r\n", StringComparison.Ordinal), line);
                Assert.DoesNotContain("Exception", text, StringComparison.Ordinal);
            }
        }

        foreach (var info in machine.Monitor.Info)
        {
            foreach (var argument in arguments)
                await machine.Monitor.ExecuteAsync($"info {info.Name} {argument}").WaitAsync(RawClient.Limit);
            Assert.Contains($"info {info.Name} ", await machine.Monitor.ExecuteAsync("help info"), StringComparison.Ordinal);
        }

        Assert.False(machine.Machine.Exit.IsCompleted);
    }

    [Fact]
    public async Task Page_tables_that_lead_to_themselves_end_somewhere()
    {
        const ulong table = 0x20_0000, pagingAndProtection = 0x8000_0001, pae = 0x20, lmeAndLma = 0x500;
        await using var machine = await ControlledMachine.StartAsync();
        // 512 entries that all point to the table itself: 2^36 pages.
        for (ulong i = 0; i < 512; i++)
            machine.Machine.Memory.TryWrite(table + (8 * i), table | 7);
        await machine.Machine.InspectAsync(view =>
        {
            var state = view.GetState(0);
            (state.Cr0, state.Cr3, state.Cr4, state.Efer) = (pagingAndProtection, table, pae, lmeAndLma);
            view.SetState(0, state);
            return true;
        });
        Assert.Contains("... and more", await machine.Monitor.ExecuteAsync("info tlb").WaitAsync(RawClient.Limit), StringComparison.Ordinal);
        Assert.Contains("... and more", await machine.Monitor.ExecuteAsync("info mem").WaitAsync(RawClient.Limit), StringComparison.Ordinal);
    }

    [Fact]
    public async Task After_the_end_everything_is_answered()
    {
        await using var machine = await ControlledMachine.StartAsync(_ => VcpuExit.Halted);
        await machine.Machine.StopAsync();
        foreach (var command in new[] { "info registers", "x/1xw 0", "info pci", "i/1xb 0x71", "cont", "stop", "system_reset", "nmi", "mouse_move 1 1", "info block", "info status" })
            Assert.EndsWith("\r\n", await machine.Monitor.ExecuteAsync(command).WaitAsync(RawClient.Limit), StringComparison.Ordinal);
    }
}
