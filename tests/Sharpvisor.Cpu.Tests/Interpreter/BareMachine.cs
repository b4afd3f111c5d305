using System.Runtime.CompilerServices;
using Iced.Intel;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>The mode that <see cref="BareMachine.Enter"/> puts the processor in, at CPL 0 with flat segments.</summary>
public enum Mode
{
    Real,
    Protected16,
    Protected32,

    /// <summary>32-bit protected mode with paging of two levels.</summary>
    Paged32,
    Pae,
    Long,

    /// <summary>32-bit code in long mode.</summary>
    Compatibility,
}

/// <summary>
/// One processor with memory and nothing else: descriptor tables, page tables and exception handlers at fixed places.
/// Each handler is one HLT, so that whatever an exception does to registers, stack and memory can be looked at.
/// </summary>
internal sealed class BareMachine : IDisposable
{
    public const ulong Gdt = 0x1000, Idt = 0x2000, Tss = 0x3000, OtherTss = 0x4000, Ldt = 0x5000, Handlers = 0x8000;
    public const ulong Code = 0x10000, Stack = 0x20000, UserStack = 0x28000, Stack0 = 0x30000, IstStack = 0x34000, Data = 0x40000, UserCode = 0x50000;
    public const ulong Tables = 0x100000;

    /// <summary>The stack of the 16-bit modes; their code segment starts at <see cref="Code"/>.</summary>
    public const ulong SmallStack = 0x7000;

    // The global descriptor table. 0x30 to 0x40 are laid out as SYSRET wants them, 0x80 on is free for tests.
    public const ushort Code32 = 0x08, Data32 = 0x10, Code64 = 0x18, Code16 = 0x20, Data16 = 0x28;
    public const ushort UserCode32 = 0x33, UserData = 0x3B, UserCode64 = 0x43;
    public const ushort TssSelector = 0x48, LdtSelector = 0x58, OtherTssSelector = 0x68, Free = 0x80;
    public const uint GdtLimit = 0xFFF;

    private ulong _nextTable;

    public BareMachine(Mode mode = Mode.Long, ulong memory = 16 << 20, ulong maxBelow4G = 0xC000_0000, string model = CpuModel.DefaultName, int processors = 1, ICpuEngine? engine = null, Clock? clock = null, IRegisterPort? registerPort = null)
    {
        Memory = new GuestMemory(memory, maxBelow4G);
        var gate = new MachineGate();
        Errors = new GuestErrorLog(NullLogger.Instance);
        Ports = new AddressSpace("io", 0x10000, gate, Errors);
        Mmio = new AddressSpace("mmio", 1UL << 48, gate, Errors);
        var environment = new CpuEnvironment
        {
            Memory = Memory,
            Mmio = Mmio,
            Ports = Ports,
            Clock = clock ?? Clock,
            Gate = gate,
            Errors = Errors,
            Logger = NullLogger.Instance,
            Model = CpuModel.Parse(model),
            ProcessorCount = processors,
            RegisterPort = registerPort,
        };
        Cpu = (engine ?? TestEngine.Create()).CreateVcpu(0, environment, Apic, []);
        Enter(mode);
    }

    public GuestMemory Memory { get; }

    public ManualClock Clock { get; } = new();

    public ScriptedApic Apic { get; } = new();

    public AddressSpace Ports { get; }

    public AddressSpace Mmio { get; }

    public GuestErrorLog Errors { get; }

    public IVcpu Cpu { get; }

    public Mode Mode { get; private set; }

    /// <summary>The state that <see cref="Run"/> starts from, and the one it ended in.</summary>
    public CpuState State;

    public ref ulong Rax => ref State.Gpr[0];

    public ref ulong Rcx => ref State.Gpr[1];

    public ref ulong Rdx => ref State.Gpr[2];

    public ref ulong Rbx => ref State.Gpr[3];

    public ref ulong Rsp => ref State.Gpr[4];

    public ref ulong Rbp => ref State.Gpr[5];

    public ref ulong Rsi => ref State.Gpr[6];

    public ref ulong Rdi => ref State.Gpr[7];

    public bool IsLong => Mode is Mode.Long or Mode.Compatibility;

    public int Bitness => Mode switch { Mode.Real or Mode.Protected16 => 16, Mode.Long => 64, _ => 32 };

