// Target descriptions (GDB manual, appendix G) of the views amd64, i386 and i8086: org.gnu.gdb.i386.core, sse, avx and
// segments, control and system registers in features of our own. Numbers of registers are their order here.
using Sharpvisor.Cpu.State;
using static Sharpvisor.Servers.Gdb.CodePointer;

namespace Sharpvisor.Servers.Gdb;

/// <summary>Registers that a target description names together.</summary>
/// <param name="Types">Declarations that the registers need.</param>
internal sealed record RegisterFeature(string Name, string Types, IReadOnlyList<Register> Registers);

/// <summary>
/// The registers that a debugger is told of, in the order of their numbers. One view serves in all modes of the processor:
/// it is the debugger that chooses, by the description that it reads.
/// </summary>
internal sealed class RegisterView
{
    private const string Gdb = "org.gnu.gdb.i386.", Own = "org.sharpvisor.";

    private const string System = "system";

    /// <summary>A processor of 64 bits.</summary>
    public static readonly RegisterView Amd64 = new("i386:x86-64", is64: true);

    /// <summary>Its registers of 32 bits, for gdb's architecture i386.</summary>
    public static readonly RegisterView I386 = new("i386", is64: false);

    /// <summary>The same for i8086: gdb disassembles code of 16 bits.</summary>
    public static readonly RegisterView I8086 = new("i8086", is64: false);

    private RegisterView(string architecture, bool is64)
    {
        Architecture = architecture;
        var vectors = is64 ? 16 : 8;
        Features =
        [
            new RegisterFeature(Gdb + "core", RegisterTypes.Flags, [.. General(is64), Number("eflags", 32, "x64_eflags", null, static (in s) => s.Rflags, SetFlags), .. Selectors(), .. X87()]),
            new RegisterFeature(Gdb + "sse", RegisterTypes.Vectors, [.. Vectors("xmm", "", "vec128", vectors, isUpper: false), Number("mxcsr", 32, "x64_mxcsr", "vector", static (in s) => s.Mxcsr, static (ref s, v) => s.Mxcsr = (uint)v & 0xFFFF)]),
            new RegisterFeature(Gdb + "avx", "", [.. Vectors("ymm", "h", "uint128", vectors, isUpper: true)]),
            // gdb takes these names for its own in 64-bit code only.
            new RegisterFeature(is64 ? Gdb + "segments" : Own + "segments", "", [Base("fs_base", Fs, null), Base("gs_base", Gs, null)]),
            new RegisterFeature(Own + "control", RegisterTypes.Control, [.. Control()]),
            new RegisterFeature(Own + "system", "", [.. Linear(is64), .. SystemRegisters()]),
        ];
        Registers = [.. Features.SelectMany(f => f.Registers)];
        Size = Registers.Sum(r => r.Size);
        ProgramCounter = is64 ? 16 : 8;
        StackPointer = is64 ? 7 : 4;
        FramePointer = is64 ? 6 : 5;
        Description = RegisterTypes.Describe(this);
    }

    /// <summary>As gdb calls it.</summary>
    public string Architecture { get; }

    public IReadOnlyList<RegisterFeature> Features { get; }

    /// <summary>By number.</summary>
    public IReadOnlyList<Register> Registers { get; }

    /// <summary>Of all together, in bytes.</summary>
    public int Size { get; }

    /// <summary>Numbers of those that every debugger wants at each stop.</summary>
    public int ProgramCounter { get; }

    public int StackPointer { get; }

    public int FramePointer { get; }

    /// <summary>target.xml.</summary>
    public byte[] Description { get; }

    /// <summary>In gdb's order, which is neither that of the encoding nor the same for both.</summary>
    private static IEnumerable<Register> General(bool is64)
    {
        (string Name, int Index)[] order = is64
            ? [("rax", 0), ("rbx", 3), ("rcx", 1), ("rdx", 2), ("rsi", 6), ("rdi", 7), ("rbp", 5), ("rsp", 4)]
            : [("eax", 0), ("ecx", 1), ("edx", 2), ("ebx", 3), ("esp", 4), ("ebp", 5), ("esi", 6), ("edi", 7)];
        foreach (var (name, index) in order)
            yield return GeneralRegister(name, index, is64);
        for (var i = 8; is64 && i < 16; i++)
            yield return GeneralRegister($"r{i}", i, is64: true);
        yield return Number(is64 ? "rip" : "eip", is64 ? 64 : 32, "code_ptr", null, Get, Set);
    }

    private static NumberRegister GeneralRegister(string name, int index, bool is64)
    {
        var type = index is 4 or 5 ? "data_ptr" : is64 ? "int64" : "int32";
        return is64
            ? Number(name, 64, type, null, (in s) => s.Gpr[index], (ref s, v) => s.Gpr[index] = v)
            : Number(name, 32, type, null, (in s) => s.Gpr[index], (ref s, v) => s.Gpr[index] = (s.Gpr[index] & ~0xFFFF_FFFFUL) | v);
    }

    /// <summary>Reserved bits stay as they have to be (SDM vol. 1, 3.4.3).</summary>
    private static void SetFlags(ref CpuState state, ulong value) => state.Rflags = (value & 0x3F_7FD5) | 2;

    private static IEnumerable<Register> Selectors() =>
        [new SelectorRegister("cs", Cs), new SelectorRegister("ss", Ss), new SelectorRegister("ds", Ds), new SelectorRegister("es", Es), new SelectorRegister("fs", Fs), new SelectorRegister("gs", Gs)];

