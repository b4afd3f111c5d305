using System.Text;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>Kernels that SeaBIOS starts, by our option ROM.</summary>
[Trait("Category", "Guest")]
public sealed class FirmwareBootTests
{
    private const string Bios = "seabios/bios-256k.bin", VgaBios = "seabios/vgabios-stdvga.bin";
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(2);

    [GuestTheory(Bios)]
    [EngineData(true)]
    [EngineData(false)]
    public async Task A_multiboot_kernel_finds_what_it_was_given(string engine, bool isElf)
    {
        await using var machine = await Start(MultibootMachine.Builder(engine, isElf ? MultibootKernel.Elf() : MultibootKernel.Flat()));
        Assert.Equal(
            """
            2badb002 0000024f 
            kernel quiet ü
            sharpvisor
            one
            first module
            two with arguments
            second
            0000027f 00007bfc 
            00000000 00000000 00000000 0009fc00 00000001 
            00000000 0009fc00 00000000 00000400 00000002 
            00000000 000f0000 00000000 00010000 00000002 
            00000000 00100000 00000000 01eff000 00000001 
            00000000 01fff000 00000000 00001000 00000002 
            00000000 fffc0000 00000000 00040000 00000002 
            00000000 

            """,
            await Output(machine));
    }

    [GuestTheory(Bios)]
    [EngineData]
    public async Task A_PVH_kernel_finds_what_it_was_given(string engine)
    {
        await using var machine = await Start(Machine.CreateBuilder().WithMemory(64 << 20).WithEngine(GuestEngines.Create(engine))
            .WithKernel(BootSource.FromBytes(PvhKernel.Elf(), "kernel"))
            .WithInitrd(BootSource.FromBytes("a RAM disk"u8.ToArray(), "initrd"))
            .WithCommandLine("quiet")
            .WithDebugExit(0xF4, 4));
        Assert.Equal(
            """
            00000020 00000011 00000000 336ec578 
            quiet
            00000001 a RAM disk
            RSD PTR 
            00000000 00000000 00000000 0009fc00 00000001 00000000 
            00000000 0009fc00 00000000 00000400 00000002 00000000 
            00000000 000f0000 00000000 00010000 00000002 00000000 
            00000000 00100000 00000000 03eff000 00000001 00000000 
            00000000 03fff000 00000000 00001000 00000002 00000000 
            00000000 fffc0000 00000000 00040000 00000002 00000000 

            """,
            await Output(machine));
    }

    [GuestTheory(Bios)]
    [EngineData(0x20F, true, "00001020 00001000 00001000 00001000 0000fff0 ", "000081ff 00000317 0000fe00 ", "", 0x100000)]
    [EngineData(0x200, true, "00009020 00009000 00009000 00009000 00009fd0 ", "000001ff 00000317 00000000 ", "0000a33f ", 0x100000)]
    [EngineData(0x201, false, "00009020 00009000 00009000 00009000 00009fd0 ", "000080ff 00000317 00009de0 ", "0000a33f ", 0x10000)]
    [EngineData(0x204, false, "00009020 00009000 00009000 00009000 00009fd0 ", "000080ff 00000317 00009de0 ", "", 0x10000)]
    public async Task Setup_code_runs_in_real_mode(string engine, int version, bool isLoadedHigh, string registers, string header, string old, int loadAddress)
    {
        await using var machine = await Start(Machine.CreateBuilder().WithMemory(64 << 20).WithEngine(GuestEngines.Create(engine))
            .WithKernel(BootSource.FromBytes(RealModeKernel.BzImage((ushort)version, isLoadedHigh), "kernel"))
            .WithInitrd(BootSource.FromBytes("a RAM disk"u8.ToArray(), "initrd"))
            .WithCommandLine("quiet vga=0x317 single")
            .WithDebugExit(0xF4, 4));
        Assert.Equal($"{registers}\n{header}03eff000 0000000a \n{old}quiet vga=0x317 single\n", await Output(machine));
        var loaded = new byte[RealModeKernel.Body.Length];
        Assert.True(machine.Memory.TryRead((ulong)loadAddress, loaded));
        Assert.Equal(RealModeKernel.Body, Encoding.ASCII.GetString(loaded));
        loaded = new byte[10];
        Assert.True(machine.Memory.TryRead(0x3EFF000, loaded));
        Assert.Equal("a RAM disk", Encoding.ASCII.GetString(loaded));
    }

