using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Where a run ended. In the handler of an exception, its stack frame can be read.</summary>
internal sealed class Stop(BareMachine machine, VcpuExit exit, int vector)
{
    public VcpuExit Exit => exit;

    /// <summary>Of the handler that it ended in, or -1.</summary>
    public int Vector => vector;

    public bool HasError => machine.Mode != Mode.Real && vector is 8 or 10 or 11 or 12 or 13 or 14 or 17;

    public uint Error => (uint)Slot(-1);

    public ulong Rip => Slot(0);

    public ushort Cs => (ushort)Slot(1);

    public ulong Flags => Slot(2);

    /// <summary>The stack pointer and segment that were interrupted: in long mode, or after a change of privilege.</summary>
    public ulong Rsp => Slot(3);

    public ushort Ss => (ushort)Slot(4);

    /// <summary>The address of the frame, without the error code.</summary>
    public ulong Frame => (machine.IsLong ? 0 : machine.State.Segments[2].Base) + machine.Rsp + (HasError ? Size : 0);

    private ulong Size => machine.IsLong ? 8UL : machine.Mode == Mode.Real ? 2UL : 4UL;

    /// <summary>A slot of the frame: 0 is RIP.</summary>
    public ulong Slot(int index)
    {
        var at = Frame + (ulong)((long)Size * index);
        return Size switch { 8 => machine.Read<ulong>(at), 4 => machine.Read<uint>(at), _ => machine.Read<ushort>(at) };
    }

    public void Is(int expected, uint? error = null, ulong? rip = null)
    {
        Assert.True(Exit == VcpuExit.Halted && Vector == expected, $"expected vector {expected}, got {this}");
        if (error is { } e)
            Assert.True(Error == e, $"expected error code 0x{e:x}, got {this}");
        if (rip is { } r)
            Assert.True(Rip == r, $"expected the exception at 0x{r:x}, got {this}");
    }

    public override string ToString() => vector >= 0
        ? $"vector {vector}{(HasError ? $" error 0x{Error:x}" : "")} at {Cs:x4}:0x{Rip:x}, cr2 0x{machine.State.Cr2:x}"
        : $"{exit} at {machine.State.Segments[1].Selector:x4}:0x{machine.State.Rip:x}\n{(exit == VcpuExit.Shutdown ? machine.Cpu.DescribeFault() : "")}";
}
