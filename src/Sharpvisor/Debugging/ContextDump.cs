// What xenctx of Xen's tools prints of a virtual processor: registers, flags, segments, the code at RIP, the stack, and the
// call trace; here with the code disassembled (Iced) and its targets named, and with the task that Linux runs.
using System.Globalization;
using System.Text;
using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging.Stacks;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Debugging;

/// <summary>Tells for a person what each processor of a guest that stands still is doing.</summary>
public static class ContextDump
{
    private const int BytesBefore = 48, BytesAfter = 48, LinesBefore = 4, LinesAfter = 8, ShownBytes = 10, WordsPerLine = 4;
    private const ulong ProtectedMode = 1;

    private static readonly string[] FlagNames =
        ["c", "1", "p", "3", "a", "5", "z", "s", "t", "i", "d", "o", "iopl1", "iopl2", "nt", "15", "rf", "vm", "ac", "vif", "vip", "id"];

    /// <param name="kernel">Whose names are used; null: none are.</param>
    /// <exception cref="ConfigurationException">There is no such processor.</exception>
    public static string Write(IGuestView view, LinuxKernel? kernel, ContextOptions? options = null)
    {
        options ??= new ContextOptions();
        if (options.Processor >= view.ProcessorCount)
            throw new ConfigurationException($"there is no processor {options.Processor}: give 0 to {view.ProcessorCount - 1}");
        var text = new StringBuilder();
        var guest = kernel is null ? null : new KernelView(kernel, view);
        if (kernel is not null)
        {
            text.Append(kernel.Banner.Length == 0 ? "a kernel without a banner" : kernel.Banner).Append('\n');
            text.Append(CultureInfo.InvariantCulture, $"symbols: {kernel.Symbols.Count}, {kernel.Source}");
            if (kernel.Slide != 0)
                text.Append(CultureInfo.InvariantCulture, $", moved by 0x{kernel.Slide:x}");
            text.Append(guest!.Modules.Count == 0 ? "\n" : string.Create(CultureInfo.InvariantCulture, $", {guest.Modules.Count} modules\n"));
        }
        else
        {
            text.Append("symbols: none (no Linux kernel was found in the guest's memory)\n");
        }

        for (var i = 0; i < view.ProcessorCount; i++)
        {
            if (options.Processor is null || options.Processor == i)
                Write(text, view, guest, i, options);
        }

        return text.ToString();
    }

    /// <summary>The call trace of one processor, as <see cref="Write"/> has it.</summary>
    public static string WriteTrace(IGuestView view, LinuxKernel? kernel, int processor)
    {
        var text = new StringBuilder();
        WriteCallTrace(text, view, kernel is null ? null : new KernelView(kernel, view), view.GetState(processor), new ContextOptions());
        return text.ToString();
    }

    private static void Write(StringBuilder text, IGuestView view, KernelView? guest, int processor, ContextOptions options)
    {
        var state = view.GetState(processor);
        text.Append(CultureInfo.InvariantCulture, $"\nvcpu{processor}:{(state.Activity == ActivityState.Active ? "" : $" {Name(state.Activity)}")}");
        if (guest?.TaskOf(processor) is { } task)
            text.Append(CultureInfo.InvariantCulture, $" task {task.Name}, pid {task.Pid}");
        text.Append('\n');
        WriteRegisters(text, guest, in state);
        WriteSystemRegisters(text, in state);
        WriteCode(text, view, guest, in state);
        WriteStack(text, view, in state, options.StackLines);
        WriteCallTrace(text, view, guest, in state, options);
    }

    private static string Name(ActivityState activity) => activity switch
    {
        ActivityState.Halted => "halted,",
        ActivityState.WaitForSipi => "waits for its start-up IPI,",
        ActivityState.Shutdown => "shut down (triple fault),",
        _ => "active,",
    };

