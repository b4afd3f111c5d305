using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.Virtio;

/// <summary>What a virtio NIC says of itself.</summary>
public sealed record VirtioNetOptions
{
    public MacAddress Address { get; init; } = MacAddress.Default(0);

    /// <summary>Pairs of a receive and a transmit queue, each of which a processor may have to itself.</summary>
    public int QueuePairs { get; init; } = 1;

    /// <summary>Descriptors of each receive and transmit queue, a power of two.</summary>
    public int QueueSize { get; init; } = 256;

    /// <summary>Bytes of the longest packet behind the Ethernet header; null: the driver is not told.</summary>
    public int? Mtu { get; init; }
}
