using System.Globalization;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Debugging.Symbols;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Tests.Guests.Gdb;

/// <summary>The host's gdb on real guests, from the first instruction on.</summary>
[Trait("Category", "Guest")]
public sealed class GdbTests : IDisposable
{
    private const string Bios = "seabios/bios-256k.bin", VgaBios = "seabios/vgabios-stdvga.bin";
    private const ulong RandomStep = 2 << 20, RandomRange = 1 << 30; // CONFIG_PHYSICAL_ALIGN, KERNEL_IMAGE_SIZE
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);
    private static readonly string[] Wanted = ["_text", "start_kernel", "system_state", "linux_proc_banner", "__x64_sys_geteuid"];
    private static readonly Lazy<Task<Dictionary<string, ulong>>> Symbols = new(FindSymbolsAsync);

    private readonly string _directory = Directory.CreateTempSubdirectory("gdb").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    /// <summary>From the reset vector through firmware and its kernel's mode switches to a shell, everything looked at and changed on the way.</summary>
    [GuestTheory(Bios, "cloud/vmlinuz", "demo/initrd.img")]
    [EngineData(false)]
    [InlineData("translator", true)]
    public async Task A_kernel_is_debugged_from_its_entry_to_its_shell(string engine, bool isRandom)
    {
        using var limit = new CancellationTokenSource(Limit);
        var symbols = await Symbols.Value;
        var file = Path.Combine(_directory, "symbols");
        SymbolFile.Write(file, symbols["_text"], symbols);
        await using var machine = await Linux(engine, isRandom ? "" : "nokaslr")
            .WithProcessors(2)
            .WithFirmware(GuestCache.Open(Bios))
            .WithKernelBoot(BootWay.Firmware)
            .WithStartPaused()
            .StartAsync(limit.Token);
        await using var server = GdbServer.Start(machine, ServerAddress.Parse("tcp::0", "-gdb")!, NullLogger.Instance);
        await using var gdb = await GdbProcess.AttachAsync($"127.0.0.1:{server.Port}", limit.Token);
        Assert.Equal(0xFFFF_FFF0UL, await gdb.EvaluateAsync("$pc"));

        // Real mode, protected mode, long mode: one description of the registers for all.
        await gdb.RunAsync($"hbreak *0x{machine.BootPlan!.Entry:x}");
        Says("hit Breakpoint 1, ", await gdb.RunAsync("continue"));
        Assert.Equal(machine.BootPlan.Entry, await gdb.EvaluateAsync("$pc"));

        // With KASLR there are 512 places where it may be; of as many breakpoints one is hit.
        await gdb.RunAsync("delete");
        var places = isRandom ? RandomRange / RandomStep : 1;
        await File.WriteAllLinesAsync(Path.Combine(_directory, "breaks"), Enumerable.Range(0, (int)places).Select(i => $"hbreak *0x{symbols["start_kernel"] + ((ulong)i * RandomStep):x}"), limit.Token);
        await gdb.RunAsync("source " + Path.Combine(_directory, "breaks"));
        Says("hit Breakpoint", await gdb.RunAsync("continue"));
        var offset = await gdb.EvaluateAsync("$pc") - symbols["start_kernel"];
        Assert.Equal(0UL, offset % RandomStep);
        if (!isRandom)
            Assert.Equal(0UL, offset);
        await gdb.RunAsync("delete", $"symbol-file -o 0x{offset:x} {file}");
        Says("<start_kernel>", await gdb.RunAsync("print $pc"));
        Says("LMA", await gdb.RunAsync("info registers efer"));
        Says("[ PE ", await gdb.RunAsync("info registers cr0"));
        Says("=> 0x", await gdb.RunAsync("x/3i $pc"));
        Says("in start_kernel ()\n#1  0x", await gdb.RunAsync("backtrace 2"));

        var before = await gdb.EvaluateAsync("$pc");
        await gdb.RunAsync("stepi");
        Assert.NotEqual(before, await gdb.EvaluateAsync("$pc"));

        // What the guest will show: memory that is written to.
        Says("%s version %s", await gdb.RunAsync("x/s (char *)&linux_proc_banner"));
        await gdb.RunAsync("set var *((char *)&linux_proc_banner + 3) = 'D'", "set var *((char *)&linux_proc_banner + 4) = 'B'", "set var *((char *)&linux_proc_banner + 5) = 'G'");

        await gdb.RunAsync("watch *(int *)&system_state");
        var stop = await gdb.RunAsync("continue");
        Says("Old value = 0", stop);
        Says("New value = 1", stop);
        await gdb.RunAsync("delete");

        await gdb.BeginAsync("continue");
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Says("SIGINT", await gdb.InterruptAsync(machine));
        var threads = await gdb.RunAsync("info threads");
        Says("Thread 1 (CPU#0 [", threads);
        Says("Thread 2 (CPU#1 [", threads);

        // What a system call returns: registers that are written to. The condition is the stub's to evaluate.
        await gdb.RunAsync("break *&__x64_sys_geteuid if $cs == 0x10");
        await gdb.BeginAsync("continue");
        await machine.Serial.WriteLineAsync("id -u; cut -c 1-13 /proc/version", limit.Token);
        Says("in __x64_sys_geteuid ()", await gdb.EndAsync());
        Says("target evals", await gdb.RunAsync("info breakpoints"));
        await gdb.RunAsync("delete", "set $rax = 4242", "set $rip = *(long *)$rsp", "set $rsp = $rsp + 8");
        await gdb.RunAsync("stepi");
        await gdb.BeginAsync("continue");
        var answer = await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("4242\r\nLinux DBGsion\r\n", answer, StringComparison.Ordinal);

        await gdb.InterruptAsync(machine);
        Says("detached", await gdb.RunAsync("detach"));
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    /// <summary>A paravirtual kernel while it runs: it is in ring 3 as its programs are, and goes in and out of them by its hypervisor.</summary>
    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [InlineData("interpreter", 1)]
    [InlineData("translator", 2)]
    public async Task A_paravirtual_kernel_is_debugged(string engine, int processors)
    {
        const ulong kernelCode = 0xE033, programCode = 0x33;
        using var limit = new CancellationTokenSource(Limit);
        var console = new MemoryCharBackend();
        await using var machine = await Linux(engine, "")
            .WithMemory(256 << 20)
            .WithProcessors(processors)
            .WithXen(7, console, MachineKind.XenPv)
            .WithCommandLine("console=hvc0 quiet")
            .StartAsync(limit.Token);
        await console.ExpectAsync(":~# ", limit.Token);
        await using var server = GdbServer.Start(machine, ServerAddress.Parse("tcp::0", "-gdb")!, NullLogger.Instance);
        await using var gdb = await GdbProcess.AttachAsync($"127.0.0.1:{server.Port}", limit.Token);
        var symbols = new Dictionary<string, ulong>();
        var view = new KernelView(LinuxKernel.Find(machine.Debugger)!, machine.Debugger);
        foreach (var name in (string[])["_text", "xen_entry_SYSCALL_64", "xen_hypercall_pv", "xen_iret", "xen_asm_exc_xen_hypervisor_callback", "__x64_sys_geteuid", "linux_proc_banner", "jiffies"])
        {
            Assert.True(view.TryGetAddress(name, out var address), name);
            symbols[name] = address;
        }

        var file = Path.Combine(_directory, "symbols");
        SymbolFile.Write(file, symbols["_text"], symbols);
        await gdb.RunAsync("symbol-file " + file);
        Says($"Thread {processors} (CPU#{processors - 1} [", await gdb.RunAsync("info threads"));

        // Where programs come in: what the kernel sees of them, and of itself.
        await gdb.RunAsync("hbreak *&xen_entry_SYSCALL_64");
        await gdb.BeginAsync("continue");
        await console.WriteLineAsync("id -u", limit.Token);
        Says("in xen_entry_SYSCALL_64 ()", await gdb.EndAsync());
        Assert.Equal((kernelCode, 0xE02BUL, 0UL), (await gdb.EvaluateAsync("$cs"), await gdb.EvaluateAsync("$ss"), await gdb.EvaluateAsync("$k_gs_base")));
        Assert.Equal(0x050FUL, await gdb.EvaluateAsync("*(unsigned short *)($rcx - 2)")); // SYSCALL
        Says("%s version %s", await gdb.RunAsync("x/s (char *)&linux_proc_banner"));
        Assert.True(machine.Debugger.TryTranslate(machine.Debugger.GetState(0), symbols["linux_proc_banner"], out var physical));
        Says("%s version %s", await gdb.RunAsync("maintenance packet Qqemu.PhyMemMode:1", $"x/s (char *)0x{physical:x}"));
        await gdb.RunAsync("maintenance packet Qqemu.PhyMemMode:0");
        Assert.Equal(0x00CF_F300_0000_FFFFUL, await gdb.EvaluateAsync("*(long *)($gdt_base + 0xe028)")); // Xen's flat data, which is in no table
        var perProcessor = await gdb.EvaluateAsync("$gs_base");

        // Back in the program.
        await gdb.RunAsync("delete", "set $back = $rcx", "hbreak *$back");
        Says("Breakpoint 2, ", await gdb.RunAsync("continue"));
        Assert.Equal((programCode, 0x2BUL, 0UL), (await gdb.EvaluateAsync("$cs"), await gdb.EvaluateAsync("$ss"), await gdb.EvaluateAsync("$gs_base")));
        Assert.NotEqual(0UL, perProcessor);
        await gdb.RunAsync("delete", "stepi", "stepi");
        Assert.Equal(programCode, await gdb.EvaluateAsync("$cs"));
        Says("%s version %s", await gdb.RunAsync("x/s (char *)&linux_proc_banner"));

        // What a system call returns; and a hypercall is one step, as the return to a program is.
        await gdb.RunAsync("hbreak *&__x64_sys_geteuid");
        Says("in __x64_sys_geteuid ()", await gdb.RunAsync("continue"));
        await gdb.RunAsync("delete", "set $rax = 4242", "set $rip = *(long *)$rsp", "set $rsp = $rsp + 8", "hbreak *&xen_hypercall_pv if $rax != 29"); // not one that blocks
        Says("xen_hypercall_pv ()", await gdb.RunAsync("continue"));
        await gdb.RunAsync("delete", "stepi", "stepi");
        Says("syscall", await gdb.RunAsync("x/i $pc"));
        await gdb.RunAsync("stepi");
        Says("<xen_hypercall_pv+5>:\tpop", await gdb.RunAsync("x/i $pc"));
        await gdb.RunAsync($"hbreak *&xen_iret if *(long *)($rsp + 8) == {programCode}");
        Says("xen_iret ()", await gdb.RunAsync("continue"));
        await gdb.RunAsync("delete", "set $back = *(long *)$rsp", "stepi 6");
        Assert.Equal((programCode, 0UL), (await gdb.EvaluateAsync("$cs"), await gdb.EvaluateAsync("$pc - $back")));

        await gdb.RunAsync("hbreak *&xen_asm_exc_xen_hypervisor_callback");
        Says("xen_asm_exc_xen_hypervisor_callback ()", await gdb.RunAsync("continue"));
        await gdb.RunAsync("delete", "watch *(long *)&jiffies");
        Says("New value", await gdb.RunAsync("continue"));
        await gdb.RunAsync("delete");
        await gdb.BeginAsync("continue");
        Assert.Contains("4242", await console.ExpectAsync(":~# ", limit.Token), StringComparison.Ordinal);
        Says("SIGINT", await gdb.InterruptAsync(machine));
        Says("detached", await gdb.RunAsync("detach"));
        await console.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    [GuestTheory(Bios)]
    [EngineData]
    public async Task Firmware_is_debugged_in_real_mode(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(64 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithFirmware(GuestCache.Open(Bios))
            .WithStartPaused()
            .StartAsync(limit.Token);
        var path = Path.Combine(_directory, "gdb.sock");
        await using var server = GdbServer.Start(machine, ServerAddress.Parse($"unix:{path},server=on,wait=off", "-gdb")!, NullLogger.Instance);
        await using var gdb = await GdbProcess.AttachAsync(path, limit.Token);
        await gdb.RunAsync("monitor view i8086", "unset tdesc filename");
        Says("i8086", await gdb.RunAsync("show architecture"));
        Says("ljmp   $0xf000,$0xe05b", await gdb.RunAsync("x/i $lpc"));
        Assert.Equal((0xF000UL, 0xFFF0UL, 0xFFFF_FFF0UL), (await gdb.EvaluateAsync("$cs"), await gdb.EvaluateAsync("$ip"), await gdb.EvaluateAsync("$lpc")));

        await gdb.RunAsync("hbreak *0xfe05b");
        Says("Breakpoint 1, 0x000fe05b", await gdb.RunAsync("continue"));
        Says("%cs:", await gdb.RunAsync("x/5i $lpc"));
        await gdb.RunAsync("stepi");
        Assert.Equal(0xFE062UL, await gdb.EvaluateAsync("$lpc"));

        // Its interrupt 19h, by the vector that it has set: what is called when there is nothing to boot.
        await gdb.RunAsync("delete", "watch *(int *)0x64");
        Says("Hardware watchpoint", await gdb.RunAsync("continue"));
        await gdb.RunAsync("delete");
        await gdb.BeginAsync("continue");
        Says("SIGINT", await gdb.InterruptAsync(machine));
        var handler = ((await gdb.EvaluateAsync("*(unsigned short *)0x62") << 4) + await gdb.EvaluateAsync("*(unsigned short *)0x60")) & 0xFFFFF;
        Assert.InRange(handler, 0xC0000UL, 0xFFFFFUL);

        // And again from the reset vector, in 64-bit eyes.
        await gdb.RunAsync("monitor view amd64", "unset tdesc filename", "hbreak *0xfe05b", "monitor reset", "maintenance flush register-cache");
        Says("Breakpoint", await gdb.RunAsync("continue"));
        Assert.Equal(0xFE05BUL, await gdb.EvaluateAsync("$rip"));
        await gdb.RunAsync("kill");
        Assert.Equal(MachineExitReason.Stopped, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    [GuestTheory(Bios, VgaBios, "ipxe/ipxe.iso")]
    [InlineData("translator")]
    public async Task IPXE_is_debugged_over_a_serial_line(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(128 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithFirmware(GuestCache.Open(Bios))
            .WithVga(GuestCache.Open(VgaBios))
            .WithCdrom(GuestCache.PathOf("ipxe/ipxe.iso"))
            .WithStartPaused()
            .StartAsync(limit.Token);
        await using var server = GdbServer.Start(machine, ServerAddress.Parse("pty", "-gdb")!, NullLogger.Instance);
        await using var gdb = await GdbProcess.AttachAsync(server.Name, limit.Token);

        // Where every boot sector begins; isolinux finds its own there, and iPXE after it.
        await gdb.RunAsync("monitor view i8086", "unset tdesc filename", "tbreak *0x7c00");
        Says("0x00007c00", await gdb.RunAsync("continue"));
        Says("cli", await gdb.RunAsync("x/i $lpc"));
        await gdb.BeginAsync("continue");
        await machine.Screen!.ExpectTextAsync("Press Ctrl-B for the iPXE command line", limit.Token);
        await machine.Keyboard.SendKeysAsync("ctrl-b", limit.Token);
        await machine.Screen.ExpectTextAsync("iPXE>", limit.Token);
        Says("SIGINT", await gdb.InterruptAsync(machine));

        // It waits for a key, in whichever mode; step through what that is.
        await gdb.RunAsync("monitor view i386", "unset tdesc filename");
        for (var i = 0; i < 20; i++)
            Assert.DoesNotContain("rror", await gdb.RunAsync("stepi"), StringComparison.Ordinal);

        // The screen is memory, too: the first character becomes another.
        await gdb.RunAsync("maintenance packet Qqemu.PhyMemMode:1", "set var *(char *)0xb8000 = '@'", "maintenance packet Qqemu.PhyMemMode:0");
        Says("detached", await gdb.RunAsync("detach"));
        await machine.Keyboard.TypeAsync("show version\n", limit.Token);
        await machine.Screen.ExpectTextAsync("version:string", limit.Token);
    }

    private static MachineBuilder Linux(string engine, string arguments) => Machine.CreateBuilder()
        .WithMemory(512 << 20)
        .WithEngine(GuestEngines.Create(engine))
        .WithKernel(GuestCache.Open("cloud/vmlinuz"))
        .WithInitrd(GuestCache.Open("demo/initrd.img"))
        .WithCommandLine($"console=ttyS0 quiet {arguments}");

    /// <summary>Where things are without KASLR, by the kernel's own word.</summary>
    private static async Task<Dictionary<string, ulong>> FindSymbolsAsync()
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Linux("translator", $"nokaslr demo.run=\"grep -E ' ({string.Join('|', Wanted)})$' /proc/kallsyms\"").StartAsync(limit.Token);
        var output = await machine.Serial.ExpectAsync("demo.run: exit 0", limit.Token);
        var lines = output.Split('\n').Select(l => l.Trim().Split(' ')).Where(l => l.Length == 3 && Wanted.Contains(l[2]));
        var symbols = lines.ToDictionary(l => l[2], l => ulong.Parse(l[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture));
        Assert.Equal(Wanted.Length, symbols.Count);
        return symbols;
    }

    private static void Says(string expected, string answer) => Assert.Contains(expected, answer, StringComparison.Ordinal);
}