    private static void WriteRegisters(StringBuilder text, KernelView? guest, in CpuState s)
    {
        var name = guest?.Describe(s.Rip);
        Line(text, $"rip: {s.Rip:x16}{(name is null ? "" : " " + name)}");
        text.Append(CultureInfo.InvariantCulture, $"flags: {s.Rflags:x8}");
        for (var bit = FlagNames.Length - 1; bit >= 0; bit--)
        {
            if (bit is not (1 or 3 or 5 or 15) && (s.Rflags >> bit & 1) != 0)
                text.Append(' ').Append(FlagNames[bit]);
        }

        text.Append('\n');
        var r = s.Gpr;
        Line(text, $"rsp: {r[4]:x16}");
        Line(text, $"rax: {r[0]:x16}   rcx: {r[1]:x16}   rdx: {r[2]:x16}");
        Line(text, $"rbx: {r[3]:x16}   rsi: {r[6]:x16}   rdi: {r[7]:x16}");
        Line(text, $"rbp: {r[5]:x16}    r8: {r[8]:x16}    r9: {r[9]:x16}");
        Line(text, $"r10: {r[10]:x16}   r11: {r[11]:x16}   r12: {r[12]:x16}");
        Line(text, $"r13: {r[13]:x16}   r14: {r[14]:x16}   r15: {r[15]:x16}");
        var g = s.Segments;
        Line(text, $" cs: {g[1].Selector:x4}    ss: {g[2].Selector:x4}    ds: {g[3].Selector:x4}    es: {g[0].Selector:x4}");
        Line(text, $" fs: {g[4].Selector:x4} @ {g[4].Base:x16}");
        Line(text, $" gs: {g[5].Selector:x4} @ {g[5].Base:x16}/{s.KernelGsBase:x16}");
    }

    private static void WriteSystemRegisters(StringBuilder text, in CpuState s)
    {
        text.Append('\n');
        Line(text, $"cr0: {s.Cr0:x16}   cr2: {s.Cr2:x16}   cr3: {s.Cr3:x16}");
        Line(text, $"cr4: {s.Cr4:x16}   cr8: {s.Cr8:x16}  efer: {s.Efer:x16}");
        Line(text, $"gdt: {s.Gdtr.Base:x16}/{s.Gdtr.Limit:x4}   idt: {s.Idtr.Base:x16}/{s.Idtr.Limit:x4}");
        Line(text, $"ldt: {s.Ldtr.Selector:x4} @ {s.Ldtr.Base:x16}    tr: {s.Tr.Selector:x4} @ {s.Tr.Base:x16}");
        Line(text, $"dr0: {s.Dr[0]:x16}   dr1: {s.Dr[1]:x16}   dr2: {s.Dr[2]:x16}");
        Line(text, $"dr3: {s.Dr[3]:x16}   dr6: {s.Dr[6]:x16}   dr7: {s.Dr[7]:x16}");
    }

    private static void WriteCode(StringBuilder text, IGuestView view, KernelView? guest, in CpuState state)
    {
        var segment = state.Segments[1];
        var isLong = (state.Efer & (1 << 10)) != 0 && segment.Long;
        var bitness = isLong ? 64 : segment.Big ? 32 : 16;
        var linear = isLong ? state.Rip : segment.Base + state.Rip;
        var after = new byte[BytesAfter];
        after = after[..view.ReadLinear(in state, linear, after)];
        Line(text, $"Code (instr addr {linear:x16})");
        if (after.Length == 0)
        {
            text.Append("  (not mapped)\n");
            return;
        }

        var before = new byte[BytesBefore];
        if (view.ReadLinear(in state, linear - BytesBefore, before) < BytesBefore)
            before = [];
        List<Instruction> lines = [.. Before(before, bitness, linear, guest)];
        lines = lines[Math.Max(0, lines.Count - LinesBefore)..];
        lines.AddRange(Decode(after, bitness, linear).Take(LinesAfter));
        var formatter = new NasmFormatter(new Names(guest)) { Options = { HexPrefix = "0x", HexSuffix = "", SpaceAfterOperandSeparator = true, RipRelativeAddresses = true, ShowSymbolAddress = false, BranchLeadingZeros = false, UppercaseHex = false } };
        var output = new StringOutput();
        foreach (ref readonly var instruction in System.Runtime.InteropServices.CollectionsMarshal.AsSpan(lines))
        {
            formatter.Format(in instruction, output);
            var offset = (int)(instruction.IP - linear);
            var bytes = offset < 0 ? before.AsSpan(before.Length + offset, instruction.Length) : after.AsSpan(offset, Math.Min(instruction.Length, after.Length - offset));
            var hex = bytes.Length > ShownBytes ? Convert.ToHexStringLower(bytes[..(ShownBytes - 1)]) + ".." : Convert.ToHexStringLower(bytes);
            Line(text, $"{(offset == 0 ? "=>" : "  ")} {instruction.IP:x16}  {hex,-20}  {output.ToStringAndReset()}");
        }

        if (lines.Count == 0 || lines[^1].IP < linear)
            Line(text, $"=> {linear:x16}  {Convert.ToHexStringLower(after.AsSpan(0, Math.Min(after.Length, ShownBytes)))}  (no instruction)");
    }

