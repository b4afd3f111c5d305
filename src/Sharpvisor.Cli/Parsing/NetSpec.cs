using Microsoft.Extensions.Logging;
using Sharpvisor.Boot;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What a -netdev, or the second half of a -nic, says; nothing opened yet.</summary>
/// <param name="Open">Opens it; the strings are its name and the file that -bootp names.</param>
internal sealed record NetdevSpec(string What, string Id, Func<string, string?, ILogger, INetworkBackend> Open)
{
    /// <summary>Of -net, which joins all that say no more to one hub.</summary>
    public bool IsOnHub { get; init; }
}

/// <summary>A NIC.</summary>
/// <param name="Model">QEMU's name of the device.</param>
/// <param name="Create">Makes it, of what it leads to, its address, and its ROM.</param>
internal sealed record NicSpec(string What, string Model, Func<INetworkBackend?, MacAddress, BootSource?, PciDevice> Create)
{
    /// <summary>The id of its -netdev; null: none.</summary>
    public string? NetdevId { get; init; }

    /// <summary>Of -net, as <see cref="NetdevSpec.IsOnHub"/>.</summary>
    public bool IsOnHub { get; init; }

    /// <summary>Null: the next one of QEMU's.</summary>
    public MacAddress? Address { get; init; }

    /// <summary>Null: its usual one, if the host has it; "": none.</summary>
    public string? RomFile { get; init; }
}

/// <summary>-object filter-dump.</summary>
internal sealed record DumpSpec(string What, string Netdev, string File, int FrameLimit);
