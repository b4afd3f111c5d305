using Iced.Intel;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Benchmarks;

/// <summary>
/// One processor in 64-bit mode at CPL 0 with 16 MiB of memory, mapped to itself by 2 MiB pages, but from
/// <see cref="SmallPages"/> on by 4 KiB pages. All that it has of devices are a port that does nothing and one at
/// which a write makes <see cref="IVcpu.Run"/> return.
/// </summary>
internal sealed class BareMachine : IDisposable
{
    public const ulong Code = 0x20_0000, Stack = 0x30_0000, SmallPages = 0x40_0000, LargePages = 0x60_0000;
    public const ushort Port = 0x80, KickPort = 0x81;

    private const ulong Gdt = 0x1000, Idt = 0x2000, Handler = 0x3000, Tables = 0x10000;
    private const ushort CodeSelector = 8, DataSelector = 16;
    private const ulong CodeDescriptor = 0x00AF_9B00_0000_FFFF, DataDescriptor = 0x00CF_9300_0000_FFFF;
    private const ulong Present = 1, Write = 2, Large = 0x80;

    public BareMachine(ICpuEngine engine)
    {
        var gate = new MachineGate();
        var errors = new GuestErrorLog(NullLogger.Instance);
        Environment = new CpuEnvironment
        {
            Memory = new GuestMemory(16 << 20),
            Ports = new AddressSpace("io", 0x10000, gate, errors),
            Mmio = new AddressSpace("mmio", 1UL << 48, gate, errors),
            Clock = new ManualClock(gate),
            Gate = gate,
            Errors = errors,
            Logger = NullLogger.Instance,
            Model = CpuModel.Parse(CpuModel.DefaultName),
            ProcessorCount = 1,
        };
        Cpu = engine.CreateVcpu(0, Environment, new NoApic(), []);
        Environment.Ports.Map(Port, 1, new WritePort(() => { }), "port");
        Environment.Ports.Map(KickPort, 1, new WritePort(Cpu.Kick), "kick");
        Cpu.SetState(EnterLongMode());
    }

    public CpuEnvironment Environment { get; }

    public GuestMemory Memory => Environment.Memory;

    public IVcpu Cpu { get; }

    /// <summary>Assembles a program at <see cref="Code"/>, from which <see cref="Cpu"/> executes next.</summary>
    /// <returns>Its bytes.</returns>
    public byte[] Load(Action<Assembler> program)
    {
        var code = Assemble(Code, program);
        var state = Cpu.GetState();
        state.Rip = Code;
        state.Gpr[3] = SmallPages; // rbx
        Cpu.SetState(state);
        return code;
    }

    public void Dispose()
    {
        Cpu.Dispose();
        Memory.Dispose();
    }

    private byte[] Assemble(ulong at, Action<Assembler> program)
    {
        var assembler = new Assembler(64);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Memory.TryWrite(at, stream.ToArray());
        return stream.ToArray();
    }

    private CpuState EnterLongMode()
    {
        Memory.TryWrite(Tables, Tables + 0x1000 | Present | Write);
        Memory.TryWrite(Tables + 0x1000, Tables + 0x2000 | Present | Write);
        for (ulong page = 0; page < 8; page++)
            Memory.TryWrite(Tables + 0x2000 + (page * 8), page << 21 | Present | Write | Large);
        Memory.TryWrite(Tables + 0x2000 + (SmallPages >> 21) * 8, Tables + 0x3000 | Present | Write);
        for (ulong page = 0; page < 512; page++)
            Memory.TryWrite(Tables + 0x3000 + (page * 8), SmallPages + (page << 12) | Present | Write);

        // #UD is skipped: UD2 has two bytes.
        Assemble(Handler, a =>
        {
            a.add(AssemblerRegisters.__qword_ptr[AssemblerRegisters.rsp], 2);
            a.iretq();
        });
        Memory.TryWrite(Gdt + CodeSelector, CodeDescriptor);
        Memory.TryWrite(Gdt + DataSelector, DataDescriptor);
        Memory.TryWrite(Idt + (6 * 16), Handler | (ulong)CodeSelector << 16 | 0x8EUL << 40);

        var state = Cpu.GetState();
        state.Cr0 = ControlRegisters.PE | ControlRegisters.PG | ControlRegisters.NE | ControlRegisters.WP;
        state.Cr3 = Tables;
        state.Cr4 = ControlRegisters.PAE | ControlRegisters.OSFXSR | ControlRegisters.OSXMMEXCPT | ControlRegisters.OSXSAVE;
        state.Xcr0 = 7;
        state.Efer = ControlRegisters.LME | ControlRegisters.LMA | ControlRegisters.NXE;
        state.Gdtr = new TableRegister { Base = Gdt, Limit = 0xFF };
        state.Idtr = new TableRegister { Base = Idt, Limit = 0xFFF };
        for (var i = 0; i < 6; i++)
            state.Segments[i] = new Descriptor(DataDescriptor).ToRegister(DataSelector);
        state.Segments[1] = new Descriptor(CodeDescriptor).ToRegister(CodeSelector);
        state.Gpr[4] = Stack;
        state.Rip = Code;
        return state;
    }

    private sealed class WritePort(Action written) : IBusDevice
    {
        public ulong Read(uint offset, int size) => 0;

        public void Write(uint offset, int size, ulong value) => written();
    }

    private sealed class NoApic : ILocalInterruptController
    {
        public ulong MmioBase => ulong.MaxValue;

        public byte TaskPriority { get; set; }

        public int AcknowledgeInterrupt() => -1;

        public ulong Read(uint offset, int size) => 0;

        public void Write(uint offset, int size, ulong value)
        {
        }

        public bool TryReadMsr(uint msr, out ulong value)
        {
            value = 0;
            return false;
        }

        public bool TryWriteMsr(uint msr, ulong value) => false;
    }
}
