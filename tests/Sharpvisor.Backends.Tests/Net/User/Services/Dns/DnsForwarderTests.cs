using System.Net;
using System.Net.Sockets;
using Sharpvisor.Backends.Net.User.Services.Dns;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Dns;

public sealed class DnsForwarderTests : IDisposable
{
    private static readonly IPEndPoint Guest = new(IPAddress.Parse("10.0.2.15"), 4000), Server = new(IPAddress.Parse("10.0.2.3"), 53);

    private readonly FakeResolver _first = new(), _second = new();
    private readonly FakeWatch _watch = new();
    private readonly FakeSender _sender = new();
    private readonly FakeResolvers _resolvers;
    private readonly DnsForwarder _dns;
    private long _now = 1000;

    public DnsForwarderTests()
    {
        _resolvers = new FakeResolvers(_first.EndPoint, _second.EndPoint);
        _dns = new DnsForwarder(_resolvers, _watch, () => _now);
    }

    public void Dispose()
    {
        _dns.Dispose();
        Assert.Equal(0, _watch.Count);
        _first.Dispose();
        _second.Dispose();
    }

    [Fact]
    public void An_answer_comes_back_as_it_is_with_the_guests_number()
    {
        var query = FakeResolver.Query("example.org");
        Ask(query);
        var asked = _first.Receive();
        Assert.Equal(query[2..], asked[2..]);
        _first.Reply(FakeResolver.Answer(asked));
        var answer = Answer();
        Assert.Equal(FakeResolver.Answer(query), answer.Data);
        Assert.Equal((Server, Guest), (answer.From, answer.To));
        Assert.Equal((0, 0), (_dns.Count, _watch.Count));
    }

    [Fact]
    public void Numbers_and_ports_are_not_to_be_guessed()
    {
        HashSet<int> ids = [], ports = [];
        for (var i = 0; i < 50; i++)
        {
            Ask(FakeResolver.Query($"{i}.example.org", 7));
            ids.Add(_first.Receive()[0]);
            ports.Add(_first.Asker.Port);
        }

        Assert.True(ids.Count > 20, $"{ids.Count} high bytes of numbers in 50 queries");
        Assert.Equal(50, ports.Count);
    }

