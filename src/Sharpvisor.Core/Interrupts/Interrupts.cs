using Sharpvisor.Core.Buses;

namespace Sharpvisor.Core.Interrupts;

/// <summary>One interrupt wire, level or edge as its controller's input is programmed.</summary>
public interface IInterruptLine
{
    /// <summary>Drives the wire. Called with the machine's gate held.</summary>
    void Set(bool asserted);
}

/// <summary>Takes message-signalled interrupts: a write of <c>data</c> to <c>address</c> in 0xFEExxxxx.</summary>
public interface IMsiTarget
{
    void Send(ulong address, uint data);
}

/// <summary>A processor's input pins, driven by its local APIC. Any thread may call; a halted vCPU wakes up.</summary>
public interface IProcessorSignals
{
    /// <summary>INTR: while asserted, <see cref="ILocalInterruptController.AcknowledgeInterrupt"/> has a vector to give.</summary>
    void SetInterruptRequest(bool asserted);

    void RaiseNmi();

    void RaiseSmi();

    /// <summary>INIT: the processor resets and, unless it is the bootstrap processor, waits for a start-up IPI.</summary>
    void RaiseInit();

    /// <summary>SIPI: a processor that waits for it starts in real mode at <paramref name="vector"/> * 0x1000.</summary>
    void RaiseStartup(byte vector);
}

/// <summary>What a processor asks of its local APIC (or, with that one disabled, of the PIC behind it).</summary>
/// <remarks>All members are called with the machine's gate held.</remarks>
public interface ILocalInterruptController : IBusDevice, IMsrDevice
{
    /// <summary>Guest-physical page of the register window, or <see cref="ulong.MaxValue"/> when there is none (disabled or x2APIC).</summary>
    ulong MmioBase { get; }

    /// <summary>CR8: bits 7:4 of the task priority register, 0 to 15.</summary>
    byte TaskPriority { get; set; }

    /// <summary>Takes the highest pending vector in service; -1 when there is none any more.</summary>
    int AcknowledgeInterrupt();
}

/// <summary>Model-specific registers that a device provides to one processor.</summary>
public interface IMsrDevice
{
    /// <summary>False: there is no such register, the instruction raises #GP(0).</summary>
    bool TryReadMsr(uint msr, out ulong value);

    /// <summary>False: no such register or a reserved value, the instruction raises #GP(0).</summary>
    bool TryWriteMsr(uint msr, ulong value);
}