    private static IEnumerable<Register> X87()
    {
        for (var i = 0; i < 8; i++)
            yield return new StackRegister(i);
        yield return Word("fctrl", X87Area.Control);
        yield return Word("fstat", X87Area.Status);
        yield return Number("ftag", 32, "int", "float", X87Area.ReadTags, X87Area.WriteTags);
        yield return Word("fiseg", X87Area.InstructionSelector);
        yield return DoubleWord("fioff", X87Area.InstructionOffset);
        yield return Word("foseg", X87Area.DataSelector);
        yield return DoubleWord("fooff", X87Area.DataOffset);
        yield return Word("fop", X87Area.Opcode);
    }

    private static NumberRegister Word(string name, int at) =>
        Number(name, 32, "int", "float", (in s) => X87Area.U16(in s, at), (ref s, v) => X87Area.SetU16(ref s, at, v));

    private static NumberRegister DoubleWord(string name, int at) =>
        Number(name, 32, "int", "float", (in s) => X87Area.U32(in s, at), (ref s, v) => X87Area.SetU32(ref s, at, v));

    private static IEnumerable<Register> Vectors(string prefix, string suffix, string type, int count, bool isUpper) =>
        Enumerable.Range(0, count).Select(i => new VectorRegister($"{prefix}{i}{suffix}", type, i, isUpper));

    private static NumberRegister Base(string name, int segment, string? group) =>
        Number(name, 64, "uint64", group, (in s) => s.Segments[segment].Base, (ref s, v) => s.Segments[segment].Base = v);

    /// <summary>As QEMU names and shows them.</summary>
    private static IEnumerable<Register> Control() =>
    [
        Number("k_gs_base", 64, "uint64", null, static (in s) => s.KernelGsBase, static (ref s, v) => s.KernelGsBase = v),
        Number("cr0", 64, "x64_cr0", null, static (in s) => s.Cr0, static (ref s, v) => s.Cr0 = v),
        Number("cr2", 64, "uint64", null, static (in s) => s.Cr2, static (ref s, v) => s.Cr2 = v),
        Number("cr3", 64, "x64_cr3", null, static (in s) => s.Cr3, static (ref s, v) => s.Cr3 = v),
        Number("cr4", 64, "x64_cr4", null, static (in s) => s.Cr4, static (ref s, v) => s.Cr4 = v),
        Number("cr8", 64, "uint64", null, static (in s) => s.Cr8, static (ref s, v) => s.Cr8 = v & 15),
        Number("efer", 64, "x64_efer", null, static (in s) => s.Efer, static (ref s, v) => s.Efer = v),
    ];

    /// <summary>What 16-bit code is looked at by: linear program counter and stack, and the offset in CS by itself.</summary>
    private static IEnumerable<Register> Linear(bool is64) =>
    [
        // A pointer has the size of the view; a register may not change its own.
        Number("lpc", 64, is64 ? "code_ptr" : "uint64", System, Get, Set),
        Number("lsp", 64, is64 ? "data_ptr" : "uint64", System, GetStack, static (ref _, _) => { }),
        Number("ip", 64, "uint64", System, static (in s) => s.Rip, static (ref s, v) => s.Rip = v),
        Base("cs_base", Cs, System),
        Base("ss_base", Ss, System),
        Base("ds_base", Ds, System),
        Base("es_base", Es, System),
    ];

    private static IEnumerable<Register> SystemRegisters() =>
    [
        Number("gdt_base", 64, "uint64", System, static (in s) => s.Gdtr.Base, static (ref s, v) => s.Gdtr.Base = v),
        Number("gdt_limit", 32, "uint32", System, static (in s) => s.Gdtr.Limit, static (ref s, v) => s.Gdtr.Limit = (ushort)v),
        Number("idt_base", 64, "uint64", System, static (in s) => s.Idtr.Base, static (ref s, v) => s.Idtr.Base = v),
        Number("idt_limit", 32, "uint32", System, static (in s) => s.Idtr.Limit, static (ref s, v) => s.Idtr.Limit = (ushort)v),
        ReadOnly("ldt", 32, static (in s) => s.Ldtr.Selector),
        ReadOnly("ldt_base", 64, static (in s) => s.Ldtr.Base),
        ReadOnly("tr", 32, static (in s) => s.Tr.Selector),
        ReadOnly("tr_base", 64, static (in s) => s.Tr.Base),
        .. new[] { 0, 1, 2, 3, 6, 7 }.Select(i => ReadOnly($"dr{i}", 64, (in s) => s.Dr[i])),
        ReadOnly("xcr0", 64, static (in s) => s.Xcr0),
        ReadOnly("star", 64, static (in s) => s.Star),
        ReadOnly("lstar", 64, static (in s) => s.Lstar),
        ReadOnly("cstar", 64, static (in s) => s.Cstar),
        ReadOnly("fmask", 64, static (in s) => s.Fmask),
        ReadOnly("sysenter_cs", 64, static (in s) => s.SysenterCs),
        ReadOnly("sysenter_esp", 64, static (in s) => s.SysenterEsp),
        ReadOnly("sysenter_eip", 64, static (in s) => s.SysenterEip),
    ];

    private static NumberRegister Number(string name, int bits, string type, string? group, NumberRegister.Getter get, NumberRegister.Setter set) => new(name, bits, type, group, get, set);

    private static NumberRegister ReadOnly(string name, int bits, NumberRegister.Getter get) =>
        Number(name, bits, $"uint{bits}", System, get, static (ref _, _) => { });
}
