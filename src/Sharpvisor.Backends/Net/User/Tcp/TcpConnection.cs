// A TCP connection of the guest: RFC 9293, 3.3 to 3.6.
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Tcp;

/// <summary>The states of RFC 9293, 3.3.2, seen from our side of the guest's connection.</summary>
internal enum TcpState
{
    /// <summary>The guest's SYN has come; what it leads to is not connected yet. Not in the RFC.</summary>
    Connecting,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,

    /// <summary>Over for the guest; the peer may still have data to take.</summary>
    Closed,

    /// <summary>Over.</summary>
    Dead,
}

/// <summary>A TCP connection of the guest: its life. See the other files for what comes in and what goes out.</summary>
internal sealed partial class TcpConnection : NetworkTask, IStreamOwner, IDisposable
{
    private const long ConnectTimeoutMs = 75_000; // as Berkeley's
    private const long TimeWaitMs = 1_000; // nothing wanders about on this cable
    private const long DrainMs = 120_000;
    private const long KeepAliveMs = 120_000;
    private const int MostProbes = 4, MostSilentHalfClosed = 5; // times KeepAliveMs
    private const int MostRetries = 12, MostSynRetries = 6;
    private const long FirstTimeoutMs = 1_000, LeastTimeoutMs = 500, MostTimeoutMs = 60_000;

    private readonly TcpLayer _layer;
    private readonly ChunkChain _toGuest, _toPeer;
    private IStreamPeer? _peer;
    private TcpState _state;
    private bool _isDetached;

    // Timing: what the one deadline is for, and how long it takes.
    private bool _waitsForAcknowledgment;
    private int _retries, _probes;
    private long _smoothedRttMs = -1, _rttVariationMs, _timeoutMs = FirstTimeoutMs;

    public TcpConnection(TcpLayer layer, in TcpFlow flow)
    {
        _layer = layer;
        Flow = flow;
        _toGuest = new ChunkChain(layer.Pool);
        _toPeer = new ChunkChain(layer.Pool);
        _state = TcpState.Dead;
    }

    public TcpFlow Flow { get; }

    private bool IsHalfOpen => _state is TcpState.Connecting or TcpState.SynSent or TcpState.SynReceived;

    private NetworkLoop Loop => _layer.Loop;

    /// <summary>The guest's SYN came, and what it leads to is there.</summary>
    public void Accept(in TcpSegment syn, IStreamPeer peer)
    {
        _peer = peer;
        _isReadable = true;
        BeginAsServer(syn);
        Enter(TcpState.SynReceived);
        Loop.Schedule(this);
    }

    /// <summary>The same before the peer is connected: <see cref="OnConnected"/> or <see cref="OnConnectFailed"/> follows.</summary>
    public void AcceptWhenConnected(in TcpSegment syn, IStreamPeer peer)
    {
        _peer = peer;
        BeginAsServer(syn);
        Enter(TcpState.Connecting);
        Loop.SetTimer(this, Loop.NowMs + ConnectTimeoutMs);
    }

    /// <summary>Somebody of the host wants to talk to the guest.</summary>
    public void Open(IStreamPeer peer)
    {
        _peer = peer;
        _isReadable = true;
        BeginAsClient();
        Enter(TcpState.SynSent);
        Loop.Schedule(this);
    }

    public void OnConnected()
    {
        if (_state != TcpState.Connecting)
            return;
        Enter(TcpState.SynReceived);
        OnReadable();
    }

    public void OnConnectFailed(System.Net.Sockets.SocketError error)
    {
        if (_state != TcpState.Connecting)
            return;
        _layer.Counters.ConnectionsRefused++;
        SendReset();
        Dispose();
    }

    public void OnReadable()
    {
        _isReadable = true;
        Loop.Schedule(this);
    }

    public void OnWritable()
    {
        _peerIsFull = false;
        Loop.Schedule(this);
    }

    /// <summary>Whether a segment begins another connection between the same ports (RFC 9293, 3.6.1).</summary>
    public bool IsReplacedBy(in TcpSegment segment) =>
        _state == TcpState.TimeWait && segment.Flags == TcpFlags.Syn && IsAfter(segment.Sequence, _rcvNxt);

    /// <summary>Its ports are used by another connection, or will be.</summary>
    public void Detach()
    {
        Enter(TcpState.Closed);
        FinishIfDone();
    }

