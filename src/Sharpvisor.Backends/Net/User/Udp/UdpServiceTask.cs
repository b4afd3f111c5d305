// Deadlines of UDP services on the network's loop.
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Udp;

/// <summary>Keeps a service's time.</summary>
internal sealed class UdpServiceTask : NetworkTask
{
    private readonly UdpLayer _layer;

    public UdpServiceTask(UdpLayer layer, IUdpService service)
    {
        _layer = layer;
        Service = service;
    }

    public IUdpService Service { get; }

    public void OnDatagram(IPv4EndPoint from, IPv4EndPoint to, ReadOnlySpan<byte> data)
    {
        Service.OnDatagram(from, to, data, _layer);
        Rearm();
    }

    public override void Work() => Rearm();

    public override void OnTime(long nowMs)
    {
        Service.OnTime(nowMs, _layer);
        Rearm();
    }

    public void Rearm()
    {
        var due = Service.NextDeadlineMs;
        if (due == long.MaxValue)
            _layer.Loop.CancelTimer(this);
        else
            _layer.Loop.SetTimer(this, Math.Max(due, _layer.Loop.NowMs + 1)); // one that is late is called once a round
    }
}
