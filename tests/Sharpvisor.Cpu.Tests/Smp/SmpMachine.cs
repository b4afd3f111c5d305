using Iced.Intel;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using Sharpvisor.Devices.Interrupts;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>
/// Processors with local APICs (x2APIC) and memory, each on a thread, in 64-bit mode on identity-mapped memory: what
/// is needed to let them race. A processor ends by writing to <see cref="DonePort"/>.
/// </summary>
internal sealed class SmpMachine : IDisposable, IBusDevice
{
    public const ushort DonePort = 0x500;

    /// <summary>Memory that the tests may use; everything below is tables, handlers and stacks.</summary>
    public const uint Data = 0x200000;

    /// <summary>Code of processor 0; each other one is 64 KiB further.</summary>
    public const uint Code = 0x100000;

    /// <summary>The page tables that map <see cref="Windows"/> in pages of 4 KiB, and what they map: 2 MiB.</summary>
    public const uint WindowTable = 0x5000, Windows = 0x40000000;

    private const uint Pml4 = 0x1000, Pdpt = 0x2000, Directory = 0x3000, WindowDirectory = 0x4000, Gdt = 0x6000, Idt = 0x7000;

    private readonly MachineGate _gate = new();
    private readonly HostClock _clock;
    private readonly IVcpu[] _vcpus;
    private readonly Thread?[] _threads;
    private readonly CountdownEvent _running;
    private readonly List<string> _failures = [];
    private volatile bool _end;

    /// <param name="enders">How many processors end; all when 0.</param>
    public SmpMachine(int processors, int enders = 0)
    {
        _clock = new HostClock(_gate);
        _running = new CountdownEvent(enders == 0 ? processors : enders);
        _threads = new Thread[processors];
        var errors = new GuestErrorLog(NullLogger.Instance);
        var ports = new AddressSpace("io", 0x10000, _gate, errors);
        ports.Map(DonePort, 4, this, "done");
        var environment = new CpuEnvironment
        {
            Memory = Memory,
            Mmio = new AddressSpace("mmio", 1UL << 52, _gate, errors),
            Ports = ports,
            Clock = _clock,
            Gate = _gate,
            Errors = errors,
            Logger = NullLogger.Instance,
            Model = CpuModel.Parse(CpuModel.DefaultName),
            ProcessorCount = processors,
        };
        var engine = TestEngine.Create(threshold: 8);
        var bus = new ApicBus();
        _vcpus = new IVcpu[processors];
        for (var i = 0; i < processors; i++)
        {
            var apic = new LocalApic(i, _clock, bus);
            Assert.True(((IMsrDevice)apic).TryWriteMsr(0x1B, 0xFEE00C00 | (i == 0 ? 0x100u : 0)));
            Assert.True(((IMsrDevice)apic).TryWriteMsr(0x80F, 0x1FF));
            _vcpus[i] = engine.CreateVcpu(i, environment, apic, []);
            apic.Connect(_vcpus[i]);
        }

        WriteTables();
    }

    public GuestMemory Memory { get; } = new(16 << 20);

    public IReadOnlyList<IVcpu> Processors => _vcpus;

    /// <summary>The values that processors gave when they ended: by OUT of EAX, 0 is well.</summary>
    public uint[] Results { get; } = new uint[16];

    public static uint CodeOf(int processor) => Code + ((uint)processor << 16);

    /// <summary>Maps a page of <see cref="Windows"/>; physical 0: not present.</summary>
    public void MapWindow(int page, uint physical) => Memory.TryWrite(WindowTable + (ulong)(page * 8), physical == 0 ? 0UL : physical | 3);

    /// <summary>Writes the code of a processor and makes it ready to run.</summary>
    public void Load(int processor, Action<Assembler> code)
    {
        Place(CodeOf(processor), code);
        Start(processor, 0);
    }