    public override void Work()
    {
        if (_state is TcpState.Dead or TcpState.Connecting || !FlushToPeer())
            return;
        _isBlocked = false;
        if (IsHalfOpen)
            SendSyn();
        else if (_state != TcpState.Closed)
            Pump();
        if (_mustAcknowledge && _state is not (TcpState.Dead or TcpState.Closed) && !IsHalfOpen)
            SendAcknowledgment();
        if (_isBlocked && _state != TcpState.Dead)
        {
            if (!_layer.Link.HasRoom)
                Loop.ScheduleWhenGuestHasRoom(this);
            else
                AwaitAcknowledgment(); // ARP has asked; the timer asks again
        }

        FinishIfDone();
    }

    public override void OnTime(long nowMs)
    {
        switch (_state)
        {
            case TcpState.Dead:
                return;
            case TcpState.Connecting:
                OnConnectFailed(System.Net.Sockets.SocketError.TimedOut);
                return;
            case TcpState.TimeWait:
                Detach();
                return;
            case TcpState.Closed:
                // The peer takes nothing: it shall see that something is missing.
                _peer?.Reset();
                Dispose();
                return;
        }

        if (_waitsForAcknowledgment)
            OnNoAcknowledgment();
        else
            OnSilence();
    }

    /// <summary>Ends it at once, without a word to the guest.</summary>
    public void Dispose()
    {
        if (_state == TcpState.Dead)
            return;
        Enter(TcpState.Dead);
        Loop.CancelTimer(this);
        _layer.Remove(this);
        _toGuest.Clear();
        _toPeer.Clear();
        _peer?.Dispose();
        _peer = null;
    }

    /// <summary>Whether one sequence number comes behind another one.</summary>
    private static bool IsAfter(uint one, uint other) => (int)(one - other) > 0;

    private void Enter(TcpState state)
    {
        if (IsHalfOpen)
            _layer.HalfOpen--;
        _state = state;
        if (IsHalfOpen)
            _layer.HalfOpen++;
    }

    /// <summary>The other side is broken: so is this one.</summary>
    private void AbortForPeer()
    {
        SendReset();
        Dispose();
    }

    /// <summary>The guest is broken, or said so.</summary>
    private void AbortForGuest()
    {
        _peer?.Reset();
        Dispose();
    }

    private void EnterTimeWait()
    {
        Enter(TcpState.TimeWait);
        _waitsForAcknowledgment = false;
        Loop.SetTimer(this, Loop.NowMs + TimeWaitMs);
    }

    /// <summary>Both directions have ended for the guest. The peer goes when it has everything.</summary>
    private void FinishIfDone()
    {
        if (_state is not (TcpState.TimeWait or TcpState.Closed))
            return;
        if (_toPeer.Length == 0 && _endGiven)
        {
            _peer?.Dispose();
            _peer = null;
            if (_state == TcpState.Closed)
                Dispose();
        }
        else if (_state == TcpState.Closed && !_isDetached)
        {
            _isDetached = true;
            _layer.OnDetached(this);
            Loop.SetTimer(this, Loop.NowMs + DrainMs);
            Loop.Schedule(this);
        }
    }

    private void AwaitAcknowledgment()
    {
        if (_waitsForAcknowledgment && DueMs != long.MaxValue)
            return;
        _waitsForAcknowledgment = true;
        RestartTimer();
    }

    private void RestartTimer() =>
        Loop.SetTimer(this, Loop.NowMs + (_waitsForAcknowledgment ? Math.Min(MostTimeoutMs, _timeoutMs << Math.Min(_retries, 10)) : KeepAliveMs));

    private void OnNoAcknowledgment()
    {
        if (_layer.Link.HasRoom)
        {
            // Otherwise the guest stands still, which is no loss.
            if (_retries++ >= (IsHalfOpen ? MostSynRetries : MostRetries))
            {
                SendReset();
                AbortForGuest();
                return;
            }

            SendAgain();
        }

        RestartTimer();
    }

    /// <summary>Is the guest still there?</summary>
    private void OnSilence()
    {
        if (++_probes > (_state == TcpState.FinWait2 ? MostSilentHalfClosed : MostProbes))
        {
            SendReset();
            AbortForGuest();
            return;
        }

        _layer.Sender.TrySend(Flow, TcpFlags.Ack, _sndNxt - 1, _rcvNxt, NextWindow());
        RestartTimer();
    }

    /// <summary>RFC 6298.</summary>
    private void OnRoundTrip(long ms)
    {
        if (_smoothedRttMs < 0)
        {
            _smoothedRttMs = ms;
            _rttVariationMs = ms / 2;
        }
        else
        {
            _rttVariationMs += (Math.Abs(_smoothedRttMs - ms) - _rttVariationMs) / 4;
            _smoothedRttMs += (ms - _smoothedRttMs) / 8;
        }

        _timeoutMs = Math.Clamp(_smoothedRttMs + 4 * _rttVariationMs, LeastTimeoutMs, MostTimeoutMs);
    }
}
