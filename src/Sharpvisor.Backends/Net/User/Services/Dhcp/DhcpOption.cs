// Codes of DHCP options.
// Follows: RFC 2132; RFC 3397 (search list); RFC 4578 (PXE).

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

/// <summary>Codes of options (RFC 2132 and others).</summary>
internal enum DhcpOption : byte
{
    Pad = 0,
    SubnetMask = 1,
    Router = 3,
    DomainNameServer = 6,
    HostName = 12,
    DomainName = 15,
    InterfaceMtu = 26,
    BroadcastAddress = 28,
    RequestedAddress = 50,
    LeaseTime = 51,
    MessageType = 53,
    ServerIdentifier = 54,
    ParameterRequestList = 55,
    Message = 56,
    MaximumMessageSize = 57,
    RenewalTime = 58,
    RebindingTime = 59,
    VendorClass = 60,
    ClientIdentifier = 61,
    TftpServerName = 66,
    BootFile = 67,

    /// <summary>Client machine identifier (RFC 4578).</summary>
    MachineIdentifier = 97,

    /// <summary>RFC 3397.</summary>
    DomainSearch = 119,
    End = 255,
}

/// <summary>Values of <see cref="DhcpOption.MessageType"/>.</summary>
internal enum DhcpMessageType : byte
{
    /// <summary>The option is missing: a BOOTP client.</summary>
    Bootp = 0,
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}
