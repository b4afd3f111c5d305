// The DNS server of the user-mode network: it passes queries on to the resolvers of the host, and their answers back.
// Follows: RFC 1035 (messages), RFC 5452 (an answer counts if it comes from the server that was asked, to the port that
// asked, with the number and the question of the query; port and number are random).
// Messages pass as they are, with EDNS, DNSSEC and truncation; only the number is another one. What came truncated the guest
// asks for again over TCP: the network leads that connection to StreamResolver.
// Leaves out: a cache, names of its own, queries with several questions.
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;

namespace Sharpvisor.Backends.Net.User.Services.Dns;

internal sealed class DnsForwarder : IUdpService, IDisposable
{
    public const int Port = 53;

    /// <summary>Queries without an answer at a time.</summary>
    public const int Limit = 256;

    private const int LongestQuery = 4096, LongestMessage = 65535, MessagesAtOnce = 16;
    private const long NextServerMs = 2000, LastServerMs = 5000;

    private readonly IResolvers _resolvers;
    private readonly ISocketWatch _watch;
    private readonly Func<long> _nowMs;
    private readonly List<Query> _queries = [];
    private readonly byte[] _buffer = new byte[LongestMessage];
    private IPEndPoint? _lastGood;

    /// <param name="nowMs">The clock; for tests.</param>
    public DnsForwarder(IResolvers resolvers, ISocketWatch watch, Func<long>? nowMs = null)
    {
        (_resolvers, _watch) = (resolvers, watch);
        _nowMs = nowMs ?? (() => Environment.TickCount64);
    }

    /// <summary>Queries that wait for an answer.</summary>
    public int Count => _queries.Count;

    /// <summary>Where a TCP connection of the guest to this server leads: the resolver that answered last, or the first; null: there is none.</summary>
    public IPEndPoint? StreamResolver
    {
        get
        {
            var servers = _resolvers.Current;
            if (_lastGood is not null && servers.Contains(_lastGood))
                return _lastGood;
            return servers is [var first, ..] ? first : null;
        }
    }

    public long NextDeadlineMs
    {
        get
        {
            var next = long.MaxValue;
            foreach (var query in _queries)
                next = Math.Min(next, query.DeadlineMs);
            return next;
        }
    }

    public void OnDatagram(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, IUdpSender sender)
    {
        if (data.Length < DnsMessage.HeaderLength || DnsMessage.IsResponse(data))
            return;
        var question = DnsMessage.Question(data);
        if (question.IsEmpty || data.Length > LongestQuery)
        {
            SendError(data, DnsMessage.FormatError, to, from, sender);
            return;
        }

        foreach (var waiting in _queries)
        {
            if (waiting.From.Equals(from) && waiting.GuestId == DnsMessage.Id(data) && DnsMessage.SameQuestion(waiting.Question, question))
                return; // the guest asks again; the answer is on its way
        }

        if (_queries.Count >= Limit)
        {
            SendError(data, DnsMessage.ServerFailure, to, from, sender);
            return;
        }

        var query = new Query(from, to, data.ToArray(), (ushort)RandomNumberGenerator.GetInt32(0x10000), [.. _resolvers.Current], sender);
        _queries.Add(query);
        AskNext(query);
    }

    public void OnTime(long nowMs, IUdpSender sender)
    {
        for (var i = _queries.Count - 1; i >= 0; i--)
        {
            if (_queries[i].DeadlineMs <= nowMs)
                AskNext(_queries[i]);
        }
    }

    public void Dispose()
    {
        foreach (var query in _queries)
            CloseSocket(query);
        _queries.Clear();
    }

    /// <summary>Asks the next resolver, or says that there is none left.</summary>
    private void AskNext(Query query)
    {
        CloseSocket(query);
        while (query.NextServer < query.Servers.Length)
        {
            var server = query.Servers[query.NextServer++];
            Socket? socket = null;
            try
            {
                // Connected, so that only this server's answers get in; the host chooses a random port.
                socket = new Socket(server.AddressFamily, SocketType.Dgram, ProtocolType.Udp) { Blocking = false };
                socket.Connect(server);
                socket.Send(query.Message);
            }
            catch (SocketException)
            {
                socket?.Dispose(); // no IPv6 here, no route, nobody listens
                continue;
            }

            query.Socket = socket;
            query.DeadlineMs = _nowMs() + (query.NextServer < query.Servers.Length ? NextServerMs : LastServerMs);
            _watch.Watch(socket, () => OnReadable(query));
            return;
        }

        _queries.Remove(query);
        DnsMessage.SetId(query.Message, query.GuestId);
        SendError(query.Message, DnsMessage.ServerFailure, query.To, query.From, query.Sender);
    }

    private void OnReadable(Query query)
    {
        for (var i = 0; i < MessagesAtOnce && query.Socket is { } socket; i++)
        {
            var count = socket.Receive(_buffer, SocketFlags.None, out var error);
            switch (error)
            {
                case SocketError.Success:
                    OnMessage(query, _buffer.AsSpan(0, count));
                    break;
                case SocketError.WouldBlock:
                    return;
                default:
                    AskNext(query); // nobody listens there
                    return;
            }
        }
    }

    private void OnMessage(Query query, Span<byte> message)
    {
        if (message.Length < DnsMessage.HeaderLength || !DnsMessage.IsResponse(message) || DnsMessage.Id(message) != DnsMessage.Id(query.Message))
            return;
        var code = DnsMessage.ResponseCode(message);
        // A server that did not understand the query may not be able to repeat its question.
        var isBareError = code != DnsMessage.NoError && DnsMessage.QuestionCount(message) == 0;
        if (!isBareError && !DnsMessage.SameQuestion(DnsMessage.Question(message), query.Question))
            return;
        if (code is DnsMessage.ServerFailure or DnsMessage.NotImplemented or DnsMessage.Refused && query.NextServer < query.Servers.Length)
        {
            AskNext(query);
            return;
        }

        _lastGood = query.Servers[query.NextServer - 1];
        CloseSocket(query);
        _queries.Remove(query);
        DnsMessage.SetId(message, query.GuestId);
        query.Sender.Send(query.To, query.From, message);
    }

    private void CloseSocket(Query query)
    {
        if (query.Socket is not { } socket)
            return;
        query.Socket = null;
        _watch.Unwatch(socket);
        socket.Dispose();
    }

    private void SendError(ReadOnlySpan<byte> query, int code, IPEndPoint from, IPEndPoint to, IUdpSender sender)
    {
        var length = DnsMessage.WriteError(query, code, _buffer);
        sender.Send(from, to, _buffer.AsSpan(0, length));
    }

    /// <summary>A query of the guest that waits for a resolver.</summary>
    private sealed class Query
    {
        /// <param name="message">As the guest sent it; gets the number of ours.</param>
        public Query(IPEndPoint from, IPEndPoint to, byte[] message, ushort id, IPEndPoint[] servers, IUdpSender sender)
        {
            (From, To, Message, Servers, Sender) = (from, to, message, servers, sender);
            GuestId = DnsMessage.Id(message);
            DnsMessage.SetId(message, id);
        }

        public IPEndPoint From { get; }

        public IPEndPoint To { get; }

        public ushort GuestId { get; }

        public byte[] Message { get; }

        public ReadOnlySpan<byte> Question => DnsMessage.Question(Message);

        public IPEndPoint[] Servers { get; }

        public int NextServer { get; set; }

        public IUdpSender Sender { get; }

        public Socket? Socket { get; set; }

        public long DeadlineMs { get; set; }
    }
}
