using System.Text;
using Microsoft.Extensions.Logging;

namespace Sharpvisor.Devices.Xen;

/// <summary>Bytes that a domain writes for the host's log, made lines.</summary>
internal sealed class XenLog(ILogger logger)
{
    private const int Longest = 4096;

    private readonly StringBuilder _line = new();

    public void Add(byte value)
    {
        if (value == '\n' || _line.Length == Longest)
        {
            logger.LogInformation("guest: {Text}", _line.ToString());
            _line.Clear();
        }

        if (value is >= 0x20 and < 0x7F or (byte)'\t')
            _line.Append((char)value);
    }

    public void Add(ReadOnlySpan<byte> text)
    {
        foreach (var value in text)
            Add(value);
    }
}
