using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Backends.Net.User.Services.Tftp;
using Sharpvisor.Backends.Tests.Char;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Tftp;

public sealed class TftpServiceTests : IDisposable
{
    private readonly ListLogger _log = new();
    private readonly MemoryContent _content = new();
    private readonly TftpService _service;
    private long _now = 1000;

    public TftpServiceTests() => _service = Serve(_content);

    public void Dispose() => _service.Dispose();

    [Fact]
    public void A_file_comes_block_by_block_from_a_port_of_its_own()
    {
        var bytes = Bytes(1100);
        _content.Set("pxelinux.0", bytes);
        var client = new TftpClient(_service);
        var first = client.Ask(TftpClient.Request("pxelinux.0"));
        Assert.Equal("10.0.2.2", first.From.Address.ToString());
        Assert.InRange(first.From.Port, 49152, 65535);
        Assert.True(((IUdpService)_service).HasPort(first.From.Port));
        Assert.False(_service.HasPort(69));
        Assert.Equal([0, 3, 0, 1, .. bytes[..512]], first.Data);
        Assert.Equal([0, 3, 0, 2, .. bytes[512..1024]], client.Ask(TftpClient.Ack(1), first.From).Data);
        Assert.Equal([0, 3, 0, 3, .. bytes[1024..]], client.Ask(TftpClient.Ack(2), first.From).Data);
        client.Say(TftpClient.Ack(3), first.From);
        Assert.Empty(client.Sender.Sent);
        Assert.False(_service.HasPort(first.From.Port));
        Assert.Equal(long.MaxValue, _service.NextDeadlineMs);
        Assert.Equal(["tftp: 10.0.2.15 read pxelinux.0: 1100 bytes"], _log.Lines);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(511)]
    [InlineData(512)]
    [InlineData(1024)]
    public void The_last_block_is_shorter_than_the_others_if_need_be_empty(int length)
    {
        _content.Set("file", Bytes(length));
        Assert.Equal(Bytes(length), Fetch("file"));
        Assert.Equal(0, _service.Count);
    }

    [Fact]
    public void Options_are_taken_as_far_as_they_can_be_and_told()
    {
        _content.Set("file", Bytes(5000));
        var client = new TftpClient(_service);
        var answer = client.Ask(TftpClient.Request("file", "OCTET", "BLKSIZE", "1024", "tsize", "0", "timeout", "3", "windowsize", "4", "multicast", ""));
        Assert.Equal("\0\u0006blksize\01024\0windowsize\04\0timeout\03\0tsize\05000\0", Encoding.ASCII.GetString(answer.Data));
        client.Say(TftpClient.Ack(0), answer.From);
        Assert.Equal([1, 2, 3, 4], client.Sender.All().Select(d => (int)d.Data[3]));
        Assert.Equal(_now + 3000, _service.NextDeadlineMs);
        client.Say(TftpClient.Ack(4), answer.From);
        Assert.Equal(4 + 5000 - 4096, client.Sender.Single().Data.Length);
    }

    [Theory]
    [InlineData("blksize", "65464", "blksize\01468\0")]
    [InlineData("windowsize", "65535", "windowsize\032\0")]
    [InlineData("blksize", "8", "blksize\08\0")]
    [InlineData("tsize", "x", "tsize\05000\0")]
    public void What_is_too_much_is_less_in_the_answer(string option, string value, string answer)
    {
        _content.Set("file", Bytes(5000));
        Assert.Equal("\0\u0006" + answer, Encoding.ASCII.GetString(new TftpClient(_service).Ask(TftpClient.Request("file", "octet", option, value)).Data));
        Assert.Equal(Bytes(5000), Fetch("file", "octet", option, value));
    }

    [Theory]
    [InlineData("blksize", "7")]
    [InlineData("blksize", "65465")]
    [InlineData("blksize", "-1")]
    [InlineData("blksize", "99999999999")]
    [InlineData("blksize", "")]
    [InlineData("timeout", "0")]
    [InlineData("timeout", "256")]
    [InlineData("windowsize", "0")]
    [InlineData("windowsize", "65536")]
    [InlineData("rollover", "1")]
    public void What_is_no_option_is_none(string option, string value)
    {
        _content.Set("file", Bytes(5000));
        Assert.Equal([0, 3, 0, 1], new TftpClient(_service).Ask(TftpClient.Request("file", "octet", option, value)).Data[..4]);
    }

