using System.Buffers.Binary;
using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User.Services.Dhcp;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Dhcp;

/// <summary>The client's side, written from the specification and not with the server's code.</summary>
internal sealed class DhcpClient(DhcpService service, int number = 0)
{
    public FakeSender Sender { get; } = new();

    public MacAddress Mac { get; } = MacAddress.Default(number);

    public byte[] Message(byte type, string? requested = null, string? server = null, string client = "0.0.0.0", bool broadcast = false, params (byte Code, byte[] Value)[] more)
    {
        var bytes = new byte[600];
        (bytes[0], bytes[1], bytes[2]) = (1, 1, 6);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(4), 0xCAFE_0000 + (uint)number);
        bytes[10] = broadcast ? (byte)0x80 : (byte)0;
        IPAddress.Parse(client).GetAddressBytes().CopyTo(bytes, 12);
        Mac.Write(bytes.AsSpan(28));
        bytes[236] = 99;
        bytes[237] = 130;
        bytes[238] = 83;
        bytes[239] = 99;
        var at = 240;
        void Add(byte code, byte[] value)
        {
            bytes[at++] = code;
            bytes[at++] = (byte)value.Length;
            value.CopyTo(bytes, at);
            at += value.Length;
        }

        if (type != 0)
            Add(53, [type]);
        if (requested is not null)
            Add(50, IPAddress.Parse(requested).GetAddressBytes());
        if (server is not null)
            Add(54, IPAddress.Parse(server).GetAddressBytes());
        foreach (var (code, value) in more)
            Add(code, value);
        bytes[at++] = 255;
        return bytes[..Math.Max(at, 300)];
    }

    public Reply Ask(byte[] message)
    {
        Say(message);
        return Reply.Read(Sender.Single());
    }

    public void Say(byte[] message) =>
        service.OnDatagram(new IPEndPoint(IPAddress.Any, 68), new IPEndPoint(IPAddress.Broadcast, 67), message, Sender);

    /// <summary>Discover and request.</summary>
    public Reply Lease(params (byte Code, byte[] Value)[] more)
    {
        var offer = Ask(Message(1, more: more));
        Assert.Equal(2, offer.Type);
        return Ask(Message(3, offer.Your, "10.0.2.2", more: more));
    }

    internal sealed record Reply(FakeSender.Datagram Datagram, string Your, string Next, string Client, string File, IReadOnlyDictionary<byte, byte[]> Options)
    {
        public int Type => Options.TryGetValue(53, out var type) ? type[0] : 0;

        public string Text(byte code) => Encoding.ASCII.GetString(Options[code]);

        public string Address(byte code) => new IPAddress(Options[code]).ToString();

        public static Reply Read(FakeSender.Datagram datagram)
        {
            var bytes = datagram.Data;
            Assert.InRange(bytes.Length, 300, 1472);
            Assert.Equal((2, 1, 6), (bytes[0], bytes[1], bytes[2]));
            Assert.Equal([99, 130, 83, 99], bytes[236..240]);
            Dictionary<byte, byte[]> options = [];
            var at = 240;
            while (bytes[at] != 255)
            {
                var value = bytes.AsSpan(at + 2, bytes[at + 1]).ToArray();
                options[bytes[at]] = options.TryGetValue(bytes[at], out var before) ? [.. before, .. value] : value; // RFC 3396
                at += 2 + value.Length;
            }

            return new Reply(datagram, AddressAt(16), AddressAt(20), AddressAt(12), Encoding.ASCII.GetString(bytes, 108, 128).TrimEnd('\0'), options);

            string AddressAt(int place) => new IPAddress(bytes.AsSpan(place, 4)).ToString();
        }
    }
}
