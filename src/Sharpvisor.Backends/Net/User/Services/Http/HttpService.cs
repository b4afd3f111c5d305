// The HTTP server of the user-mode network: it gives files of a folder or of memory to a guest that boots from them.
// Follows: RFC 9110 (semantics: GET, HEAD, one range, If-Modified-Since, If-Range), RFC 9112 (HTTP/1.1: persistent
// connections, pipelining; HTTP/1.0 is answered), RFC 6585 (431).
// It runs on the network's thread over TCP in this process, which rules out a server that brings its own sockets; so it
// is short, and strict: what it does not know for certain it refuses.
// A slow guest is not timed out, as it may be stopped in a debugger; but where there are as many connections as there may
// be, one that stands still makes way for a new one.
// Leaves out: bodies of requests, chunks, several ranges at once, compression, ETag, lists of directories (index.html is
// looked for), TLS.
using System.Net;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net.User.Services.Content;

namespace Sharpvisor.Backends.Net.User.Services.Http;

internal sealed class HttpService : IStreamService
{
    public const int Port = 80;

    /// <summary>Connections at a time.</summary>
    public const int Limit = 4096;

    /// <summary>Of a request line and its fields, in bytes.</summary>
    public const int LongestHead = 8192;

    private const long StandsStillMs = 30_000;
    private const int KeptBuffers = 64;

    private readonly Func<long> _nowMs;
    private readonly RequestLog _log;
    private readonly HashSet<HttpConnection> _connections = [];
    private readonly Stack<byte[]> _buffers = new();

    /// <param name="nowMs">The clock; for tests.</param>
    public HttpService(INamedContent content, ILogger logger, Func<long>? nowMs = null)
    {
        Content = content;
        _nowMs = nowMs ?? (() => Environment.TickCount64);
        _log = new RequestLog(logger, "http", _nowMs);
    }

    public INamedContent Content { get; }

    public long NowMs => _nowMs();

    /// <summary>Connections now.</summary>
    public int Count => _connections.Count;

    public IStreamPeer? Accept(IPEndPoint from, IStreamOwner owner)
    {
        if (_connections.Count >= Limit && !TryMakeRoom())
            return null;
        var connection = new HttpConnection(this, from, owner);
        _connections.Add(connection);
        return connection;
    }

    internal void Forget(HttpConnection connection) => _connections.Remove(connection);

    internal byte[] RentBuffer() => _buffers.TryPop(out var buffer) ? buffer : new byte[LongestHead];

    internal void ReturnBuffer(ref byte[]? buffer)
    {
        if (buffer is not null && _buffers.Count < KeptBuffers)
            _buffers.Push(buffer);
        buffer = null;
    }

    /// <param name="bytes">Of the file.</param>
    internal void Log(IPEndPoint client, HttpResponse response, long bytes, string trouble)
    {
        var asked = response.Request is { Method.Length: > 0 } request ? RequestLog.Clean($"{request.Method} {request.Target}") : "no request";
        _log.Write($"{client.Address} {asked}: {(int)response.Status}, {bytes} bytes{trouble}");
    }

    private bool TryMakeRoom()
    {
        var slowest = _connections.MinBy(c => c.LastProgressMs)!;
        if (NowMs - slowest.LastProgressMs < StandsStillMs)
            return false;
        _connections.Remove(slowest);
        slowest.GiveWay();
        return true;
    }
}
