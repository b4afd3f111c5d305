using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Backends.Net.User.Services.Http;
using Sharpvisor.Backends.Tests.Char;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Http;

public sealed class HttpServiceTests
{
    private readonly ListLogger _log = new();
    private readonly MemoryContent _content = new();
    private readonly HttpService _service;
    private long _now = 1000;

    public HttpServiceTests()
    {
        _service = new HttpService(_content, _log, () => _now);
        _content.Set("boot/script.ipxe", "#!ipxe\nboot\n"u8.ToArray());
        _content.Set("digits", "0123456789"u8.ToArray());
        _content.Set("empty", Array.Empty<byte>());
    }

    [Fact]
    public void A_file_is_given_with_its_length_type_and_time()
    {
        using var client = new HttpClientSide(_service);
        var answer = client.Ask("GET /boot/script.ipxe?mac=52:54 HTTP/1.1\r\nHost: 10.0.2.2\r\n\r\n");
        Assert.Equal((200, "#!ipxe\nboot\n"), (answer.Status, answer.Body));
        Assert.Equal(("12", "text/plain; charset=utf-8", "bytes"), (answer["Content-Length"], answer["Content-Type"], answer["Accept-Ranges"]));
        Assert.Equal(DateTimeOffset.UtcNow, DateTimeOffset.ParseExact(answer["Last-Modified"], "r", null), TimeSpan.FromMinutes(30));
        Assert.DoesNotContain("Connection", answer.Fields.Keys);
        Assert.Equal(["http: 10.0.2.15 GET /boot/script.ipxe?mac=52:54: 200, 12 bytes"], _log.Lines);
        Assert.False(client.IsClosed);
        Assert.Equal(1, client.Readable);
    }

