using System.Net;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net.User;

/// <summary>A connection of the guest: simple, and as wrong as a test wants it.</summary>
internal sealed class GuestTcp
{
    private readonly GuestStack _stack;
    private readonly List<byte> _received = [];
    private byte[] _toSend = [];
    private uint _sndUna, _sndNxt;
    private uint _peerWindow;
    private int _peerScale;
    private int _ticks;
    private bool _finSent;
    private bool _opened;

    public GuestTcp(GuestStack stack, IPEndPoint local, IPEndPoint remote)
    {
        _stack = stack;
        Local = local;
        Remote = remote;
        _sndUna = _sndNxt = InitialSequence;
    }

    public static uint InitialSequence => 0xFFFF_F000; // wraps soon

    public IPEndPoint Local { get; }

    public IPEndPoint Remote { get; }

    /// <summary>Bytes that it advertises, before scaling.</summary>
    public ushort Window { get; set; } = 65535;

    public int Scale { get; set; } = -1;

    public int SegmentSize { get; set; } = 1460;

    /// <summary>Data of one frame: more than the segment size is TSO.</summary>
    public int FrameData { get; set; } = 1460;

    /// <summary>Acknowledges what comes.</summary>
    public bool Acknowledges { get; set; } = true;

    /// <summary>Called instead of collecting what comes.</summary>
    public Action<ReadOnlyMemory<byte>>? OnBytes { get; set; }

    public byte[] Received => [.. _received];

    public long ReceivedCount { get; private set; }

    public uint RcvNxt { get; private set; }

    public uint SndNxt => _sndNxt;

    public uint SndUna => _sndUna;

    public uint PeerWindow => _peerWindow;

    public bool IsEstablished { get; private set; }

    public bool WasReset { get; private set; }

    public bool PeerHasEnded { get; private set; }

    /// <summary>Wants to end its direction behind all data.</summary>
    public bool WantsEnd { get; set; }

    public bool EndIsAcknowledged => WantsEnd && _sndUna == InitialSequence + 1 + (uint)_toSend.Length + 1;

    public bool IsAllAcknowledged => IsEstablished && _sndUna - (InitialSequence + 1) >= _toSend.Length;

    public List<ReceivedPacket> Segments { get; } = [];

    public void SendSyn()
    {
        _sndNxt = InitialSequence + 1;
        Raw(Packets.Syn, InitialSequence, 0, [], Options);
    }

    /// <summary>Answers a SYN.</summary>
    public void Answer(ReceivedPacket syn)
    {
        _opened = true;
        RcvNxt = syn.Sequence + 1;
        ReadPeer(syn);
        _sndNxt = InitialSequence + 1;
        Raw(Packets.Syn | Packets.Ack, InitialSequence, RcvNxt, [], Options);
    }

    public void Write(byte[] data)
    {
        _toSend = [.. _toSend, .. data];
        Transmit();
    }

    public void End()
    {
        WantsEnd = true;
        Transmit();
    }

    public void Reset() => Raw(Packets.Rst, _sndNxt, 0, []);

    public void SendAck() => Raw(Packets.Ack, _sndNxt, RcvNxt, []);

    public void Raw(byte flags, uint sequence, uint acknowledgment, byte[] data, byte[]? options = null)
    {
        var offloaded = data.Length > SegmentSize;
        _stack.Send(
            Packets.Tcp(Local, Remote, flags, sequence, acknowledgment, Window, data, options, offloaded),
            offloaded ? new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = Segmentation.Tcp4, SegmentSize = (ushort)SegmentSize } : default);
    }

    public void OnSegment(ReceivedPacket packet)
    {
        Segments.Add(packet);
        if (Segments.Count > 100)
            Segments.RemoveRange(0, 50);
        if (packet.Has(Packets.Rst))
        {
            WasReset = true;
            return;
        }

        if (packet.Has(Packets.Syn))
        {
            if (_opened)
                return;
            if (!IsEstablished)
            {
                RcvNxt = packet.Sequence + 1;
                ReadPeer(packet);
                _sndUna = packet.Acknowledgment;
                IsEstablished = true;
            }

            SendAck();
            Transmit();
            return;
        }

        if (packet.Has(Packets.Ack))
        {
            IsEstablished |= _opened && packet.Acknowledgment == InitialSequence + 1;
            if ((int)(packet.Acknowledgment - _sndUna) > 0 && (int)(packet.Acknowledgment - _sndNxt) <= 0)
            {
                _sndUna = packet.Acknowledgment;
                _ticks = 0;
            }

            _peerWindow = (uint)packet.Window << _peerScale;
        }

        TakeData(packet);
        Transmit();
    }

    public void OnTick()
    {
        if (++_ticks < 5 || WasReset)
            return;
        _ticks = 0;
        if (!IsEstablished)
        {
            if (!_opened)
                SendSyn();
            return;
        }

        if (_sndNxt == _sndUna && !IsAllAcknowledged && _peerWindow == 0)
        {
            Raw(Packets.Ack, _sndUna, RcvNxt, Slice(1)); // asks for the window
            return;
        }

        _sndNxt = _sndUna; // again from there
        _finSent = false;
        Transmit();
    }

    private byte[] Options => Scale >= 0 ? [2, 4, (byte)(SegmentSize >> 8), (byte)SegmentSize, 1, 3, 3, (byte)Scale] : [2, 4, (byte)(SegmentSize >> 8), (byte)SegmentSize];

    private void ReadPeer(ReceivedPacket syn)
    {
        var options = syn.TcpOptions;
        Assert.Equal(new byte[] { 2, 4, 1460 >> 8, 1460 & 255 }, options[..4].ToArray());
        if (options.Length > 4)
            _peerScale = options[6];
        _peerWindow = syn.Window;
    }

    private void TakeData(ReceivedPacket packet)
    {
        var data = packet.TcpData;
        var ahead = (int)(packet.Sequence - RcvNxt);
        var hasFin = packet.Has(Packets.Fin);
        if (data.Length == 0 && !hasFin && ahead == 0)
            return;
        if (!Acknowledges)
            return;
        if (ahead <= 0 && -ahead <= data.Length)
        {
            data = data[-ahead..];
            var room = Window << Math.Max(0, Scale);
            hasFin &= data.Length <= room;
            data = data[..Math.Min(room, data.Length)];
            ReceivedCount += data.Length;
            if (OnBytes is null)
                _received.AddRange(data);
            else
                OnBytes(data.ToArray());
            RcvNxt += (uint)data.Length;
            if (hasFin && !PeerHasEnded)
            {
                RcvNxt++;
                PeerHasEnded = true;
            }
        }

        SendAck();
    }

    private byte[] Slice(int most)
    {
        var start = (int)(_sndNxt - InitialSequence - 1);
        return start >= _toSend.Length ? [] : _toSend[start..Math.Min(_toSend.Length, start + most)];
    }

    private void Transmit()
    {
        if (!IsEstablished || WasReset)
            return;
        while (true)
        {
            var usable = (int)(_peerWindow - (_sndNxt - _sndUna));
            var data = Slice(Math.Max(0, Math.Min(usable, FrameData)));
            if (data.Length == 0)
                break;
            Raw(Packets.Ack | Packets.Psh, _sndNxt, RcvNxt, data);
            _sndNxt += (uint)data.Length;
        }

        if (!WantsEnd || _finSent || _sndNxt != InitialSequence + 1 + (uint)_toSend.Length)
            return;
        _finSent = true;
        Raw(Packets.Fin | Packets.Ack, _sndNxt, RcvNxt, []);
        _sndNxt++;
    }
}
