// The receiving half of a connection: RFC 9293, 3.10.7; RFC 5961 for forged segments.
namespace Sharpvisor.Backends.Net.User.Tcp;

/// <summary>What comes from the guest.</summary>
internal sealed partial class TcpConnection
{
    /// <summary>What is kept for a peer that is slow, in bytes.</summary>
    private const int ReceiveLimit = 1 << 20;

    private const int LongestWindowStep = 64 << 10;

    private const int OurWindowScale = 7;

    /// <summary>More than this goes to the peer at once, less is collected over a batch of frames.</summary>
    private const int WriteAtOnce = 16 << 10;

    private const int LeastSegmentSize = 64, DefaultSegmentSize = 536;

    private uint _rcvNxt, _rcvAdvertised; // the edge up to which the guest may send
    private int _receiveScale = -1;
    private uint _initialReceive;
    private bool _guestEnded, _endGiven, _peerIsFull;
    private bool _mustAcknowledge;

    public void OnSegment(in TcpSegment segment)
    {
        _probes = _state == TcpState.FinWait2 && segment.Data.IsEmpty ? _probes : 0;
        switch (_state)
        {
            case TcpState.Connecting:
                if (segment.Has(TcpFlags.Rst) && segment.Sequence == _rcvNxt)
                    AbortForGuest();
                return;
            case TcpState.SynSent:
                OnSegmentWhenSynSent(segment);
                return;
        }

        var ahead = (int)(segment.Sequence - _rcvNxt);
        var window = _rcvAdvertised - _rcvNxt;
        if (segment.Has(TcpFlags.Rst))
        {
            OnReset(ahead, window);
            return;
        }

        if (segment.Has(TcpFlags.Syn))
        {
            if (_state == TcpState.SynReceived && segment.Sequence == _initialReceive && !segment.Has(TcpFlags.Ack))
                SendAgain(); // it has not seen our answer
            else
                Challenge();
            return;
        }

        if (!segment.Has(TcpFlags.Ack))
        {
            _layer.Counters.Drop(DropReason.Sequence);
            return;
        }

        // RFC 9293, 3.10.7.4: outside of the window. What lies before it may be a copy, or a probe.
        if (ahead > 0 && (uint)ahead > window || ahead < -(int)Math.Max(ReceiveLimit, segment.Length))
        {
            _layer.Counters.Drop(DropReason.Sequence);
            Challenge();
            return;
        }

        if (OnAcknowledgment(segment) && OnData(segment, ahead))
            Loop.Schedule(this);
    }

    private void BeginAsServer(in TcpSegment syn)
    {
        Begin();
        OnGuestsSyn(syn);
    }

    private void BeginAsClient()
    {
        Begin();
        _receiveScale = OurWindowScale; // is offered
    }

    /// <summary>What a SYN says, of either side.</summary>
    private void OnGuestsSyn(in TcpSegment syn)
    {
        _initialReceive = syn.Sequence;
        _rcvNxt = _rcvAdvertised = syn.Sequence + 1;
        syn.ReadOptions(out var maximumSegment, out var scale);
        _segmentSize = Math.Clamp(maximumSegment == 0 ? DefaultSegmentSize : maximumSegment, LeastSegmentSize, TcpSender.MaximumSegmentSize);
        _sendScale = Math.Max(0, scale);
        _receiveScale = scale < 0 ? -1 : OurWindowScale;
        _sndWnd = _greatestWindow = syn.Window; // of a SYN: not scaled
        _windowSequence = syn.Sequence;
        _windowAcknowledgment = syn.Acknowledgment;
    }