    [Fact]
    public void HEAD_says_the_same_without_the_file()
    {
        using var client = new HttpClientSide(_service);
        var answer = client.Ask("HEAD /digits HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2\r\n\r\n");
        Assert.Equal((200, "10"), (answer.Status, answer["Content-Length"]));
        answer = client.Ask("HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
        Assert.Equal((404, "14"), (answer.Status, answer["Content-Length"]));
    }

    [Theory]
    [InlineData("/", "index")]
    [InlineData("/sub/", "sub index")]
    [InlineData("/a%20b/%C3%BC", "umlaut")]
    [InlineData("/sub%2Findex.html", "sub index")]
    [InlineData("http://10.0.2.2/digits", "0123456789")]
    [InlineData("HTTP://10.0.2.2", "index")]
    [InlineData("http://10.0.2.2?x", "index")]
    [InlineData("//digits", "0123456789")]
    [InlineData("/./digits", "0123456789")]
    public void Targets_are_decoded(string target, string body)
    {
        _content.Set("index.html", "index"u8.ToArray());
        _content.Set("sub/index.html", "sub index"u8.ToArray());
        _content.Set("a b/ü", "umlaut"u8.ToArray());
        using var client = new HttpClientSide(_service);
        Assert.Equal(body, client.Ask($"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").Body);
    }

    [Theory]
    [InlineData("/nothing", 404)]
    [InlineData("/", 404)]
    [InlineData("/etc/passwd", 404)]
    [InlineData("/../digits", 403)]
    [InlineData("/%2e%2e/%2e%2e/etc/passwd", 403)]
    [InlineData("/..%2fdigits", 403)]
    [InlineData("/boot/..%5c..%5cdigits", 403)]
    [InlineData("/boot\\digits", 403)]
    [InlineData("/digits%0d%0aX", 403)]
    public void What_is_not_served_is_refused_and_the_connection_goes_on(string target, int status)
    {
        using var client = new HttpClientSide(_service);
        var answer = client.Ask($"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        Assert.Equal(status, answer.Status);
        Assert.StartsWith($"{status} ", answer.Body, StringComparison.Ordinal);
        Assert.Equal("0123456789", client.Ask("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n").Body);
    }

    [Theory]
    [InlineData("bytes=2-4", 206, "234", "bytes 2-4/10")]
    [InlineData("bytes=7-", 206, "789", "bytes 7-9/10")]
    [InlineData("bytes=-3", 206, "789", "bytes 7-9/10")]
    [InlineData("bytes=-30", 206, "0123456789", "bytes 0-9/10")]
    [InlineData("BYTES=0-99999999999999999", 206, "0123456789", "bytes 0-9/10")]
    [InlineData("bytes=0-9223372036854775807", 206, "0123456789", "bytes 0-9/10")]
    [InlineData("bytes=9-9", 206, "9", "bytes 9-9/10")]
    [InlineData("bytes=10-", 416, null, "bytes */10")]
    [InlineData("bytes=-0", 416, null, "bytes */10")]
    [InlineData("bytes=9223372036854775807-", 416, null, "bytes */10")]
    [InlineData("bytes=0-1,3-4", 200, "0123456789", null)]
    [InlineData("bytes=4-2", 200, "0123456789", null)]
    [InlineData("bytes=-", 200, "0123456789", null)]
    [InlineData("bytes=a-b", 200, "0123456789", null)]
    [InlineData("bytes=99999999999999999999-", 200, "0123456789", null)]
    [InlineData("lines=0-1", 200, "0123456789", null)]
    public void A_range_is_given_alone(string range, int status, string? body, string? contentRange)
    {
        using var client = new HttpClientSide(_service);
        var answer = client.Ask($"GET /digits HTTP/1.1\r\nHost: x\r\nRange: {range}\r\n\r\n");
        Assert.Equal(status, answer.Status);
        Assert.Equal(contentRange, answer.Fields.GetValueOrDefault("Content-Range"));
        if (body is not null)
            Assert.Equal(body, answer.Body);
        Assert.Equal(416, client.Ask("GET /empty HTTP/1.1\r\nHost: x\r\nRange: bytes=0-\r\n\r\n").Status);
        Assert.Equal(200, client.Ask("GET /digits HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nRange: bytes=0-1\r\n\r\n").Status);
    }

    [Fact]
    public void Times_decide_whether_a_file_or_its_range_is_given()
    {
        using var client = new HttpClientSide(_service);
        var modified = client.Ask("HEAD /digits HTTP/1.1\r\nHost: x\r\n\r\n")["Last-Modified"];
        var time = DateTimeOffset.ParseExact(modified, "r", null);
        foreach (var (field, value, status) in new[]
        {
            ("If-Modified-Since", modified, 304),
            ("If-Modified-Since", time.AddSeconds(-1).ToString("r"), 200),
            ("If-Modified-Since", time.ToString("dddd, dd-MMM-yy HH:mm:ss 'GMT'"), 304), // RFC 850
            ("If-Modified-Since", time.ToString("ddd MMM d HH:mm:ss yyyy"), 304), // asctime
            ("If-Modified-Since", "yesterday", 200),
            ("Range: bytes=1-2\r\nIf-Range", modified, 206),
            ("Range: bytes=1-2\r\nIf-Range", time.AddSeconds(-1).ToString("r"), 200),
            ("Range: bytes=1-2\r\nIf-Range", "\"tag\"", 200),
            ("Range: bytes=1-2\r\nIf-Modified-Since", modified, 304),
        })
        {
            Assert.Equal(status, client.Ask($"GET /digits HTTP/1.1\r\nHost: x\r\n{field}: {value}\r\n\r\n").Status);
        }

        Assert.Equal("", client.ReceiveText());
    }

    [Fact]
    public void Requests_in_a_row_are_answered_in_order()
    {
        using var client = new HttpClientSide(_service);
        client.Send(string.Concat(Enumerable.Repeat("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 1000)));
        var rest = client.ReceiveText(77);
        for (var i = 0; i < 2000; i++)
        {
            (var answer, rest) = HttpClientSide.Answer.Take(rest);
            Assert.Equal(i % 2 == 0 ? 200 : 404, answer.Status);
        }

        Assert.Equal("", rest);
        Assert.True(client.Writable > 0);
    }

    [Fact]
    public void A_request_may_come_byte_by_byte_and_its_answer_leave_so()
    {
        using var client = new HttpClientSide(_service);
        foreach (var c in "GET /digits HTTP/1.1\r\nHost: x\r\n\r\n")
        {
            Assert.Equal("", client.ReceiveText());
            client.Send(c.ToString());
        }

        Assert.EndsWith("\r\n\r\n0123456789", client.ReceiveText(1), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("GET /digits HTTP/1.0\r\n\r\n", true, "close")]
    [InlineData("GET /digits HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", false, "keep-alive")]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\nConnection: TE, Close\r\n\r\n", true, "close")]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n", false, null)]
    [InlineData("GET /digits HTTP/1.7\r\nHost: x\r\n\r\n", false, null)]
    public void The_connection_ends_when_the_client_wants_that(string request, bool ends, string? connection)
    {
        using var client = new HttpClientSide(_service);
        var answer = client.Ask(request);
        Assert.Equal((200, "0123456789"), (answer.Status, answer.Body));
        Assert.Equal(connection, answer.Fields.GetValueOrDefault("Connection"));
        Assert.Equal((ends, false), (client.IsClosed, client.IsReset));
    }

    [Theory]
    [InlineData("GET /digits\r\n\r\n", 400)]
    [InlineData("GET  /digits HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /dig its HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/11\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits http/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /dig\u00FCts HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost : x\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\n more\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\0y\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\ry\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\nHost: x\n\n", 400)]
    [InlineData("\nGET /digits HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET digits HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits#x HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits% HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits%4 HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /%FF%FE HTTP/1.1\r\nHost: x\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413)]
    [InlineData("GET /digits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501)]
    [InlineData("POST /digits HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405)]
    [InlineData("PUT /digits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 405)]
    [InlineData("BREW /digits HTTP/1.1\r\nHost: x\r\n\r\n", 501)]
    [InlineData("get /digits HTTP/1.1\r\nHost: x\r\n\r\n", 501)]
    [InlineData("GET /digits HTTP/2.0\r\nHost: x\r\n\r\n", 505)]
    [InlineData("\u0016\u0003\u0001\r\n\r\n", 400)] // TLS
    public void What_is_no_request_for_a_file_is_refused_and_ends_the_connection(string request, int status)
    {
        using var client = new HttpClientSide(_service);
        client.Send(request);
        var (answer, rest) = HttpClientSide.Answer.Take(client.ReceiveText());
        Assert.Equal((status, "", "close"), (answer.Status, rest, answer["Connection"]));
        Assert.Equal((true, false), (client.IsClosed, client.IsReset));
        Assert.Equal(5000, client.Write(new byte[5000])); // the rest goes nowhere
        Assert.True(client.Read(new byte[10]) == -1);
    }

    [Fact]
    public void Other_methods_are_named_and_end_nothing()
    {
        using var client = new HttpClientSide(_service);
        foreach (var method in new[] { "POST", "OPTIONS", "DELETE", "TRACE" })
        {
            var answer = client.Ask($"{method} /digits HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
            Assert.Equal((405, "GET, HEAD"), (answer.Status, answer["Allow"]));
        }

        Assert.False(client.IsClosed);
    }

    [Fact]
    public void A_head_without_an_end_is_refused()
    {
        foreach (var endless in new[] { "GET /" + new string('x', 9000), "GET / HTTP/1.1\r\n" + string.Concat(Enumerable.Repeat("X: y\r\n", 2000)) })
        {
            using var client = new HttpClientSide(_service);
            client.Send(endless);
            Assert.Equal(431, HttpClientSide.Answer.Take(client.ReceiveText()).Answer.Status);
            Assert.True(client.IsClosed);
        }

        using var patient = new HttpClientSide(_service);
        patient.Send(string.Concat(Enumerable.Repeat("\r\n", 50_000)));
        Assert.Equal("0123456789", patient.Ask("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n").Body);
        var longest = $"GET /digits HTTP/1.1\r\nHost: x\r\nX: ";
        Assert.Equal(200, patient.Ask(longest + new string('y', HttpService.LongestHead - longest.Length - 4) + "\r\n\r\n").Status);
    }

    [Fact]
    public void A_client_that_sends_no_more_gets_its_answers_and_then_the_end()
    {
        using var client = new HttpClientSide(_service);
        client.Send("GET /digits HTTP/1.1\r\nHost: x\r\n\r\nGET /digits HTTP/1.1\r\nHost: x\r\n\r\nGET /dig");
        client.EndOfInput();
        var text = client.ReceiveText();
        Assert.Equal(2, text.Split("0123456789").Length - 1);
        Assert.Equal((true, false), (client.IsClosed, client.IsReset));
    }

    [Fact]
    public void A_large_file_comes_whole_and_one_that_shrinks_ends_with_a_reset()
    {
        var folder = Directory.CreateTempSubdirectory("sharpvisor-http-").FullName;
        try
        {
            var bytes = new byte[3_000_000];
            new Random(1).NextBytes(bytes);
            var path = Path.Combine(folder, "large");
            File.WriteAllBytes(path, bytes);
            var service = new HttpService(new FolderContent(folder), _log);
            using var client = new HttpClientSide(service);
            Assert.Equal(Encoding.Latin1.GetString(bytes), client.Ask("GET /large HTTP/1.1\r\nHost: x\r\n\r\n", 65536).Body);
            client.Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
            Assert.Equal(1000, client.Read(new byte[1000]));
            using (var file = new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
                file.SetLength(2_000_000);
            client.ReceiveText(65536);
            Assert.True(client.IsReset);
            Assert.EndsWith(" bytes, the file can't be read any more", _log.Lines[^1], StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void Reading_a_file_allocates_nothing_for_each_piece()
    {
        _content.Set("large", new byte[10_000_000]);
        using var client = new HttpClientSide(_service);
        client.Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
        var buffer = new byte[1000];
        Assert.Equal(1000, client.Read(buffer));
        var before = GC.GetAllocatedBytesForCurrentThread();
        var total = 0;
        for (var i = 0; i < 5000; i++)
            total += client.Read(buffer);
        Assert.Equal(5_000_000, total);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 4096);
    }

    [Fact]
    public void A_guest_that_goes_away_leaves_nothing_behind()
    {
        _content.Set("large", new byte[100_000]);
        var client = new HttpClientSide(_service);
        client.Send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
        client.Read(new byte[10_000]);
        client.Reset();
        client.Dispose();
        Assert.Equal(0, _service.Count);
        var line = Assert.Single(_log.Lines);
        Assert.Matches("^http: 10.0.2.15 GET /large: 200, 9[0-9]{3} bytes, ended by the guest$", line);
    }

    [Fact]
    public void Where_all_places_are_taken_one_that_stands_still_makes_way()
    {
        var clients = Enumerable.Range(0, HttpService.Limit).Select(_ => new HttpClientSide(_service)).ToArray();
        Assert.Null(_service.Accept(new IPEndPoint(IPAddress.Loopback, 1), clients[0]));
        clients[0].Send("GET /digits");
        _now += 30_000;
        clients[1].Send("GET ");
        clients[0].Send("x");
        Assert.NotNull(_service.Accept(new IPEndPoint(IPAddress.Loopback, 1), clients[0]));
        Assert.Equal(HttpService.Limit, _service.Count);
        var gone = Assert.Single(clients, c => c.Readable > 0);
        Assert.Equal(-2, gone.Read(new byte[10]));
        Assert.Equal(-1, gone.Write([1]));
        Assert.Equal("0123456789", HttpClientSide.Answer.Take(Finish(clients[1])).Answer.Body);

        static string Finish(HttpClientSide client)
        {
            client.Send("/digits HTTP/1.1\r\nHost: x\r\n\r\n");
            return client.ReceiveText();
        }
    }

    [Fact]
    public void What_a_guest_asks_for_is_no_control_sequence_in_the_log()
    {
        using var client = new HttpClientSide(_service);
        client.Ask($"GET /%1b[2J{new string('x', 500)} HTTP/1.1\r\nHost: x\r\n\r\n");
        Assert.Equal($"http: 10.0.2.15 GET /%1b[2J{new string('x', 189)}...: 403, 0 bytes", _log.Lines.Single());
    }

    [Fact]
    public void A_guest_that_asks_all_the_time_does_not_fill_the_log()
    {
        using var client = new HttpClientSide(_service);
        for (var i = 0; i < 2000; i++)
            client.Ask("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n");
        Assert.Equal(500, _log.Lines.Count);
        _now += 60_000;
        client.Ask("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n");
        Assert.Equal(["http: 1500 lines were left out", "http: 10.0.2.15 GET /digits: 200, 10 bytes"], _log.Lines[500..]);
    }

    [Fact]
    public void Mutated_requests_harm_nobody()
    {
        string[] requests =
        [
            "GET /digits HTTP/1.1\r\nHost: x\r\nRange: bytes=1-3\r\nIf-Range: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n",
            "HEAD /boot/%2e/script.ipxe?x#y HTTP/1.0\r\nConnection: keep-alive\r\nIf-Modified-Since: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n",
            "POST http://x/digits HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        ];
        FuzzSettings.ForEachSeed(random =>
        {
            using (var client = new HttpClientSide(_service))
            {
                var buffer = new byte[500];
                for (var i = 0; i < 10; i++)
                {
                    var bytes = FuzzSettings.Mutate(random, Encoding.ASCII.GetBytes(requests[random.Next(requests.Length)]));
                    for (var at = 0; at < bytes.Length;)
                    {
                        var count = client.Write(bytes[at..Math.Min(bytes.Length, at + random.Next(1, 100))]);
                        Assert.True(count >= 0);
                        at += count;
                        if (random.Next(3) == 0 || count == 0)
                            Assert.InRange(client.Read(buffer.AsSpan(0, random.Next(1, buffer.Length))), -1, buffer.Length);
                    }
                }

                if (random.Next(2) == 0)
                    client.EndOfInput();
                client.ReceiveText();
                Assert.False(client.IsReset);
            }

            Assert.Equal(0, _service.Count);
            _log.Lines.Clear();
        });
        using var good = new HttpClientSide(_service);
        Assert.Equal("0123456789", good.Ask("GET /digits HTTP/1.1\r\nHost: x\r\n\r\n").Body);
    }
}
