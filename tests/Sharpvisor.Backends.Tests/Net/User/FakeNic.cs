using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>A NIC whose guest is a test.</summary>
internal sealed class FakeNic : INetworkDevice
{
    private readonly ConcurrentQueue<(byte[] Bytes, FrameOffload Offload)> _outgoing = new();
    private readonly BlockingCollection<(byte[] Bytes, FrameOffload Offload)> _incoming = [];
    private int _room = int.MaxValue;

    public INetworkBackend? Network { get; set; }

    public MacAddress Address { get; } = MacAddress.Default(0);

    public ReceiveOffloads ReceiveOffloads { get; set; }

    public void Send(byte[] frame, FrameOffload offload = default)
    {
        _outgoing.Enqueue((frame, offload));
        Network!.OnTransmitReady();
    }

    /// <summary>So many frames are taken from now on.</summary>
    public void SetRoom(int frames)
    {
        Volatile.Write(ref _room, frames);
        if (frames > 0)
            Network!.OnReceiveReady();
    }

    public bool TryTake([MaybeNullWhen(false)] out byte[] frame, out FrameOffload offload, int milliseconds)
    {
        var taken = _incoming.TryTake(out var item, milliseconds);
        (frame, offload) = item;
        return taken;
    }

    public bool TryTransmit(PacketBuffer packet)
    {
        if (!_outgoing.TryDequeue(out var frame))
            return false;
        frame.Bytes.CopyTo(packet.Room);
        packet.Length = frame.Bytes.Length;
        packet.Offload = frame.Offload;
        return true;
    }

    public bool TryReceive(in EthernetFrame frame)
    {
        if (Volatile.Read(ref _room) == 0)
            return false;
        if (_room != int.MaxValue)
            _room--;
        var bytes = new byte[frame.Length];
        frame.CopyTo(bytes);
        _incoming.Add((bytes, frame.Offload));
        return true;
    }
}
