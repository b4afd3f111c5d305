// What the backends with a host stream have in common: a bounded output queue that one thread drains, so that a slow
// host slows the guest down instead of blocking it, and an input thread that waits for room in the device.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Char;

namespace Sharpvisor.Backends.Char;

/// <summary>A character backend over a blocking host stream.</summary>
public abstract class ThreadedCharBackend : ICharBackend
{
    private const int QueueSize = 64 << 10;

    /// <summary>What is typed while the guest does not read, so that Ctrl-A is seen behind it.</summary>
    private const int TypeAheadSize = 64 << 10;
    private static readonly TimeSpan DrainLimit = TimeSpan.FromSeconds(2);

    private readonly Lock _lock = new();
    private readonly byte[] _queue = new byte[QueueSize];
    private readonly AutoResetEvent _hasOutput = new(false);
    private readonly ManualResetEventSlim _receiveReady = new(false);
    private readonly ManualResetEventSlim _drained = new(true);
    private int _head, _count;
    private bool _guestWaits, _asideWaits;
    private readonly Queue<byte> _typedAhead = new(); // guarded by the gate
    private volatile bool _stopping;
    private bool _disposed;
    private Thread? _writer, _reader;
    private ICharFrontend? _frontend;
    private MachineGate? _gate;

    protected ThreadedCharBackend(string name, ILogger logger)
    {
        Name = name;
        Logger = logger;
    }

    /// <summary>Raised when a thread of the backend, or the device it called, threw what it should not.</summary>
    public event Action<Exception>? Faulted;

    public string Name { get; protected set; }

    protected ILogger Logger { get; }

    protected bool Stopping => _stopping;

    /// <summary>False for an output only.</summary>
    protected virtual bool HasInput => true;

    public void Attach(ICharFrontend frontend, MachineGate gate)
    {
        if (_frontend is not null)
            throw new InvalidOperationException($"{Name} is attached to a device already");
        _frontend = frontend;
        _gate = gate;
        _writer = Start(WriteLoop, "out");
        if (HasInput)
            _reader = Start(ReadLoop, "in");
    }

    public int Write(ReadOnlySpan<byte> data)
    {
        int taken;
        lock (_lock)
        {
            taken = Math.Min(data.Length, QueueSize - _count);
            Enqueue(data[..taken]);
            _guestWaits |= taken < data.Length;
        }

        if (taken > 0)
            _hasOutput.Set();
        return taken;
    }

    public void OnReceiveReady()
    {
        while (_typedAhead.Count > 0 && _frontend!.ReceiveCapacity > 0)
            _frontend.Receive([_typedAhead.Dequeue()]);
        _receiveReady.Set();
    }

    public async ValueTask DisposeAsync()
    {
        if (_disposed)
            return;
        _disposed = true;
        GC.SuppressFinalize(this);
        await Task.Run(() =>
        {
            if (_writer is not null)
                _drained.Wait(DrainLimit);
            _stopping = true;
            _hasOutput.Set();
            _receiveReady.Set();
            StopHost();
            _writer?.Join(DrainLimit);
            _reader?.Join(DrainLimit);
        }).ConfigureAwait(false);
        CloseHost();
        _hasOutput.Dispose();
        _receiveReady.Dispose();
        _drained.Dispose();
    }

    /// <summary>Writes all of it to the host, or drops it after logging why. Called on the writer's thread.</summary>
    protected abstract void WriteToHost(ReadOnlySpan<byte> data);

    /// <summary>Reads from the host and calls <see cref="Deliver"/> until <see cref="StopHost"/> or the end of the input.</summary>
    protected virtual void ReadLoop()
    {
    }

    /// <summary>Makes <see cref="WriteToHost"/> and <see cref="ReadLoop"/> return soon. Any thread.</summary>
    protected abstract void StopHost();

    /// <summary>Releases the host's end, after both threads have ended.</summary>
    protected abstract void CloseHost();

