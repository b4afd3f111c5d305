// The bus that connects local APICs, IOAPICs and message-signalled interrupts.
// Follows: Intel SDM vol. 3A, 11.6 (interprocessor interrupts, destinations), 11.6.2.4 (lowest priority),
// 11.11 (message signalled interrupts), 11.12.10 (x2APIC logical destinations).
// Leaves out: interrupt remapping, focus processor, the arbitration of the serial APIC bus. Of several processors
// with the same lowest priority the first takes the interrupt.

using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>Carries interrupt messages to the local APICs of a machine and EOIs back to its IOAPICs.</summary>
public sealed class ApicBus : IMsiTarget
{
    private LocalApic[] _apics = [];
    private IoApic[] _ioApics = [];

    public ApicBus()
    {
        Lint0 = new InterruptInput(0, (_, asserted) => SetLint0(asserted));
        Lint1 = new InterruptInput(1, (_, asserted) => SetLint1(asserted));
    }

    /// <summary>The LINT0 pin of every processor: the PIC's INTR output.</summary>
    public IInterruptLine Lint0 { get; }

    /// <summary>The LINT1 pin of every processor: NMI.</summary>
    public IInterruptLine Lint1 { get; }

    /// <summary>Who answers the interrupt-acknowledge cycle of an ExtINT. Set once by the board; null on one without a PIC.</summary>
    public Pic? Pic { get; set; }

    public IReadOnlyList<LocalApic> LocalApics => _apics;

    /// <summary>
    /// A level-triggered interrupt is about to end, or the PIC's to be taken: who drives a line without being told when to let
    /// go of it looks whether it still has to.
    /// </summary>
    public event Action? SamplingLines;

    /// <summary>A memory write of a device to 0xFEExxxxx; other addresses are ignored.</summary>
    public void Send(ulong address, uint data)
    {
        if (address >> 20 != 0xFEE)
            return;
        var destination = (uint)(address >> 12) & 0xFF;
        var level = (data & 0x8000) != 0;
        if (level && (data & 0x4000) == 0)
            return; // the deassert message of a level MSI has no effect on local APICs
        Deliver(new ApicMessage(
            destination, (address & 4) != 0, destination == 0xFF, (DeliveryMode)((data >> 8) & 7), (byte)data, level));
    }

    /// <summary>Delivers a message; false when no local APIC took it.</summary>
    public bool Deliver(in ApicMessage message)
    {
        if (message.Mode == DeliveryMode.LowestPriority)
            return DeliverToLowestPriority(message);
        if (!message.Logical && !message.Broadcast)
        {
            return message.Destination < (uint)_apics.Length
                && _apics[message.Destination].Matches(message)
                && _apics[message.Destination].Accept(message.Mode, message.Vector, message.Level);
        }

        var taken = false;
        foreach (var apic in _apics)
        {
            if (apic.Matches(message))
                taken |= apic.Accept(message.Mode, message.Vector, message.Level);
        }

        return taken;
    }

    /// <summary>The shorthands "all including self" and "all excluding self".</summary>
    internal void DeliverToAll(LocalApic? except, DeliveryMode mode, byte vector, bool level)
    {
        foreach (var apic in _apics)
        {
            if (apic != except && apic.IsEnabled)
                apic.Accept(mode, vector, level);
        }
    }

    internal void SampleLines() => SamplingLines?.Invoke();

    internal void BroadcastEoi(byte vector)
    {
        SampleLines();
        foreach (var ioApic in _ioApics)
            ioApic.EndOfInterrupt(vector);
    }

    internal void Add(LocalApic apic)
    {
        if (apic.Index != _apics.Length)
            throw new InvalidOperationException($"local APIC {apic.Index} added where {_apics.Length} is next");
        _apics = [.. _apics, apic];
    }

    internal void Add(IoApic ioApic) => _ioApics = [.. _ioApics, ioApic];

    private bool DeliverToLowestPriority(in ApicMessage message)
    {
        LocalApic? lowest = null;
        foreach (var apic in _apics)
        {
            if (apic.IsSoftwareEnabled && apic.Matches(message)
                && (lowest is null || apic.ProcessorPriority < lowest.ProcessorPriority))
            {
                lowest = apic;
            }
        }

        return lowest is not null && lowest.Accept(DeliveryMode.Fixed, message.Vector, message.Level);
    }

    private void SetLint0(bool asserted)
    {
        foreach (var apic in _apics)
            apic.SetLint0(asserted);
    }

    private void SetLint1(bool asserted)
    {
        foreach (var apic in _apics)
            apic.SetLint1(asserted);
    }
}
