namespace Sharpvisor.Core.Block;

/// <summary>
/// The memory of one transfer, in pieces: a view that can be cut without allocating. Who makes it keeps the pieces as
/// they are until the transfer is done.
/// </summary>
public readonly struct BlockBuffers
{
    private readonly Memory<byte> _first;
    private readonly ReadOnlyMemory<Memory<byte>> _rest;

    public BlockBuffers(Memory<byte> piece)
    {
        _first = piece;
        Length = piece.Length;
    }

    /// <exception cref="OverflowException">They have 2 GiB or more in all.</exception>
    public BlockBuffers(ReadOnlyMemory<Memory<byte>> pieces)
    {
        foreach (var piece in pieces.Span)
            Length = checked(Length + piece.Length);
        if (pieces.IsEmpty)
            return;
        _first = pieces.Span[0];
        _rest = pieces[1..];
    }

    private BlockBuffers(Memory<byte> first, ReadOnlyMemory<Memory<byte>> rest, int length)
    {
        _first = first;
        _rest = rest;
        Length = length;
    }

    /// <summary>Bytes in all.</summary>
    public int Length { get; }

    /// <summary>At most this many pieces.</summary>
    public int PieceCount => 1 + _rest.Length;

    public BlockBuffers Slice(int start) => Slice(start, Length - start);

    public BlockBuffers Slice(int start, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length - start);
        var piece = _first;
        var rest = _rest;
        while (start >= piece.Length && !rest.IsEmpty)
        {
            start -= piece.Length;
            piece = rest.Span[0];
            rest = rest[1..];
        }

        return new BlockBuffers(piece[start..], rest, length);
    }

    /// <summary>The pieces, cut to <see cref="Length"/>, none of them empty.</summary>
    public Enumerator GetEnumerator() => new(_first, _rest, Length);

    /// <summary>Gathers all bytes.</summary>
    public void CopyTo(Span<byte> destination)
    {
        foreach (var piece in this)
        {
            piece.Span.CopyTo(destination);
            destination = destination[piece.Length..];
        }
    }

    /// <summary>Scatters as many bytes as there are.</summary>
    public void CopyFrom(ReadOnlySpan<byte> source)
    {
        foreach (var piece in Slice(0, source.Length))
        {
            source[..piece.Length].CopyTo(piece.Span);
            source = source[piece.Length..];
        }
    }

    /// <summary>Fills all bytes with zeroes.</summary>
    public void Clear()
    {
        foreach (var piece in this)
            piece.Span.Clear();
    }

    public struct Enumerator
    {
        private Memory<byte> _next;
        private ReadOnlyMemory<Memory<byte>> _rest;
        private int _left;

        internal Enumerator(Memory<byte> first, ReadOnlyMemory<Memory<byte>> rest, int length)
        {
            _next = first;
            _rest = rest;
            _left = length;
        }

        public Memory<byte> Current { get; private set; }

        public bool MoveNext()
        {
            while (_left > 0)
            {
                var piece = _next.Length > _left ? _next[.._left] : _next;
                if (!_rest.IsEmpty)
                {
                    _next = _rest.Span[0];
                    _rest = _rest[1..];
                }

                _left -= piece.Length;
                if (piece.IsEmpty)
                    continue;
                Current = piece;
                return true;
            }

            return false;
        }
    }
}