    public void Place(uint address, Action<Assembler> code)
    {
        var assembler = new Assembler(64);
        code(assembler);
        var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), address);
        Assert.True(Memory.TryWrite(address, stream.ToArray()));
    }

    /// <summary>An interrupt or exception handler.</summary>
    public void Handle(int vector, Action<Assembler> code)
    {
        var address = 0x20000 + ((uint)vector * 0x100);
        Place(address, code);
        ulong gate = (address & 0xFFFF) | (8 << 16) | (0x8EUL << 40) | ((ulong)(address >> 16) << 48);
        Memory.TryWrite(Idt + ((ulong)vector * 16), gate);
        Memory.TryWrite(Idt + ((ulong)vector * 16) + 8, 0UL);
    }

    /// <summary>Sends a fixed interrupt to one processor; changes RAX, RCX, RDX.</summary>
    public static void SendIpi(Assembler a, int target, byte vector)
    {
        a.mov(ecx, 0x830);
        a.mov(eax, vector);
        a.mov(edx, target);
        a.wrmsr();
    }

    /// <summary>Sends a fixed interrupt to all others; changes RAX, RCX, RDX.</summary>
    public static void SendIpiToOthers(Assembler a, byte vector)
    {
        a.mov(ecx, 0x830);
        a.mov(eax, vector | (3 << 18));
        a.xor(edx, edx);
        a.wrmsr();
    }

    /// <summary>Ends the current interrupt; changes RAX, RCX, RDX.</summary>
    public static void EndOfInterrupt(Assembler a)
    {
        a.mov(ecx, 0x80B);
        a.xor(eax, eax);
        a.xor(edx, edx);
        a.wrmsr();
    }

    /// <summary>Ends the processor with EAX as result.</summary>
    public static void Done(Assembler a)
    {
        a.mov(dx, DonePort);
        a.@out(dx, eax);
        a.cli();
        var here = a.CreateLabel();
        a.Label(ref here);
        a.hlt();
        a.jmp(here);
    }

    /// <summary>Lets all run until each has ended; fails with where they are after <paramref name="seconds"/>.</summary>
    public void Run(int seconds = 60)
    {
        Begin();
        if (!_running.Wait(TimeSpan.FromSeconds(seconds)))
            Assert.Fail($"no end after {seconds} s: {Stop()} {Describe()}");
        Stop();
        Assert.Empty(_failures);
    }

    public void Begin()
    {
        for (var i = 0; i < _threads.Length; i++)
        {
            var vcpu = _vcpus[i];
            _threads[i] = new Thread(() => Loop(vcpu)) { IsBackground = true, Name = $"vcpu{i}" };
            _threads[i]!.Start();
        }
    }

    public uint Read(uint address) => Memory.TryRead(address, out uint value) ? value : throw new ArgumentOutOfRangeException(nameof(address));

    ulong IBusDevice.Read(uint offset, int size) => 0;

    void IBusDevice.Write(uint offset, int size, ulong value)
    {
        var index = Thread.CurrentThread.Name![4] - '0';
        Results[index] = (uint)value;
        _running.Signal();
    }

    public void Dispose()
    {
        Stop();
        _clock.Dispose();
        foreach (var vcpu in _vcpus)
            vcpu.Dispose();
        Memory.Dispose();
        _running.Dispose();
    }

    /// <summary>Ends the threads; tells of one that does not.</summary>
    public string Stop()
    {
        _end = true;
        foreach (var vcpu in _vcpus)
            vcpu.Kick();
        foreach (var thread in _threads)
        {
            if (thread?.Join(TimeSpan.FromSeconds(20)) == false)
                return "a processor does not react to a kick";
        }

        return "";
    }

    private string Describe() =>
        string.Join("; ", _vcpus.Select(v => v.GetState()).Select(s => $"rip {s.Rip:x} {s.Activity} rflags {s.Rflags:x} rax {s.Gpr[0]:x} rbx {s.Gpr[3]:x} rcx {s.Gpr[1]:x}"))
        + string.Join('\n', _failures);

    private void Loop(IVcpu vcpu)
    {
        try
        {
            while (!_end)
            {
                switch (vcpu.Run(1L << 40))
                {
                    case VcpuExit.Halted:
                        vcpu.WaitForWork();
                        break;
                    case VcpuExit.Shutdown:
                        throw new InvalidOperationException(vcpu.DescribeFault());
                }
            }
        }
        catch (Exception e)
        {
            lock (_failures)
                _failures.Add(e.ToString());
            if (_running.CurrentCount > 0)
                _running.Signal(_running.CurrentCount);
        }
    }

    private void Start(int processor, ulong rflags)
    {
        var state = _vcpus[processor].GetState();
        state.Activity = ActivityState.Active;
        state.Rip = CodeOf(processor);
        state.Rflags = 2 | rflags;
        state.Gpr[4] = 0x80000 + ((uint)(processor + 1) << 13);
        state.Cr0 = 0x80050033;
        state.Cr3 = Pml4;
        state.Cr4 = 0x6A0;
        state.Efer = 0xD00;
        state.Gdtr = new TableRegister { Base = Gdt, Limit = 0x17 };
        state.Idtr = new TableRegister { Base = Idt, Limit = 0xFFF };
        for (var i = 0; i < 6; i++)
            state.Segments[i] = new SegmentRegister { Selector = 16, Limit = uint.MaxValue, Attributes = 0xC093 };
        state.Segments[1] = new SegmentRegister { Selector = 8, Limit = uint.MaxValue, Attributes = 0xA09B };
        _vcpus[processor].SetState(state);
    }

    private void WriteTables()
    {
        Memory.TryWrite(Pml4, Pdpt | 3UL);
        Memory.TryWrite(Pdpt, Directory | 3UL);
        Memory.TryWrite(Pdpt + 8, WindowDirectory | 3UL);
        for (var i = 0u; i < 8; i++)
            Memory.TryWrite(Directory + (i * 8), (i << 21) | 0x83UL);
        Memory.TryWrite(WindowDirectory, WindowTable | 3UL);
        Memory.TryWrite(Gdt + 8, 0x00AF9B000000FFFFUL);
        Memory.TryWrite(Gdt + 16, 0x00CF93000000FFFFUL);
    }
}
