using System.Security.Cryptography;
using System.Text;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;
using Sharpvisor.Debugging.Stacks;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Tests.Guests;

/// <summary>Debian's kernels seen from outside, compared with what they say of themselves.</summary>
[Trait("Category", "Guest")]
public sealed class KernelSymbolTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-kernel-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    /// <summary>6.1 has its tables in the old order and old ORC, 6.12 both in the new form.</summary>
    [GuestTheory("cloud/vmlinuz", "newer/vmlinuz", "demo/initrd.img")]
    [InlineData("cloud/vmlinuz", "")]
    [InlineData("cloud/vmlinuz", "nokaslr")]
    [InlineData("newer/vmlinuz", "")]
    public async Task Symbols_in_memory_are_those_of_kallsyms(string kernelFile, string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await StartAsync(kernelFile, "demo/initrd.img", arguments, 2, limit.Token);
        var expected = await RunAsync(machine, "grep -v '\\[' /proc/kallsyms | sha256sum", limit.Token);
        var version = await RunAsync(machine, "uname -r", limit.Token);
        await machine.Serial.WriteLineAsync("cat /dev/zero > /dev/null &", limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        await machine.PauseAsync(limit.Token);
        var kernel = LinuxKernel.Find(machine.Debugger)!;
        Assert.Contains(kernel.Banner.Split(' ')[2], version, StringComparison.Ordinal);
        var lines = string.Concat(kernel.Symbols.All.Select(s => $"{s.Address:x16} {s.Kind} {s.Name}\n"));
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(lines))), expected, StringComparison.Ordinal);
        Assert.True(kernel.Symbols.TryGetAddress("_stext", out var start));
        Assert.Equal(arguments == "nokaslr", start == 0xFFFF_FFFF_8100_0000);
        Assert.True(kernel.IsStillThere(machine.Debugger));

        // One processor reads zeroes in a system call or is in cat itself, the other sleeps.
        var view = new KernelView(kernel, machine.Debugger);
        var tasks = Tasks();
        while (!Array.Exists(tasks, t => t is { Name: "cat", Pid: > 1 }))
        {
            await machine.ResumeAsync(limit.Token);
            await Task.Delay(20, limit.Token);
            await machine.PauseAsync(limit.Token);
            view = new KernelView(kernel, machine.Debugger);
            tasks = Tasks();
        }

        var idle = Array.FindIndex(tasks, t => t.Pid == 0);
        if (idle >= 0)
        {
            var names = Names(view, machine.Debugger, idle);
            Assert.Contains(names, n => n.StartsWith("do_idle+", StringComparison.Ordinal));
            Assert.Contains("startup_64", names[^1], StringComparison.Ordinal);
        }

        // The same from a core file, and from the file of the kernel where it can be unpacked.
        var core = Path.Combine(_directory, "core");
        GuestCore.Write(machine.Debugger, machine.Memory.Ranges, core, paging: true);
        using var opened = GuestCore.Open(core);
        Assert.Equal(ContextDump.Write(machine.Debugger, kernel), ContextDump.Write(opened, LinuxKernel.Find(opened)));
        if (kernelFile[0] == 'c')
        {
            var byFile = LinuxKernel.Find(opened, GuestCache.PathOf(kernelFile));
            Assert.Equal(start - 0xFFFF_FFFF_8100_0000, byFile.Slide);
            Assert.True(kernel.Symbols.All.SequenceEqual(byFile.Symbols.All));
        }

        (string Name, int Pid)[] Tasks() => [.. Enumerable.Range(0, 2).Select(i => view.TaskOf(i)!.Value)];
    }

    [GuestTheory("cloud/vmlinuz", "virtio/initrd.img")]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Modules_have_names_too(int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await StartAsync("cloud/vmlinuz", "virtio/initrd.img", "", processors, limit.Token);
        var line = await RunAsync(machine, "grep ' register_virtio_driver' /proc/kallsyms", limit.Token);
        await machine.PauseAsync(limit.Token);
        var view = new KernelView(LinuxKernel.Find(machine.Debugger)!, machine.Debugger);
        Assert.True(view.TryGetAddress("register_virtio_driver", out var address));
        Assert.Contains(line.Split('\n'), l => l.StartsWith($"{address:x16} ", StringComparison.Ordinal) && l.Contains(" register_virtio_driver\t[virtio]", StringComparison.Ordinal));
        Assert.Matches(@"^register_virtio_driver\+0x4/0x\w+ \[virtio\]$", view.Describe(address + 4));
    }

    /// <summary>A panic by the keyboard's magic: the trace goes through the write to /proc, the system call, and ends in the process.</summary>
    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [InlineData("")]
    [InlineData("nokaslr")]
    public async Task A_panic_is_traced_to_the_process_that_caused_it(string arguments)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await StartAsync("cloud/vmlinuz", "demo/initrd.img", arguments, 1, limit.Token);
        await machine.Serial.WriteLineAsync("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", limit.Token);
        await machine.Serial.ExpectAsync("end Kernel panic", limit.Token);
        await machine.PauseAsync(limit.Token);
        var view = new KernelView(LinuxKernel.Find(machine.Debugger)!, machine.Debugger);
        var names = Names(view, machine.Debugger, 0);
        var wanted = new[] { "panic+", "sysrq_handle_crash+", "write_sysrq_trigger+", "vfs_write+", "do_syscall_64+", "entry_SYSCALL_64_after_hwframe+" };
        Assert.Equal(wanted, wanted.Where(w => names.Exists(n => n.StartsWith(w, StringComparison.Ordinal))));
        Assert.Equal("[user]", names[^1]);
        Assert.Equal("sh", view.TaskOf(0)!.Value.Name);
    }

    private static List<string> Names(KernelView view, IGuestView guest, int processor) =>
        [.. StackWalker.Walk(view, guest, guest.GetState(processor)).TakeWhile((f, i) => i == 0 || f.Kind != FrameKind.User || f.IsInterrupted)
            .Select(f => f.Kind == FrameKind.User ? "[user]" : view.Describe(f.Address) ?? "")];

    private static async Task<Machine> StartAsync(string kernel, string initrd, string arguments, int processors, CancellationToken cancellation)
    {
        var machine = await Machine.CreateBuilder()
            .WithMemory(512 << 20)
            .WithProcessors(processors)
            .WithKernel(GuestCache.Open(kernel))
            .WithInitrd(GuestCache.Open(initrd))
            .WithCommandLine($"console=ttyS0 quiet {arguments}")
            .StartAsync(cancellation);
        await machine.Serial.ExpectAsync(":~# ", cancellation);
        return machine;
    }

    private static async Task<string> RunAsync(Machine machine, string command, CancellationToken cancellation)
    {
        await machine.Serial.WriteLineAsync(command, cancellation);
        return await machine.Serial.ExpectAsync(":~# ", cancellation);
    }
}
