// A TCP segment of the guest: RFC 9293, 3.1 and 3.2.
using System.Buffers.Binary;
using Sharpvisor.Backends.Net.User.Ip;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Tcp;

/// <summary>The two ends of a connection.</summary>
internal readonly record struct TcpFlow(IPv4EndPoint Guest, IPv4EndPoint Remote);

/// <summary>The control bits of RFC 9293, 3.1.</summary>
[Flags]
internal enum TcpFlags : byte
{
    None = 0,
    Fin = 1,
    Syn = 2,
    Rst = 4,
    Psh = 8,
    Ack = 16,
}

/// <summary>A checked segment of the guest (RFC 9293). Urgent data counts as any other.</summary>
internal readonly ref struct TcpSegment
{
    public const int HeaderLength = 20;
    private const byte EndOfOptions = 0, NoOperation = 1, MaximumSegmentSize = 2, WindowScaleOption = 3;

    public TcpFlow Flow { get; private init; }

    public uint Sequence { get; private init; }

    public uint Acknowledgment { get; private init; }

    public TcpFlags Flags { get; private init; }

    /// <summary>Not scaled.</summary>
    public ushort Window { get; private init; }

    public ReadOnlySpan<byte> Data { get; private init; }

    private ReadOnlySpan<byte> Options { get; init; }

    /// <summary>In sequence numbers: SYN and FIN have one each.</summary>
    public uint Length => (uint)Data.Length + (Has(TcpFlags.Syn) ? 1U : 0) + (Has(TcpFlags.Fin) ? 1U : 0);

    public bool Has(TcpFlags flag) => (Flags & flag) != 0;

    public static bool TryParse(in Ipv4Packet packet, out TcpSegment segment, out DropReason reason)
    {
        segment = default;
        reason = DropReason.Malformed;
        var data = packet.Payload;
        if (data.Length < HeaderLength)
            return false;
        var offset = (data[12] >> 4) * 4;
        if (offset < HeaderLength || offset > data.Length)
            return false;
        if (!packet.ChecksumIsGood)
        {
            var sum = default(InternetChecksum);
            sum.AddPseudoHeader(packet.Source, packet.Destination, Ipv4Packet.Tcp, data.Length);
            sum.Add(data);
            if (sum.Finish() != 0)
            {
                reason = DropReason.Checksum;
                return false;
            }
        }

        segment = new TcpSegment
        {
            Flow = new TcpFlow(
                new IPv4EndPoint(packet.Source, BinaryPrimitives.ReadUInt16BigEndian(data)),
                new IPv4EndPoint(packet.Destination, BinaryPrimitives.ReadUInt16BigEndian(data[2..]))),
            Sequence = BinaryPrimitives.ReadUInt32BigEndian(data[4..]),
            Acknowledgment = BinaryPrimitives.ReadUInt32BigEndian(data[8..]),
            Flags = (TcpFlags)(data[13] & 0x1F),
            Window = BinaryPrimitives.ReadUInt16BigEndian(data[14..]),
            Options = data[HeaderLength..offset],
            Data = data[offset..],
        };
        return true;
    }

    /// <summary>The options of a SYN.</summary>
    /// <param name="maximumSegment">0: not given.</param>
    /// <param name="windowScale">-1: not given.</param>
    public void ReadOptions(out int maximumSegment, out int windowScale)
    {
        (maximumSegment, windowScale) = (0, -1);
        var options = Options;
        while (options.Length > 0 && options[0] != EndOfOptions)
        {
            if (options[0] == NoOperation)
            {
                options = options[1..];
                continue;
            }

            if (options.Length < 2 || options[1] < 2 || options[1] > options.Length)
                return;
            if (options[0] == MaximumSegmentSize && options[1] == 4)
                maximumSegment = BinaryPrimitives.ReadUInt16BigEndian(options[2..]);
            else if (options[0] == WindowScaleOption && options[1] == 3)
                windowScale = Math.Min(options[2], (byte)14); // RFC 7323, 2.3
            options = options[options[1]..];
        }
    }
}
