using System.Diagnostics;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Cli.Commands.Images;

/// <summary>How far something is, on one line of a terminal's standard error.</summary>
internal sealed class ProgressBar : IDisposable
{
    private const int Width = 30;

    private readonly TextWriter? _errors;
    private readonly string _what;
    private readonly long _total;
    private readonly Stopwatch _time = Stopwatch.StartNew();
    private long _shown = -1;

    /// <param name="isWanted">-p: even where it is no terminal; -q: never; null: on a terminal.</param>
    public ProgressBar(TextWriter errors, string what, long total, bool? isWanted)
    {
        _errors = isWanted ?? Terminal.IsTerminal(2) ? errors : null;
        (_what, _total) = (what, Math.Max(1, total));
    }

    public void Report(long done)
    {
        var percent = (long)((decimal)done * 100 / _total);
        if (_errors is null || percent == _shown)
            return;
        _shown = percent;
        var filled = (int)(percent * Width / 100);
        var rate = done / Math.Max(0.001, _time.Elapsed.TotalSeconds);
        _errors.Write($"\r{_what} [{new string('#', filled)}{new string('.', Width - filled)}] {percent,3} % of {ImageText.Size(_total)}, {ImageText.Size((long)rate)}/s  ");
    }

    public void Dispose()
    {
        if (_shown >= 0)
            _errors?.WriteLine();
    }
}
