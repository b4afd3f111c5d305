using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Backends.Tests.Net.User;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.Links;

/// <summary>The host's kernel is the other side. Makes an interface for a moment, where this user may.</summary>
public sealed class TapLinkTests
{
    private static readonly string _net = $"198.{18 + Random.Shared.Next(2)}.{Random.Shared.Next(256)}";
    private static readonly IPAddress _host = IPAddress.Parse($"{_net}.1"), _guest = IPAddress.Parse($"{_net}.2");

    [TapTheory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task The_host_answers_a_ping_and_sends_a_datagram(bool header)
    {
        var link = TapLink.Open("tap", "svt%d", header, null, null, NullLogger.Instance);
        Configure(link.InterfaceName);
        await using var nic = new LinkedNic(link);
        Assert.Equal(header, link.TakesOffloads);
        nic.Nic.ReceiveOffloads = new ReceiveOffloads(Checksum: true, Tcp4: true, Tcp6: false);
        nic.Send(Packets.ArpRequest(_guest, _host));
        var (answer, _) = Take(nic, f => f[12] == 8 && f[13] == 6 && f[21] == 2);
        var mac = MacAddress.Read(answer.AsSpan(6));

        var echo = Packets.Echo(_guest, _host, 7, 1, new byte[56]);
        mac.Write(echo);
        nic.Send(echo);
        Take(nic, f => f[12] == 8 && f[13] == 0 && f[23] == 1 && f[34] == 0);

        // Its checksum is left to the guest, or not, as that agreed.
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        var to = new IPEndPoint(_guest, 4000);
        await socket.SendToAsync(new byte[100], to);
        var (datagram, offload) = Take(nic, IsDatagram);
        Assert.Equal(header, offload.NeedsChecksum);
        Assert.Equal(header ? (14 + 20, 6) : (0, 0), (offload.ChecksumStart, offload.ChecksumOffset));
        Assert.Equal(14 + 20 + 8 + 100, datagram.Length);
        nic.Nic.ReceiveOffloads = default;
        await socket.SendToAsync(new byte[100], to); // may have been on its way when the guest changed its mind
        Take(nic, IsDatagram);
        await socket.SendToAsync(new byte[100], to);
        (datagram, offload) = Take(nic, IsDatagram);
        Assert.False(offload.NeedsChecksum);
        Assert.Equal(0, Packets.Checksum(Packets.PseudoHeader(_host, _guest, 17, 108), datagram[34..]));

        // What the guest leaves to the host.
        using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        listener.Bind(new IPEndPoint(_host, 0));
        var frame = Packets.Udp(to, (IPEndPoint)listener.LocalEndPoint!, LinkedNic.Frame(50, 1));
        mac.Write(frame);
        FrameOffload unfinished = default;
        if (header)
        {
            var pseudo = (ushort)~Packets.Checksum(Packets.PseudoHeader(_guest, _host, 17, 58));
            (frame[40], frame[41]) = ((byte)(pseudo >> 8), (byte)pseudo);
            unfinished = new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 };
        }

        nic.Nic.Send(frame, unfinished);
        var got = new byte[100];
        Assert.Equal(50, await listener.ReceiveAsync(got).WaitAsync(TimeSpan.FromMinutes(1)));
        Assert.Equal(LinkedNic.Frame(50, 1), got[..50]);

        static bool IsDatagram(byte[] f) => f[12] == 8 && f[13] == 0 && f[23] == 17 && f[37] == 4000 % 256;
    }

    [TapTheory]
    [InlineData("lo", "is no tap")]
    [InlineData("a name that is too long", "can't be the name")]
    public void A_mistake_is_one_line_that_says_what(string name, string expected) =>
        Assert.Contains(expected, Assert.Throws<ConfigurationException>(() => TapLink.Open("tap", name, null, null, null, NullLogger.Instance)).Message, StringComparison.Ordinal);

    [TapTheory]
    [InlineData("/bin/false", "exit code 1")]
    [InlineData("/no/such/script", "can't be run")]
    public void A_script_that_fails_is_one_line_that_says_what(string script, string expected) =>
        Assert.Contains(expected, Assert.Throws<ConfigurationException>(() => TapLink.Open("tap", "svt%d", null, script, null, NullLogger.Instance)).Message, StringComparison.Ordinal);

    [Fact]
    public void A_descriptor_that_is_no_tap_is_one_line_and_stays_open()
    {
        using var file = File.OpenHandle(Path.GetTempFileName(), options: FileOptions.DeleteOnClose, access: FileAccess.ReadWrite);
        Assert.Contains("is no tap", Assert.Throws<ConfigurationException>(() => TapLink.FromDescriptor("tap", (int)file.DangerousGetHandle(), NullLogger.Instance)).Message, StringComparison.Ordinal);
        RandomAccess.Write(file, [1], 0);
    }

    private static (byte[] Frame, FrameOffload Offload) Take(LinkedNic nic, Func<byte[], bool> kind)
    {
        while (true)
        {
            Assert.True(nic.Nic.TryTake(out var frame, out var offload, 60_000), "nothing comes");
            if (frame!.Length >= 42 && frame[12] == 8 && frame[13] == 6 && frame[21] == 1)
                nic.Send(Packets.Ethernet(0x0806, [0, 1, 8, 0, 6, 4, 0, 2, .. Packets.Bytes(Packets.Guest), .. _guest.GetAddressBytes(), .. frame.AsSpan(22, 10)], MacAddress.Read(frame.AsSpan(6))));
            else if (frame!.Length >= 42 && kind(frame))
                return (frame, offload);
        }
    }

    private static void Configure(string name)
    {
        Ip("addr", "add", $"{_host}/24", "dev", name);
        Ip("link", "set", name, "up");
    }

    private static void Ip(params string[] arguments)
    {
        using var process = Process.Start("ip", arguments);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    /// <summary>Where this user may make an interface.</summary>
    private sealed class TapTheoryAttribute : TheoryAttribute
    {
        public TapTheoryAttribute()
        {
            try
            {
                using var tap = TapInterface.Open("svt%d", null);
                if (!File.Exists("/sbin/ip") && !File.Exists("/usr/bin/ip"))
                    Skip = "there is no ip(8) here";
            }
            catch (Exception e) when (e is System.ComponentModel.Win32Exception or DllNotFoundException)
            {
                Skip = $"this user may make no tap here: {e.Message}";
            }
        }
    }
}
