// ctx and profile, which are ours, and trace-event (QEMU's, with our events: docs/debugging.md).
using Sharpvisor.Core.Tracing;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Profiling;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands that QEMU's monitor does not have: what the guest's kernel is doing.</summary>
internal sealed class ContextCommands(ControlContext context)
{
    public IEnumerable<MonitorCommand> All =>
    [
        new(["ctx"], ContextOptions.Parameters, "registers, code, stack and call trace of each processor, with the kernel's symbols", async call =>
        {
            var options = ContextOptions.Parse(call.Words);
            // To find a kernel takes a while, in which the guest may run; to see that it is the same one takes none.
            var snapshot = await context.Machine.InspectAsync(view => new ProcessorSnapshot(view), call.Cancellation).ConfigureAwait(false);
            context.Machine.Kernels.Find(snapshot, options.SymbolFile);
            return await context.Machine.InspectAsync(view => ContextDump.Write(view, context.Machine.Kernels.Find(view, options.SymbolFile), options), call.Cancellation).ConfigureAwait(false);
        }),
        new(["profile"], "start [samples a second]|stop", "count where the processors are; stop prints folded stacks for flamegraph.pl", async call =>
        {
            call.CheckCount(2);
            switch (call.Word(0))
            {
                case "start":
                    var frequency = call.OptionalWord(1) is { } text ? MachineCommands.Number(text) : Profiler.DefaultFrequency;
                    context.Profile = context.Machine.StartProfile(frequency);
                    return "";
                case "stop":
                    var profile = context.Profile ?? throw new ControlException("there is no profile: begin one with profile start");
                    context.Profile = null;
                    await profile.DisposeAsync().ConfigureAwait(false);
                    return profile.Fold();
                default:
                    throw new ControlException($"profile: \"{call.Word(0)}\" is neither start nor stop");
            }
        }) { Complete = i => i == 0 ? ["start", "stop"] : [] },
        new(["trace-event"], "event[:first-last|:device] on|off", "log interrupts, exceptions, system calls, accesses to devices, virtio requests (interrupt, exception, syscall, port, mmio, virtio, all)", MachineCommands.Text(call =>
        {
            call.CheckCount(2);
            var points = context.Machine.TracePoints;
            var filter = TraceFilter.Parse(call.Word(0));
            var filters = call.Word(1) switch
            {
                "on" => points.Filters.Where(f => f != filter).Append(filter),
                "off" => points.Filters.Where(f => f != filter && (filter.Kind != TraceKind.All || filter.Device.Length > 0)),
                var other => throw new ControlException($"Parameter 'option' expects 'on' or 'off', not '{other}'"),
            };
            points.Set([.. filters], context.TraceLine ?? throw new ControlException("there is no log in this program"));
            return "";
        })) { Complete = i => i == 0 ? [.. TraceFilter.Names, "all"] : ["on", "off"] },
    ];

    /// <summary>info trace-events.</summary>
    public string Traced() => string.Concat(TraceFilter.Names.Select((name, i) =>
        $"{name} : state {(context.Machine.TracePoints.Wants((TraceKind)(1 << i)) ? 1 : 0)}{string.Concat(context.Machine.TracePoints.Filters.Where(f => f.Kind == (TraceKind)(1 << i)).Select(f => " " + f))}\n"));
}
