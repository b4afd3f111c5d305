// What a DHCP server is told, and how it fits into options (RFC 2132).
using System.Globalization;
using System.Net;
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

/// <summary>What the DHCP server tells a guest; the names in messages are those of QEMU's <c>-netdev user</c>.</summary>
internal sealed record DhcpSettings
{
    /// <summary>The server's own address, the identifier that a guest addresses it by.</summary>
    public required IPAddress Server { get; init; }

    public required IPAddress Mask { get; init; }

    /// <summary>dhcpstart: the address of the first guest, one of the network.</summary>
    public required IPAddress First { get; init; }

    /// <summary>Addresses of the network itself, given to nobody.</summary>
    public required IReadOnlyList<IPAddress> Reserved { get; init; }

    /// <summary>Null: the guest shall reach nothing beyond (restrict=on).</summary>
    public IPAddress? Router { get; init; }

    /// <summary>Null: no names.</summary>
    public IPAddress? Dns { get; init; }

    /// <summary>Where the boot file is (siaddr).</summary>
    public IPAddress? NextServer { get; init; }

    /// <summary>hostname: what the guest is called.</summary>
    public string? HostName { get; init; }

    /// <summary>domainname.</summary>
    public string? DomainName { get; init; }

    /// <summary>dnssearch, one or more.</summary>
    public IReadOnlyList<string> DomainSearch { get; init; } = [];

    /// <summary>tftp-server-name (option 66).</summary>
    public string? TftpServerName { get; init; }

    /// <summary>bootfile: a name for TFTP, or a URL.</summary>
    public string? BootFile { get; init; }

    /// <summary>The HTTP server that has the same files as the TFTP server: firmware that boots by HTTP only is sent there.</summary>
    public IPEndPoint? HttpServer { get; init; }

    /// <summary>Of the network, in bytes.</summary>
    public int Mtu { get; init; } = 1500;

    /// <summary>How long an address is a guest's.</summary>
    public TimeSpan LeaseTime { get; init; } = TimeSpan.FromDays(1);

    /// <summary>The boot file as a client that knows HTTP only can read it.</summary>
    public string? BootUrl => BootFile switch
    {
        null => null,
        _ when BootFile.StartsWith("http://", StringComparison.OrdinalIgnoreCase) || BootFile.StartsWith("https://", StringComparison.OrdinalIgnoreCase) => BootFile,
        _ when HttpServer is { } server && !BootFile.Contains("://", StringComparison.Ordinal) =>
            string.Create(CultureInfo.InvariantCulture, $"http://{(server.Port == 80 ? server.Address : server)}/{string.Join('/', BootFile.TrimStart('/').Split('/').Select(Uri.EscapeDataString))}"),
        _ => null,
    };

    /// <exception cref="ConfigurationException">A value does not fit into an option.</exception>
    public void Check()
    {
        const int longestOption = 255;
        foreach (var (name, value) in new[] { ("hostname", HostName), ("domainname", DomainName), ("tftp-server-name", TftpServerName), ("bootfile", BootFile), ("bootfile", BootUrl) })
        {
            if (value is not null && (value.Length == 0 || Encoding.UTF8.GetByteCount(value) > longestOption || value.Any(char.IsControl)))
                throw new ConfigurationException($"{name}={RequestLog.Clean(value)}: DHCP takes 1 to {longestOption} bytes of text; give a shorter one");
        }

        DomainSearchList.Encode(DomainSearch);
    }
}
