using System.Runtime.InteropServices;
using System.Text;
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Conformance.Fuzzing;

/// <summary>Compares what two processors made of one sequence.</summary>
public static class Comparison
{
    private const int StackFault = 12, GeneralProtection = 13, PageFault = 14;
    private const uint MisalignedMask = 0x20000;

    private static readonly string[] s_names =
        ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

    /// <summary>One line per thing that differs, the host's value first; null when nothing does.</summary>
    public static string? Difference(TestCase test, Outcome host, Outcome guest)
    {
        if ((host.Cpu.Mxcsr & MisalignedMask) != 0)
            return null; // AMD's MXCSR.MM, which LDMXCSR happened to set: no model of ours has it

        var text = new StringBuilder();
        if (guest.Trouble is not null)
            text.AppendLine(guest.Trouble);
        Instruction faulting = host.Vector == Outcome.End || test.Instructions.Count == 0 ? default : test.InstructionAt(host.Rip);
        if (!(IsVectorOperand(faulting) && (host.Vector, guest.Vector) == (GeneralProtection, StackFault))
            && !(LoadsX87Environment(faulting) && (host.Vector, guest.Vector) is (PageFault, GeneralProtection or StackFault)))
            Check(text, "vector", Vector(host), Vector(guest));
        Check(text, "rip", host.Rip, guest.Rip);
        if (host.Vector == guest.Vector)
        {
            // The guest has its tables below 2 MiB, the host nothing: not allowed there, not present here.
            var present = host.Cr2 == guest.Cr2 && host.Cr2 < 0x200000 && host.Vector == PageFault ? guest.ErrorCode & 1 : 0;
            Check(text, "error code", host.ErrorCode | present, guest.ErrorCode);
            var known = LoadsX87Environment(faulting) ? ~0xFFFUL : ulong.MaxValue;
            Check(text, "cr2", host.Cr2 & known, guest.Cr2 & known);
        }

        var registers = test.Bitness == 64 ? 16 : 8;
        for (var i = 0; i < registers; i++)
        {
            if (!MayBeHalfDone(faulting))
                Check(text, s_names[i], Gpr(test, host, i), Gpr(test, guest, i));
        }

        var flags = UndefinedFlags.Compared & ~(test.Instructions.Count == 0 ? 0 : test.UndefinedFlagsAt(host.Rip));
        Check(text, "flags", Flags(host, flags), Flags(guest, flags));
        for (var i = 0; i < registers; i++)
        {
            if (!IsGatherMask(faulting, i))
                Check(text, "ymm" + i, Ymm(host.Cpu.Ymm[i]), Ymm(guest.Cpu.Ymm[i]));
        }

        Check(text, "mxcsr", host.Cpu.Mxcsr, guest.Cpu.Mxcsr);
        CompareX87(text, host.Cpu.Fx, guest.Cpu.Fx);

        if (!host.Scratch.AsSpan().SequenceEqual(guest.Scratch))
        {
            var i = host.Scratch.AsSpan().CommonPrefixLength(guest.Scratch) & ~7;
            Check(text, $"memory at scratch+0x{i:x}", Bytes(host, i), Bytes(guest, i));
        }

        return text.Length == 0 ? null : text.ToString();
    }

    // What follows differs between processors of different makers, each within the manuals.

    /// <summary>One that is both not aligned and not within the stack segment: some look at the one first, some at the other.</summary>
    private static bool IsVectorOperand(in Instruction faulting) => faulting.MemorySize.GetSize() is 16 or 32;

    /// <summary>A gather that faults: Intel's has spread the sign bits of its mask by then, AMD's has not.</summary>
    private static bool IsGatherMask(in Instruction faulting, int register) => faulting.IsVsib && faulting.Op2Register.GetNumber() == register;

    /// <summary>POPA that faults in the middle: AMD's keeps what was popped, and starts again.</summary>
    private static bool MayBeHalfDone(in Instruction faulting) => faulting.Mnemonic is Mnemonic.Popa or Mnemonic.Popad;

    /// <summary>The order in which they read their fields is seen when they cross a page, or the end of a segment.</summary>
    private static bool LoadsX87Environment(in Instruction faulting) => faulting.Mnemonic is Mnemonic.Fldenv or Mnemonic.Frstor;

    /// <summary>The kernel's trap numbers and the SDM's vectors are the same numbers.</summary>
    private static string Vector(Outcome outcome) => outcome.Vector switch
    {
        Outcome.End => "none",
        Outcome.Lost => "lost",
        _ => $"#{outcome.Vector}",
    };

    private static ulong Gpr(TestCase test, Outcome outcome, int i) => test.Bitness == 64 ? outcome.Cpu.Gpr[i] : (uint)outcome.Cpu.Gpr[i];

    private static string Flags(Outcome outcome, uint mask)
    {
        var flags = (uint)outcome.Cpu.Rflags & mask;
        var text = new StringBuilder();
        foreach (var (bit, name) in ((uint, string)[])[(UndefinedFlags.Of, "of"), (UndefinedFlags.Df, "df"), (UndefinedFlags.Sf, "sf"),
            (UndefinedFlags.Zf, "zf"), (UndefinedFlags.Af, "af"), (UndefinedFlags.Pf, "pf"), (UndefinedFlags.Cf, "cf")])
        {
            text.Append((mask & bit) == 0 ? "" : (flags & bit) != 0 ? name.ToUpperInvariant() + " " : name + " ");
        }

        return text.ToString();
    }

    private static string Ymm(YmmValue value) => $"{value.Q3:x16}_{value.Q2:x16}_{value.Q1:x16}_{value.Q0:x16}";

    private static string Bytes(Outcome outcome, int i) => Convert.ToHexStringLower(outcome.Scratch.AsSpan(i, Math.Min(16, Arena.ScratchSize - i)));

    private static void CompareX87(StringBuilder text, ReadOnlySpan<byte> host, ReadOnlySpan<byte> guest)
    {
        Check(text, "fcw", MemoryMarshal.Read<ushort>(host), MemoryMarshal.Read<ushort>(guest));
        Check(text, "fsw", MemoryMarshal.Read<ushort>(host[2..]), MemoryMarshal.Read<ushort>(guest[2..]));
        Check(text, "ftw", host[4], guest[4]);
        for (var i = 0; i < 8; i++)
        {
            var at = CpuImage.FxSt0 + (16 * i);
            Check(text, "st" + i, Convert.ToHexStringLower(host.Slice(at, 10)), Convert.ToHexStringLower(guest.Slice(at, 10)));
        }
    }

    private static void Check<T>(StringBuilder text, string name, T host, T guest) where T : notnull
    {
        if (host.Equals(guest))
            return;
        var format = host is string ? "  {0,-10} host {1}  guest {2}" : "  {0,-10} host {1:x}  guest {2:x}";
        text.AppendLine(string.Format(System.Globalization.CultureInfo.InvariantCulture, format, name, host, guest));
    }
}
