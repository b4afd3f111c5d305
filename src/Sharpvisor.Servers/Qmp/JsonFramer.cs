// Cuts a stream of bytes into JSON values, which QMP separates by nothing but their own end. What can be no value, is
// too long or too deep is dropped up to the next end of line, and costs no memory.
// Follows: RFC 8259 as far as strings and brackets go; the values themselves are looked at by whoever parses them.
using System.Buffers;

namespace Sharpvisor.Servers.Qmp;

/// <summary>What <see cref="JsonFramer.TryRead"/> found.</summary>
internal enum JsonFrame
{
    Value,
    TooLong,
    TooDeep,

    /// <summary>A line ended within a string.</summary>
    Broken,
}

/// <param name="maximumLength">Of one value, in bytes.</param>
internal sealed class JsonFramer(int maximumLength = JsonFramer.MaximumLength)
{
    /// <summary>Of one value that comes from a client.</summary>
    public const int MaximumLength = 1 << 20;

    public const int MaximumDepth = 64;

    private ArrayBufferWriter<byte> _value = new();
    private int _depth;
    private bool _isInString, _isEscaped, _isBracketed, _isDropping;

    /// <summary>Takes bytes until a value has ended.</summary>
    /// <param name="input">What is left of it afterwards comes next.</param>
    /// <returns>False: all is taken, and no value is complete.</returns>
    public bool TryRead(ref ReadOnlySpan<byte> input, out JsonFrame frame, out ReadOnlyMemory<byte> value)
    {
        (frame, value) = (JsonFrame.Value, default);
        while (input.Length > 0)
        {
            var next = input[0];
            if (_isDropping)
            {
                input = input[1..];
                _isDropping = next != '\n';
                continue;
            }

            // A value that is not in brackets ends where the next begins.
            if (_value.WrittenCount > 0 && !_isBracketed && !_isInString && (next is (byte)'\n' or (byte)'{' or (byte)'['))
                return End(out value);
            input = input[1..];
            if (_value.WrittenCount == 0 && (next is (byte)' ' or (byte)'\t' or (byte)'\r' or (byte)'\n'))
                continue;
            if (_isInString && next == '\n')
                return Drop(JsonFrame.Broken, isAtEnd: true, out frame);
            if (_value.WrittenCount == maximumLength)
                return Drop(JsonFrame.TooLong, next == '\n', out frame);
            if (_value.WrittenCount == 0)
                _isBracketed = next is (byte)'{' or (byte)'[';
            _value.Write([next]);
            if (_isInString)
            {
                _isInString = _isEscaped || next != '"';
                _isEscaped = !_isEscaped && next == '\\';
                continue;
            }

            switch (next)
            {
                case (byte)'"':
                    _isInString = true;
                    break;
                case (byte)'{' or (byte)'[':
                    if (++_depth > MaximumDepth)
                        return Drop(JsonFrame.TooDeep, isAtEnd: false, out frame);
                    break;
                case (byte)'}' or (byte)']':
                    if (--_depth <= 0)
                        return End(out value);
                    break;
            }
        }

        return false;
    }

    private bool End(out ReadOnlyMemory<byte> value)
    {
        value = _value.WrittenMemory.ToArray();
        Clear();
        return true;
    }

    private bool Drop(JsonFrame why, bool isAtEnd, out JsonFrame frame)
    {
        frame = why;
        Clear();
        _isDropping = !isAtEnd;
        return true;
    }

    private void Clear()
    {
        if (_value.Capacity > 64 << 10)
            _value = new();
        else
            _value.ResetWrittenCount();
        _depth = 0;
        _isInString = _isEscaped = _isBracketed = false;
    }
}
