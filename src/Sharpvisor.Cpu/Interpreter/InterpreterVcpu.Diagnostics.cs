using System.Globalization;
using System.Text;
using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>What a person is shown: triple faults explained, and the <c>-d</c> log.</summary>
public unsafe partial class InterpreterVcpu
{
    private static readonly string[] VectorNames =
        ["#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM"];

    public virtual string DescribeEngine() =>
        $"interpreter of processor {Index}: {InstructionCount} instructions, {_blocks.BlocksMade} blocks decoded, {_blocks.BlocksDropped} dropped, {_tlb.Fills} TLB fills, {_tlb.Restored} entries restored";

    public string DescribeFault()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"CPU {Index}: triple fault. The exceptions that led to it, oldest first:\n");
        AppendHistory(text);
        AppendRegisters(text);
        AppendCode(text);
        return text.ToString();
    }

    /// <summary>A paravirtual domain that can't go on.</summary>
    private string DescribeParavirtual()
    {
        const int shown = 8;
        var text = new StringBuilder();
        var info = VcpuInfo;
        var events = info == null ? "no vcpu_info" : $"events {(info[UpcallMask] != 0 ? "masked" : "not masked")}, {(info[UpcallPending] != 0 ? "some" : "none")} pending";
        text.Append(CultureInfo.InvariantCulture, $"CPU {Index}: in {(_isParavirtualKernel ? "the kernel" : "a program")}, {events}. The last exceptions, oldest first:\n");
        AppendHistory(text, shown);
        AppendRegisters(text);
        text.Append(CultureInfo.InvariantCulture, $"Programs: page tables at {_userRoot:x16}, kernel entered with stack {_kernelSp:x16}\n");
        AppendStack(text);
        AppendCode(text);
        return text.ToString().TrimEnd('\n');
    }

    private void AppendHistory(StringBuilder text, int last = int.MaxValue)
    {
        foreach (var e in _history.Entries.TakeLast(last))
        {
            text.Append(CultureInfo.InvariantCulture, $"  {VectorName(e.Vector)}{(e.Error >= 0 ? $"(0x{e.Error:x})" : "")} at {e.Cs:x4}:{e.Rip:x16}");
            text.Append(e.Vector == Vectors.PF ? $" cr2={e.Cr2:x16}\n" : "\n");
        }
    }

    private static string VectorName(int vector) => (uint)vector < VectorNames.Length ? VectorNames[vector] : $"0x{vector:x2}";

    private void AppendRegisters(StringBuilder text)
    {
        ref var s = ref _c->Arch;
        string[] names = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"];
        int[] order = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
        for (var i = 0; i < 16; i++)
            text.Append(CultureInfo.InvariantCulture, $"{names[order[i]]}={s.Gpr[order[i]]:x16}{(i % 4 == 3 ? '\n' : ' ')}");
        var flags = Flags.Get(_c);
        text.Append(CultureInfo.InvariantCulture, $"RIP={s.Rip:x16} RFL={flags:x8} CPL={_c->Cpl} {s.Activity}\n");
        string[] segments = ["ES", "CS", "SS", "DS", "FS", "GS"];
        for (var i = 0; i < 6; i++)
            AppendSegment(text, segments[i], s.Segments[i]);
        AppendSegment(text, "LDT", s.Ldtr);
        AppendSegment(text, "TR", s.Tr);
        text.Append(CultureInfo.InvariantCulture, $"GDT={s.Gdtr.Base:x16} {s.Gdtr.Limit:x8}  IDT={s.Idtr.Base:x16} {s.Idtr.Limit:x8}\n");
        text.Append(CultureInfo.InvariantCulture, $"CR0={s.Cr0:x8} CR2={s.Cr2:x16} CR3={s.Cr3:x16} CR4={s.Cr4:x8} EFER={s.Efer:x}\n");
    }

    private static void AppendSegment(StringBuilder text, string name, in SegmentRegister s) =>
        text.Append(CultureInfo.InvariantCulture, $"{name,-3}={s.Selector:x4} {s.Base:x16} {s.Limit:x8} {s.Attributes:x4}\n");

    /// <summary>The instructions around RIP, the current one marked.</summary>
    private void AppendCode(StringBuilder text)
    {
        ref var s = ref _c->Arch;
        var linear = _c->Is64 != 0 ? s.Rip : (uint)(s.Segments[CS].Base + s.Rip);
        Span<byte> bytes = stackalloc byte[32];
        var count = 0;
        while (count < bytes.Length && PeekByte(linear + (ulong)count, out bytes[count]))
            count++;
        text.Append("Code=");
        for (var i = 0; i < count; i++)
            text.Append(CultureInfo.InvariantCulture, $"{bytes[i]:x2} ");
        text.Append(count == 0 ? "(not mapped)\n" : "\n");
        Disassemble(text, bytes[..count].ToArray(), s.Rip, 16 << (int)(_c->Mode & 3), 6);
    }

    /// <summary>Words from RSP on, as far as there are any.</summary>
    private void AppendStack(StringBuilder text)
    {
        const int words = 16, inLine = 4;
        var rsp = _c->Arch.Gpr[4];
        for (var i = 0; i < words; i++)
        {
            ulong word = 0;
            for (var b = 7; b >= 0; b--)
            {
                if (!PeekByte(rsp + (ulong)((i * 8) + b), out var part))
                {
                    text.Append(i == 0 ? $"Stack={rsp:x16}: (not mapped)\n" : i % inLine == 0 ? "" : "\n");
                    return;
                }

                word = (word << 8) | part;
            }

            text.Append(i == 0 ? "Stack=" : i % inLine == 0 ? "      " : "");
            text.Append(i % inLine == 0 ? $"{rsp + (ulong)(i * 8):x16}: " : "").Append(CultureInfo.InvariantCulture, $"{word:x16}{(i % inLine == inLine - 1 ? '\n' : ' ')}");
        }
    }

    /// <summary>Reads for a person: no faults, no devices, no accessed bits where they are not set.</summary>
    private bool PeekByte(ulong linear, out byte value)
    {
        value = 0;
        var state = _c->Arch;
        if (!PageWalker.Walk(in state, _memory, _physicalBits, WrapLinear(linear), AccessKind.Fetch | AccessKind.UserPagesAllowed, out var walk))
            return false;
        return _memory.TryRead(walk.Physical, out value);
    }

    private static void Disassemble(StringBuilder text, byte[] bytes, ulong rip, int bitness, int limit)
    {
        var decoder = Iced.Intel.Decoder.Create(bitness, new ByteArrayCodeReader(bytes));
        decoder.IP = rip;
        var formatter = new GasFormatter();
        var output = new StringOutput();
        for (var i = 0; i < limit && decoder.IP - rip < (ulong)bytes.Length; i++)
        {
            decoder.Decode(out var instruction);
            if (decoder.LastError == DecoderError.NoMoreBytes)
                break;
            formatter.Format(in instruction, output);
            text.Append(CultureInfo.InvariantCulture, $"{(i == 0 ? "=>" : "  ")} {instruction.IP:x16}  {output.ToStringAndReset()}\n");
        }
    }

    /// <summary>One block of the <c>-d in_asm</c> log.</summary>
    private string DescribeBlock(Block* block, ulong rip)
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"----------------\nIN: cpu {Index} phys 0x{block->Physical:x}\n");
        var bytes = new byte[block->Length];
        var first = Math.Min(bytes.Length, 4096 - (int)(block->Physical & 0xFFF));
        new ReadOnlySpan<byte>(_memory.TryGetPointer(block->Physical), first).CopyTo(bytes);
        if (first < bytes.Length)
            new ReadOnlySpan<byte>(_memory.TryGetPointer(block->SecondPage), bytes.Length - first).CopyTo(bytes.AsSpan(first));
        Disassemble(text, bytes, rip, 16 << (int)(block->Mode & (uint)BlockMode.CodeMask), block->Count);
        return text.ToString().TrimEnd('\n');
    }

    private void TraceBlock(Block* block) =>
        _environment.Trace!.Write($"Trace {Index}: {_c->Arch.Segments[CS].Selector:x4}:{_c->Arch.Rip:x16} [{block->Count}] phys 0x{block->Physical:x}");

    private void TraceEvent(int vector, int error, string kind)
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{_c->InstructionCount,12}: cpu {Index} {kind} v={vector:x2} {VectorName(vector)} e={(error < 0 ? "-" : error.ToString("x4", CultureInfo.InvariantCulture))}");
        text.Append(CultureInfo.InvariantCulture, $" pc={_c->Arch.Segments[CS].Selector:x4}:{_c->Arch.Rip:x16} cpl={_c->Cpl}{(vector == Vectors.PF ? $" CR2={_c->Arch.Cr2:x16}" : "")}\n");
        AppendRegisters(text);
        _environment.Trace!.Write(text.ToString().TrimEnd('\n'));
    }
}
