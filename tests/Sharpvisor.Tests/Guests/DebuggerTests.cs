using System.Threading.Channels;
using Sharpvisor.Debugging;

namespace Sharpvisor.Tests.Guests;

/// <summary>A kernel that is stopped thousands of times goes on as if nothing had happened.</summary>
[Trait("Category", "Guest")]
public sealed class DebuggerTests
{
    private const int PageFault = 14;
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(4);

    [GuestTheory("cloud/vmlinuz", "demo/initrd.img")]
    [EngineData(2)]
    public async Task A_kernel_that_is_debugged_works_on(string engine, int processors)
    {
        using var limit = new CancellationTokenSource(Limit);
        await using var machine = Machine.CreateBuilder().WithMemory(512 << 20).WithProcessors(processors).WithEngine(GuestEngines.Create(engine))
            .WithKernel(GuestCache.Open("cloud/vmlinuz")).WithInitrd(GuestCache.Open("demo/initrd.img")).WithCommandLine("console=ttyS0 quiet")
            .WithStartPaused().Build();
        var debugger = machine.Debugger;
        var stops = Channel.CreateUnbounded<DebugStop>();
        debugger.Stopped += s => stops.Writer.TryWrite(s);
        await machine.StartAsync(limit.Token);

        // The kernel's entry, by its physical address, and steps from there.
        var entry = debugger.GetState(0).Rip;
        debugger.InsertBreakpoint(entry);
        Assert.Equal(new DebugStop(DebugStopKind.Breakpoint, 0, entry), await ContinueAsync());
        for (var i = 0; i < 1000; i++)
            Assert.Equal(DebugStopKind.Step, (await ContinueAsync(StepMode.Step)).Kind);
        debugger.RemoveBreakpoint(entry);
        await debugger.ContinueAsync(new Dictionary<int, Resumption>());
        await machine.Serial.ExpectAsync(":~# ", limit.Token);

        // Where system calls and page faults come in, while every processor makes some.
        await machine.Serial.WriteLineAsync("while :; do (true); done & while :; do (true); done & PS1=; echo rea''dy", limit.Token);
        await machine.Serial.ExpectAsync("ready", limit.Token);
        await debugger.StopAsync();
        Assert.Equal(DebugStopKind.Paused, (await stops.Reader.ReadAsync(limit.Token)).Kind);
        var systemCall = debugger.GetState(0).Lstar;
        var pageFault = GateOf(PageFault);
        debugger.InsertBreakpoint(systemCall);
        debugger.InsertBreakpoint(pageFault);
        var met = new HashSet<(int, ulong)>();
        for (var i = 0; i < 300 || met.Count < 2 * processors; i++)
        {
            var stop = await ContinueAsync();
            Assert.Equal(DebugStopKind.Breakpoint, stop.Kind);
            Assert.Equal(stop.Address, debugger.GetState(stop.Processor).Rip);
            met.Add((stop.Processor, stop.Address));
            if (i % 4 == 0)
                Assert.True((await ContinueAsync(StepMode.Step, stop.Processor)).Kind is DebugStopKind.Step or DebugStopKind.Breakpoint);
        }

        Assert.All(met, m => Assert.True(m.Item2 == systemCall || m.Item2 == pageFault));
        debugger.RemoveBreakpoint(systemCall);
        debugger.RemoveBreakpoint(pageFault);

        // Where its frames go: the top of the stack that page faults of the user take.
        debugger.InsertBreakpoint(pageFault);
        DebugStop fault;
        do
            fault = await ContinueAsync();
        while ((ReadWord(debugger.GetState(fault.Processor).Gpr[4] + 16) & 3) != 3); // CS behind error code and RIP
        debugger.RemoveBreakpoint(pageFault);
        var frame = debugger.GetState(fault.Processor).Gpr[4];
        debugger.InsertWatchpoint(WatchKind.Write, frame, 8);
        for (var i = 0; i < 50; i++)
        {
            var stop = await ContinueAsync();
            Assert.Equal((DebugStopKind.Watchpoint, frame, WatchKind.Write), (stop.Kind, stop.Address, stop.Watch));
        }

        debugger.RemoveWatchpoint(WatchKind.Write, frame, 8);
        for (var i = 0; i < 5000; i++)
            Assert.Equal(DebugStopKind.Step, (await ContinueAsync(i % 2 == 0 ? StepMode.Step : StepMode.StepWithInterrupts)).Kind);
        await debugger.ContinueAsync(new Dictionary<int, Resumption>());
        await machine.Serial.WriteLineAsync("kill %1 %2; cat /proc/version; dmesg | grep -ci 'oops\\|bug:\\|lockup'; echo al''l", limit.Token);
        var output = await machine.Serial.ExpectAsync("all", limit.Token);
        Assert.Contains("Linux version", output, StringComparison.Ordinal);
        Assert.Contains("\n0\r\n", output, StringComparison.Ordinal);
        await machine.Serial.WriteLineAsync("poweroff", limit.Token);
        Assert.Equal(MachineExitReason.PowerOff, (await machine.WaitForExitAsync(limit.Token)).Reason);

        async Task<DebugStop> ContinueAsync(StepMode mode = StepMode.Run, int processor = 0)
        {
            await debugger.ContinueAsync(new Dictionary<int, Resumption> { [processor] = new(mode) });
            return await stops.Reader.ReadAsync(limit.Token);
        }

        ulong ReadWord(ulong linear)
        {
            Span<byte> word = stackalloc byte[8];
            Assert.Equal(8, debugger.ReadLinear(fault.Processor, linear, word));
            return BitConverter.ToUInt64(word);
        }

        ulong GateOf(int vector)
        {
            var gate = new byte[16];
            Assert.Equal(16, debugger.ReadLinear(0, debugger.GetState(0).Idtr.Base + ((ulong)vector * 16), gate));
            return BitConverter.ToUInt16(gate) | ((ulong)BitConverter.ToUInt16(gate, 6) << 16) | ((ulong)BitConverter.ToUInt32(gate, 8) << 32);
        }
    }
}
