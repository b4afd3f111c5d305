using Sharpvisor.Boot;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Input;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Devices.Ps2;
using Sharpvisor.Devices.Vga;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Pv;
using Sharpvisor.Devices.Xen.Virtio;

namespace Sharpvisor.Boards;

/// <summary>What processors and memory sit on: who is at which address, and what power-on and firmware do.</summary>
internal abstract class Board
{
    /// <summary>By number of the processor.</summary>
    public abstract IReadOnlyList<LocalApic> LocalApics { get; }

    /// <summary>Null on a machine without Xen's guest interface.</summary>
    public XenDomain? Xen { get; protected init; }

    /// <summary>The devices of that domain.</summary>
    public XenBus? XenBus { get; private set; }

    /// <summary>Null on a machine without PCI, without the PC's interrupt controllers …</summary>
    public virtual PciBus? Pci => null;

    public virtual Pic? Pic => null;

    public virtual IoApic? IoApic => null;

    /// <summary>Null on a machine without a screen.</summary>
    public virtual StandardVga? Vga => null;

    public virtual Ps2Keyboard? Keyboard => null;

    public virtual IPointerInput? Mouse => null;

    /// <summary>VMware's backdoor; null on a machine without it.</summary>
    public virtual IRegisterPort? RegisterPort => null;

    /// <summary>However they are reached.</summary>
    public IReadOnlyList<VirtioDevice> VirtioDevices => [.. PciVirtioDevices, .. XenBus?.Devices.OfType<XenVirtio>().Select(d => d.Device) ?? []];

    protected virtual IReadOnlyList<VirtioDevice> PciVirtioDevices => [];

    /// <summary>The MSRs that processor <paramref name="index"/> has beyond its own.</summary>
    public abstract IReadOnlyList<IMsrDevice> MsrDevices(int index);

    public virtual void Connect(int index, IProcessorSignals processor) => LocalApics[index].Connect(processor);

    /// <summary>Has firmware start a kernel.</summary>
    public abstract void AddKernel(BootPlan plan);

    public abstract void PressPowerButton();

    /// <summary>A person wakes a machine that sleeps; another one is not touched.</summary>
    public abstract void WakeUp(string source);

    /// <summary>Power-on and the reset button.</summary>
    public abstract void Reset();

    /// <summary>Sleep (S3): all lose their power but RAM, the real-time clock, and what watches for a reason to wake up.</summary>
    public abstract void PowerDown();

    /// <summary>The end of a sleep: the reset that finds RAM, and the shadow RAM with the firmware in it, as they were.</summary>
    public abstract void PowerUp();

    /// <summary>Leaves behind what firmware would, for a kernel that is started without it.</summary>
    public abstract void ActAsFirmware();

    /// <summary>The same at the end of a sleep.</summary>
    /// <returns>The address of the real-mode code where the guest wants to go on; 0: it has said nothing.</returns>
    public abstract uint ActAsResumingFirmware();

    /// <summary>Makes the domain that the guest finds itself in.</summary>
    /// <exception cref="Core.Guests.ConfigurationException">There is no domain of that number, or one of its devices is not all there.</exception>
    protected XenDomain CreateDomain(BoardContext context, MachineOptions options, XenOptions xen, IReadOnlyList<LocalApic> apics, XenPvPlan? paravirtual = null)
    {
        if (xen.Domain is < 1 or > XenOptions.LastDomain)
            throw new Core.Guests.ConfigurationException($"Xen domain {xen.Domain}: give a number from 1 to {XenOptions.LastDomain}");
        var domain = new XenDomain(xen.Domain, apics, context.Memory, context.Clock, context.Control, context.Errors, context.Logger);
        domain.Callback.Offer = xen.Callback;
        if (paravirtual is not null)
        {
            domain.Paravirtual = new PvDomain(domain, paravirtual.Layout, context.Memory, context.Control, context.Errors, context.Logger);
            (domain.StorePage, domain.ConsolePage) = (paravirtual.StorePage, paravirtual.ConsolePage);
        }

        var bus = XenBus = XenDevices.CreateBus(domain, context, options);
        domain.OnStore = store =>
        {
            XenStoreTree.Fill(store, domain, xen, options);
            bus.Start(store);
        };
        var console = new XenConsole(context.Memory, domain.ConsolePage, xen.Console ?? new Backends.Char.NullCharBackend(), context.Gate, context.Errors, domain.NotifyConsole);
        domain.OnConsole = console.Serve;
        return domain;
    }
}
