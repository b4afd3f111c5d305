// Frames on their way to a port of a hub, or to a guest that has no room. No specification.
using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net;

/// <summary>Finished frames that wait, in the order in which they came: a ring of bytes, with a limit. Without locks.</summary>
internal sealed class FrameQueue(int capacity)
{
    private const int LengthSize = 4;

    private byte[]? _bytes; // frames behind their lengths, each in one piece
    private int _start, _end;
    private int _wrapsAt = int.MaxValue; // behind the last record before the ring goes on at 0

    public int Count { get; private set; }

    /// <summary>In bytes, lengths included.</summary>
    public int Used { get; private set; }

    public int Capacity => capacity;

    /// <summary>False: there is no room.</summary>
    public bool TryAdd(in EthernetFrame frame)
    {
        var size = LengthSize + frame.Length;
        var isWrapped = _wrapsAt != int.MaxValue;
        if (!isWrapped && capacity - _end < size)
        {
            if (_start <= size)
                return false;
            (_wrapsAt, _end, isWrapped) = (_end, 0, true);
        }

        if (isWrapped && _start - _end <= size)
            return false;
        _bytes ??= GC.AllocateUninitializedArray<byte>(capacity);
        BinaryPrimitives.WriteInt32LittleEndian(_bytes.AsSpan(_end), frame.Length);
        frame.CopyTo(_bytes.AsSpan(_end + LengthSize));
        _end += size;
        Used += size;
        Count++;
        return true;
    }

    /// <summary>The first one, until <see cref="Remove"/>.</summary>
    public bool TryPeek(out ReadOnlySpan<byte> frame)
    {
        frame = Count == 0 ? default : _bytes.AsSpan(_start + LengthSize, BinaryPrimitives.ReadInt32LittleEndian(_bytes.AsSpan(_start)));
        return Count > 0;
    }

    /// <summary>Takes the first one out.</summary>
    public void Remove()
    {
        var size = LengthSize + BinaryPrimitives.ReadInt32LittleEndian(_bytes.AsSpan(_start));
        _start += size;
        Used -= size;
        if (--Count == 0)
            (_start, _end, _wrapsAt) = (0, 0, int.MaxValue);
        else if (_start == _wrapsAt)
            (_start, _wrapsAt) = (0, int.MaxValue);
    }
}
