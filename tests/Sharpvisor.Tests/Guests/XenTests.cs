using System.Globalization;
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Tests.Guests;

/// <summary>Debian's unmodified kernel in a domain of Xen's, without Xen.</summary>
[Trait("Category", "Guest")]
public sealed class XenTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData(MachineKind.XenHvm, 1)]
    [EngineData(MachineKind.XenHvm, 2)]
    [EngineData(MachineKind.XenPvh, 1)]
    [EngineData(MachineKind.XenPvh, 4)]
    [EngineData(MachineKind.XenPv, 1)]
    [EngineData(MachineKind.XenPv, 4)]
    public async Task The_kernel_finds_itself_on_Xen(string engine, MachineKind kind, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(512 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, console, kind)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=hvc0 quiet")
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        var (type, words) = kind switch
        {
            MachineKind.XenPvh => ("PVH", "Booting kernel on Xen PVH"),
            MachineKind.XenPv => ("PV", "Booting kernel on Xen\r\n"),
            _ => ("HVM", "Booting paravirtualized kernel on Xen HVM"),
        };
        Assert.Contains($"xen\r\n{type}\r\n", await Run("cat /sys/hypervisor/type /sys/hypervisor/guest_type"), StringComparison.Ordinal);
        Assert.Contains($"{processors}\r\n", await Run("nproc"), StringComparison.Ordinal);
        var messages = await Run("dmesg");
        Assert.Contains(words, messages, StringComparison.Ordinal);
        Assert.Contains("Grant tables using version 1 layout", messages, StringComparison.Ordinal);
        Assert.Contains("Switched to clocksource xen", messages, StringComparison.Ordinal);
        Assert.DoesNotContain("Call Trace", messages, StringComparison.Ordinal);

        // Between processors, interrupts are event channels.
        var work = "for i in $(seq $(nproc)); do (n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; echo done-$n) & done; wait";
        Assert.Equal(processors, (await Run(work)).Split("done-2000").Length - 1);

        // What each processor did not run has been told, and what the guest takes for stolen is what the host took.
        var lines = (await Run("grep ^cpu[0-9] /proc/stat")).Split('\n').Where(l => l.StartsWith("cpu", StringComparison.Ordinal)).ToList();
        Assert.Equal(processors, lines.Count);
        for (var i = 0; i < processors; i++)
        {
            const long tickNs = 10_000_000;
            var info = machine.Xen!.Processors[i].Runstate.Get(is64: true);
            var (runnable, blocked) = (BitConverter.ToInt64(info, 24), BitConverter.ToInt64(info, 32));
            Assert.NotEqual(0, blocked);
            Assert.InRange(long.Parse(lines[i].Split(' ')[8], CultureInfo.InvariantCulture), 0, (runnable / tickNs) + 1);
        }

        Assert.Matches(processors > 1 ? @"xen-percpu.*resched\d" : @"hvc_console", await Run("cat /proc/interrupts"));
        if (kind == MachineKind.XenPv && processors > 1)
        {
            // A processor goes down and comes up where it was.
            foreach (var (online, count) in ((int, int)[])[(0, 3), (1, 4)])
            {
                await Run($"echo {online} > /sys/devices/system/cpu/cpu2/online");
                Assert.Contains($"\r\n{count}\r\n", await Run("nproc"), StringComparison.Ordinal);
            }
        }

        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

        async Task<string> Run(string command)
        {
            await console.WriteLineAsync(command, limit.Token);
            return await console.ExpectAsync(":~# ", limit.Token);
        }
    }

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [InlineData(XenCallbackOffer.Vector, 2, "", "HYP:")]
    [InlineData(XenCallbackOffer.Line, 1, "noapic", "XT-PIC      xen-platform-pci")]
    [InlineData(XenCallbackOffer.Line, 2, "xen_no_vector_callback", "fasteoi   xen-platform-pci")] // without that it crashes on Xen, too
    public async Task Events_come_the_ways_of_old(XenCallbackOffer offer, int processors, string arguments, string expected)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Machine.CreateBuilder()
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create("translator"))
            .WithXen(7, console, callback: offer)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine($"console=hvc0 quiet {arguments}")
            .WithoutReboot()
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        await console.WriteLineAsync("cat /proc/interrupts; dmesg | grep -e 'Call Trace' -e 'nobody cared'", limit.Token);
        var text = await console.ExpectAsync(":~# ", limit.Token);
        Assert.Matches($@"(?m){expected.Replace("HYP:", @"HYP:( +[1-9]\d*){2}", StringComparison.Ordinal)}", text);
        Assert.DoesNotContain("Call Trace:", text, StringComparison.Ordinal);
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    // Each call and its command, where it is made first, with its result, up to when the kernel has a clock and a timer; then
    // what else there is, whose order depends on interrupts. In words: features, shared_info, pagetable_dying (not there),
    // version, vcpu_info, FIFO events (not there), the vector, parameters, timers, VIRQ_TIMER, priorities (not there);
    // vm_assist, IPIs, events, the grant table.
    private const string PvhCalls = "17:6=0 12:7=0 34:9=-38 17:0=262161 17:1=0 24:10=0 32:11=-38 34:23=0 34:0=0 34:1=0 32:4=0 24:7=0 24:13=0 24:5=0 32:1=0 32:13=-38";
    private const string HvmCalls = "17:6=0 12:7=0 34:9=-38 24:10=0 32:11=-38 34:23=0 34:0=0 34:1=0 24:7=0 24:13=0 24:5=0 32:1=0 32:13=-38";
    //
    // A paravirtual kernel besides (but for iret): machphys_mapping, page tables, segment bases, traps, IOPL, runstate, vm_assist, callbacks,
    // memory_map, processors (8192 of which there is one), descriptors, stack_switch, debug registers.
    private const string PvCalls = "17:6=0 12:12=0 14 2 25 0 18:0=0 26 33:6=0 24:5=0 1 21:0=0 30:0=0 12:9=0 13 24:3=1 24:3=-2 17:0=262161 17:1=0 24:10=0 10 3 8 32:11=-38 33:28=-38 24:7=0 24:13=0 32:1=0 32:13=-38";
    private const string LaterPvCalls = "12:1=0 12:3 12:4 12:6 24:8=0 24:9=0 5 20:2=0 20:6=0 20:8=0 29:1=0 32:4=0 32:7=0 32:8=0 32:9=0 40:4=-38";
    private const string LaterCalls = "20:6=0 20:8=0 21:0=0 24:8=0 24:9=0 32:4=0 32:6=0 32:7=0 32:8=0 32:9=0";

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [InlineData(MachineKind.XenPvh, PvhCalls)]
    [InlineData(MachineKind.XenHvm, HvmCalls)]
    [InlineData(MachineKind.XenPv, PvCalls)]
    public async Task The_hypercalls_of_a_boot(MachineKind kind, string first)
    {
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        List<string> lines = [];
        await using var machine = Machine.CreateBuilder()
            .WithXen(1, console, kind)
            .WithEngine(GuestEngines.Create("translator"))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=hvc0 quiet")
            .WithSerial(null)
            .Build();
        machine.TracePoints.Set([TraceFilter.Parse("hypercall")], lines.Add);
        await machine.StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        await machine.PauseAsync(limit.Token);
        var calls = lines.Select(Describe).Where(c => c != "23").Distinct().ToList();
        var count = first.Split(' ').Length;
        Assert.Equal(first, string.Join(' ', calls.Take(count)));
        Assert.Subset((kind == MachineKind.XenPv ? LaterPvCalls : LaterCalls).Split(' ').ToHashSet(), calls.Skip(count).ToHashSet());
        Assert.Contains("20:6=0", calls);

        // "... hypercall cpu 0 nr 12 args 0x7 0x... result 0"
        string Describe(string line)
        {
            var words = line.Split(' ');
            var at = Array.IndexOf(words, "nr");
            // Those of paravirtual kernels have addresses and lists where others have a command.
            return words[at + 1] is "0" or "1" or "2" or "3" or "5" or "8" or "10" or "13" or "14" or "23" or "25" or "26" && kind == MachineKind.XenPv
                ? words[at + 1]
                : $"{words[at + 1]}:{Convert.ToInt64(words[at + 3], 16)}={words[^1]}";
        }
    }
}
