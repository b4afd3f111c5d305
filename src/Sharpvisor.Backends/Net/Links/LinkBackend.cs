// What all links have in common: the other end of a guest's cable is a descriptor of the host. One thread takes the
// guest's frames to it, and its frames to the guest; it never blocks but in its poller.
// Leaves out: a carrier that goes down when the other side has gone. The guest's frames are then dropped, and counted.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>A cable that leads out of the machine.</summary>
public abstract class LinkBackend : INetworkBackend
{
    /// <summary>Frames, or calls of the host, in one direction before the other one has its turn.</summary>
    private protected const int AtOnce = 64;

    private readonly LinkCounters _counters = new();
    private Thread? _thread;
    private INetworkDevice? _device;
    private volatile bool _isStopping;
    private int _transmitReady = 1, _receiveReady;
    private bool _isFull, _isDisposed;

    private protected LinkBackend(string name, ILogger logger)
    {
        Name = name;
        Logger = logger;
    }

    /// <summary>Raised when the link's thread ended by an error of ours.</summary>
    public event Action<Exception>? Faulted;

    public string Name { get; }

    /// <summary>Whoever has the other end gets finished frames: the guest makes checksums and cuts segments.</summary>
    public virtual bool TakesOffloads => false;

    /// <summary>Now. Any thread.</summary>
    public LinkFigures Figures => _counters.Figures;

    private protected ILogger Logger { get; }

    private protected SocketPoller Poller { get; } = SocketPoller.Create();

    private protected INetworkDevice Device => _device!;

    /// <summary>Until there is something to do that nobody wakes for, in milliseconds; -1: nothing.</summary>
    private protected virtual int WaitMs => -1;

    public void Attach(INetworkDevice device)
    {
        if (_device is not null)
            throw new InvalidOperationException($"{Name} is attached to a device already");
        _device = device;
        _thread = new Thread(Run) { IsBackground = true, Name = $"net {Name}" };
        _thread.Start();
    }

    public void OnTransmitReady()
    {
        Volatile.Write(ref _transmitReady, 1);
        Poller.Wake();
    }

    public void OnReceiveReady()
    {
        Volatile.Write(ref _receiveReady, 1);
        Poller.Wake();
    }

    public async ValueTask DisposeAsync()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        _isStopping = true;
        if (_thread is not null)
        {
            Poller.Wake();
            await Task.Run(_thread.Join).ConfigureAwait(false);
        }

        Close();
        Poller.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Moves what can be moved now, in bounded time.</summary>
    /// <returns>True: there is more to do at once.</returns>
    private protected abstract bool Work();

    /// <summary>The thread has ended, or never begun.</summary>
    private protected abstract void Close();

    /// <summary>The next frame of the guest.</summary>
    private protected bool TryTake(PacketBuffer packet)
    {
        if (Interlocked.Exchange(ref _transmitReady, 0) == 0 || !Device.TryTransmit(packet))
            return false;
        Volatile.Write(ref _transmitReady, 1); // until there was none
        _counters.FramesFromGuest++;
        _counters.BytesFromGuest += packet.Length;
        return true;
    }

    /// <summary>Whether <see cref="TryTake"/> may find one.</summary>
    private protected bool MayTake => Volatile.Read(ref _transmitReady) != 0;

    /// <summary>Gives the guest a frame from outside; one that can be none is dropped.</summary>
    /// <returns>False: it has no room. <see cref="Work"/> is called when it has.</returns>
    private protected bool TryGive(in EthernetFrame frame)
    {
        if (frame.Length is < EthernetFrame.HeaderLength or > EthernetFrame.MaximumLength)
        {
            CountDropped();
            return true;
        }

        var hasRoom = Interlocked.Exchange(ref _receiveReady, 0) != 0;
        if (_isFull && !hasRoom)
            return false;
        _isFull = !Device.TryReceive(frame);
        if (_isFull)
            return false;
        _counters.FramesToGuest++;
        _counters.BytesToGuest += frame.Length;
        return true;
    }

    /// <summary>Frames of either direction that went no further.</summary>
    private protected void CountDropped(int frames = 1) => _counters.Dropped += frames;

    private void Run()
    {
        try
        {
            while (!_isStopping)
            {
                var hasMore = Work();
                Poller.Wait(hasMore ? 0 : WaitMs);
            }
        }
        catch (Exception e)
        {
            if (Faulted is { } faulted)
                faulted(e);
            else
                Logger.LogError(e, "{Backend}: stopped by an internal error", Name);
        }
    }
}
