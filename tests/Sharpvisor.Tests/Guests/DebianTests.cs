using Sharpvisor.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>Debian's unmodified kernels, from power-on to power-off.</summary>
[Trait("Category", "Guest")]
public sealed class DebianTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData(1)]
    [EngineData(2)]
    [InlineData("small-cache", 1)] // full and emptied many times on the way
    public async Task The_cloud_kernel_boots_to_a_shell_and_powers_off(string engine, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Start(engine, "cloud/vmlinuz", processors, "console=ttyS0 quiet", limit.Token);
        await machine.Serial.ExpectAsync(":~# ", limit.Token);
        Assert.Contains("x86_64", await Run(machine, "uname -a", limit.Token), StringComparison.Ordinal);
        Assert.Contains($"{processors}\r\n", await Run(machine, "nproc", limit.Token), StringComparison.Ordinal);
        // Every processor works: a job each, and their sum.
        var work = "for i in $(seq $(nproc)); do (n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; echo done-$n) & done; wait";
        var answer = await Run(machine, work, limit.Token);
        Assert.Equal(processors, answer.Split("done-2000").Length - 1);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(new(MachineExitReason.PowerOff, 0, "the guest powered off (ACPI S5)"), await machine.WaitForExitAsync(limit.Token));
    }

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData("reboot=acpi", false)]
    [EngineData("reboot=kbd", false)]
    [EngineData("reboot=triple", true)]
    public async Task A_reboot_ends_a_machine_without_reboot(string engine, string how, bool isTripleFault)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Start(engine, "cloud/vmlinuz", 1, $"console=ttyS0 quiet {how} demo.run=\"reboot -f\"", limit.Token);
        var exit = await machine.WaitForExitAsync(limit.Token);
        Assert.Equal(isTripleFault ? MachineExitReason.TripleFault : MachineExitReason.Reset, exit.Reason);
    }

    [GuestTheory("generic/vmlinuz", "demo/initrd.img")]
    [EngineData(2)]
    public async Task The_generic_kernel_boots(string engine, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Start(engine, "generic/vmlinuz", processors, "console=ttyS0 quiet demo.run=nproc", limit.Token);
        var output = await machine.Serial.ExpectAsync("demo.run: exit 0", limit.Token);
        Assert.Contains($"{processors}\r\n", output, StringComparison.Ordinal);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    [GuestTheory("installer/linux", "installer/initrd.gz")]
    [EngineData("Select a language")]
    public async Task The_installer_reaches_its_first_screen(string engine, string title)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(1UL << 30)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("installer/linux"))
            .WithInitrd(GuestCache.Open("installer/initrd.gz"))
            .WithCommandLine("console=ttyS0 TERM=linux")
            .StartAsync(limit.Token);
        await machine.Serial.ExpectAsync(title, limit.Token);
    }

    private static Task<Machine> Start(string engine, string kernel, int processors, string commandLine, CancellationToken cancellation) =>
        Machine.CreateBuilder()
            .WithMemory(512 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open(kernel))
            .WithInitrd(GuestCache.Open("demo/initrd.img"))
            .WithCommandLine(commandLine)
            .WithoutReboot()
            .StartAsync(cancellation);

    private static async Task<string> Run(Machine machine, string command, CancellationToken cancellation)
    {
        await machine.Serial.WriteLineAsync(command, cancellation);
        return await machine.Serial.ExpectAsync(":~# ", cancellation);
    }
}
