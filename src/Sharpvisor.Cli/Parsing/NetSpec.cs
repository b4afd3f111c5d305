using Sharpvisor.Boot;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What a -netdev, or the second half of a -nic, says; nothing opened yet.</summary>
internal sealed record NetdevSpec(string What, string Id, string Kind, NetdevOpener Open)
{
    /// <summary>The number of the hub that it is on; null: a NIC has it for itself.</summary>
    public int? Hub { get; init; }
}

/// <summary>-netdev hubport: connects a -netdev, or the NIC that names it, to a hub.</summary>
/// <param name="NetdevId">Null: a NIC.</param>
internal sealed record HubPortSpec(string What, string Id, int Hub, string? NetdevId);

/// <summary>A NIC.</summary>
/// <param name="Model">QEMU's name of the device.</param>
/// <param name="Create">Makes it, of what it leads to, its address, and its ROM: a <see cref="PciDevice"/> or a <see cref="XenDevice"/>.</param>
internal sealed record NicSpec(string What, string Model, Func<INetworkBackend?, MacAddress, BootSource?, object> Create)
{
    /// <summary>The id of its -netdev, or of its port of a hub; null: none.</summary>
    public string? NetdevId { get; init; }

    /// <summary>The number of the hub that it is on; null: none.</summary>
    public int? Hub { get; init; }

    /// <summary>Null: the next one of QEMU's.</summary>
    public MacAddress? Address { get; init; }

    /// <summary>Null: its usual one, if the host has it; "": none.</summary>
    public string? RomFile { get; init; }
}

/// <summary>-object filter-dump.</summary>
internal sealed record DumpSpec(string What, string Netdev, string File, int FrameLimit);
