// Buffers of TCP connections: what RFC 9293, 3.8.6 calls the send and the receive buffer.
namespace Sharpvisor.Backends.Net.User;

/// <summary>A queue of bytes in chunks of a <see cref="PacketPool"/>.</summary>
internal sealed class ChunkChain
{
    private readonly PacketPool _pool;
    private Chunk? _first, _last;
    private bool _wasFilled;

    public ChunkChain(PacketPool pool)
    {
        _pool = pool;
    }

    public int Length { get; private set; }

    /// <summary>The first bytes, as far as they lie together.</summary>
    public ReadOnlySpan<byte> Head => _first is null ? default : _first.Bytes.AsSpan(_first.Start, _first.Length);

    /// <summary>Appends what there is room for.</summary>
    /// <returns>How much.</returns>
    public int Append(ReadOnlySpan<byte> data)
    {
        var done = 0;
        while (done < data.Length)
        {
            if ((_last is null || _last.End == _last.Size) && !TryExtend(large: _last is not null || data.Length > Chunk.SmallSize))
                break;
            var count = Math.Min(data.Length - done, _last!.Size - _last.End);
            data.Slice(done, count).CopyTo(_last.Bytes.AsSpan(_last.End));
            _last.End += count;
            Length += count;
            done += count;
        }

        return done;
    }

    /// <summary>Room behind the last byte, for <see cref="Commit"/>; empty: the pool has none.</summary>
    public Span<byte> RoomToFill()
    {
        // Rather a new chunk than few bytes at the end of the last one: each read is a call of the host.
        if ((_last is null || _last.Size - _last.End < Chunk.SmallSize) && !TryExtend(large: _last is not null || _wasFilled))
            return default;
        return _last!.Bytes.AsSpan(_last.End);
    }

    /// <summary>So many bytes of the room were filled.</summary>
    public void Commit(int count)
    {
        _last!.End += count;
        Length += count;
        _wasFilled = _last.End == _last.Size;
        if (_last.Length == 0)
            RemoveEmptyEnd();
    }

    /// <summary>Drops the first bytes.</summary>
    public void Consume(int count)
    {
        Length -= count;
        while (_first is not null && count >= _first.Length)
        {
            count -= _first.Length;
            var empty = _first;
            _first = empty.Next;
            _pool.Return(empty);
        }

        if (_first is null)
            _last = null;
        else
            _first.Start += count;
    }

    /// <summary>Bytes from <paramref name="offset"/> on, as many as lie in two pieces, at most <paramref name="count"/>.</summary>
    public void Slice(int offset, int count, out ReadOnlySpan<byte> first, out ReadOnlySpan<byte> second)
    {
        first = second = default;
        var chunk = _first;
        while (chunk is not null && offset >= chunk.Length)
        {
            offset -= chunk.Length;
            chunk = chunk.Next;
        }

        if (chunk is null || count == 0)
            return;
        first = chunk.Bytes.AsSpan(chunk.Start + offset, Math.Min(count, chunk.Length - offset));
        count -= first.Length;
        if (count > 0 && chunk.Next is { } next)
            second = next.Bytes.AsSpan(next.Start, Math.Min(count, next.Length));
    }

    public void Clear() => Consume(Length);

    private bool TryExtend(bool large)
    {
        if (_pool.TryRent(large) is not { } chunk)
            return false;
        if (_last is null)
            _first = chunk;
        else
            _last.Next = chunk;
        _last = chunk;
        return true;
    }

    private void RemoveEmptyEnd()
    {
        var empty = _last!;
        if (_first == empty)
        {
            _first = _last = null;
        }
        else
        {
            var before = _first!;
            while (before.Next != empty)
                before = before.Next!;
            before.Next = null;
            _last = before;
        }

        _pool.Return(empty);
    }
}
