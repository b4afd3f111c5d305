using System.Globalization;
using System.Text.RegularExpressions;
using Sharpvisor.Cpu.Translator;

namespace Sharpvisor.Tests.Guests;

/// <summary>Interpreter and translator side by side on the first seconds of real boots: code of the kernel, and of firmware.</summary>
[Trait("Category", "Guest")]
public sealed partial class LockstepTests
{
    private static readonly TimeSpan Duration = TimeSpan.FromSeconds(15);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [InlineData("console=ttyS0")]
    public async Task Both_engines_do_the_same(string commandLine)
    {
        await using var machine = Machine.CreateBuilder()
            .WithMemory(512UL << 20)
            .WithEngine(new TranslatorEngine { Lockstep = true, Threshold = 0 })
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine(commandLine)
            .Build();
        await CompareAsync(machine);
    }

    /// <summary>16-bit code in real mode and in protected mode, and flat 32-bit code: firmware, and the BIOS of the screen.</summary>
    [GuestTheory("seabios/bios-256k.bin", "seabios/vgabios-stdvga.bin")]
    [InlineData(64)]
    public async Task Both_engines_do_the_same_in_firmware(int megabytes)
    {
        await using var machine = Machine.CreateBuilder()
            .WithMemory((ulong)megabytes << 20)
            .WithEngine(new TranslatorEngine { Lockstep = true, Threshold = 0 })
            .WithFirmware(GuestCache.Open("seabios/bios-256k.bin"))
            .Build();
        await CompareAsync(machine);
    }

    private static async Task CompareAsync(Machine machine)
    {
        await machine.StartAsync();
        if (await Task.WhenAny(machine.Exit, Task.Delay(Duration)) == machine.Exit)
            Assert.Fail((await machine.Exit).Message);
        await machine.PauseAsync();
        var compared = Compared().Match(machine.Processors[0].DescribeEngine());
        Assert.True(compared.Success && int.Parse(compared.Groups[1].Value, CultureInfo.InvariantCulture) > 10_000, compared.Value);
        await machine.StopAsync();
    }

    [GeneratedRegex("lockstep: ([0-9]+) translations")]
    private static partial Regex Compared();
}
