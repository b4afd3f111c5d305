using Sharpvisor.Boards;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.E1000;

namespace Sharpvisor;

/// <summary>Intel's e1000, a NIC for guests without drivers of virtio.</summary>
/// <param name="Backend">What its cable leads to; null: nothing. It belongs to the machine from now on.</param>
public sealed record E1000Card(INetworkBackend? Backend) : PciDevice
{
    public MacAddress Address { get; init; } = MacAddress.Default(0);

    internal override string Kind => "e1000";

    internal override (string Kind, string Unit)? BootPath => ("ethernet", "ethernet-phy@0");

    internal override IEnumerable<IAsyncDisposable> Backends => Backend is null ? [] : [Backend];

    internal E1000Nic Create(BoardContext context)
    {
        if (Address.IsGroup)
            throw new ConfigurationException($"{Kind}: {Address} is an address of a group; give one whose first byte is even");
        var nic = new E1000Nic(Address, Backend, context.Gate, context.Errors);
        Backend?.Attach(nic);
        return nic;
    }
}
