// The sending half of a connection: RFC 9293, 3.8; RFC 6298 for the timer, RFC 7323 for window scaling.
using System.Security.Cryptography;

namespace Sharpvisor.Backends.Net.User.Tcp;

/// <summary>What goes to the guest.</summary>
internal sealed partial class TcpConnection
{
    /// <summary>What is kept until the guest has acknowledged it, in bytes: 500 MiB/s at 2 ms.</summary>
    private const int SendLimit = 1 << 20;

    /// <summary>What one connection may do before the others have their turn, in bytes.</summary>
    private const int WorkAtOnce = 1 << 20;

    private const int SameAcknowledgmentsOfALoss = 3; // RFC 5681, 3.2

    private uint _sndUna, _sndNxt, _sndMax; // not acknowledged, next, never sent yet
    private uint _sndWnd, _greatestWindow, _windowSequence, _windowAcknowledgment;
    private int _sendScale, _segmentSize = DefaultSegmentSize;
    private uint _allowance = uint.MaxValue; // what may be under way after a loss
    private int _sameAcknowledgments;
    private bool _recovers, _sendsFirstAgain, _isForced;
    private uint _recoverUntil;
    private bool _isTimed;
    private uint _timedSequence;
    private long _timedSinceMs;
    private bool _isReadable, _peerEnded, _finAcknowledged, _isBlocked;

    private void Begin()
    {
        Span<byte> bytes = stackalloc byte[4];
        RandomNumberGenerator.Fill(bytes);
        _sndUna = _sndNxt = _sndMax = BitConverter.ToUInt32(bytes);
    }

    private void OnEstablished(uint acknowledged)
    {
        _sndUna = _sndNxt = acknowledged;
        _retries = 0;
        _isForced = false;
        _allowance = uint.MaxValue;
        _waitsForAcknowledgment = false;
        RestartTimer();
    }

    /// <summary>SYN, or SYN and ACK.</summary>
    private void SendSyn()
    {
        if (_sndNxt != _sndUna)
            return; // under way
        var flags = _state == TcpState.SynSent ? TcpFlags.Syn : TcpFlags.Syn | TcpFlags.Ack;
        var window = (ushort)Math.Min(ushort.MaxValue, Math.Min(ReceiveLimit, _layer.Pool.Free / 4));
        _rcvAdvertised = _rcvNxt + window;
        if (_layer.Sender.TrySend(Flow, flags, _sndUna, _state == TcpState.SynSent ? 0 : _rcvNxt, window, _receiveScale))
            _sndNxt = _sndMax = _sndUna + 1;
        else
            _isBlocked = true;
        AwaitAcknowledgment();
    }

    private void SendReset()
    {
        if (_state is not (TcpState.Dead or TcpState.Closed))
            _layer.Sender.TrySend(Flow, TcpFlags.Rst | TcpFlags.Ack, _state == TcpState.Connecting ? 0 : _sndMax, _rcvNxt, 0);
    }

    private void SendAcknowledgment()
    {
        if (_layer.Sender.TrySend(Flow, TcpFlags.Ack, _sndMax, _rcvNxt, NextWindow()))
            _mustAcknowledge = false;
        else
            _isBlocked = _mustAcknowledge = true;
    }

    /// <summary>Nothing of what was sent seems to have come: begins anew, slowly.</summary>
    private void SendAgain()
    {
        _sndNxt = _sndUna;
        if (_sndWnd > 0)
            _allowance = (uint)(2 * _segmentSize);
        _sameAcknowledgments = 0;
        _recovers = false;
        _isTimed = false;
        _isForced = true;
        Loop.Schedule(this);
    }

    private void OnNewAcknowledgment(uint acknowledged)
    {
        var count = acknowledged - _sndUna;
        var data = (int)Math.Min(count, (uint)_toGuest.Length);
        _toGuest.Consume(data);
        _sndUna = acknowledged;
        if (IsAfter(_sndUna, _sndNxt))
            _sndNxt = _sndUna;
        _sameAcknowledgments = 0;
        _retries = 0;
        _isForced = false;
        if (_allowance != uint.MaxValue && (_allowance += count) >= SendLimit)
            _allowance = uint.MaxValue;
        if (_isTimed && !IsAfter(_timedSequence, acknowledged))
        {
            OnRoundTrip(Loop.NowMs - _timedSinceMs);
            _isTimed = false;
        }

        if (_recovers)
        {
            // RFC 6582: as long as something is missing, the next piece of it.
            _recovers = IsAfter(_recoverUntil, acknowledged);
            _sendsFirstAgain = _recovers;
        }

        _waitsForAcknowledgment = _sndMax != _sndUna;
        RestartTimer();
        if (count > (uint)data)
            OnFinAcknowledged();
    }

    private void OnFinAcknowledged()
    {
        _finAcknowledged = true;
        switch (_state)
        {
            case TcpState.FinWait1:
                Enter(TcpState.FinWait2);
                break;
            case TcpState.Closing:
                EnterTimeWait();
                break;
            case TcpState.LastAck:
                Enter(TcpState.Closed);
                FinishIfDone();
                break;
        }
    }

