using System.Buffers.Binary;
using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User.Services.Tftp;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Tftp;

/// <summary>A client as the RFCs have it, over a wire that loses and doubles packets if asked to.</summary>
internal sealed class TftpClient(TftpService service, int port = 2000)
{
    public static readonly IPEndPoint Server = new(IPAddress.Parse("10.0.2.2"), 69);

    public FakeSender Sender { get; } = new();

    public IPEndPoint Here { get; } = new(IPAddress.Parse("10.0.2.15"), port);

    /// <summary>How many data packets have come.</summary>
    public int DataPackets { get; private set; }

    public static byte[] Request(string name, string mode = "octet", params string[] options) =>
        [0, 1, .. Encoding.UTF8.GetBytes(string.Join('\0', [name, mode, .. options]) + "\0")];

    public static byte[] Ack(int block) => [0, 4, (byte)(block >> 8), (byte)block];

    public void Say(byte[] packet, IPEndPoint? to = null, IPEndPoint? from = null) => service.OnDatagram(from ?? Here, to ?? Server, packet, Sender);

    public FakeSender.Datagram Ask(byte[] packet, IPEndPoint? to = null, IPEndPoint? from = null)
    {
        Say(packet, to, from);
        return Sender.Single();
    }

    /// <summary>Fetches a file; null if the server gives up.</summary>
    /// <param name="loses">Whether the next packet, of either side, is lost.</param>
    /// <param name="isDoubled">Whether the next acknowledgment comes twice.</param>
    /// <param name="wait">Lets the server's time go on to its deadline.</param>
    public byte[]? Fetch(string name, Action wait, Func<bool> loses, Func<bool> isDoubled, string mode = "octet", params string[] options)
    {
        List<byte> content = [];
        var (blockSize, window, expected, inWindow) = (512, 1, 1L, 0);
        IPEndPoint? transfer = null;
        Queue<FakeSender.Datagram> arriving = [];
        Put(Request(name, mode, options), Server);
        while (true)
        {
            for (var idle = 0; arriving.Count == 0; idle++)
            {
                if (idle > 40)
                    return null;
                if (transfer is null)
                    Put(Request(name, mode, options), Server); // it repeats what has had no answer
                wait();
                Take();
            }

            var packet = arriving.Dequeue();
            transfer ??= packet.From;
            Assert.Equal(transfer, packet.From);
            Assert.Equal(Here, packet.To);
            switch (BinaryPrimitives.ReadUInt16BigEndian(packet.Data))
            {
                case 6:
                    if (expected > 1)
                        break;
                    var words = Encoding.ASCII.GetString(packet.Data.AsSpan(2)).Split('\0');
                    blockSize = words.Contains("blksize") ? int.Parse(words[Array.IndexOf(words, "blksize") + 1]) : 512;
                    window = words.Contains("windowsize") ? int.Parse(words[Array.IndexOf(words, "windowsize") + 1]) : 1;
                    Put(Ack(0), transfer);
                    break;
                case 3:
                    DataPackets++;
                    if (BinaryPrimitives.ReadUInt16BigEndian(packet.Data.AsSpan(2)) != (ushort)expected)
                    {
                        Put(Ack((ushort)(expected - 1)), transfer); // RFC 7440, 4, and every old client without a window
                        inWindow = 0;
                        break;
                    }

                    content.AddRange(packet.Data.AsSpan(4));
                    expected++;
                    var isLast = packet.Data.Length - 4 < blockSize;
                    if (++inWindow < window && !isLast)
                        break;
                    inWindow = 0;
                    if (!isLast)
                    {
                        Put(Ack((ushort)(expected - 1)), transfer);
                        break;
                    }

                    // The last acknowledgment, until the server has it.
                    for (var i = 0; service.HasPort(transfer.Port) && i < 60; i++)
                    {
                        Put(Ack((ushort)(expected - 1)), transfer);
                        wait();
                    }

                    Sender.All();
                    return [.. content];
                default:
                    return null;
            }
        }

        void Put(byte[] packet, IPEndPoint to)
        {
            for (var copies = isDoubled() ? 2 : 1; copies > 0; copies--)
            {
                if (!loses())
                    Say(packet, to);
                Take();
            }
        }

        void Take()
        {
            foreach (var sent in Sender.All())
            {
                if (!loses())
                    arriving.Enqueue(sent);
            }
        }
    }
}
