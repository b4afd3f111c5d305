// The back ends of a machine's Xen domain.
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Virtio;

namespace Sharpvisor.Boards;

internal static class XenDevices
{
    /// <summary>Makes the bus of a domain with all devices that its machine has.</summary>
    /// <exception cref="ConfigurationException">One of them is not all there.</exception>
    public static XenBus CreateBus(XenDomain domain, BoardContext context, MachineOptions options)
    {
        var bus = new XenBus(domain, context.Memory, context.Gate, context.Errors, context.Logger);
        foreach (var (disk, place) in Place([.. options.XenDevices.OfType<XenDisk>()]))
            bus.Add(disk.Create(context, place));
        foreach (var (nic, index) in options.XenDevices.OfType<XenNic>().Select((d, i) => (d, i)))
            bus.Add(nic.Create(context, index));
        foreach (var (device, index) in options.VirtioDevices.Where(d => d.Connection == VirtioConnection.Xenbus).Select((d, i) => (d, i)))
            bus.Add(CreateVirtio(device, index, context, options.ProcessorCount));
        return bus;
    }

    private static XenVirtio CreateVirtio(VirtioPciDevice described, int index, BoardContext context, int processors)
    {
        if (described.BootIndex is not null || described.Rom is not null)
            throw new ConfigurationException($"{described.Name}: firmware starts nothing from xenbus; leave bootindex= and romfile= out, or have it on PCI");
        var device = described.Create(context, processors);
        if (device.Queues.Count > XenVirtio.MaximumQueues)
            throw new ConfigurationException($"{described.Name}: {device.Queues.Count} queues; on xenbus it has {XenVirtio.MaximumQueues} at most, give fewer ports or queues");
        if (device.Queues.FirstOrDefault(q => q.MaximumSize > XenVirtio.MaximumQueueSize) is { } queue)
            throw new ConfigurationException($"{described.Name}: a queue of {queue.MaximumSize}; on xenbus it has {XenVirtio.MaximumQueueSize} at most, give less");
        return new XenVirtio(index, device, context.Memory, described.OffersForeignMap);
    }

    /// <summary>Gives each disk its place: those that name one, then the others, in order.</summary>
    private static IEnumerable<(XenDisk Disk, int Place)> Place(List<XenDisk> disks)
    {
        var taken = new HashSet<int>();
        foreach (var disk in disks)
        {
            if (disk.Place is { } place && !taken.Add(place))
                throw new ConfigurationException($"{disk.Drive.Name}: another disk is {XenDiskNumber.Of(place).Name} already; give it another place");
        }

        var next = 0;
        foreach (var disk in disks)
        {
            while (disk.Place is null && !taken.Add(next))
                next++;
            yield return (disk, disk.Place ?? next);
        }
    }

    /// <summary>A machine without Xen has no place for what a domain finds in the store.</summary>
    /// <exception cref="ConfigurationException">It has some all the same.</exception>
    public static void Check(MachineOptions options)
    {
        if (options.Xen is not null)
            return;
        if (((options.XenDevices is [var first, ..] ? first.Kind : null) ?? options.VirtioDevices.FirstOrDefault(d => d.Connection == VirtioConnection.Xenbus)?.Name) is { } name)
            throw new ConfigurationException($"{name}: this machine is no domain of Xen's; use -machine xenfv, xenpvh or xenpv, or devices of another kind");
    }
}