    private void OnSegmentWhenSynSent(in TcpSegment segment)
    {
        var isOurs = segment.Has(TcpFlags.Ack) && segment.Acknowledgment == _sndMax && _sndMax != _sndUna;
        if (segment.Has(TcpFlags.Rst))
        {
            if (!isOurs)
                return;
            _layer.Counters.ConnectionsRefused++;
            AbortForGuest();
        }
        else if (segment.Has(TcpFlags.Ack) && !isOurs)
        {
            _layer.Sender.TrySend(Flow, TcpFlags.Rst, segment.Acknowledgment, 0, 0);
        }
        else if (segment.Has(TcpFlags.Syn))
        {
            OnGuestsSyn(segment);
            if (isOurs)
            {
                Enter(TcpState.Established);
                OnEstablished(segment.Acknowledgment);
                _mustAcknowledge = true;
            }
            else
            {
                // Both sides have opened it: our SYN again, with an acknowledgment.
                Enter(TcpState.SynReceived);
                _sndNxt = _sndUna;
            }

            Loop.Schedule(this);
        }
    }

    /// <summary>RFC 5961, 3.2: only one at the exact place counts, or anybody who guesses a window could end the connection.</summary>
    private void OnReset(int ahead, uint window)
    {
        if (ahead == 0)
        {
            if (_state == TcpState.TimeWait)
                Detach();
            else
                AbortForGuest();
        }
        else if (ahead > 0 && (uint)ahead < window)
        {
            Challenge();
        }
        else
        {
            _layer.Counters.Drop(DropReason.Sequence);
        }
    }

    private void Challenge()
    {
        if (_layer.MayChallenge() && !IsHalfOpen)
            SendAcknowledgment();
    }

    /// <returns>False: the connection has ended, or the segment is not to be believed.</returns>
    private bool OnAcknowledgment(in TcpSegment segment)
    {
        var acknowledged = segment.Acknowledgment;
        if (_state == TcpState.SynReceived)
        {
            if (acknowledged != _sndMax || _sndMax == _sndUna)
            {
                _layer.Counters.Drop(DropReason.Sequence);
                _layer.Sender.TrySend(Flow, TcpFlags.Rst, acknowledged, 0, 0);
                return false;
            }

            Enter(TcpState.Established);
            OnEstablished(acknowledged);
        }

        // RFC 5961, 5.2: too old, or of what was never sent.
        if (IsAfter(acknowledged, _sndMax) || IsAfter(_sndUna - Math.Max(_greatestWindow, 1 << 16), acknowledged))
        {
            _layer.Counters.Drop(DropReason.Sequence);
            Challenge();
            return false;
        }

        var hadWindow = _sndWnd;
        if (IsAfter(segment.Sequence, _windowSequence) || segment.Sequence == _windowSequence && !IsAfter(_windowAcknowledgment, acknowledged))
        {
            _sndWnd = (uint)segment.Window << _sendScale;
            _greatestWindow = Math.Max(_greatestWindow, _sndWnd);
            _windowSequence = segment.Sequence;
            _windowAcknowledgment = acknowledged;
        }

        if (hadWindow == 0)
        {
            _retries = 0; // it is there, though it takes nothing
            if (_sndWnd > 0 && acknowledged == _sndUna)
                _sndNxt = _sndUna; // nor did it take what asked for its window
        }

        if (IsAfter(acknowledged, _sndUna))
            OnNewAcknowledgment(acknowledged);
        else if (acknowledged == _sndUna && segment.Length == 0 && _sndMax != _sndUna && _sndWnd == hadWindow && hadWindow > 0)
            OnSameAcknowledgment();
        return _state is not (TcpState.Dead or TcpState.Closed);
    }

    /// <returns>False: the connection has ended.</returns>
    private bool OnData(in TcpSegment segment, int ahead)
    {
        var data = segment.Data;
        var hasFin = segment.Has(TcpFlags.Fin);
        if (ahead > 0)
        {
            if (segment.Length > 0)
            {
                // Each copy of this acknowledgment counts: three have the guest send again at once.
                _layer.Counters.Drop(DropReason.OutOfOrder);
                SendAcknowledgment();
            }

            return true;
        }

        if (ahead < 0)
        {
            hasFin &= -ahead <= data.Length;
            data = data[Math.Min(-ahead, data.Length)..];
            _mustAcknowledge = true;
        }

        var room = _rcvAdvertised - _rcvNxt;
        if ((uint)data.Length > room)
        {
            _layer.Counters.Drop(DropReason.Sequence);
            data = data[..(int)room];
            hasFin = false;
            _mustAcknowledge = true;
        }

        if (_guestEnded)
        {
            // Behind its end there is nothing but the end again.
            if (_state == TcpState.TimeWait && segment.Length > 0)
                EnterTimeWait();
            return true;
        }

        if (data.Length > 0)
        {
            var taken = Take(data);
            if (taken < 0)
                return false;
            _rcvNxt += (uint)taken;
            _mustAcknowledge = true;
            if (taken < data.Length)
            {
                _layer.Counters.Drop(DropReason.Pool);
                hasFin = false;
            }
        }

        if (hasFin)
            OnGuestEnded();
        return true;
    }

