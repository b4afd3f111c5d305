using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Tests.Guests;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

/// <summary>The option ROM under a BIOS that tells any memory map.</summary>
public sealed class BootRomTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);
    private static readonly E820Entry Low = new(0, 0x9FC00, E820Type.Ram);

    [Theory]
    [EngineData]
    public async Task A_kernel_finds_the_map_of_firmware(string engine)
    {
        await using var machine = await MultibootMachine.Builder(engine, MultibootKernel.Elf())
            .WithFirmware(ScriptedBios.Build([Low, new(0x100000, 0x1E00000, E820Type.Ram), new(0x1_0000_0000, 0x12345_0000_0000, E820Type.Nvs)]))
            .StartAsync();
        Assert.Equal(0x21, (await machine.WaitForExitAsync().WaitAsync(Limit)).Code);
        Assert.EndsWith(
            """
            0000027f 00007800 
            00000000 00000000 00000000 0009fc00 00000001 
            00000000 00100000 00000000 01e00000 00000001 
            00000001 00000000 00012345 00000000 00000004 
            00000000 

            """,
            machine.Serial.Output,
            StringComparison.Ordinal);
    }

    [Theory]
    [EngineData]
    public async Task A_map_without_end_is_cut(string engine)
    {
        List<E820Entry> map = [Low, new(0x100000, 0x1E00000, E820Type.Ram)];
        while (map.Count < 1000)
            map.Add(new((ulong)map.Count << 32, 1, E820Type.Reserved));
        await using var machine = await MultibootMachine.Builder(engine, MultibootKernel.Elf()).WithFirmware(ScriptedBios.Build(map)).StartAsync();
        Assert.Equal(0x21, (await machine.WaitForExitAsync().WaitAsync(Limit)).Code);
        Assert.Equal(126, machine.Serial.Output.Split(" 00000000 00000001 00000002 \n").Length - 1);
    }

    /// <summary>Whatever is wrong is said, and firmware has its stack back.</summary>
    [Theory]
    [EngineData("none", "Sharpvisor: no memory map from INT 15h, AX=E820h\r\nback\n")]
    [EngineData("small", "Sharpvisor: the kernel or its data do not fit into RAM (give more with -m), at 0x00200000\r\nback\n")]
    [EngineData("hole", "Sharpvisor: the kernel or its data do not fit into RAM (give more with -m), at 0x00020000\r\nback\n")]
    [EngineData("reserved", "Sharpvisor: the kernel or its data do not fit into RAM (give more with -m), at 0x00200000\r\nback\n")]
    [EngineData("high", "Sharpvisor: the kernel or its data do not fit into RAM (give more with -m), at 0x00200000\r\nback\n")]
    public async Task A_kernel_that_does_not_fit_is_refused(string engine, string what, string message)
    {
        E820Entry[] map = what switch
        {
            "none" => [],
            "small" => [Low, new(0x100000, 0x100100, E820Type.Ram)],
            "hole" => [new(0, 0x20001, E820Type.Ram), new(0x20001, 0x70000, E820Type.Ram), new(0x100000, 0x1F00000, E820Type.Ram)],
            "reserved" => [Low, new(0x100000, 0x1F00000, E820Type.Reserved)],
            _ => [Low, new(0x1_0010_0000, 0x1F00000, E820Type.Ram)],
        };
        await using var log = new MemoryCharBackend();
        await using var machine = await MultibootMachine.Builder(engine, MultibootKernel.Elf())
            .WithFirmware(ScriptedBios.Build(map))
            .WithDebugConsole(log, 0x402)
            .StartAsync();
        using var limit = new CancellationTokenSource(Limit);
        await log.ExpectAsync("back", limit.Token);
        await log.ExpectAsync("\n", limit.Token);
        Assert.Equal(message, log.Output);
    }

    [Theory]
    [EngineData]
    public async Task As_many_modules_as_the_rom_takes_are_loaded(string engine)
    {
        var builder = Machine.CreateBuilder().WithMemory(32 << 20).WithEngine(GuestEngines.Create(engine)).WithDebugExit(0xF4, 4)
            .WithKernel(BootSource.FromBytes(MultibootKernel.Elf(), "kernel"))
            .WithModules(Enumerable.Range(0, 2044).Select(i => new BootModule(BootSource.FromBytes(BitConverter.GetBytes(i), "m"), "m")))
            .WithFirmware(ScriptedBios.Build([Low, new(0x100000, 0x1F00000, E820Type.Ram)]));
        await using var machine = await builder.StartAsync();
        Assert.Equal(0x21, (await machine.WaitForExitAsync().WaitAsync(Limit)).Code);
        Assert.True(machine.Memory.TryRead(machine.BootPlan!.Segments[^1].Address, out int last));
        Assert.Equal(2043, last);
        Assert.Equal(
            "kernel and modules are 2049 parts, a boot through firmware takes 2048: give fewer modules, or -machine kernel-boot=direct",
            Assert.Throws<ConfigurationException>(builder.WithModule(BootSource.FromBytes(new byte[1], "m")).Build).Message);
    }

    [Theory]
    [InlineData(BootWay.Firmware, false, true, "a kernel is to be started through firmware, but there is none: give it with -bios")]
    [InlineData(BootWay.Direct, true, true, "a kernel is to be started directly, but there is firmware: leave -bios or kernel-boot=direct out")]
    [InlineData(BootWay.Direct, true, false, "kernel-boot is for a kernel: give one with -kernel")]
    [InlineData(null, false, false, "nothing to boot: give a kernel with -kernel, or firmware with -bios")]
    public void Ways_that_cannot_work_say_so(BootWay? way, bool hasFirmware, bool hasKernel, string message)
    {
        var builder = Machine.CreateBuilder();
        if (way is { } chosen)
            builder.WithKernelBoot(chosen);
        if (hasFirmware)
            builder.WithFirmware(ScriptedBios.Build([]));
        if (hasKernel)
            builder.WithKernel(BootSource.FromBytes(BzImage(), "kernel"));
        Assert.Equal(message, Assert.Throws<ConfigurationException>(builder.Build).Message);
    }

    [Fact]
    public void A_kernel_in_real_mode_asks_for_firmware() => Assert.Equal(
        "kernel: starts in real mode, by an old boot protocol, which takes firmware: give it with -bios",
        Assert.Throws<ConfigurationException>(Machine.CreateBuilder().WithKernel(BootSource.FromBytes(RealModeKernel.BzImage(0x207, true), "kernel")).Build).Message);

    [Fact]
    public void A_vmlinux_without_a_PVH_entry_is_for_the_direct_way() => Assert.Equal(
        "kernel: is a vmlinux without a PVH entry, which firmware cannot start; give its bzImage, or -machine kernel-boot=direct",
        Assert.Throws<ConfigurationException>(() => BootPlan.Create(Request(Elf(is64: true)) with { Way = BootWay.Firmware })).Message);

    [Fact]
    public void Firmware_keeps_the_last_MiB()
    {
        var plan = BootPlan.Create(Request(BzImage(), initrd: new byte[0x1000]) with { Way = BootWay.Firmware });
        Assert.Equal((511UL << 20) - 0x1000, plan.Initrd!.Address);
        Assert.Contains("the guest has 49 MiB there: give it at least 65M", Assert.Throws<ConfigurationException>(
            () => BootPlan.Create(Request(BzImage(), below4G: 50 << 20) with { Way = BootWay.Firmware })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_kernel_over_the_place_of_the_map_is_refused()
    {
        var kernel = MultibootKernel.Elf();
        foreach (var offset in new[] { 24, 52 + 8, 52 + 12 })
            U32(kernel, offset, 0x8000);
        Assert.Equal(
            "kernel: the kernel lies over 0x7000 to 0x8fff, where the memory map goes; link it at 1 MiB or above",
            Assert.Throws<ConfigurationException>(() => BootPlan.Create(Request(kernel) with { Way = BootWay.Firmware })).Message);
        Assert.Equal(0x8000UL, BootPlan.Create(Request(kernel)).LoadAddress);
    }
}
