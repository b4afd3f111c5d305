using Sharpvisor.Backends.Char;

namespace Sharpvisor.Tests.Guests;

/// <summary>Guests that check themselves (guest/soak, guest/i386); eng/soak runs them for longer.</summary>
[Trait("Category", "Guest")]
public sealed class SoakTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(6);

    [GuestTheory("cloud/vmlinuz", "soak/initrd.img")]
    [EngineData(2)]
    public Task A_mixed_load_finds_nothing_wrong(string engine, int processors) =>
        ExpectAsync("SOAK", engine, processors, "soak/initrd.img", "soak=10");

    [GuestTheory("cloud/vmlinuz", "i386/initrd.img")]
    [EngineData(1)]
    [EngineData(2)]
    [InlineData("translator", 2, true)]
    public Task A_32_bit_user_space_gets_known_answers(string engine, int processors, bool isParavirtual = false) =>
        ExpectAsync("I386", engine, processors, "i386/initrd.img", "", isParavirtual);

    /// <summary>The guest ends with one line, WORD and OK or FAILED, and powers off; what it printed is the message of a failure.</summary>
    private static async Task ExpectAsync(string word, string engine, int processors, string initrd, string arguments, bool isParavirtual = false)
    {
        using var limit = new CancellationTokenSource(Limit);
        var line = new MemoryCharBackend();
        var builder = Machine.CreateBuilder()
            .WithMemory(512 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz"))
            .WithInitrd(GuestCache.Open(initrd))
            .WithCommandLine($"console={(isParavirtual ? "hvc0" : "ttyS0")} loglevel=4 panic=-1 {arguments}")
            .WithoutReboot();
        builder = isParavirtual ? builder.WithXen(console: line, kind: MachineKind.XenPv) : builder.WithSerial(line);
        await using var machine = await builder.StartAsync(limit.Token);
        var output = await line.ExpectAsync("reboot: ", limit.Token);
        Assert.True(output.Contains($"\n{word} OK", StringComparison.Ordinal), output);
        Assert.DoesNotContain($"{word} WRONG", output, StringComparison.Ordinal);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }
}
