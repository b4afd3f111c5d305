// x, xp, print, i, o, memsave and dumps of QEMU's monitor (hmp-commands.hx).
using Sharpvisor.Core.Buses;
using Sharpvisor.Debugging;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands that look at memory, registers and ports.</summary>
internal sealed class MemoryCommands(ControlContext context)
{
    /// <summary>The longest instruction, in bytes.</summary>
    private const int MaximumInstruction = 15;

    private Machine Machine => context.Machine;

    private MachineOperations Operations => context.Operations;

    public IEnumerable<MonitorCommand> All =>
    [
        new(["x"], "/fmt addr", "virtual memory dump starting at 'addr'", call => DumpAsync(call, isPhysical: false)),
        new(["xp"], "/fmt addr", "physical memory dump starting at 'addr'", call => DumpAsync(call, isPhysical: true)),
        new(["gva2gpa"], "addr", "print the guest physical address corresponding to a guest virtual address", call => Machine.InspectAsync(
            view =>
            {
                if (call.Rest.Length == 0)
                    throw call.Missing();
                var state = view.GetState(call.State.Processor);
                return view.TryTranslate(in state, Evaluate(view, call.State.Processor, call.Rest), out var physical) ? $"gpa: 0x{physical:x}" : "Unmapped";
            },
            call.Cancellation)),
        new(["print", "p"], "/fmt expr", "print expression value (use $reg for CPU register access)", PrintAsync),
        new(["i"], "/fmt addr [index]", "I/O port read", MachineCommands.Text(Input)),
        new(["o"], "/fmt addr val", "I/O port write", MachineCommands.Text(Output)),
        new(["memsave"], "addr size file", "save to disk virtual memory dump starting at 'addr' of size 'size'", async call =>
        {
            call.CheckCount(3);
            var (address, size) = (await EvaluateAsync(call, call.Word(0)).ConfigureAwait(false), await EvaluateAsync(call, call.Word(1)).ConfigureAwait(false));
            await Operations.SaveMemoryAsync(call.Word(2), address, size, call.State.Processor).ConfigureAwait(false);
            return "";
        }) { Complete = File },
        new(["pmemsave"], "addr size file", "save to disk physical memory dump starting at 'addr' of size 'size'", async call =>
        {
            call.CheckCount(3);
            var (address, size) = (await EvaluateAsync(call, call.Word(0)).ConfigureAwait(false), await EvaluateAsync(call, call.Word(1)).ConfigureAwait(false));
            await Operations.SavePhysicalAsync(call.Word(2), address, size).ConfigureAwait(false);
            return "";
        }) { Complete = File },
        new(["dump-guest-memory"], "[-p] [-d] filename", "dump guest memory into file 'filename', as an ELF core with the registers of each CPU (-p: by linear addresses; -d: in the background)", async call =>
        {
            call = call.TakeFlag("-p", out var paging).TakeFlag("-d", out var detach);
            call.CheckCount(1);
            await Operations.DumpAsync(call.Word(0), paging, detach).ConfigureAwait(false);
            return "";
        }) { Complete = i => i == 0 ? null : [] },
    ];

    private static IEnumerable<string>? File(int index) => index == 2 ? null : [];

    private Task<ulong> EvaluateAsync(MonitorCall call, string text) => text.Contains('$', StringComparison.Ordinal)
        ? Machine.InspectAsync(view => Evaluate(view, call.State.Processor, text), call.Cancellation)
        : Task.FromResult(unchecked((ulong)Expression.Evaluate(text, NoRegister)));

    private static ulong Evaluate(MachineDebugger view, int processor, string text)
    {
        var state = view.GetState(processor);
        return unchecked((ulong)Expression.Evaluate(text, name => GuestRegisters.TryGet(in state, name, out var value) ? value : NoRegister(name)));
    }

    private static ulong NoRegister(string name) => throw new ControlException($"unknown register ${name}");

    private Task<string> DumpAsync(MonitorCall call, bool isPhysical)
    {
        if (call.Rest.Length == 0)
            throw call.Missing();
        var format = MemoryFormat.Parse(call.Format, call.State.Format);
        return Machine.InspectAsync(
            view =>
            {
                var processor = call.State.Processor;
                var state = view.GetState(processor);
                var address = Evaluate(view, processor, call.Rest);
                var buffer = new byte[format.Form == 'i' ? format.Count * MaximumInstruction : format.Count * format.Size];
                var count = isPhysical ? view.ReadPhysical(address, buffer) : view.ReadLinear(processor, address, buffer);
                call.State.Format = format with { Count = 1 };
                if (format.Form == 'i')
                    return format.Disassemble(address, buffer.AsSpan(0, count), GuestRegisters.Bitness(in state));
                count -= count % format.Size;
                return format.Describe(address, buffer.AsSpan(0, count), count < buffer.Length);
            },
            call.Cancellation);
    }

    private async Task<string> PrintAsync(MonitorCall call)
    {
        if (call.Rest.Length == 0)
            throw call.Missing();
        var format = MemoryFormat.Parse(call.Format, new MemoryFormat(1, 'd', 8));
        return MemoryFormat.Value(format.Form, await EvaluateAsync(call, call.Rest).ConfigureAwait(false));
    }

    private string Input(MonitorCall call)
    {
        call.CheckCount(2);
        var (port, size) = (Port(call), MemoryFormat.Parse(call.Format, new MemoryFormat(1, 'x', 1)).Size);
        if (call.OptionalWord(1) is { } index)
            Ports.Write(port++, 1, (ulong)MachineCommands.Number(index) & 0xFF);
        return $"port{SizeLetter(size)}[0x{port:x4}] = 0x{Ports.Read(port, size).ToString($"x{2 * size}", System.Globalization.CultureInfo.InvariantCulture)}";
    }

    private string Output(MonitorCall call)
    {
        call.CheckCount(2);
        var size = MemoryFormat.Parse(call.Format, new MemoryFormat(1, 'x', 1)).Size;
        SizeLetter(size);
        Ports.Write(Port(call), size, unchecked((ulong)Expression.Evaluate(call.Word(1), NoRegister)));
        return "";
    }

    /// <summary>Of a machine that has devices still.</summary>
    private AddressSpace Ports => Machine.Exit.IsCompleted ? throw new InvalidOperationException("the machine has ended") : Machine.Ports;

    private static ushort Port(MonitorCall call) =>
        MachineCommands.Number(call.Word(0)) is var port and <= ushort.MaxValue ? (ushort)port : throw new ControlException($"'{call.Word(0)}' is no port");

    private static char SizeLetter(int size) => size switch { 1 => 'b', 2 => 'w', 4 => 'l', _ => throw new ControlException("a port has 1, 2 or 4 bytes: b, h or w") };
}