    [Theory]
    [InlineData("nothing", 1)]
    [InlineData("/etc/passwd", 1)]
    [InlineData("../../etc/passwd", 2)]
    [InlineData("..", 2)]
    [InlineData("", 2)]
    [InlineData("boot\\bcd", 2)]
    [InlineData("folder/", 2)]
    public void Names_that_are_none_get_the_right_error(string name, int code)
    {
        var client = new TftpClient(_service);
        var answer = client.Ask(TftpClient.Request(name));
        Assert.Equal([0, 5, 0, (byte)code], answer.Data[..4]);
        Assert.Equal(0, answer.Data[^1]);
        Assert.Equal(69, answer.From.Port);
        Assert.Equal(0, _service.Count);
        Assert.Equal($"tftp: 10.0.2.15 read {name}: {(code == 1 ? "file not found" : "access violation")}", _log.Lines.Single());
    }

    [Fact]
    public void A_folder_gives_its_files_and_neither_devices_nor_what_lies_beside_it()
    {
        var outside = Directory.CreateTempSubdirectory("sharpvisor-tftp-").FullName;
        try
        {
            var folder = Path.Combine(outside, "served");
            Directory.CreateDirectory(Path.Combine(folder, "sub"));
            File.WriteAllBytes(Path.Combine(folder, "sub", "file"), Bytes(3000));
            File.WriteAllBytes(Path.Combine(outside, "secret"), Bytes(10));
            File.CreateSymbolicLink(Path.Combine(folder, "link"), "../secret");
            File.CreateSymbolicLink(Path.Combine(folder, "device"), "/dev/zero");
            using var service = Serve(new FolderContent(folder));
            Assert.Equal(Bytes(3000), Fetch(service, "/sub/file"));
            foreach (var name in new[] { "link", "device", "sub", "../secret" })
                Assert.Equal([0, 5, 0, 2], new TftpClient(service).Ask(TftpClient.Request(name)).Data[..4]);

            // A file that has become shorter ends with an error, not with a short block.
            var client = new TftpClient(service, 2001);
            var first = client.Ask(TftpClient.Request("sub/file"));
            File.WriteAllBytes(Path.Combine(folder, "sub", "file"), Bytes(700));
            Assert.Equal([0, 5, 0, 0], client.Ask(TftpClient.Ack(1), first.From).Data[..4]);
            Assert.Equal(0, service.Count);
            Assert.Equal("tftp: 10.0.2.15 read sub/file: 512 bytes, the file has become shorter", _log.Lines[^1]);
        }
        finally
        {
            Directory.Delete(outside, recursive: true);
        }
    }

    [Fact]
    public void Text_gets_its_line_ends_wherever_blocks_end()
    {
        foreach (var length in new[] { 1, 510, 511, 512, 513, 1030 })
        {
            foreach (var pattern in new[] { "\n", "\r", "a\n", "ab\r\n", "abc" })
            {
                var text = string.Concat(Enumerable.Repeat(pattern, 1 + (length / pattern.Length)))[..length];
                var onTheWire = text.Replace("\r", "\r\0").Replace("\n", "\r\n");
                _content.Set("text", Encoding.ASCII.GetBytes(text));
                Assert.Equal(onTheWire, Encoding.ASCII.GetString(Fetch("text", "netascii")));
                Assert.Equal(onTheWire, Encoding.ASCII.GetString(Fetch("text", "NetASCII", "blksize", "9", "windowsize", "32", "tsize", "0")));
            }
        }
    }

    [Fact]
    public void Blocks_are_numbered_on_from_0_after_65535()
    {
        var bytes = Bytes((70_000 * 8) + 3);
        _content.Set("large", bytes);
        Assert.Equal(bytes, Fetch("large", "octet", "blksize", "8"));
        Assert.Equal(bytes, Fetch("large", "octet", "blksize", "8", "windowsize", "32"));
    }

    [Fact]
    public void A_lost_packet_is_sent_again_ever_later_and_in_the_end_the_client_has_gone()
    {
        _content.Set("file", Bytes(600));
        var client = new TftpClient(_service);
        var first = client.Ask(TftpClient.Request("file"));
        List<long> waits = [];
        while (_service.Count > 0)
        {
            waits.Add(_service.NextDeadlineMs - _now);
            _now = _service.NextDeadlineMs;
            _service.OnTime(_now, client.Sender);
            foreach (var again in client.Sender.All())
                Assert.Equal(first.Data, again.Data);
        }

        Assert.Equal([1000, 2000, 4000, 8000, 8000, 8000, 8000, 8000, 8000, 8000], waits);
        Assert.Equal("tftp: 10.0.2.15 read file: 0 bytes, the client has gone", _log.Lines.Single());
    }

