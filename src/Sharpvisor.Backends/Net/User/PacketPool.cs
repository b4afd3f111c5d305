// The memory of a user-mode network for data on its way. No specification: TCP's windows are made of what is free here.
namespace Sharpvisor.Backends.Net.User;

/// <summary>
/// The one place that data of connections is kept in: what a host socket has not taken yet, what the guest has not
/// acknowledged. Bounded for the whole network; a connection that gets nothing here reads no more until it does.
/// </summary>
internal sealed class PacketPool : NetworkTask
{
    private const int WokenAtOnce = 32, LeastLarge = 4;
    private const int KeptLarge = 32, KeptSmall = 256;
    private const long KeptMs = 5_000;

    private readonly Stack<Chunk> _freeLarge = new(), _freeSmall = new();
    private readonly Queue<NetworkTask> _waiting = new();
    private readonly NetworkLoop _loop;
    private readonly long _limit;
    private long _inUse, _peak, _refusals;
    private int _chunks;

    /// <param name="limit">In bytes; not less than a few large chunks.</param>
    public PacketPool(NetworkLoop loop, long limit)
    {
        _loop = loop;
        _limit = Math.Max(LeastLarge * Chunk.LargeSize, limit);
    }

    public PacketPoolFigures Figures => new(_inUse, _peak, _limit, _chunks, _refusals);

    /// <summary>In bytes.</summary>
    public long Free => _limit - _inUse;

    /// <param name="large">Is preferred; near the limit all are small.</param>
    /// <returns>Null: the limit is reached.</returns>
    public Chunk? TryRent(bool large)
    {
        large &= Free >= Chunk.LargeSize;
        if (Free < Chunk.SmallSize)
        {
            _refusals++;
            return null;
        }

        if (!(large ? _freeLarge : _freeSmall).TryPop(out var chunk))
            chunk = new Chunk(large ? Chunk.LargeSize : Chunk.SmallSize);
        chunk.Start = chunk.End = 0;
        chunk.Next = null;
        _chunks++;
        _inUse += chunk.Size;
        _peak = Math.Max(_peak, _inUse);
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
        _chunks--;
        _inUse -= chunk.Size;
        (chunk.Size == Chunk.LargeSize ? _freeLarge : _freeSmall).Push(chunk);
        if (DueMs == long.MaxValue && (_freeLarge.Count > KeptLarge || _freeSmall.Count > KeptSmall))
            _loop.SetTimer(this, _loop.NowMs + KeptMs);
        // Several, as some may no longer want it; in the end all.
        for (var left = _inUse > _limit / 2 ? WokenAtOnce : int.MaxValue; left > 0 && _waiting.TryDequeue(out var task); left--)
        {
            task.AwaitsPool = false;
            _loop.Schedule(task);
        }
    }

    public override void Work()
    {
    }

    /// <summary>What a burst needed is given back to the host some time later.</summary>
    public override void OnTime(long nowMs)
    {
        Trim(_freeLarge, KeptLarge);
        Trim(_freeSmall, KeptSmall);
    }

    private static void Trim(Stack<Chunk> free, int kept)
    {
        while (free.Count > kept)
            free.Pop();
    }
}

/// <summary>A piece of a <see cref="ChunkChain"/>. Small ones are for the many connections that say little, so that all of them fit into the pool.</summary>
internal sealed class Chunk(int size)
{
    public const int SmallSize = 4 << 10, LargeSize = 64 << 10;

    public byte[] Bytes { get; } = GC.AllocateUninitializedArray<byte>(size);

    public int Size => Bytes.Length;

    /// <summary>Of the data, in <see cref="Bytes"/>.</summary>
    public int Start { get; set; }

    public int End { get; set; }

    public Chunk? Next { get; set; }

    public int Length => End - Start;
}
