// Registers of a processor: by name, for expressions, and as info registers prints them, which is QEMU's form to the letter
// because scripts read it (target/i386/cpu-dump.c there has the fields).
using System.Globalization;
using System.Text;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Servers.Monitor;

internal static class GuestRegisters
{
    private const ulong Lma = 1 << 10, ProtectionEnable = 1;

    private static readonly string[] General = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    private static readonly string[] Segments = ["es", "cs", "ss", "ds", "fs", "gs"];

    private static readonly string[] SystemTypes32 =
    [
        "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16", "TrapGate16",
        "Reserved", "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved", "IntGate32", "TrapGate32",
    ];

    private static readonly string[] SystemTypes64 =
    [
        "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved",
        "Reserved", "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64", "TrapGate64",
    ];

    /// <summary>Code is of 64, 32 or 16 bits now.</summary>
    public static int Bitness(in CpuState state) => Is64(state) ? 64 : (state.Cr0 & ProtectionEnable) != 0 && state.Segments[1].Big ? 32 : 16;

    /// <returns>False: there is no register of that name.</returns>
    public static bool TryGet(in CpuState state, string name, out ulong value)
    {
        var lower = name.ToLowerInvariant();
        var index = Array.IndexOf(General, lower);
        if (index >= 0)
        {
            value = state.Gpr[index];
            return true;
        }

        // eax is the low half of rax, ax of that.
        index = lower.Length > 1 ? Array.IndexOf(General, lower[0] == 'e' ? "r" + lower[1..] : "r" + lower) : -1;
        if (index is >= 0 and < 8)
        {
            value = lower[0] == 'e' ? (uint)state.Gpr[index] : (ushort)state.Gpr[index];
            return true;
        }

        var dot = lower.IndexOf('.', StringComparison.Ordinal);
        var segment = Array.IndexOf(Segments, dot < 0 ? lower : lower[..dot]);
        if (segment >= 0)
        {
            var register = state.Segments[segment];
            value = dot < 0 ? register.Selector : lower[dot..] == ".base" ? register.Base : register.Limit;
            return dot < 0 || lower[dot..] is ".base" or ".limit";
        }

        ulong? found = lower switch
        {
            "rip" or "pc" => state.Rip,
            "eip" => (uint)state.Rip,
            "fp" => state.Gpr[5],
            "rflags" or "eflags" => state.Rflags,
            "cr0" => state.Cr0,
            "cr2" => state.Cr2,
            "cr3" => state.Cr3,
            "cr4" => state.Cr4,
            "cr8" => state.Cr8,
            "efer" => state.Efer,
            "xcr0" => state.Xcr0,
            "fs_base" => state.Segments[4].Base,
            "gs_base" => state.Segments[5].Base,
            "k_gs_base" => state.KernelGsBase,
            "dr0" => state.Dr[0],
            "dr1" => state.Dr[1],
            "dr2" => state.Dr[2],
            "dr3" => state.Dr[3],
            "dr6" => state.Dr[6],
            "dr7" => state.Dr[7],
            _ => null,
        };
        value = found ?? 0;
        return found is not null;
    }

    public static string Describe(in CpuState state, int processor)
    {
        var text = new StringBuilder();
        var is64 = Is64(state);
        text.Append(CultureInfo.InvariantCulture, $"\nCPU#{processor}\n");
        AppendGeneral(text, state, is64);
        for (var i = 0; i < Segments.Length; i++)
            AppendSegment(text, state, Segments[i].ToUpperInvariant(), state.Segments[i], is64);
        AppendSegment(text, state, "LDT", state.Ldtr, is64);
        AppendSegment(text, state, "TR", state.Tr, is64);
        AppendSystem(text, state);
        AppendFloating(text, state);
        return text.ToString();
    }

    private static bool Is64(in CpuState state) => (state.Efer & Lma) != 0 && state.Segments[1].Long;

    private static void AppendGeneral(StringBuilder text, in CpuState state, bool is64)
    {
        int[] order = is64 ? [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15] : [0, 3, 1, 2, 6, 7, 5, 4];
        for (var i = 0; i < order.Length; i++)
        {
            var name = is64 ? General[order[i]].ToUpperInvariant().PadRight(3) : "E" + General[order[i]][1..].ToUpperInvariant();
            text.Append(name).Append('=').Append(Hex(state.Gpr[order[i]], is64 ? 16 : 8)).Append(i % 4 == 3 ? '\n' : ' ');
        }

        const string letters = "DOSZAPC";
        int[] bits = [10, 11, 7, 6, 4, 2, 0];
        var flags = state.Rflags;
        var shown = string.Concat(letters.Select((letter, i) => (flags >> bits[i] & 1) != 0 ? letter : '-'));
        var privilege = (state.Cr0 & ProtectionEnable) == 0 ? 0 : state.Segments[2].Dpl;
        text.Append(CultureInfo.InvariantCulture, $"{(is64 ? "RIP" : "EIP")}={Hex(state.Rip, is64 ? 16 : 8)} {(is64 ? "RFL" : "EFL")}={flags:x8} [{shown}] ");
        text.Append(CultureInfo.InvariantCulture, $"CPL={privilege} II={(state.InterruptShadow ? 1 : 0)} A20=1 SMM=0 HLT={(state.Activity == ActivityState.Halted ? 1 : 0)}\n");
    }