    /// <returns>How many bytes; -1: the connection has ended.</returns>
    private int Take(ReadOnlySpan<byte> data)
    {
        var taken = 0;
        if (_toPeer.Length == 0 && !_peerIsFull && (data.Length >= WriteAtOnce || _layer.Pool.Free < Chunk.SmallSize))
        {
            taken = _peer!.Write(data);
            if (taken < 0)
            {
                AbortForPeer();
                return -1;
            }

            _peerIsFull = taken < data.Length;
        }

        return taken + _toPeer.Append(data[taken..]);
    }

    private void OnGuestEnded()
    {
        _rcvNxt++;
        _guestEnded = true;
        _mustAcknowledge = true;
        switch (_state)
        {
            case TcpState.Established:
                Enter(TcpState.CloseWait);
                break;
            case TcpState.FinWait1:
                Enter(TcpState.Closing);
                break;
            case TcpState.FinWait2:
                EnterTimeWait();
                break;
        }
    }

    /// <returns>False: the connection has ended.</returns>
    private bool FlushToPeer()
    {
        if (_peer is null)
            return true;
        while (_toPeer.Length > 0 && !_peerIsFull)
        {
            var head = _toPeer.Head;
            var written = _peer.Write(head);
            if (written < 0)
            {
                if (_state == TcpState.Closed)
                    Dispose();
                else
                    AbortForPeer();
                return false;
            }

            _peerIsFull = written < head.Length;
            _toPeer.Consume(written);
            if (_state == TcpState.Closed && written > 0)
                Loop.SetTimer(this, Loop.NowMs + DrainMs);
        }

        if (_guestEnded && !_endGiven && _toPeer.Length == 0)
        {
            _endGiven = true;
            _peer.EndOfInput();
        }

        if (!_guestEnded && WindowHasGrown())
            _mustAcknowledge = true;
        return true;
    }

    /// <summary>Bytes that may wait for the peer, all in all.</summary>
    private int ReceiveRoom => (int)Math.Min(ReceiveLimit, _layer.Pool.Free / 4);

    private uint WindowEdge() => _rcvNxt + (uint)Math.Max(0, ReceiveRoom - _toPeer.Length);

    /// <summary>The window grows in steps of this, so that a guest that waits for it sends long segments.</summary>
    private int WindowStep => Math.Min(LongestWindowStep, ReceiveRoom / 2);

    /// <summary>So far that the guest should know (RFC 9293, 3.8.6.2.2).</summary>
    private bool WindowHasGrown()
    {
        var open = (int)(_rcvAdvertised - _rcvNxt);
        var gain = (int)(WindowEdge() - _rcvAdvertised);
        return gain >= ReceiveLimit / 4 || gain >= Math.Max(1, WindowStep) && gain > open;
    }

    /// <summary>For the header of the next segment. What was given is never taken back.</summary>
    private ushort NextWindow()
    {
        var edge = WindowEdge();
        var gain = (int)(edge - _rcvAdvertised);
        if (gain > 0 && gain >= WindowStep)
            _rcvAdvertised = edge;
        // Rounded down, while what lies between is still accepted.
        var scale = Math.Max(0, _receiveScale);
        var window = Math.Min(ushort.MaxValue, _rcvAdvertised - _rcvNxt >> scale);
        if (window == ushort.MaxValue)
            _rcvAdvertised = _rcvNxt + (window << scale);
        return (ushort)window;
    }
}