    [Fact]
    public void Copies_of_acknowledgments_are_not_answered()
    {
        _content.Set("file", Bytes(5000));
        var client = new TftpClient(_service);
        var first = client.Ask(TftpClient.Request("file"));
        client.Ask(TftpClient.Ack(1), first.From);
        client.Ask(TftpClient.Ack(2), first.From);
        foreach (var old in new[] { 2, 1, 0, 7, 65535 })
            client.Say(TftpClient.Ack(old), first.From);
        Assert.Empty(client.Sender.Sent);
        Assert.Equal(4, client.Ask(TftpClient.Ack(3), first.From).Data[3]);
    }

    [Fact]
    public void A_window_is_sent_again_from_the_block_that_is_missing()
    {
        _content.Set("file", Bytes(10_000));
        var client = new TftpClient(_service);
        var options = client.Ask(TftpClient.Request("file", "octet", "windowsize", "4"));
        Assert.Equal([1, 2, 3, 4], Blocks(0));
        Assert.Equal([3, 4, 5, 6], Blocks(2)); // 3 was lost
        Assert.Equal([7, 8, 9, 10], Blocks(6));
        Assert.Equal([], Blocks(6)); // blocks were sent twice, so this may be a copy
        Assert.Equal([11, 12, 13, 14], Blocks(10));
        Assert.Equal([11, 12, 13, 14], Blocks(10)); // 11 was lost
        Assert.Equal([], Blocks(10));
        Assert.Equal([], Blocks(15));

        int[] Blocks(int acknowledged)
        {
            client.Say(TftpClient.Ack(acknowledged), options.From);
            return [.. client.Sender.All().Select(d => (d.Data[2] << 8) + d.Data[3])];
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    public void Doubled_acknowledgments_do_not_double_the_file(int window)
    {
        _content.Set("file", Bytes(100_000));
        var client = new TftpClient(_service);
        Assert.Equal(Bytes(100_000), client.Fetch("file", Wait(client), () => false, () => true, "octet", "windowsize", $"{window}"));
        Assert.InRange(client.DataPackets, 196, 196 * 2); // at most each second window twice
    }

    [Fact]
    public void A_repeated_request_gets_the_same_answer_and_another_one_begins_anew()
    {
        _content.Set("file", Bytes(600));
        var client = new TftpClient(_service);
        var one = client.Ask(TftpClient.Request("file"));
        var two = client.Ask(TftpClient.Request("file"));
        Assert.Equal(one.From, two.From);
        client.Ask(TftpClient.Ack(1), one.From);
        Assert.NotEqual(one.From, client.Ask(TftpClient.Request("file")).From);
        Assert.Equal(1, _service.Count);
    }

    [Fact]
    public void An_error_of_the_client_ends_its_transfer_only()
    {
        _content.Set("file", Bytes(600));
        var (one, two) = (new TftpClient(_service), new TftpClient(_service, 2001));
        var first = one.Ask(TftpClient.Request("file", "octet", "tsize", "0"));
        var second = two.Ask(TftpClient.Request("file"));
        one.Say([0, 5, 0, 0, .. "TFTP\nAborted\0"u8], first.From);
        Assert.Empty(one.Sender.Sent);
        Assert.Equal("tftp: 10.0.2.15 read file: 0 bytes, ended by the client: TFTP?Aborted", _log.Lines.Single());
        Assert.Equal(2, two.Ask(TftpClient.Ack(1), second.From).Data[3]);
    }

    [Fact]
    public void A_stranger_in_a_transfer_is_sent_away()
    {
        _content.Set("file", Bytes(600));
        var client = new TftpClient(_service);
        var first = client.Ask(TftpClient.Request("file"));
        var stranger = new IPEndPoint(IPAddress.Parse("10.0.2.16"), 2000);
        var answer = client.Ask(TftpClient.Ack(1), first.From, stranger);
        Assert.Equal([0, 5, 0, 5], answer.Data[..4]);
        Assert.Equal(stranger, answer.To);
        client.Say([0, 5, 0, 5, 0], first.From, stranger); // no error answers an error
        Assert.Empty(client.Sender.Sent);
        Assert.Equal(2, client.Ask(TftpClient.Ack(1), first.From).Data[3]);
    }

    [Fact]
    public void Who_has_no_transfer_gets_no_answer_and_who_writes_is_refused()
    {
        var client = new TftpClient(_service);
        Assert.Equal([0, 5, 0, 2], client.Ask([0, 2, .. "file\0octet\0"u8]).Data[..4]);
        Assert.Equal([0, 5, 0, 4], client.Ask([0, 6, 0, 1, 1]).Data[..4]);
        Assert.Equal([0, 5, 0, 4], client.Ask([9, 9]).Data[..4]);
        foreach (var bad in new byte[][] { [0, 1], [0, 1, 0], [0, 1, .. "file\0octet"u8], [0, 1, .. "file\0mail\0"u8], [0, 1, 0xFF, 0xFE, 0, .. "octet\0"u8] })
            Assert.Equal([0, 5, 0, 4], client.Ask(bad).Data[..4]);
        foreach (var silent in new byte[][] { [], [0], [0, 5], [0, 5, 0, 1, 0], TftpClient.Ack(1), [0, 3, 0, 1, 1] })
            client.Say(silent);
        client.Say(TftpClient.Request("file"), new IPEndPoint(IPAddress.Broadcast, 69));
        Assert.Empty(client.Sender.Sent);
    }

    [Fact]
    public void Transfers_are_bounded_and_become_free()
    {
        _content.Set("file", Bytes(6000));
        for (var i = 0; i < TftpService.Limit; i++)
            Assert.Equal(3, new TftpClient(_service, 3000 + i).Ask(TftpClient.Request("file")).Data[1]);
        var late = new TftpClient(_service);
        Assert.Equal([0, 5, 0, 0], late.Ask(TftpClient.Request("file")).Data[..4]);
        for (var i = 0; i < 20; i++)
            _service.OnTime(_now += 10_000, late.Sender);
        Assert.Equal(0, _service.Count);
        Assert.Equal(Bytes(6000), Fetch("file"));
    }

    [Fact]
    public void Files_get_through_a_bad_wire_whole()
    {
        FuzzSettings.ForEachSeed(random =>
        {
            var bytes = new byte[random.Next(20_000)];
            random.NextBytes(bytes);
            _content.Set("file", bytes);
            var (loss, copies) = (random.Next(4) * 0.1, random.Next(3) * 0.2);
            var client = new TftpClient(_service, random.Next(1, 65536));
            string[] options = [.. new[] { ("windowsize", random.Next(1, 40)), ("blksize", random.Next(8, 2000)), ("timeout", random.Next(1, 5)) }
                .Where(_ => random.Next(2) == 0).SelectMany(o => new[] { o.Item1, $"{o.Item2}" })];
            var got = client.Fetch("file", Wait(client), () => random.NextDouble() < loss, () => random.NextDouble() < copies, "octet", options);
            if (loss < 0.2)
                Assert.NotNull(got);
            if (got is not null)
                Assert.True(bytes.AsSpan().SequenceEqual(got));
            while (_service.Count > 0)
                Wait(client)();
            client.Sender.All();
            _log.Lines.Clear();
        });
    }

    [Fact]
    public void Mutated_packets_harm_nobody()
    {
        _content.Set("file", Bytes(6000));
        FuzzSettings.ForEachSeed(random =>
        {
            var client = new TftpClient(_service, random.Next(1, 4));
            for (var i = 0; i < 20; i++)
            {
                var packet = random.Next(4) switch
                {
                    0 => TftpClient.Request("file", "netascii", "blksize", "100", "windowsize", "9"),
                    1 => TftpClient.Request("file", "octet", "tsize", "0", "timeout", "1"),
                    2 => TftpClient.Ack(random.Next(20)),
                    _ => [0, 5, 0, 0, 65, 0],
                };
                var port = Enumerable.Range(49152, 16384).FirstOrDefault(_service.HasPort, 69);
                client.Say(FuzzSettings.Mutate(random, packet), new IPEndPoint(TftpClient.Server.Address, random.Next(3) == 0 ? 69 : port));
                Assert.InRange(client.Sender.All().Length, 0, 32);
                if (random.Next(5) == 0)
                    _service.OnTime(_now += random.Next(5000), client.Sender);
            }

            Assert.InRange(_service.Count, 0, TftpService.Limit);
            _log.Lines.Clear();
        });
        Assert.Equal(Bytes(6000), Fetch("file"));
    }

    private static byte[] Bytes(int length) => [.. Enumerable.Range(0, length).Select(i => (byte)(i * 7 ^ i >> 8))];

    private Action Wait(TftpClient client, TftpService? service = null) => () =>
    {
        _now = Math.Max(_now, (service ?? _service).NextDeadlineMs == long.MaxValue ? _now + 1000 : (service ?? _service).NextDeadlineMs);
        (service ?? _service).OnTime(_now, client.Sender);
    };

    private byte[] Fetch(string name, string mode = "octet", params string[] options) => Fetch(_service, name, mode, options);

    private byte[] Fetch(TftpService service, string name, string mode = "octet", params string[] options)
    {
        var client = new TftpClient(service);
        return client.Fetch(name, Wait(client, service), () => false, () => false, mode, options) ?? throw new InvalidOperationException("the server gave up");
    }

    private TftpService Serve(INamedContent content) => new(content, TftpClient.Server.Address, 1500, _log, () => _now);
}
