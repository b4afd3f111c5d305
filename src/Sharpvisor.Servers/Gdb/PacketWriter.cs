// $data#checksum as it is sent ("Overview" of the GDB manual's appendix E): escapes, run lengths are not made.
using System.Buffers.Text;
using System.Text;

namespace Sharpvisor.Servers.Gdb;

/// <summary>Makes one reply at a time, in one buffer that stays: what was sent last can be sent again.</summary>
internal sealed class PacketWriter(int capacity)
{
    private const int Frame = 4; // $, # and the checksum

    // An escaped byte takes two, and an acknowledgment stands before all.
    private readonly byte[] _buffer = new byte[capacity + Frame + 2];
    private int _start, _length;

    /// <summary>Data that still fits.</summary>
    public int Room => _buffer.Length - _length - 3;

    /// <summary>The packet that <see cref="End"/> has completed, behind the acknowledgment if there was to be one.</summary>
    public ReadOnlyMemory<byte> Complete => _buffer.AsMemory(0, _length);

    /// <summary>The same without acknowledgment.</summary>
    public ReadOnlyMemory<byte> Again => _buffer.AsMemory(_start, _length - _start);

    /// <param name="acknowledges">A + before the packet, for the request that it answers.</param>
    public PacketWriter Begin(bool acknowledges)
    {
        _start = 0;
        if (acknowledges)
            _buffer[_start++] = (byte)'+';
        _buffer[_start] = (byte)'$';
        _length = _start + 1;
        return this;
    }

    /// <exception cref="InvalidOperationException">There is no room.</exception>
    public PacketWriter Text(ReadOnlySpan<byte> text)
    {
        if (text.Length > Room)
            throw new InvalidOperationException("a reply is longer than a packet");
        text.CopyTo(_buffer.AsSpan(_length));
        _length += text.Length;
        return this;
    }

    public PacketWriter Number(ulong value)
    {
        Span<byte> digits = stackalloc byte[16];
        Utf8Formatter.TryFormat(value, digits, out var length, 'x');
        return Text(digits[..length]);
    }

    /// <summary>Two digits a byte.</summary>
    public PacketWriter Bytes(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length * 2 > Room)
            throw new InvalidOperationException("a reply is longer than a packet");
        foreach (var value in bytes)
        {
            _buffer[_length++] = "0123456789abcdef"u8[value >> 4];
            _buffer[_length++] = "0123456789abcdef"u8[value & 15];
        }

        return this;
    }

    /// <summary>Bytes as they are, with escapes, as many as fit.</summary>
    /// <returns>How many did.</returns>
    public int Binary(ReadOnlySpan<byte> bytes)
    {
        for (var i = 0; i < bytes.Length; i++)
        {
            if (Room < 2)
                return i;
            var value = bytes[i];
            if (value is (byte)'#' or (byte)'$' or (byte)'}' or (byte)'*')
            {
                _buffer[_length++] = (byte)'}';
                value ^= 0x20;
            }

            _buffer[_length++] = value;
        }

        return bytes.Length;
    }

    /// <summary>Text in digits, for the replies of commands.</summary>
    public PacketWriter Message(string text) => Bytes(Encoding.UTF8.GetBytes(text));

    public void End()
    {
        byte sum = 0;
        foreach (var value in _buffer.AsSpan(_start + 1, _length - _start - 1))
            sum += value;
        _buffer[_length++] = (byte)'#';
        _buffer[_length++] = "0123456789abcdef"u8[sum >> 4];
        _buffer[_length++] = "0123456789abcdef"u8[sum & 15];
    }
}