    /// <summary>Gives input to the device as it has room; false when the backend ends before all is given.</summary>
    protected bool Deliver(ReadOnlySpan<byte> data)
    {
        while (data.Length > 0)
        {
            int given;
            using (_gate!.Enter())
            {
                given = Math.Min(_frontend!.ReceiveCapacity, data.Length);
                if (given > 0)
                    _frontend.Receive(data[..given]);
                else
                    _receiveReady.Reset();
            }

            data = data[given..];
            if (given == 0 && !_stopping)
                _receiveReady.Wait();
            if (_stopping)
                return data.Length == 0;
        }

        return true;
    }

    /// <summary>Like <see cref="Deliver"/>, of a key; waits only when very many have gathered.</summary>
    protected bool TypeAhead(byte key)
    {
        while (!_stopping)
        {
            using (_gate!.Enter())
            {
                if (_typedAhead.Count < TypeAheadSize)
                {
                    _typedAhead.Enqueue(key);
                    OnReceiveReady();
                    return true;
                }

                _receiveReady.Reset();
            }

            _receiveReady.Wait();
        }

        return false;
    }

    /// <summary>Output of somebody else than the device; as much as there is room for. <see cref="OnDrained"/> follows when that was not all.</summary>
    private protected int WriteAside(ReadOnlySpan<byte> data)
    {
        int taken;
        lock (_lock)
        {
            taken = Math.Min(data.Length, QueueSize - _count);
            Enqueue(data[..taken]);
            _asideWaits |= taken < data.Length;
        }

        if (taken > 0)
            _hasOutput.Set();
        return taken;
    }

    /// <summary>There is room for more of <see cref="WriteAside"/>.</summary>
    private protected virtual void OnDrained()
    {
    }

    protected void DeliverBreak()
    {
        using (_gate!.Enter())
            _frontend!.OnBreak();
    }

    protected void DeliverHangUp()
    {
        using (_gate!.Enter())
            _frontend!.OnHangUp();
    }

    /// <summary>Text for the person at the other end, between the guest's output.</summary>
    protected void Say(string text)
    {
        lock (_lock)
        {
            var bytes = System.Text.Encoding.UTF8.GetBytes(text);
            Enqueue(bytes.AsSpan(0, Math.Min(bytes.Length, QueueSize - _count)));
        }

        _hasOutput.Set();
    }

    private Thread Start(Action loop, string direction)
    {
        var thread = new Thread(() => Guarded(loop)) { IsBackground = true, Name = $"{Name} {direction}" };
        thread.Start();
        return thread;
    }

    /// <summary>An error of ours in one backend is logged and ends that backend, never the process.</summary>
    private void Guarded(Action loop)
    {
        try
        {
            loop();
        }
        catch (Exception e)
        {
            if (Faulted is { } faulted)
                faulted(e);
            else
                Logger.LogError(e, "{Backend}: stopped by an internal error", Name);
            lock (_lock)
            {
                _count = 0;
                _drained.Set();
            }
        }
    }

    private void Enqueue(ReadOnlySpan<byte> data)
    {
        if (data.Length == 0)
            return;
        _drained.Reset();
        var tail = (_head + _count) % QueueSize;
        var first = Math.Min(data.Length, QueueSize - tail);
        data[..first].CopyTo(_queue.AsSpan(tail));
        data[first..].CopyTo(_queue);
        _count += data.Length;
    }

    private void WriteLoop()
    {
        var chunk = new byte[QueueSize];
        while (true)
        {
            int length;
            lock (_lock)
            {
                length = _count;
                var first = Math.Min(length, QueueSize - _head);
                _queue.AsSpan(_head, first).CopyTo(chunk);
                _queue.AsSpan(0, length - first).CopyTo(chunk.AsSpan(first));
            }

            if (length == 0)
            {
                if (_stopping)
                    return;
                _hasOutput.WaitOne();
                continue;
            }

            WriteToHost(chunk.AsSpan(0, length));
            bool wake, wakeAside;
            lock (_lock)
            {
                _head = (_head + length) % QueueSize;
                _count -= length;
                if (_count == 0)
                    _drained.Set();
                wake = _guestWaits;
                wakeAside = _asideWaits;
                _guestWaits = _asideWaits = false;
            }

            if (wakeAside)
                OnDrained();
            if (!wake)
                continue;
            using (_gate!.Enter())
                _frontend!.OnWritable();
        }
    }
}