    /// <summary>
    /// The instructions that end right at <paramref name="linear"/>. Instructions have no marks where they begin: from
    /// the function's start they are right; else of all starts the first counts that leads there.
    /// </summary>
    private static List<Instruction> Before(byte[] bytes, int bitness, ulong linear, KernelView? guest)
    {
        var first = linear - (ulong)bytes.Length;
        var isKnown = guest is not null && guest.TryFindFunction(linear, out var function, out _) && linear - function.Address < (ulong)bytes.Length && (first = function.Address) == first;
        for (var start = (int)(first - (linear - (ulong)bytes.Length)); start < bytes.Length; start++)
        {
            var lines = Decode(bytes[start..], bitness, linear - (ulong)(bytes.Length - start)).ToList();
            if (lines.Count > 0 && lines[^1].NextIP == linear)
                return lines;
            if (isKnown)
                break;
        }

        return [];
    }

    /// <summary>Up to the first that is none.</summary>
    private static IEnumerable<Instruction> Decode(byte[] bytes, int bitness, ulong linear)
    {
        var decoder = Iced.Intel.Decoder.Create(bitness, new ByteArrayCodeReader(bytes), linear);
        while (decoder.IP - linear < (ulong)bytes.Length)
        {
            var instruction = decoder.Decode();
            if (instruction.Code == Code.INVALID)
                yield break;
            yield return instruction;
        }
    }

    private static void WriteStack(StringBuilder text, IGuestView view, in CpuState state, int lines)
    {
        var start = (state.Cr0 & ProtectedMode) == 0 || (state.Efer & (1 << 10)) == 0 ? state.Segments[2].Base + state.Gpr[4] : state.Gpr[4];
        text.Append("Stack:\n");
        Span<byte> word = stackalloc byte[8];
        for (var i = 0; i < lines * WordsPerLine; i++)
        {
            var at = start + ((ulong)i * 8);
            if (view.ReadLinear(in state, at, word) < word.Length)
            {
                text.Append(i % WordsPerLine == 0 ? "" : "\n").Append(i == 0 ? " (not mapped)\n" : "");
                return;
            }

            if (i % WordsPerLine == 0)
                text.Append(CultureInfo.InvariantCulture, $" {at:x16}:");
            text.Append(CultureInfo.InvariantCulture, $" {BitConverter.ToUInt64(word):x16}{(i % WordsPerLine == WordsPerLine - 1 ? "\n" : "")}");
        }
    }

    /// <summary>One line a frame; those with a question mark are addresses of code that were found on the stack.</summary>
    private static void WriteCallTrace(StringBuilder text, IGuestView view, KernelView? guest, in CpuState state, ContextOptions options)
    {
        text.Append("Call Trace:\n");
        var isFirst = true;
        foreach (var frame in StackWalker.Walk(guest, view, in state, options.Frames))
        {
            if (frame.IsInterrupted)
                text.Append(frame.Kind == FrameKind.User ? "  <entered from user mode>\n" : "  <interrupt or exception>\n");
            // As Linux does it, a return address is named as it is, though the call is before it.
            var name = frame.Kind == FrameKind.User ? "[user]" : guest?.Describe(frame.Address) ?? "";
            Line(text, $"{(isFirst ? "                 " : $"{frame.Place:x16}:")} {(frame.Kind == FrameKind.Guess ? "? " : "  ")}[<{frame.Address:x16}>] {name}{(isFirst ? " <--" : "")}");
            isFirst = false;
        }
    }

    private static void Line(StringBuilder text, FormattableString line) => text.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');

    /// <summary>Names of branch targets and of what RIP-relative operands lead to.</summary>
    private sealed class Names(KernelView? guest) : ISymbolResolver
    {
        public bool TryGetSymbol(in Instruction instruction, int operand, int instructionOperand, ulong address, int addressSize, out SymbolResult symbol)
        {
            symbol = default;
            if (guest is null || addressSize < 8)
                return false;
            if (guest.TryFindFunction(address, out var function, out _))
                symbol = new SymbolResult(address, $"{function.Name}{(address == function.Address ? "" : string.Create(CultureInfo.InvariantCulture, $"+0x{address - function.Address:x}"))}");
            else if (address < KernelImage.MapStart || address > KernelImage.MapLast || !guest.Kernel.Symbols.TryFind(address, out var data) || data.Address < KernelImage.MapStart || address - data.Address > 0x10000)
                return false;
            else
                symbol = new SymbolResult(address, address == data.Address ? data.Name : string.Create(CultureInfo.InvariantCulture, $"{data.Name}+0x{address - data.Address:x}"));
            return true;
        }
    }
}
