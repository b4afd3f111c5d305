using System.Buffers.Binary;

namespace Sharpvisor.Servers.Vnc;

/// <summary>What goes to a client: collected in memory, sent by <see cref="FlushAsync"/>.</summary>
internal sealed class RfbWriter(Stream stream, TimeSpan patience)
{
    private byte[] _buffer = new byte[4096];

    /// <summary>Bytes not sent yet.</summary>
    public int Length { get; private set; }

    /// <summary>The next bytes, to be filled by the caller at once.</summary>
    public Span<byte> Take(int count)
    {
        if (_buffer.Length - Length < count)
            Array.Resize(ref _buffer, Math.Max(_buffer.Length * 2, Length + count));
        var span = _buffer.AsSpan(Length, count);
        Length += count;
        return span;
    }

    /// <summary>Bytes that were written, for what is known only after what follows them.</summary>
    public Span<byte> Written(int offset, int count) => _buffer.AsSpan(0, Length).Slice(offset, count);

    /// <summary>Forgets what was written after an offset.</summary>
    public void Truncate(int length) => Length = length;

    public void U8(int value) => Take(1)[0] = (byte)value;

    public void U16(int value) => BinaryPrimitives.WriteUInt16BigEndian(Take(2), (ushort)value);

    public void U32(uint value) => BinaryPrimitives.WriteUInt32BigEndian(Take(4), value);

    public void Bytes(ReadOnlySpan<byte> data) => data.CopyTo(Take(data.Length));

    /// <summary>A length of 32 bits and the text in Latin-1.</summary>
    public void Text(string text)
    {
        U32((uint)text.Length);
        System.Text.Encoding.Latin1.GetBytes(text, Take(text.Length));
    }

    /// <summary>The head of a rectangle of an update.</summary>
    public void RectangleHead(Area area, Encoding encoding)
    {
        U16(area.X);
        U16(area.Y);
        U16(area.Width);
        U16(area.Height);
        U32((uint)encoding);
    }

    /// <summary>Sends everything; waits for a client that is slow.</summary>
    /// <exception cref="TimeoutException">The client takes nothing any more.</exception>
    public async ValueTask FlushAsync(CancellationToken cancellation)
    {
        // In parts, so that the time is that without any progress.
        const int part = 64 * 1024;
        for (var sent = 0; sent < Length; sent += part)
        {
            var write = stream.WriteAsync(_buffer.AsMemory(sent, Math.Min(part, Length - sent)), cancellation);
            if (!write.IsCompletedSuccessfully)
                await write.AsTask().WaitAsync(patience, cancellation).ConfigureAwait(false);
        }

        Length = 0;
    }
}