    private void OnSameAcknowledgment()
    {
        if (++_sameAcknowledgments != SameAcknowledgmentsOfALoss || _recovers)
            return;
        _recovers = true;
        _recoverUntil = _sndMax;
        _sendsFirstAgain = true;
        _isTimed = false;
    }

    /// <summary>Reads from the peer and sends to the guest, as far as both go.</summary>
    private void Pump()
    {
        if (_sendsFirstAgain)
            SendFirstAgain();
        for (var done = 0; ;)
        {
            var read = Fill();
            if (read < 0)
                return;
            Send();
            done += read;
            if (read == 0 || _isBlocked)
                break;
            if (done >= WorkAtOnce)
            {
                Loop.Schedule(this);
                break;
            }
        }

        if (_sndMax != _sndUna || _toGuest.Length > 0 || _peerEnded && !_finAcknowledged)
            AwaitAcknowledgment();
    }

    /// <returns>How many bytes the peer had; -1: the connection has ended.</returns>
    private int Fill()
    {
        if (_peer is null)
            return 0;
        // What the guest's window lets through, and something to begin with when it opens.
        var limit = Math.Min(SendLimit, Math.Max((long)_sndWnd, Chunk.SmallSize));
        var done = 0;
        while (_isReadable && !_peerEnded && _toGuest.Length < limit)
        {
            var room = _toGuest.RoomToFill();
            if (room.IsEmpty)
            {
                _layer.Pool.Await(this);
                break;
            }

            var count = _peer.Read(room);
            _toGuest.Commit(Math.Max(0, count));
            switch (count)
            {
                case > 0:
                    done += count;
                    break;
                case 0:
                    _isReadable = false;
                    break;
                case -1:
                    _peerEnded = true;
                    break;
                default:
                    AbortForPeer();
                    return -1;
            }
        }

        return done;
    }

    private void Send()
    {
        while (!_finAcknowledged)
        {
            var offset = (int)(_sndNxt - _sndUna);
            var available = _toGuest.Length - offset; // -1 behind the FIN
            if (available < 0 || available == 0 && !_peerEnded)
                return;
            var usable = (int)Math.Min(Math.Min(_sndWnd, _allowance), SendLimit) - offset;
            if (_isForced)
                usable = Math.Max(1, usable);
            var count = Math.Min(Math.Min(available, usable), _layer.Sender.LongestSegment(_segmentSize));
            // RFC 9293, 3.8.6.2.1: rather nothing than a part of a piece, unless nothing else will ever fit.
            if (usable <= 0 || count < available && count < _segmentSize && 2L * count < _greatestWindow && !_isForced)
                return;
            _toGuest.Slice(offset, count, out var first, out var second);
            count = first.Length + second.Length;
            if (count < available && count > _segmentSize)
            {
                count -= count % _segmentSize;
                second = count > first.Length ? second[..(count - first.Length)] : default;
                first = first[..Math.Min(first.Length, count)];
            }

            var hasFin = _peerEnded && count == available && usable > count;
            if (count == 0 && !hasFin || !Transmit(_sndNxt, first, second, hasFin, isLast: count == available))
                return;
            OnSent((uint)count + (hasFin ? 1U : 0));
            if (hasFin)
                OnFinSent();
        }
    }

    private void OnSent(uint length)
    {
        _sndNxt += length;
        _isForced = false;
        if (!IsAfter(_sndNxt, _sndMax))
        {
            _layer.Counters.Retransmissions++;
            return;
        }

        _sndMax = _sndNxt;
        if (_isTimed)
            return;
        _isTimed = true;
        _timedSequence = _sndNxt;
        _timedSinceMs = Loop.NowMs;
    }

    private void OnFinSent()
    {
        if (_state == TcpState.Established)
            Enter(TcpState.FinWait1);
        else if (_state == TcpState.CloseWait)
            Enter(TcpState.LastAck);
    }

    private bool Transmit(uint sequence, ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, bool hasFin, bool isLast)
    {
        var flags = TcpFlags.Ack | (isLast && !first.IsEmpty ? TcpFlags.Psh : 0) | (hasFin ? TcpFlags.Fin : 0);
        if (!_layer.Sender.TrySend(Flow, flags, sequence, _rcvNxt, NextWindow(), -1, _segmentSize, first, second))
        {
            _isBlocked = true;
            return false;
        }

        _mustAcknowledge = false;
        return true;
    }

    /// <summary>The guest has told by copies of its acknowledgment that this is missing.</summary>
    private void SendFirstAgain()
    {
        _sendsFirstAgain = false;
        var sent = (int)(_sndMax - _sndUna);
        if (sent == 0 || _finAcknowledged)
            return;
        var count = Math.Min(Math.Min(sent, _toGuest.Length), _layer.Sender.LongestSegment(_segmentSize));
        _toGuest.Slice(0, count, out var first, out var second);
        var length = first.Length + second.Length;
        if (Transmit(_sndUna, first, second, hasFin: sent > _toGuest.Length && length == _toGuest.Length, isLast: false))
            _layer.Counters.Retransmissions++;
        else
            _sendsFirstAgain = true;
    }
}
