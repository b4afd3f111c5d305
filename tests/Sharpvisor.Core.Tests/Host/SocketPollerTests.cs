using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Tests.Host;

public sealed class SocketPollerTests
{
    public static TheoryData<bool> Kinds => new(false, true);

    [Theory]
    [MemberData(nameof(Kinds))]
    public void An_event_comes_once_and_again_when_more_has_come(bool select)
    {
        using var poller = Create(select);
        var (one, other) = Pair();
        using (one)
        using (other)
        {
            var handler = new Handler();
            var registration = poller.Add(one, handler);
            poller.Wait(-1);
            Assert.Equal(SocketEvents.Writable, handler.Take());
            other.Send([1]);
            Until(poller, () => handler.Seen.HasFlag(SocketEvents.Readable));
            handler.Take();
            one.Receive(new byte[10], SocketFlags.None, out _);
            one.Receive(new byte[10], SocketFlags.None, out var error);
            Assert.Equal(SocketError.WouldBlock, error);
            poller.Await(registration, SocketEvents.Readable);
            poller.Wait(0);
            Assert.Equal(SocketEvents.None, handler.Take() & SocketEvents.Readable);
            other.Send([2]);
            Until(poller, () => handler.Seen.HasFlag(SocketEvents.Readable));
            other.Dispose();
            one.Receive(new byte[10], SocketFlags.None, out _);
            poller.Await(registration, SocketEvents.Readable);
            handler.Take();
            Until(poller, () => handler.Seen.HasFlag(SocketEvents.Readable));
            poller.Remove(registration);
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task A_wake_ends_the_wait_of_now_or_the_next_one(bool select)
    {
        using var poller = Create(select);
        poller.Wake();
        poller.Wait(-1);
        for (var i = 0; i < 1000; i++)
        {
            var waking = Task.Run(poller.Wake);
            poller.Wait(-1);
            await waking;
            poller.Wait(0); // the wake may have been late for the wait that it ended
        }

        var watch = Stopwatch.StartNew();
        poller.Wait(20);
        Assert.True(watch.ElapsedMilliseconds >= 15);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void A_handler_may_remove_another_one_that_is_ready_as_well(bool select)
    {
        using var poller = Create(select);
        var pairs = Enumerable.Range(0, 20).Select(_ => Pair()).ToArray();
        var calls = 0;
        var registrations = new int[pairs.Length];
        var left = Enumerable.Range(0, pairs.Length).ToList();
        for (var i = 0; i < pairs.Length; i++)
        {
            registrations[i] = poller.Add(pairs[i].One, new Handler(() =>
            {
                calls++;
                foreach (var other in left)
                    poller.Remove(registrations[other]);
                left.Clear();
                // A new one gets a number that is free again, but none of the old events.
                poller.Add(pairs[0].Other, new Handler(() => Assert.Equal(1, calls)));
            }));
        }

        poller.Wait(-1);
        Assert.Equal(1, calls);
        foreach (var (one, other) in pairs)
        {
            one.Dispose();
            other.Dispose();
        }
    }

    [Fact]
    public void A_connect_that_is_refused_says_so()
    {
        var (one, other) = Pair();
        var closed = IPv4EndPoint.From((IPEndPoint)one.LocalEndPoint!);
        one.Dispose();
        other.Dispose();
        using var poller = SocketPoller.Create();
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
        var error = IPv4Socket.Connect(socket, closed);
        if (error == SocketError.WouldBlock)
        {
            var handler = new Handler();
            poller.Add(socket, handler);
            Until(poller, () => handler.Seen != SocketEvents.None);
            error = IPv4Socket.ConnectResult(socket);
        }

        Assert.Equal(SocketError.ConnectionRefused, error);
    }

    [Fact]
    public void Datagrams_carry_their_addresses_and_ICMP_errors_come_back()
    {
        using var one = Bound();
        var other = Bound();
        var (from, to) = (IPv4EndPoint.From((IPEndPoint)one.LocalEndPoint!), IPv4EndPoint.From((IPEndPoint)other.LocalEndPoint!));
        IPv4Socket.KeepErrors(one);
        Assert.Equal(3, IPv4Socket.SendTo(one, [1, 2, 3], to, out _));
        Assert.True(other.Poll(10_000_000, SelectMode.SelectRead));
        var buffer = new byte[10];
        Assert.Equal(3, IPv4Socket.ReceiveFrom(other, buffer, out var sender, out _));
        Assert.Equal(from, sender);
        Assert.Equal(-1, IPv4Socket.ReceiveFrom(other, buffer, out _, out var error));
        Assert.Equal(SocketError.WouldBlock, error);
        Assert.False(IPv4Socket.TryReadError(one, out _, out _));
        other.Dispose();
        if (!OperatingSystem.IsLinux())
            return;
        Assert.Equal(1, IPv4Socket.SendTo(one, [1], to, out _));
        one.Poll(10_000_000, SelectMode.SelectError);
        Assert.True(IPv4Socket.TryReadError(one, out var about, out error));
        Assert.Equal((to, SocketError.ConnectionRefused), (about, error));
    }

    private static SocketPoller Create(bool select) => select ? SocketPoller.CreateSelect() : SocketPoller.Create();

    private static Socket Bound()
    {
        var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { Blocking = false };
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return socket;
    }

    private static (Socket One, Socket Other) Pair()
    {
        using var listener = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        var other = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        other.Connect(listener.LocalEndPoint!);
        var one = listener.Accept();
        one.Blocking = false;
        return (one, other);
    }

    private static void Until(SocketPoller poller, Func<bool> done)
    {
        var watch = Stopwatch.StartNew();
        while (!done())
        {
            Assert.True(watch.Elapsed.TotalSeconds < 60);
            poller.Wait(1000);
        }
    }

    private sealed class Handler(Action? then = null) : ISocketHandler
    {
        public SocketEvents Seen { get; private set; }

        public void OnSocketEvent(SocketEvents events)
        {
            Seen |= events;
            then?.Invoke();
        }

        public SocketEvents Take()
        {
            var seen = Seen;
            Seen = SocketEvents.None;
            return seen;
        }
    }
}
