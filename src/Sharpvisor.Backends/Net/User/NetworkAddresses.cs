// Which addresses a user-mode network has: as slirp gives them (RFC 1918, RFC 4632 for prefixes).
using System.Net;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User;

/// <summary>The network's addresses, in the processor's order of bytes.</summary>
internal sealed class NetworkAddresses
{
    /// <exception cref="ConfigurationException">They don't fit together.</exception>
    public NetworkAddresses(UserNetworkOptions options)
    {
        var (network, prefix) = Parse(options.Network);
        Mask = uint.MaxValue << 32 - prefix;
        Network = network & Mask;
        Broadcast = Network | ~Mask;
        Host = Of(options.Host, 2, "host");
        Dns = Of(options.Dns, 3, "dns");
        FirstGuest = Of(options.DhcpStart, 15, "dhcpstart");
        if (Host == Dns)
            throw new ConfigurationException($"user network: host and dns are both {IPv4EndPoint.ToIPAddress(Host)}; give them different addresses");
        if (FirstGuest == Host || FirstGuest == Dns)
            throw new ConfigurationException($"user network: dhcpstart={IPv4EndPoint.ToIPAddress(FirstGuest)} is the address of the host or of dns; give another");
        // The same as slirp's.
        Mac = MacAddress.Read([0x52, 0x55, (byte)(Host >> 24), (byte)(Host >> 16), (byte)(Host >> 8), (byte)Host]);
    }

    public uint Network { get; }

    public uint Mask { get; }

    public uint Broadcast { get; }

    /// <summary>The gateway; leads to the host's loopback.</summary>
    public uint Host { get; }

    public uint Dns { get; }

    public uint FirstGuest { get; }

    /// <summary>The Ethernet address behind all addresses but the guest's.</summary>
    public MacAddress Mac { get; }

    public bool IsInside(uint address) => (address & Mask) == Network;

    /// <summary>Whether a guest can have it.</summary>
    public bool CanBeGuest(uint address) => IsInside(address) && address != Host && address != Dns && address != Broadcast && address != Network;

    /// <summary>Addresses that lead nowhere: this network's own, loopback, multicast, reserved ones.</summary>
    public static bool IsNowhere(uint address) => (address >> 24) is 0 or 127 or >= 224;

    private static (uint Network, int Prefix) Parse(string text)
    {
        var slash = text.IndexOf('/', StringComparison.Ordinal);
        var prefix = 24;
        var isGood = IPAddress.TryParse(slash < 0 ? text : text[..slash], out var address) && address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork;
        if (slash >= 0 && !int.TryParse(text[(slash + 1)..], out prefix))
            isGood = IPAddress.TryParse(text[(slash + 1)..], out var mask) && TryCount(IPv4EndPoint.ToUInt32(mask), out prefix) && isGood;
        if (!isGood || prefix is < 4 or > 28 || IsNowhere(IPv4EndPoint.ToUInt32(address!)))
            throw new ConfigurationException($"net={text}: not a network; give an IPv4 address and the length of its prefix, 4 to 28, as in 10.0.2.0/24");
        return (IPv4EndPoint.ToUInt32(address!), prefix);
    }

    private static bool TryCount(uint mask, out int prefix)
    {
        prefix = System.Numerics.BitOperations.LeadingZeroCount(~mask);
        return mask == (prefix == 0 ? 0 : uint.MaxValue << 32 - prefix);
    }

    private uint Of(IPAddress? given, uint number, string option)
    {
        if (given is null)
            return Network | Math.Min(number, ~Mask - 1);
        var address = IPv4EndPoint.ToUInt32(given);
        if (given.AddressFamily != System.Net.Sockets.AddressFamily.InterNetwork || !IsInside(address) || address == Network || address == Broadcast)
            throw new ConfigurationException($"{option}={given}: not an address of the network {IPv4EndPoint.ToIPAddress(Network)}/{System.Numerics.BitOperations.PopCount(Mask)}; give one that is, or change net=");
        return address;
    }
}