    [Fact]
    public void What_does_not_fit_the_query_is_no_answer()
    {
        var query = FakeResolver.Query("example.org");
        Ask(query);
        var asked = _first.Receive();
        var good = FakeResolver.Answer(asked);
        byte[] otherId = [(byte)(good[0] ^ 1), .. good[1..]], otherName = FakeResolver.Answer([.. asked[..2], .. FakeResolver.Query("example.com")[2..]]);
        byte[] otherType = FakeResolver.Answer([.. asked[..2], .. FakeResolver.Query("example.org", 0, 28)[2..]]);
        foreach (var bad in new[] { otherId, otherName, otherType, asked, [], good[..11], good[..20], [.. good[..4], 0, 0, .. good[6..]], [.. good[..4], 0, 2, .. good[6..]] })
            _first.Reply(bad);
        using (var stranger = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp))
            stranger.SendTo(good, _first.Asker);
        for (var i = 0; i < 20; i++)
            _watch.RunOnce(1000);
        Assert.Empty(_sender.Sent);
        good[13] = (byte)'E'; // capitals do not count
        _first.Reply(good);
        Assert.Equal((byte)'E', Answer().Data[13]);
    }

    [Fact]
    public void A_silent_server_is_followed_by_the_next_and_that_by_an_error()
    {
        var query = FakeResolver.Query("example.org");
        Ask(query);
        var asked = _first.Receive();
        Assert.Equal(3000, _dns.NextDeadlineMs);
        _dns.OnTime(2999, _sender);
        _dns.OnTime(_now = 3000, _sender);
        _second.Receive();
        _first.Reply(FakeResolver.Answer(asked)); // too late
        Assert.Equal(8000, _dns.NextDeadlineMs);
        _dns.OnTime(_now = 8000, _sender);
        var answer = Answer();
        Assert.Equal([.. query[..2], 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0, .. query[12..]], answer.Data);
        Assert.Equal(long.MaxValue, _dns.NextDeadlineMs);
    }

    [Theory]
    [InlineData(2)] // SERVFAIL
    [InlineData(4)] // NOTIMP
    [InlineData(5)] // REFUSED
    public void A_server_that_can_not_is_followed_by_the_next_and_the_last_ones_word_counts(int code)
    {
        Ask(FakeResolver.Query("example.org"));
        _first.Reply(FakeResolver.Answer(_first.Receive(), code));
        _watch.RunUntil(() => _second.HasQuery);
        _second.Reply(FakeResolver.Answer(_second.Receive(), code));
        Assert.Equal(code, Answer().Data[3] & 15);
        Assert.Equal(_second.EndPoint, _dns.StreamResolver);
    }

    [Fact]
    public void A_name_that_does_not_exist_is_an_answer()
    {
        Ask(FakeResolver.Query("example.org"));
        _first.Reply(FakeResolver.Answer(_first.Receive(), 3));
        Assert.Equal(3, Answer().Data[3] & 15);
    }

    [Fact]
    public void An_error_without_the_question_is_an_answer()
    {
        Ask(FakeResolver.Query("example.org"));
        var asked = _first.Receive();
        _first.Reply([.. asked[..2], 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
        Assert.Equal([0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0], Answer().Data);
    }

    [Fact]
    public void Long_and_truncated_answers_pass()
    {
        Ask(FakeResolver.Query("example.org"));
        byte[] answer = [.. FakeResolver.Answer(_first.Receive()), .. new byte[4000]];
        answer[2] |= 2; // TC
        _first.Reply(answer);
        Assert.Equal(answer[2..], Answer().Data[2..]);
    }

    [Fact]
    public void Where_nobody_listens_the_next_server_is_asked_at_once()
    {
        using var gone = new FakeResolver();
        gone.Dispose();
        _resolvers.Current = [gone.EndPoint, new IPEndPoint(IPAddress.Broadcast, 53), _second.EndPoint];
        Ask(FakeResolver.Query("example.org"));
        _watch.RunUntil(() => _second.HasQuery);
        _second.Reply(FakeResolver.Answer(_second.Receive()));
        Assert.Equal(0, Answer().Data[3] & 15);
    }

    [Fact]
    public void A_host_without_a_resolver_says_so()
    {
        using var gone = new FakeResolver();
        gone.Dispose();
        foreach (var servers in new IPEndPoint[][] { [gone.EndPoint], [] })
        {
            _resolvers.Current = servers;
            Ask(FakeResolver.Query("example.org"));
            Assert.Equal(2, Answer().Data[3] & 15);
        }
    }

    [Fact]
    public void A_query_that_is_repeated_is_asked_once()
    {
        var query = FakeResolver.Query("example.org");
        Ask(query);
        Ask(query);
        Ask(FakeResolver.Query("example.org", 0x1235));
        Assert.Equal(2, _dns.Count);
        var asked = _first.Receive();
        _first.Reply(FakeResolver.Answer(asked));
        Assert.Equal(query[..2], Answer().Data[..2]);
    }

    [Fact]
    public void Queries_without_an_answer_are_bounded()
    {
        for (var i = 0; i < DnsForwarder.Limit; i++)
            Ask(FakeResolver.Query("example.org", i));
        Assert.Empty(_sender.Sent);
        Ask(FakeResolver.Query("example.org", 0xFFFF));
        Assert.Equal(2, _sender.Single().Data[3] & 15);
        _dns.OnTime(_now += 10_000, _sender);
        _dns.OnTime(_now += 10_000, _sender);
        Assert.Equal((0, DnsForwarder.Limit), (_dns.Count, _sender.All().Length));
        Assert.Equal(0, _watch.Count);
    }

    [Fact]
    public void What_is_no_query_gets_no_answer_or_an_error()
    {
        var query = FakeResolver.Query("example.org");
        foreach (var silent in new byte[][] { [], query[..11], FakeResolver.Answer(query) })
            Ask(silent);
        Assert.Empty(_sender.Sent);
        byte[] noQuestion = [.. query[..4], 0, 0, .. query[6..]], twoQuestions = [.. query[..4], 0, 2, .. query[6..]], pointer = [.. query[..12], 0xC0, 12, 0, 1, 0, 1];
        byte[] longName = FakeResolver.Query(string.Join('.', Enumerable.Repeat(new string('x', 63), 4)));
        foreach (var bad in new[] { query[..12], query[..20], query[..^1], noQuestion, twoQuestions, pointer, longName, [.. query, .. new byte[5000]] })
        {
            Ask(bad);
            var answer = _sender.Single().Data;
            Assert.Equal((0x12, 0x34, 0x81, 0x81), (answer[0], answer[1], answer[2], answer[3]));
        }

        Assert.Equal(0, _dns.Count);
    }

    [Fact]
    public void Mutated_queries_and_answers_harm_nobody()
    {
        FuzzSettings.ForEachSeed(random =>
        {
            Ask(FuzzSettings.Mutate(random, FakeResolver.Query("www.example.org", random.Next(65536))));
            if (_dns.Count == 0)
            {
                Assert.InRange(_sender.All().Length, 0, 1);
                return;
            }

            _first.Reply(FuzzSettings.Mutate(random, FakeResolver.Answer(_first.Receive(), random.Next(6))));
            _watch.RunOnce(100_000);
            _dns.OnTime(_now += 5000, _sender);
            _dns.OnTime(_now += 5000, _sender);
            Assert.Single(_sender.All());
            Assert.Equal(0, _dns.Count);
        });
    }

    [Fact]
    public void The_hosts_file_is_read_as_its_manual_says()
    {
        var servers = ResolvConf.Parse(["# a comment", "nameserver", "nameserver x", "search example.org", "nameserver\t192.0.2.1  ", " nameserver fe80::1%1", "nameserver 192.0.2.3", "nameserver 192.0.2.4", ";nameserver 192.0.2.5"]);
        Assert.Equal(["192.0.2.1:53", "[fe80::1%1]:53", "192.0.2.3:53"], servers.Select(s => s.ToString()));
        Assert.Equal("127.0.0.1:53", Assert.Single(ResolvConf.Parse([])).ToString());
    }

    [Fact]
    public void The_hosts_file_is_read_again_when_a_second_has_gone()
    {
        var path = Path.GetTempFileName();
        var conf = new ResolvConf(() => _now, path);
        File.WriteAllText(path, "nameserver 192.0.2.1\n");
        Assert.Equal("192.0.2.1", conf.Current[0].Address.ToString());
        File.WriteAllText(path, "nameserver 192.0.2.2\n");
        _now += 999;
        Assert.Equal("192.0.2.1", conf.Current[0].Address.ToString());
        _now += 1;
        Assert.Equal("192.0.2.2", conf.Current[0].Address.ToString());
        File.Delete(path);
        _now += 1000;
        Assert.Equal("127.0.0.1", conf.Current[0].Address.ToString());
    }

    private void Ask(byte[] query) => _dns.OnDatagram(Guest, Server, query, _sender);

    private FakeSender.Datagram Answer()
    {
        _watch.RunUntil(() => _sender.Sent.Count > 0);
        return _sender.Single();
    }
}
