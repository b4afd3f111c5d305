using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests.Guests;

/// <summary>Kernels of a page in a PVH domain: what test suites for Xen rely on.</summary>
public sealed class XenKernelTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(1);

    [Theory]
    [EngineData(MachineKind.XenPvh, 0, MachineExitReason.PowerOff)]
    [EngineData(MachineKind.XenPvh, 1, MachineExitReason.Reset)]
    [EngineData(MachineKind.XenPvh, 3, MachineExitReason.GuestPanic)]
    [EngineData(MachineKind.XenPvh, 5, MachineExitReason.PowerOff)] // a soft reset, after which it halts for good
    [EngineData(MachineKind.XenHvm, 0, MachineExitReason.PowerOff)]
    public async Task It_speaks_and_shuts_down(string engine, MachineKind kind, int reason, MachineExitReason expected)
    {
        using var limit = new CancellationTokenSource(Limit);
        var logger = new ListLogger(LogLevel.Information);
        var console = new MemoryCharBackend();
        List<string> calls = [];
        await using var machine = Machine.CreateBuilder()
            .WithMemory(64 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(console: console, kind: kind)
            .WithKernel(BootSource.FromBytes(XenKernel.Elf(reason), "kernel"))
            .WithActions(new MachineActions { Reboot = RebootAction.Shutdown, Panic = PanicAction.Shutdown })
            .WithLogger(logger)
            .Build();
        machine.TracePoints.Set([TraceFilter.Parse("hypercall")], calls.Add);
        await machine.StartAsync(limit.Token);
        Assert.Equal(expected, (await machine.WaitForExitAsync(limit.Token)).Reason);
        Assert.Equal(XenKernel.ConsoleText, await console.ExpectAsync(XenKernel.ConsoleText, limit.Token));
        Assert.Contains($"guest: {XenKernel.LogText.TrimEnd()}", logger.Lines);
        Assert.Equal(["18", "34", "34", "32", "29"], calls.Select(c => c.Split(" nr ")[1].Split(' ')[0]));
        Assert.All(calls, c => Assert.EndsWith("result 0", c, StringComparison.Ordinal));
    }

    [Theory]
    [EngineData(true)]
    [EngineData(false)]
    public async Task Events_come_by_a_PIC_alone(string engine, bool isLevel)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(64 << 20)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen()
            .WithKernel(BootSource.FromBytes(XenEventKernel.Elf(isLevel), "kernel"))
            .WithActions(new MachineActions { Reboot = RebootAction.Shutdown, Panic = PanicAction.Shutdown })
            .StartAsync(limit.Token);
        var exit = await machine.WaitForExitAsync(limit.Token);
        Assert.True(machine.Memory.TryRead(XenEventKernel.Interrupts, out int interrupts) & machine.Memory.TryRead(XenEventKernel.Empty, out int empty));
        Assert.Equal((MachineExitReason.PowerOff, XenEventKernel.Events, 0), (exit.Reason, interrupts, empty));
    }
}
