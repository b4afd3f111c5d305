// The log of what guests ask services for. No specification; what a guest wrote is not trusted.
using Microsoft.Extensions.Logging;

namespace Sharpvisor.Backends.Net.User.Services;

/// <summary>
/// Who asked a service for what, a line each. What a guest wrote gets into no line as it is, and one that asks all the
/// time fills no disk: so many lines a second, and then how many there would have been.
/// </summary>
internal sealed class RequestLog(ILogger logger, string service, Func<long> nowMs)
{
    private const int Burst = 500, PerSecond = 50;
    private const int LongestText = 200;

    private long _creditMs = Burst * 1000 / PerSecond;
    private long _lastMs = nowMs();
    private long _left;

    public void Write(string line)
    {
        const int costMs = 1000 / PerSecond;
        var now = nowMs();
        _creditMs = Math.Min(Burst * costMs, _creditMs + Math.Max(0, now - _lastMs));
        _lastMs = now;
        if (_creditMs < costMs)
        {
            _left++;
            return;
        }

        _creditMs -= costMs;
        if (_left > 0)
            logger.LogInformation("{Service}: {Count} lines were left out", service, _left);
        _left = 0;
        logger.LogInformation("{Service}: {Line}", service, line);
    }

    /// <summary>Text of a guest in one line: what could move a terminal's cursor is a question mark, what is too long is cut.</summary>
    public static string Clean(string text)
    {
        var cut = text.Length > LongestText ? text[..LongestText] + "..." : text;
        return string.Create(cut.Length, cut, (to, from) =>
        {
            for (var i = 0; i < to.Length; i++)
                to[i] = from[i] is >= ' ' and < '\x7F' ? from[i] : '?';
        });
    }
}
