// The back ends of a machine's Xen domain.
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Boards;

internal static class XenDevices
{
    /// <summary>Makes the bus of a domain with all devices that its machine has.</summary>
    /// <exception cref="ConfigurationException">One of them is not all there.</exception>
    public static XenBus CreateBus(XenDomain domain, BoardContext context, MachineOptions options)
    {
        var bus = new XenBus(domain, context.Memory, context.Gate, context.Errors, context.Logger);
        foreach (var kind in options.XenDevices.GroupBy(d => d.Kind))
        {
            foreach (var (device, index) in kind.Select((d, i) => (d, i)))
                bus.Add(device.Create(context, index));
        }

        return bus;
    }

    /// <summary>A machine without Xen has no place for what a domain finds in the store.</summary>
    /// <exception cref="ConfigurationException">It has some all the same.</exception>
    public static void Check(MachineOptions options)
    {
        if (options is { Xen: null, XenDevices: [var device, ..] })
            throw new ConfigurationException($"{device.Kind}: this machine is no domain of Xen's; use -machine xenfv or xenpvh, or devices of another kind");
    }
}