    [GuestTheory(Bios, "cloud/vmlinuz", "demo/initrd.img")]
    [InlineData("translator")]
    public async Task The_cloud_kernel_boots_to_its_shell(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Start(Machine.CreateBuilder().WithEngine(GuestEngines.Create(engine))
            .WithProcessors(2)
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine("console=ttyS0 demo.run=nproc"));
        var output = await machine.Serial.ExpectAsync("demo.run: exit 0", limit.Token);
        Assert.Contains("Command line: console=ttyS0 demo.run=nproc", output, StringComparison.Ordinal);
        Assert.Contains("BIOS-e820: [mem 0x00000000000f0000-0x00000000000fffff] reserved", output, StringComparison.Ordinal);
        Assert.Contains("2\r\n", output, StringComparison.Ordinal);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    /// <summary>
    /// iPXE has Linux's format, but an old protocol and no code but its own; its RAM disk is a script. It looks for the
    /// script where it isn't with 64 MiB or less, on QEMU too.
    /// </summary>
    [GuestTheory(Bios, VgaBios, "ipxe/ipxe.lkrn")]
    [EngineData]
    public async Task IPXE_executes_its_script_and_gives_a_prompt(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Start(Machine.CreateBuilder().WithMemory(128 << 20).WithEngine(GuestEngines.Create(engine))
            .WithVga(GuestCache.Open(VgaBios))
            .WithKernel(GuestCache.Open("ipxe/ipxe.lkrn"))
            .WithInitrd(BootSource.FromBytes("#!ipxe\necho a script\nshell\n"u8.ToArray(), "script"))
            .WithoutReboot());
        await machine.Screen!.ExpectTextAsync("a script\niPXE>", limit.Token);
        await machine.Keyboard.TypeAsync("echo typed-in\n", limit.Token);
        await machine.Screen.ExpectTextAsync("\ntyped-in", limit.Token);
        await machine.Keyboard.TypeAsync("reboot\n", limit.Token);
        Assert.Equal(MachineExitReason.Reset, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    [GuestTheory(Bios)]
    [EngineData]
    public async Task A_kernel_is_started_again_after_a_reset(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var kernel = RealModeKernel.BzImage(0x20F, isLoadedHigh: true);
        // Instead of the debug exit: a reset by port CF9h.
        var exit = kernel.AsSpan().IndexOf((byte[])[0xB0, 0x10, 0xE6, 0xF4, 0xFA, 0xF4]);
        ((byte[])[0xB0, 0x06, 0xBA, 0xF9, 0x0C, 0xEE]).CopyTo(kernel, exit);
        await using var machine = await Start(Machine.CreateBuilder().WithMemory(64 << 20).WithEngine(GuestEngines.Create(engine))
            .WithKernel(BootSource.FromBytes(kernel, "kernel"))
            .WithCommandLine("again"));
        for (var i = 0; i < 3; i++)
            await machine.Serial.ExpectAsync("again\n", limit.Token);
    }

    [GuestTheory(Bios)]
    [EngineData]
    public async Task A_file_that_became_shorter_is_told_of(string engine)
    {
        using var limit = new CancellationTokenSource(Limit);
        var path = Path.GetTempFileName();
        try
        {
            await File.WriteAllBytesAsync(path, MultibootKernel.Elf(), limit.Token);
            await using var log = new MemoryCharBackend();
            await using var machine = Machine.CreateBuilder().WithMemory(64 << 20).WithEngine(GuestEngines.Create(engine))
                .WithFirmware(GuestCache.Open(Bios))
                .WithKernel(path)
                .WithDebugConsole(log, 0x402)
                .Build();
            await File.WriteAllBytesAsync(path, [], limit.Token);
            await machine.StartAsync(limit.Token);
            await log.ExpectAsync("Sharpvisor: the kernel or its data cannot be read", limit.Token);
        }
        finally
        {
            File.Delete(path);
        }
    }

    private static Task<Machine> Start(MachineBuilder builder) => builder.WithFirmware(GuestCache.Open(Bios)).StartAsync();

    private static async Task<string> Output(Machine machine)
    {
        Assert.Equal(0x21, (await machine.WaitForExitAsync().WaitAsync(Limit)).Code);
        return machine.Serial.Output;
    }
}
