using Conformance.Fuzzing;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.State;
using Sharpvisor.Testing.Time;

namespace Conformance.Guests;

/// <summary>Executes sequences on a processor of an engine, in a machine with nothing but memory.</summary>
public sealed class GuestRunner : IDisposable
{
    private const long Budget = 100_000;

    private readonly GuestMemory _memory = new(16 << 20);
    private readonly ManualClock _clock = new();
    private readonly GuestTables _tables;
    private readonly IVcpu _vcpu;
    private readonly byte[] _code = new byte[Arena.MaximumCode];

    public GuestRunner(Arena arena, ICpuEngine engine, CpuModel model)
    {
        _tables = new GuestTables(_memory, arena);
        var gate = new MachineGate();
        var errors = new GuestErrorLog(NullLogger.Instance);
        _vcpu = engine.CreateVcpu(0, new CpuEnvironment
        {
            Memory = _memory,
            Mmio = new AddressSpace("mmio", 1UL << 48, gate, errors),
            Ports = new AddressSpace("io", 0x10000, gate, errors),
            Clock = _clock,
            Gate = gate,
            Errors = errors,
            Logger = NullLogger.Instance,
            Model = model,
            ProcessorCount = 1,
        }, new NoApic(), []);
    }

    public void Run(TestCase test, Outcome outcome)
    {
        test.Code.CopyTo(_code, 0);
        _code[test.Code.Length] = 0xF4; // HLT: #GP in user mode, the mark of the end
        _memory.TryWrite(_tables.CodePhysical, _code.AsSpan(0, test.Code.Length + 1));
        _memory.TryWrite(_tables.ScratchPhysical, test.Scratch);
        _vcpu.SetState(GuestTables.StartState(test));

        outcome.Trouble = null;
        outcome.Vector = Outcome.Lost;
        var exit = _vcpu.Run(Budget);
        var state = _vcpu.GetState();
        outcome.Cpu.Gpr = state.Gpr;
        outcome.Cpu.Ymm = state.Ymm;
        outcome.Cpu.Fx = state.X87;
        outcome.Cpu.Mxcsr = state.Mxcsr;
        outcome.Cpu.Rflags = state.Rflags;
        outcome.Rip = state.Rip;
        _memory.TryRead(_tables.ScratchPhysical, outcome.Scratch);
        if (exit != VcpuExit.Halted)
            outcome.Trouble = exit == VcpuExit.Shutdown ? _vcpu.DescribeFault() : $"Run returned {exit} at 0x{state.Rip:x}";
        else if (state.Rip is <= GuestTables.Handlers or > GuestTables.Handlers + 256)
            outcome.Trouble = $"halted at 0x{state.Rip:x}, which is no exception handler";
        else
            ReadFrame(test, outcome, state);
    }

    public void Dispose()
    {
        _vcpu.Dispose();
        _clock.Dispose();
        _memory.Dispose();
    }

    /// <summary>What the processor pushed on entry to the handler (SDM vol. 3, 6.14.2).</summary>
    private void ReadFrame(TestCase test, Outcome outcome, in CpuState state)
    {
        var vector = (int)(state.Rip - GuestTables.Handlers - 1);
        var frame = state.Gpr[4];
        var hasError = vector is 8 or (>= 10 and <= 14) or 17;
        if (frame != GuestTables.KernelStack - (hasError ? 48UL : 40UL))
        {
            outcome.Trouble = $"the frame of vector {vector} lies at 0x{frame:x}";
            return;
        }

        outcome.Vector = vector;
        outcome.ErrorCode = hasError ? (uint)Read(frame) : 0;
        frame += hasError ? 8UL : 0;
        outcome.Rip = Read(frame);
        var cs = Read(frame + 8);
        outcome.Cpu.Rflags = Read(frame + 16);
        outcome.Cpu.Gpr[4] = Read(frame + 24);
        var ss = Read(frame + 32);
        outcome.Cr2 = vector == 14 ? state.Cr2 : 0;
        if (vector == 13 && outcome.Rip == test.End)
            outcome.Vector = Outcome.End;
        var start = GuestTables.StartState(test);
        if (cs != start.Segments[1].Selector || ss != start.Segments[2].Selector)
            outcome.Trouble = $"the frame has cs {cs:x} and ss {ss:x}";
    }

    private ulong Read(ulong address)
    {
        _memory.TryRead(address, out ulong value);
        return value;
    }
}