    private static void AppendSegment(StringBuilder text, in CpuState state, string name, SegmentRegister segment, bool is64)
    {
        const int granularity = 0x8000, expandDown = 4, conforming = 4, writable = 2, accessed = 1;
        var isGranular = (segment.Attributes & granularity) != 0;
        var highLimit = (segment.Limit >> (isGranular ? 28 : 16)) & 15;
        var flags = ((uint)segment.Attributes << 8) | (highLimit << 16);
        text.Append(CultureInfo.InvariantCulture, $"{name,-3}={segment.Selector:x4} {Hex(segment.Base, is64 ? 16 : 8)} {segment.Limit:x8} {flags:x8}");
        if ((state.Cr0 & ProtectionEnable) == 0 || !segment.Present)
        {
            text.Append('\n');
            return;
        }

        text.Append(CultureInfo.InvariantCulture, $" DPL={segment.Dpl} ");
        if (!segment.IsCodeOrData)
        {
            text.Append(((state.Efer & Lma) != 0 ? SystemTypes64 : SystemTypes32)[segment.Type]).Append('\n');
            return;
        }

        if (segment.IsCode)
            text.Append(segment.Long ? "CS64" : segment.Big ? "CS32" : "CS16").Append(" [").Append((segment.Type & conforming) != 0 ? 'C' : '-').Append((segment.Type & writable) != 0 ? 'R' : '-');
        else
            text.Append(segment.Big || (state.Efer & Lma) != 0 ? "DS  " : "DS16").Append(" [").Append((segment.Type & expandDown) != 0 ? 'E' : '-').Append((segment.Type & writable) != 0 ? 'W' : '-');
        text.Append((segment.Type & accessed) != 0 ? 'A' : '-').Append("]\n");
    }

    private static void AppendSystem(StringBuilder text, in CpuState state)
    {
        var isLong = (state.Efer & Lma) != 0;
        var digits = isLong ? 16 : 8;
        text.Append(CultureInfo.InvariantCulture, $"GDT=     {Hex(state.Gdtr.Base, digits)} {state.Gdtr.Limit:x8}\n");
        text.Append(CultureInfo.InvariantCulture, $"IDT=     {Hex(state.Idtr.Base, digits)} {state.Idtr.Limit:x8}\n");
        text.Append(CultureInfo.InvariantCulture, $"CR0={(uint)state.Cr0:x8} CR2={Hex(state.Cr2, digits)} CR3={Hex(state.Cr3, digits)} CR4={(uint)state.Cr4:x8}\n");
        for (var i = 0; i < 4; i++)
            text.Append(CultureInfo.InvariantCulture, $"DR{i}={Hex(state.Dr[i], digits)} ");
        text.Append(CultureInfo.InvariantCulture, $"\nDR6={Hex(state.Dr[6], digits)} DR7={Hex(state.Dr[7], digits)}\nEFER={state.Efer:x16}\n");
    }

    private static void AppendFloating(StringBuilder text, in CpuState state)
    {
        ReadOnlySpan<byte> area = state.X87;
        ulong Number(ReadOnlySpan<byte> bytes, int at, int size)
        {
            ulong value = 0;
            for (var i = size - 1; i >= 0; i--)
                value = (value << 8) | bytes[at + i];
            return value;
        }

        var status = Number(area, 2, 2);
        text.Append(CultureInfo.InvariantCulture, $"FCW={Number(area, 0, 2):x4} FSW={status:x4} [ST={(status >> 11) & 7}] FTW={area[4]:x2} MXCSR={state.Mxcsr:x8}\n");
        for (var i = 0; i < 8; i++)
            text.Append(CultureInfo.InvariantCulture, $"FPR{i}={Number(area, 32 + (16 * i), 8):x16} {Number(area, 40 + (16 * i), 2):x4}{(i % 2 == 1 ? '\n' : ' ')}");
        for (var i = 0; i < 16; i++)
            text.Append(CultureInfo.InvariantCulture, $"XMM{i:d2}={state.Ymm[i].Q1:x16} {state.Ymm[i].Q0:x16}{(i % 2 == 1 ? '\n' : ' ')}");
    }

    private static string Hex(ulong value, int digits) => digits == 8 ? ((uint)value).ToString("x8", CultureInfo.InvariantCulture) : value.ToString("x16", CultureInfo.InvariantCulture);
}
