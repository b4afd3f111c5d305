// What the boards of domains that start with a kernel have in common (PVH and PV): no firmware, no buttons, no sleep, and
// devices of Xen's only.
// Follows: Xen docs/misc/pvh.pandoc.
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Boards;

internal abstract class XenKernelBoard : Board
{
    private readonly string _kind;
    private readonly LocalApic[] _apics;

    /// <param name="kind">Of the domain: PVH, PV.</param>
    /// <exception cref="ConfigurationException">There is no kernel, or something is to be plugged in that there is no place for.</exception>
    protected XenKernelBoard(BoardContext context, MachineOptions options, string kind)
    {
        _kind = kind;
        Context = context;
        if (options.Kernel is null)
            throw new ConfigurationException($"a {kind} domain starts with a kernel: give one with -kernel");
        if (FindUnfit(options) is { } unfit)
            throw new ConfigurationException($"a {kind} domain has no place for {unfit}; leave it out, or give -machine xenfv");
        var bus = new ApicBus();
        _apics = [.. Enumerable.Range(0, options.ProcessorCount).Select(i => new LocalApic(i, context.Clock, bus))];
    }

    public override IReadOnlyList<LocalApic> LocalApics => _apics;

    protected BoardContext Context { get; }

    public override IReadOnlyList<IMsrDevice> MsrDevices(int index) => [Xen!.Processors[index]];

    public override void AddKernel(BootPlan plan) => throw new ConfigurationException($"a {_kind} domain has no firmware that could start a kernel; leave -bios out");

    public override void PressPowerButton()
    {
        // There is none: the machine asks the domain by the store.
    }

    public override void WakeUp(string source)
    {
        // It never sleeps.
    }

    public override void Reset()
    {
        Xen!.Reset();
        foreach (var apic in _apics)
            apic.Reset();
    }

    public override void PowerDown()
    {
        // There is no S3.
    }

    public override void PowerUp() => Reset();

    public override uint ActAsResumingFirmware() => 0;

    /// <summary>What is to be plugged in that such a domain has no place for; null: nothing.</summary>
    protected virtual string? FindUnfit(MachineOptions options) => options switch
    {
        { Firmware: not null } => "firmware (-bios)",
        { VgaBios: not null } => "a VGA (-vga std, -vnc, -display curses)",
        { IdeDrives.Count: > 0 } => "an IDE drive (its disks are those of -drive if=xen)",
        _ when options.VirtioDevices.FirstOrDefault(d => d.Connection != VirtioConnection.Xenbus) is { } device =>
            $"a PCI device ({device.Name}; its virtio devices are those on xenbus)",
        { NetworkCards: [var card, ..] } => $"a PCI device ({card.Kind})",
        { Xen.Callback: XenCallbackOffer.Line } => "a line by which events are told (it has no interrupt controller but the local APICs)",
        { HasPciPanicDevice: true } or { HasPciTestDevice: true } => "a PCI device",
        { HasPanicDevice: true } or { HasTestDevice: true } => "an ISA device",
        _ when options.Serial.Any(s => s is not null) => "a serial port: its console is hvc0",
        _ => null,
    };
}
