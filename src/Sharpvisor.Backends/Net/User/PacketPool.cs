namespace Sharpvisor.Backends.Net.User;

/// <summary>
/// The one place that data of connections is kept in: what a host socket has not taken yet, what the guest has not
/// acknowledged. Bounded for the whole network; a connection that gets nothing here reads no more until it does.
/// </summary>
internal sealed class PacketPool
{
    private const int WokenAtOnce = 32;

    private readonly Stack<Chunk> _free = new();
    private readonly Queue<NetworkTask> _waiting = new();
    private readonly NetworkLoop _loop;
    private readonly int _limit;
    private int _inUse, _peak;
    private long _refusals;

    /// <param name="limit">In bytes.</param>
    public PacketPool(NetworkLoop loop, long limit)
    {
        _loop = loop;
        _limit = (int)Math.Max(4, limit / Chunk.Size);
    }

    public PacketPoolFigures Figures => new(_inUse, _peak, _limit, Chunk.Size, _refusals);

    /// <summary>In bytes.</summary>
    public long Free => (long)(_limit - _inUse) * Chunk.Size;

    /// <returns>Null: the limit is reached.</returns>
    public Chunk? TryRent()
    {
        if (_inUse == _limit)
        {
            _refusals++;
            return null;
        }

        _inUse++;
        _peak = Math.Max(_peak, _inUse);
        if (!_free.TryPop(out var chunk))
            chunk = new Chunk();
        chunk.Start = chunk.End = 0;
        chunk.Next = null;
        return chunk;
    }

    /// <summary>Schedules a task that got nothing, when there is something.</summary>
    public void Await(NetworkTask task)
    {
        if (task.AwaitsPool)
            return;
        task.AwaitsPool = true;
        _waiting.Enqueue(task);
    }

    public void Return(Chunk chunk)
    {
        _inUse--;
        // What a burst needed is given back to the host when it has passed.
        if (_free.Count < Math.Max(64, _inUse))
            _free.Push(chunk);
        // Several, as some may no longer want it; in the end all.
        for (var left = _inUse > _limit / 2 ? WokenAtOnce : int.MaxValue; left > 0 && _waiting.TryDequeue(out var task); left--)
        {
            task.AwaitsPool = false;
            _loop.Schedule(task);
        }
    }
}

/// <summary>A piece of a <see cref="ChunkChain"/>.</summary>
internal sealed class Chunk
{
    public const int Size = 32 << 10;

    public byte[] Bytes { get; } = GC.AllocateUninitializedArray<byte>(Size);

    /// <summary>Of the data, in <see cref="Bytes"/>.</summary>
    public int Start { get; set; }

    public int End { get; set; }

    public Chunk? Next { get; set; }

    public int Length => End - Start;
}
