using System.Buffers.Binary;

namespace Sharpvisor.Servers.Vnc;

/// <summary>Big-endian fields from a stream, through one small buffer: whatever length a client names, no more is kept.</summary>
internal sealed class RfbReader(Stream stream)
{
    public const int Capacity = 4096;

    private readonly byte[] _buffer = new byte[Capacity];
    private int _start;
    private int _end;

    /// <summary>The next bytes, valid until the next call.</summary>
    /// <param name="count">Up to <see cref="Capacity"/>.</param>
    /// <exception cref="EndOfStreamException">The other side has closed.</exception>
    public async ValueTask<ReadOnlyMemory<byte>> ReadAsync(int count, CancellationToken cancellation)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, Capacity);
        if (Capacity - _start < count)
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            _end -= _start;
            _start = 0;
        }

        while (_end - _start < count)
        {
            var received = await stream.ReadAsync(_buffer.AsMemory(_end), cancellation).ConfigureAwait(false);
            if (received == 0)
                throw new EndOfStreamException();
            _end += received;
        }

        var result = _buffer.AsMemory(_start, count);
        _start += count;
        if (_start == _end)
            _start = _end = 0; // the bytes stay where they are until the next read
        return result;
    }

    public async ValueTask<byte> ReadByteAsync(CancellationToken cancellation) =>
        (await ReadAsync(1, cancellation).ConfigureAwait(false)).Span[0];

    public async ValueTask SkipAsync(long count, CancellationToken cancellation)
    {
        while (count > 0)
        {
            var part = (int)Math.Min(count, Capacity);
            await ReadAsync(part, cancellation).ConfigureAwait(false);
            count -= part;
        }
    }
}

internal static class FieldExtensions
{
    public static ushort U16(this ReadOnlyMemory<byte> message, int offset) => BinaryPrimitives.ReadUInt16BigEndian(message.Span[offset..]);

    public static uint U32(this ReadOnlyMemory<byte> message, int offset) => BinaryPrimitives.ReadUInt32BigEndian(message.Span[offset..]);

    public static byte U8(this ReadOnlyMemory<byte> message, int offset) => message.Span[offset];
}
