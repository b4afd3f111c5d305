using Sharpvisor.Backends.Block;
using Sharpvisor.Boards;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Xen.Block;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Net;

namespace Sharpvisor;

/// <summary>A device of a Xen domain, which it finds in the store.</summary>
public abstract record XenDevice
{
    /// <summary>For messages.</summary>
    internal abstract string Kind { get; }

    /// <summary>What it leads to on the host, which the machine closes.</summary>
    internal virtual IEnumerable<IAsyncDisposable> Backends => [];

    /// <param name="index">Which of its kind it is.</param>
    internal abstract XenBackEnd Create(BoardContext context, int index);
}

/// <summary>
/// A disk of a Xen domain: xvda, xvdb, … in order. A drive that is an <see cref="IdeDrive"/>, too, is one disk of the guest,
/// which takes the emulated one away when it has a driver for this.
/// </summary>
public sealed record XenDisk(BlockDrive Drive) : XenDevice
{
    /// <summary>0 for xvda; null: the first that no other disk names.</summary>
    public int? Place { get; init; }

    public bool IsCdrom { get; init; }

    /// <summary>Bytes that the medium writes at once: 512 or more, a power of two.</summary>
    public int PhysicalBlockSize { get; init; } = 512;

    /// <summary>Lets the guest leave pages granted; slower here, where grants cost nothing.</summary>
    public bool OffersPersistentGrants { get; init; }

    /// <summary>The name that QEMU has for the drive of an if=xen: "xen0".</summary>
    public static string NameOf(int index) => $"xen{index}";

    internal override string Kind => "xen-disk";

    internal override XenBackEnd Create(BoardContext context, int index)
    {
        if (!Drive.HasMedium)
            throw new ConfigurationException($"{Drive.Name}: a disk of a Xen domain needs an image; give it a file");
        Drive.Connect(context.Gate, context.Control);
        return new XenBlock(Drive, new XenBlockOptions
        {
            Index = index,
            IsCdrom = IsCdrom,
            PhysicalBlockSize = PhysicalBlockSize,
            OffersPersistentGrants = OffersPersistentGrants,
        });
    }
}

/// <summary>A NIC of a Xen domain: eth0, eth1, … in order.</summary>
/// <param name="Backend">What its cable leads to; null: nothing. It belongs to the machine from now on.</param>
public sealed record XenNic(INetworkBackend? Backend) : XenDevice
{
    public MacAddress Address { get; init; } = MacAddress.Default(0);

    internal override string Kind => "xen-net-device";

    internal override IEnumerable<IAsyncDisposable> Backends => Backend is null ? [] : [Backend];

    internal override XenBackEnd Create(BoardContext context, int index)
    {
        if (Address.IsGroup)
            throw new ConfigurationException($"{Kind}: {Address} is an address of a group; give one whose first byte is even");
        var nic = new XenNet(index, Address, Backend, context.Gate);
        Backend?.Attach(nic);
        return nic;
    }
}
