// Reassembly of fragments (RFC 815, by a map of the 8-byte blocks that have come). Fragments that overlap end their
// datagram, as RFC 5722 has it for IPv6: nobody sane sends them.
namespace Sharpvisor.Backends.Net.User.Ip;

/// <summary>Few datagrams at a time, each for a while; the oldest makes room.</summary>
internal sealed class Ipv4Reassembly
{
    private const int Datagrams = 8, MaximumLength = 65535 - Ipv4Packet.HeaderLength;
    private const long LifetimeMs = 15_000; // RFC 791, 3.2

    private readonly NetworkCounters _counters;
    private readonly Datagram?[] _datagrams = new Datagram?[Datagrams];

    public Ipv4Reassembly(NetworkCounters counters)
    {
        _counters = counters;
    }

    /// <summary>Takes a fragment.</summary>
    /// <param name="payload">The whole, until the next call.</param>
    /// <returns>True: this was the last one.</returns>
    public bool TryComplete(in Ipv4Packet packet, long nowMs, out ReadOnlySpan<byte> payload)
    {
        payload = default;
        var end = packet.FragmentOffset + packet.Payload.Length;
        if (packet.Payload.IsEmpty || end > MaximumLength || packet.HasMoreFragments && packet.Payload.Length % 8 != 0)
        {
            _counters.Drop(DropReason.Fragment);
            return false;
        }

        var datagram = Find(packet, nowMs);
        if (!datagram.TryAdd(packet))
        {
            datagram.IsUsed = false;
            _counters.Drop(DropReason.Fragment);
            return false;
        }

        if (!datagram.IsComplete)
            return false;
        datagram.IsUsed = false;
        payload = datagram.Payload;
        return true;
    }

    private Datagram Find(in Ipv4Packet packet, long nowMs)
    {
        var best = 0;
        for (var i = 0; i < Datagrams; i++)
        {
            var datagram = _datagrams[i] ??= new Datagram();
            if (datagram.IsUsed && nowMs - datagram.BegunMs > LifetimeMs)
            {
                datagram.IsUsed = false;
                _counters.Drop(DropReason.Fragment);
            }

            if (datagram.IsUsed && datagram.Matches(packet))
                return datagram;
            var other = _datagrams[best]!;
            if (other.IsUsed && (!datagram.IsUsed || datagram.BegunMs < other.BegunMs))
                best = i;
        }

        if (_datagrams[best]!.IsUsed)
            _counters.Drop(DropReason.Fragment);
        _datagrams[best]!.Begin(packet, nowMs);
        return _datagrams[best]!;
    }

    private sealed class Datagram
    {
        private readonly byte[] _bytes = new byte[MaximumLength + 8];
        private readonly bool[] _blocks = new bool[(MaximumLength + 7) / 8];
        private uint _source, _destination;
        private ushort _identification;
        private byte _protocol;
        private int _length; // 0: not known yet
        private int _end; // of the furthest fragment
        private int _received;

        public bool IsUsed { get; set; }

        public long BegunMs { get; private set; }

        public bool IsComplete => _length > 0 && _received == _length;

        public ReadOnlySpan<byte> Payload => _bytes.AsSpan(0, _length);

        public bool Matches(in Ipv4Packet packet) =>
            _source == packet.Source && _destination == packet.Destination && _identification == packet.Identification && _protocol == packet.Protocol;

        public void Begin(in Ipv4Packet packet, long nowMs)
        {
            IsUsed = true;
            BegunMs = nowMs;
            (_source, _destination, _identification, _protocol) = (packet.Source, packet.Destination, packet.Identification, packet.Protocol);
            _length = _end = _received = 0;
            _blocks.AsSpan().Clear();
        }

        public bool TryAdd(in Ipv4Packet packet)
        {
            var (start, end) = (packet.FragmentOffset, packet.FragmentOffset + packet.Payload.Length);
            var blocks = _blocks.AsSpan(start / 8, (end + 7) / 8 - start / 8);
            if (blocks.Contains(true) || _length > 0 && (end > _length || !packet.HasMoreFragments))
                return false;
            if (!packet.HasMoreFragments)
            {
                if (_end > end)
                    return false;
                _length = end;
            }

            blocks.Fill(true);
            packet.Payload.CopyTo(_bytes.AsSpan(start));
            _received += packet.Payload.Length;
            _end = Math.Max(_end, end);
            return true;
        }
    }
}
