using System.Net;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User.Services;

/// <summary>Keeps what a service sends.</summary>
internal sealed class FakeSender : IUdpSender
{
    public List<Datagram> Sent { get; } = [];

    public void Send(IPEndPoint from, IPEndPoint to, ReadOnlySpan<byte> data, MacAddress? toAddress = null) =>
        Sent.Add(new Datagram(from, to, data.ToArray(), toAddress));

    /// <summary>The only one since the last look.</summary>
    public Datagram Single()
    {
        var one = Assert.Single(Sent);
        Sent.Clear();
        return one;
    }

    /// <summary>All since the last look.</summary>
    public Datagram[] All()
    {
        Datagram[] all = [.. Sent];
        Sent.Clear();
        return all;
    }

    internal sealed record Datagram(IPEndPoint From, IPEndPoint To, byte[] Data, MacAddress? ToAddress);
}
