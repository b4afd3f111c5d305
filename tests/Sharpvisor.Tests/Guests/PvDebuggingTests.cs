using System.Threading.Channels;
using Sharpvisor.Backends.Char;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;
using Sharpvisor.Debugging.Stacks;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Tests.Guests;

/// <summary>A paravirtual Debian under a debugger: its kernel is in ring 3, its page tables hold machine frames.</summary>
[Trait("Category", "Guest")]
public sealed class PvDebuggingTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-pv-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData]
    public async Task It_is_stopped_reboots_and_panics(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = Machine.CreateBuilder()
            .WithMemory(256 << 20)
            .WithProcessors(2)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, MachineKind.XenPv)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=hvc0 quiet")
            .WithActions(new MachineActions { Panic = PanicAction.Pause })
            .Build();
        var debugger = machine.Debugger;
        var stops = Channel.CreateUnbounded<DebugStop>();
        debugger.Stopped += s => stops.Writer.TryWrite(s);
        await machine.StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        await Run("reboot");
        await Run("while :; do :; done & echo $!");
        await debugger.StopAsync();
        Assert.Equal(DebugStopKind.Paused, (await stops.Reader.ReadAsync(limit.Token)).Kind);
        var kernel = LinuxKernel.Find(debugger)!;
        var view = new KernelView(kernel, debugger);

        // Where programs come in. What has been there is a program's, and so says its stack.
        Assert.True(view.TryGetAddress("xen_entry_SYSCALL_64", out var entry));
        Assert.True(view.TryGetAddress("do_syscall_64", out var inner));
        debugger.InsertBreakpoint(entry);
        await debugger.ContinueAsync(new Dictionary<int, Resumption>());
        await console.WriteLineAsync("true", limit.Token);
        var stop = await stops.Reader.ReadAsync(limit.Token);
        Assert.Equal((DebugStopKind.Breakpoint, entry), (stop.Kind, stop.Address));
        Assert.Equal(0xE033, debugger.GetState(stop.Processor).Segments[1].Selector);
        Assert.Equal(FrameKind.Exact, StackWalker.Walk(view, debugger, debugger.GetState(stop.Processor))[0].Kind);
        for (var i = 0; i < 5; i++)
        {
            await debugger.ContinueAsync(new Dictionary<int, Resumption> { [stop.Processor] = new(StepMode.Step) });
            Assert.Equal(DebugStopKind.Step, (await stops.Reader.ReadAsync(limit.Token)).Kind);
        }

        debugger.RemoveBreakpoint(entry);
        debugger.InsertBreakpoint(inner);
        await debugger.ContinueAsync(new Dictionary<int, Resumption>());
        stop = await stops.Reader.ReadAsync(limit.Token);
        Assert.Equal((DebugStopKind.Breakpoint, inner), (stop.Kind, stop.Address));
        Assert.Equal(FrameKind.User, StackWalker.Walk(view, debugger, debugger.GetState(stop.Processor))[^1].Kind);
        debugger.RemoveBreakpoint(inner);
        await debugger.ContinueAsync(new Dictionary<int, Resumption>());
        await console.ExpectAsync(":~# ", limit.Token);

        // The loop is in a program most of the time.
        for (var i = 0; ; i++)
        {
            Assert.True(i < 100, "no program is at work");
            await debugger.StopAsync();
            await stops.Reader.ReadAsync(limit.Token);
            var isUser = Enumerable.Range(0, 2).Any(p => StackWalker.Walk(view, debugger, debugger.GetState(p))[0].Kind == FrameKind.User);
            await debugger.ContinueAsync(new Dictionary<int, Resumption>());
            if (isUser)
                break;
            await Task.Delay(20, limit.Token);
        }

        // A panic: the machine stands still, and the stack tells why; also that in the core.
        await console.WriteLineAsync("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger", limit.Token);
        await stops.Reader.ReadAsync(limit.Token);
        var core = Path.Combine(_directory, "core");
        GuestCore.Write(debugger, machine.Memory.Ranges, core, paging: true);
        using var opened = GuestCore.Open(core);
        foreach (var guest in (IGuestView[])[debugger, opened])
        {
            var text = ContextDump.Write(guest, LinuxKernel.Find(guest));
            foreach (var function in (ReadOnlySpan<string>)["panic+", "sysrq_handle_crash+", "vfs_write+", "do_syscall_64+"])
                Assert.Contains(function, text, StringComparison.Ordinal);
            Assert.Contains("[user]", text, StringComparison.Ordinal);
        }

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(":~# ", limit.Token);
        }
    }
}
