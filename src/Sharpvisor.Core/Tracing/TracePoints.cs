namespace Sharpvisor.Core.Tracing;

/// <summary>
/// The trace points of a machine: what is wanted of them, and where it goes. Whoever has something to tell asks
/// <see cref="Wants"/> first, which is one comparison while nothing is wanted.
/// </summary>
public sealed class TracePoints : IDisposable
{
    private readonly Lock _lock = new();
    private TraceFilter[] _filters = [];
    private Action<string>? _write;
    private int _kinds;
    private bool _disposed;

    public TracePoints()
    {
        EventListeners.Changed += Update;
        Update();
    }

    /// <summary>The kinds of events that are wanted have changed. Raised on any thread; it must not block.</summary>
    public event Action? Changed;

    public TraceKind Kinds => (TraceKind)Volatile.Read(ref _kinds);

    /// <summary>What is written as lines.</summary>
    public IReadOnlyList<TraceFilter> Filters => Volatile.Read(ref _filters);

    public bool Wants(TraceKind kind) => (Volatile.Read(ref _kinds) & (int)kind) != 0;

    /// <summary>Chooses what is written as lines.</summary>
    /// <param name="write">Where to, called from any thread, one at a time; null: as before.</param>
    public void Set(IReadOnlyList<TraceFilter> filters, Action<string>? write = null)
    {
        lock (_lock)
        {
            _filters = [.. filters];
            _write = write ?? _write;
        }

        Update();
    }

    public void Write(in TraceEvent e)
    {
        if ((EventListeners.Wanted & e.Kind) != 0)
            GuestEventSource.Log.Write(in e);
        foreach (var filter in Volatile.Read(ref _filters))
        {
            if (!filter.Wants(in e))
                continue;
            lock (_lock)
                _write?.Invoke(e.ToString());
            return;
        }
    }

    /// <summary>Afterwards nothing is wanted, and <see cref="Changed"/> is not raised any more.</summary>
    public void Dispose()
    {
        EventListeners.Changed -= Update;
        lock (_lock)
        {
            _disposed = true;
            Volatile.Write(ref _kinds, 0);
        }
    }

    private void Update()
    {
        lock (_lock)
        {
            var kinds = EventListeners.Wanted;
            foreach (var filter in _filters)
                kinds |= filter.Kind;
            if (_disposed || (int)kinds == _kinds)
                return;
            Volatile.Write(ref _kinds, (int)kinds);
            Changed?.Invoke();
        }
    }
}
