using System.Net;
using System.Text;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Backends.Net.User.Services.Http;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Http;

/// <summary>A guest's end of a connection to the server, without TCP between.</summary>
internal sealed class HttpClientSide : IStreamOwner, IDisposable
{
    private readonly IStreamPeer _peer;
    private readonly Queue<byte> _unsent = new();

    public HttpClientSide(HttpService service) =>
        _peer = service.Accept(new IPEndPoint(IPAddress.Parse("10.0.2.15"), 5000), this) ?? throw new InvalidOperationException("refused");

    /// <summary>The server has ended the connection: FIN or reset.</summary>
    public bool IsClosed { get; private set; }

    public bool IsReset { get; private set; }

    public int Readable { get; private set; }

    public int Writable { get; private set; }

    public void OnReadable() => Readable++;

    public void OnWritable() => Writable++;

    public void Dispose() => _peer.Dispose();

    public void Reset() => _peer.Reset();

    public void EndOfInput() => _peer.EndOfInput();

    public int Write(byte[] data) => _peer.Write(data);

    public int Read(Span<byte> buffer) => _peer.Read(buffer);

    /// <summary>Sends as much as the server takes, the rest when it takes more.</summary>
    public void Send(string text)
    {
        foreach (var value in Encoding.Latin1.GetBytes(text))
            _unsent.Enqueue(value);
        Push();
    }

    /// <summary>Reads all that there is, in pieces.</summary>
    public string ReceiveText(int piece = 1000)
    {
        List<byte> all = [];
        var buffer = new byte[piece];
        while (true)
        {
            var count = _peer.Read(buffer);
            if (count <= 0)
            {
                (IsClosed, IsReset) = (count < 0, count == -2);
                return Encoding.Latin1.GetString([.. all]);
            }

            all.AddRange(buffer.AsSpan(0, count));
            Push();
        }
    }

    /// <summary>Sends one request and reads one answer.</summary>
    public Answer Ask(string request, int piece = 1000)
    {
        Send(request);
        var (answer, rest) = Answer.Take(ReceiveText(piece), request.StartsWith("HEAD", StringComparison.Ordinal));
        Assert.Equal("", rest);
        return answer;
    }

    private void Push()
    {
        while (_unsent.Count > 0)
        {
            var before = Writable;
            var count = _peer.Write([.. _unsent]);
            if (count < 0)
                return;
            for (var i = 0; i < count; i++)
                _unsent.Dequeue();
            if (_unsent.Count > 0 && Writable == before)
                return;
        }
    }

    internal sealed record Answer(int Status, IReadOnlyDictionary<string, string> Fields, string Body)
    {
        public string this[string field] => Fields[field];

        /// <summary>Takes the first answer off a stream of them.</summary>
        public static (Answer Answer, string Remaining) Take(string text, bool isHead = false)
        {
            var end = text.IndexOf("\r\n\r\n", StringComparison.Ordinal);
            Assert.True(end > 0, "no answer: " + text);
            var lines = text[..end].Split("\r\n");
            Assert.StartsWith("HTTP/1.1 ", lines[0], StringComparison.Ordinal);
            var status = int.Parse(lines[0].Split(' ')[1]);
            var fields = lines.Skip(1).Select(l => l.Split(": ", 2)).ToDictionary(p => p[0], p => p[1]);
            Assert.Equal(DateTimeOffset.UtcNow, DateTimeOffset.ParseExact(fields["Date"], "r", null), TimeSpan.FromMinutes(30));
            var length = isHead || status == 304 ? 0 : int.Parse(fields["Content-Length"]);
            return (new Answer(status, fields, text.Substring(end + 4, length)), text[(end + 4 + length)..]);
        }
    }
}
