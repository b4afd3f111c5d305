// Messages from clients: RFC 2131, 2; RFC 951 for BOOTP; RFC 3396 and RFC 2132, 9.3 for long and overloaded options.
using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

/// <summary>A message of a client, of DHCP or BOOTP; it lasts as long as the bytes that it was read from.</summary>
internal readonly ref struct DhcpRequest
{
    /// <summary>Up to the options or BOOTP's vendor area.</summary>
    public const int HeaderLength = 236;

    /// <summary>What options begin with (RFC 1497).</summary>
    public const uint MagicCookie = 0x63825363;

    private const int BootRequest = 1, EthernetType = 1;

    public uint TransactionId { get; private init; }

    /// <summary>The client can't take datagrams to an address that it does not have yet.</summary>
    public bool WantsBroadcast { get; private init; }

    public ushort Flags { get; private init; }

    /// <summary>ciaddr: the address that the client has; 0: none.</summary>
    public uint ClientAddress { get; private init; }

    /// <summary>giaddr: it came through a relay agent.</summary>
    public uint RelayAddress { get; private init; }

    public MacAddress Mac { get; private init; }

    public DhcpMessageType Type { get; private init; }

    /// <summary>0: none.</summary>
    public uint RequestedAddress { get; private init; }

    /// <summary>0: none.</summary>
    public uint ServerIdentifier { get; private init; }

    /// <summary>The longest datagram that the client takes, in bytes; 0: it does not say.</summary>
    public int MaximumMessageSize { get; private init; }

    public ReadOnlySpan<byte> ParameterRequestList { get; private init; }

    public ReadOnlySpan<byte> ClientIdentifier { get; private init; }

    public ReadOnlySpan<byte> MachineIdentifier { get; private init; }

    public ReadOnlySpan<byte> VendorClass { get; private init; }

    /// <summary>Of the whole message, in bytes.</summary>
    public int Length { get; private init; }

    /// <summary>UEFI firmware that boots by HTTP (UEFI 2.10, 24.7.3.1).</summary>
    public bool IsHttpClient => VendorClass.StartsWith("HTTPClient"u8);

    public bool Asks(DhcpOption option) => ParameterRequestList.Contains((byte)option);

    /// <summary>For the log.</summary>
    public string VendorText => RequestLog.Clean(Encoding.Latin1.GetString(VendorClass));

    /// <returns>False: no request of an Ethernet client.</returns>
    public static bool TryRead(ReadOnlySpan<byte> data, out DhcpRequest request)
    {
        const ushort broadcastFlag = 0x8000;
        request = default;
        if (data.Length < HeaderLength || data[0] != BootRequest || data[1] != EthernetType || data[2] != MacAddress.Length)
            return false;
        var mac = MacAddress.Read(data[28..]);
        if (mac.IsGroup || mac == default)
            return false;
        var options = new Options(data[HeaderLength..]);
        var flags = BinaryPrimitives.ReadUInt16BigEndian(data[10..]);
        request = new DhcpRequest
        {
            TransactionId = BinaryPrimitives.ReadUInt32BigEndian(data[4..]),
            Flags = flags,
            WantsBroadcast = (flags & broadcastFlag) != 0,
            ClientAddress = BinaryPrimitives.ReadUInt32BigEndian(data[12..]),
            RelayAddress = BinaryPrimitives.ReadUInt32BigEndian(data[24..]),
            Mac = mac,
            Type = options.Find(DhcpOption.MessageType) is [var type] ? (DhcpMessageType)type : DhcpMessageType.Bootp,
            RequestedAddress = options.FindNumber(DhcpOption.RequestedAddress),
            ServerIdentifier = options.FindNumber(DhcpOption.ServerIdentifier),
            MaximumMessageSize = options.Find(DhcpOption.MaximumMessageSize) is [var high, var low] ? high << 8 | low : 0,
            ParameterRequestList = options.Find(DhcpOption.ParameterRequestList),
            ClientIdentifier = options.Find(DhcpOption.ClientIdentifier),
            MachineIdentifier = options.Find(DhcpOption.MachineIdentifier),
            VendorClass = options.Find(DhcpOption.VendorClass),
            Length = data.Length,
        };
        return true;
    }

    /// <summary>Type, length and value one after the other; what is cut off or has no cookie in front is none.</summary>
    private readonly ref struct Options(ReadOnlySpan<byte> area)
    {
        private readonly ReadOnlySpan<byte> _area = area.Length >= 4 && BinaryPrimitives.ReadUInt32BigEndian(area) == MagicCookie ? area[4..] : [];

        public ReadOnlySpan<byte> Find(DhcpOption wanted)
        {
            var rest = _area;
            while (rest.Length > 0 && rest[0] != (byte)DhcpOption.End)
            {
                if (rest[0] == (byte)DhcpOption.Pad)
                {
                    rest = rest[1..];
                    continue;
                }

                if (rest.Length < 2 || rest.Length - 2 < rest[1])
                    break;
                if (rest[0] == (byte)wanted)
                    return rest.Slice(2, rest[1]);
                rest = rest[(2 + rest[1])..];
            }

            return [];
        }

        public uint FindNumber(DhcpOption wanted) => Find(wanted) is { Length: 4 } value ? BinaryPrimitives.ReadUInt32BigEndian(value) : 0;
    }
}