    /// <summary>The root of the page tables, whatever the mode.</summary>
    public ulong Root => Tables;

    public void Dispose()
    {
        Cpu.Dispose();
        Memory.Dispose();
    }

    // --- memory ---

    public T Read<T>(ulong physical) where T : unmanaged
    {
        Assert.True(Memory.TryRead(physical, out T value));
        return value;
    }

    public uint Read32(ulong physical) => Read<uint>(physical);

    public ulong Read64(ulong physical) => Read<ulong>(physical);

    public void Write<T>(ulong physical, T value) where T : unmanaged => Assert.True(Memory.TryWrite(physical, value));

    public void Write(ulong physical, params byte[] bytes) => Assert.True(Memory.TryWrite(physical, bytes));

    /// <summary>Assembles at a place and returns the address behind it.</summary>
    public ulong Assemble(ulong at, Action<Assembler> code, int bitness = 0)
    {
        var assembler = new Assembler(bitness == 0 ? Bitness : bitness);
        code(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Assert.True(Memory.TryWrite(at, stream.ToArray()));
        return at + (ulong)stream.Length;
    }

    /// <summary>Assembles at <see cref="Code"/>, with a HLT behind it.</summary>
    public void Program(Action<Assembler> code) => Assemble(Code, a =>
    {
        code(a);
        a.hlt();
    });

    // --- descriptors ---

    public void SetGdt(int selector, ulong low) => Write(Gdt + (ulong)(selector & ~7), low);

    public void SetGdt(int selector, ulong low, ulong high)
    {
        SetGdt(selector, low);
        SetGdt(selector + 8, high);
    }

    /// <summary>A gate of the current mode. <paramref name="type"/>: 14 interrupt, 15 trap, 5 task (also 6 and 7 with 16 bits).</summary>
    public void SetGate(int vector, ulong offset, ushort selector, int type = 14, int dpl = 0, int ist = 0, bool present = true)
    {
        var low = Descriptors.Gate(offset, selector, type, dpl, ist, present);
        if (IsLong)
        {
            Write(Idt + (ulong)(vector * 16), low);
            Write(Idt + (ulong)(vector * 16) + 8, offset >> 32);
        }
        else
        {
            Write(Idt + (ulong)(vector * 8), low);
        }
    }

    /// <summary>Sets where the I/O permission map of the task begins.</summary>
    public void SetIoMap(int ioMap) => Write(Tss + 0x66, (ushort)ioMap);

    // --- modes ---

    public void Enter(Mode mode)
    {
        Mode = mode;
        Cpu.Reset();
        State = Cpu.GetState();
        for (var i = 0; i < 16; i++)
            State.Gpr[i] = 0;
        State.Activity = ActivityState.Active;
        Rsp = SmallStack;
        for (var vector = 0; vector < 256; vector++)
            Write<byte>(Handlers + (ulong)(vector * 16), 0xF4);
        if (mode == Mode.Real)
        {
            // The vector table lies at 0, the code in a segment of its own.
            State.Segments[1] = new SegmentRegister { Selector = (ushort)(Code >> 4), Base = Code, Limit = 0xFFFF, Attributes = 0x93 };
            State.Rip = 0;
            State.Idtr = new TableRegister { Limit = 0x3FF };
            for (var vector = 0; vector < 256; vector++)
                Write(((ulong)vector) * 4, (uint)(vector * 16) | ((uint)(Handlers >> 4) << 16));
            return;
        }

        State.Cr0 = 0x31; // PE, ET, NE
        State.Cr4 = ControlRegisters.OSFXSR | ControlRegisters.OSXMMEXCPT;
        BuildDescriptors();
        if (mode is Mode.Paged32 or Mode.Pae or Mode.Long or Mode.Compatibility)
            BuildPageTables();
        if (IsLong)
            State.Efer = ControlRegisters.LME | ControlRegisters.LMA | ControlRegisters.NXE | ControlRegisters.SCE;
        SetPrivilege(0);
    }

    /// <summary>Code, stack and data segments of a privilege level, 0 or 3, flat; RIP and RSP at their usual places.</summary>
    public void SetPrivilege(int cpl)
    {
        var code = Mode switch
        {
            Mode.Protected16 => Code16,
            Mode.Long => cpl == 0 ? Code64 : UserCode64,
            _ => cpl == 0 ? Code32 : UserCode32,
        };
        var data = Mode == Mode.Protected16 ? Data16 : cpl == 0 ? Data32 : UserData;
        Assert.False(Mode == Mode.Protected16 && cpl != 0);
        State.Segments[1] = Segment(code);
        foreach (var i in (int[])[0, 2, 3, 4, 5])
            State.Segments[i] = Segment(data);
        Rsp = Mode == Mode.Protected16 ? SmallStack : cpl == 0 ? Stack : UserStack;
        State.Rip = Mode == Mode.Protected16 ? 0 : Code;
    }

    /// <summary>The segment register that a selector of the GDT makes.</summary>
    public SegmentRegister Segment(ushort selector)
    {
        var address = Gdt + (ulong)(selector & ~7);
        var raw = Read64(address);
        if ((raw & (1UL << 44)) != 0)
            Write(address, raw |= 1UL << 40); // accessed
        return new Descriptor(raw).ToRegister(selector);
    }

    // --- paging ---

    /// <summary>
    /// Maps one page: 4 KiB, or a large page of <paramref name="level"/> 2 (2 or 4 MiB) or 3 (1 GiB). The upper levels
    /// allow everything.
    /// </summary>
    /// <returns>The address of the entry.</returns>
    public ulong Map(ulong linear, ulong physical, ulong flags = Pte.Present | Pte.Write | Pte.User, int level = 1)
    {
        var entry = EntryOf(linear, level);
        if (level > 1)
            flags |= Pte.Large;
        WriteEntry(entry, physical | flags);
        return entry;
    }

    /// <summary>The address of an entry of the page tables, which are extended down to it.</summary>
    public ulong EntryOf(ulong linear, int level)
    {
        var wide = Mode != Mode.Paged32;
        var bits = wide ? 9 : 10;
        var top = Mode switch { Mode.Paged32 => 2, Mode.Pae => 3, _ => 4 };
        var table = Root;
        for (var at = top; ; at--)
        {
            var index = (linear >> (12 + (bits * (at - 1)))) & ((1UL << bits) - 1);
            var address = table + (index * (wide ? 8UL : 4UL));
            if (at == level)
                return address;
            var entry = ReadEntry(address);
            if ((entry & (Pte.Present | Pte.Large)) != Pte.Present || at == 2 && (entry & Pte.Large) != 0)
            {
                entry = AllocateTable() | Pte.Present | (top == 3 && at == 3 ? 0 : Pte.Write | Pte.User);
                WriteEntry(address, entry);
            }

            table = entry & 0x000F_FFFF_FFFF_F000;
        }
    }

    public ulong ReadEntry(ulong address) => Mode == Mode.Paged32 ? Read32(address) : Read64(address);

    public void WriteEntry(ulong address, ulong value)
    {
        if (Mode == Mode.Paged32)
            Write(address, (uint)value);
        else
            Write(address, value);
    }

    // --- execution ---

    /// <summary>Executes from <see cref="State"/> until HLT, a shutdown, or the budget is used up.</summary>
    public Stop Run(long budget = 10_000)
    {
        Cpu.SetState(State);
        return Continue(budget);
    }

    /// <summary>Goes on without touching the state.</summary>
    public Stop Continue(long budget = 10_000)
    {
        var exit = Cpu.Run(budget);
        State = Cpu.GetState();
        var linear = State.Segments[1].Base + State.Rip - 1;
        if (State.Segments[1].Long)
            linear = State.Rip - 1;
        var vector = exit == VcpuExit.Halted && linear >= Handlers && linear < Handlers + 0x1000 && (linear & 15) == 0 ? (int)(linear - Handlers) >> 4 : -1;
        return new Stop(this, exit, vector);
    }

    /// <summary>Runs, and demands that it ended in the handler of an exception.</summary>
    public Stop Expect(int vector, uint? error = null, ulong? rip = null, long budget = 10_000)
    {
        var stop = Run(budget);
        stop.Is(vector, error, rip);
        return stop;
    }

    /// <summary>Runs, and demands that it ended at a HLT that is no exception handler's.</summary>
    public void RunToHalt(long budget = 10_000)
    {
        var stop = Run(budget);
        Assert.True(stop.Exit == VcpuExit.Halted && stop.Vector < 0, stop.ToString());
    }

    private void BuildDescriptors()
    {
        SetGdt(0, 0);
        SetGdt(Code32, Descriptors.Segment(0, 0xFFFFF, 0xC09B));
        SetGdt(Data32, Descriptors.Segment(0, 0xFFFFF, 0xC093));
        SetGdt(Code64, Descriptors.Segment(0, 0xFFFFF, 0xA09B));
        SetGdt(Code16, Descriptors.Segment((uint)Code, 0xFFFF, 0x009B));
        SetGdt(Data16, Descriptors.Segment(0, 0xFFFF, 0x0093));
        SetGdt(UserCode32, Descriptors.Segment(0, 0xFFFFF, 0xC0FB));
        SetGdt(UserData, Descriptors.Segment(0, 0xFFFFF, 0xC0F3));
        SetGdt(UserCode64, Descriptors.Segment(0, 0xFFFFF, 0xA0FB));
        SetGdt(TssSelector, Descriptors.Segment((uint)Tss, 0x67, 0x008B), 0);
        SetGdt(LdtSelector, Descriptors.Segment((uint)Ldt, 0xFF, 0x0082), 0);
        SetGdt(OtherTssSelector, Descriptors.Segment((uint)OtherTss, 0x67, 0x0089), 0);
        State.Gdtr = new TableRegister { Base = Gdt, Limit = GdtLimit };
        State.Idtr = new TableRegister { Base = Idt, Limit = 0xFFF };
        State.Tr = Segment(TssSelector);
        State.Ldtr = new SegmentRegister();
        var handlerCode = IsLong ? Code64 : Code32;
        for (var vector = 0; vector < 256; vector++)
            SetGate(vector, Handlers + (ulong)(vector * 16), handlerCode, dpl: vector is 3 or 4 ? 3 : 0);
        if (IsLong)
        {
            Write(Tss + 4, Stack0);
            Write(Tss + 0x24, IstStack);
        }
        else
        {
            Write(Tss + 4, (uint)Stack0);
            Write(Tss + 8, (uint)Data32);
        }
    }

    /// <summary>Identity for the first 8 MiB, in small pages, for everyone.</summary>
    private void BuildPageTables()
    {
        _nextTable = Tables + 0x1000;
        Memory.TryWrite(Tables, new byte[0x40000]);
        for (ulong page = 0; page < 8 << 20; page += 4096)
            Map(page, page);
        State.Cr3 = Root;
        State.Cr0 |= ControlRegisters.PG | ControlRegisters.WP;
        if (Mode != Mode.Paged32)
            State.Cr4 |= ControlRegisters.PAE;
    }

    private ulong AllocateTable()
    {
        var table = _nextTable;
        _nextTable += 0x1000;
        Memory.TryWrite(table, new byte[0x1000]);
        return table;
    }
}

/// <summary>Bits of page table entries.</summary>
internal static class Pte
{
    public const ulong Present = 1, Write = 2, User = 4, Accessed = 0x20, Dirty = 0x40, Large = 0x80, Global = 0x100, NoExecute = 1UL << 63;
}

/// <summary>Makes descriptors.</summary>
internal static class Descriptors
{
    /// <summary><paramref name="attributes"/> as in <see cref="SegmentRegister.Attributes"/>; the limit in units of the granularity.</summary>
    public static ulong Segment(uint baseAddress, uint limit, uint attributes) =>
        (limit & 0xFFFF) | ((ulong)(baseAddress & 0xFFFFFF) << 16) | ((ulong)(attributes & 0xF0FF) << 40)
        | ((ulong)(limit >> 16 & 15) << 48) | ((ulong)(baseAddress >> 24) << 56);

    public static ulong Gate(ulong offset, ushort selector, int type, int dpl = 0, int countOrIst = 0, bool present = true) =>
        (offset & 0xFFFF) | ((ulong)selector << 16) | ((ulong)countOrIst << 32) | ((ulong)type << 40) | ((ulong)dpl << 45)
        | (present ? 1UL << 47 : 0) | ((offset & 0xFFFF0000) << 32);
}
