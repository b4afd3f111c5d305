using System.Net;
using System.Net.Sockets;
using System.Text;
using Sharpvisor.Backends.Net.User.Services;
using Sharpvisor.Backends.Net.User.Services.Dns;

namespace Sharpvisor.Backends.Tests.Net.User.Services.Dns;

/// <summary>A resolver on the host's loopback that answers what a test says.</summary>
internal sealed class FakeResolver : IDisposable
{
    private readonly Socket _socket = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 60_000 };
    private EndPoint _asker = new IPEndPoint(IPAddress.Any, 0);

    public FakeResolver()
    {
        _socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        EndPoint = (IPEndPoint)_socket.LocalEndPoint!;
    }

    public IPEndPoint EndPoint { get; }

    /// <summary>Where the last query came from.</summary>
    public IPEndPoint Asker => (IPEndPoint)_asker;

    public bool HasQuery => _socket.Available > 0;

    public static byte[] Query(string name, int id = 0x1234, byte type = 1) =>
        [(byte)(id >> 8), (byte)id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, .. Encode(name), 0, type, 0, 1];

    /// <summary>An answer with a code and, if that is none, an address.</summary>
    public static byte[] Answer(byte[] query, int code = 0)
    {
        byte[] answer = [.. query[..2], 0x81, (byte)(0x80 | code), 0, 1, 0, code == 0 ? (byte)1 : (byte)0, .. query[8..]];
        return code == 0 ? [.. answer, 0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1] : answer;
    }

    /// <summary>Waits for a query.</summary>
    public byte[] Receive()
    {
        var buffer = new byte[65536];
        var count = _socket.ReceiveFrom(buffer, ref _asker);
        return buffer[..count];
    }

    public void Reply(byte[] message) => _socket.SendTo(message, _asker);

    public void Dispose() => _socket.Dispose();

    private static byte[] Encode(string name) =>
        [.. name.Split('.', StringSplitOptions.RemoveEmptyEntries).SelectMany(l => (byte[])[(byte)l.Length, .. Encoding.ASCII.GetBytes(l)]), 0];
}

/// <summary>The network's thread, in a test.</summary>
internal sealed class FakeWatch : ISocketWatch
{
    private readonly Dictionary<Socket, Action> _watched = [];

    public int Count => _watched.Count;

    public void Watch(Socket socket, Action onReadable) => _watched.Add(socket, onReadable);

    public void Unwatch(Socket socket) => Assert.True(_watched.Remove(socket));

    /// <summary>Calls back where there is something to read, until a condition holds.</summary>
    public void RunUntil(Func<bool> condition)
    {
        var end = Environment.TickCount64 + 60_000;
        while (!condition())
        {
            Assert.True(Environment.TickCount64 < end, "nothing came");
            RunOnce(10_000);
        }
    }

    public void RunOnce(int microseconds)
    {
        if (_watched.Count == 0)
            return;
        List<Socket> readable = [.. _watched.Keys], broken = [.. _watched.Keys];
        Socket.Select(readable, null, broken, microseconds);
        foreach (var socket in readable.Union(broken))
        {
            if (_watched.TryGetValue(socket, out var action))
                action();
        }
    }
}

/// <summary>A list that a test changes.</summary>
internal sealed class FakeResolvers(params IPEndPoint[] servers) : IResolvers
{
    public IReadOnlyList<IPEndPoint> Current { get; set; } = servers;
}
