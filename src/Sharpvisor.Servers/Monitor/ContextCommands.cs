using Sharpvisor.Debugging;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands that QEMU's monitor does not have: what the guest's kernel is doing.</summary>
internal sealed class ContextCommands(ControlContext context)
{
    public IEnumerable<MonitorCommand> All =>
    [
        new(["ctx"], ContextOptions.Parameters, "registers, code, stack and call trace of each processor, with the kernel's symbols", call =>
        {
            var options = ContextOptions.Parse(call.Words);
            return context.Machine.InspectAsync(view => ContextDump.Write(view, context.Machine.Kernels.Find(view, options.SymbolFile), options), call.Cancellation);
        }),
    ];
}
