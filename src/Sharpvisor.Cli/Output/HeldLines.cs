using System.Text;

namespace Sharpvisor.Cli.Output;

/// <summary>
/// Keeps the lines meant for a terminal that shows a screen at the moment, until it is itself again; the newest can be
/// shown meanwhile. Any thread may write.
/// </summary>
internal sealed class HeldLines : TextWriter
{
    /// <summary>A debug log must not fill the memory: of more lines the last ones are kept.</summary>
    public const int Limit = 1000;

    private readonly TextWriter _target;
    private readonly Lock _lock = new();
    private readonly StringBuilder _line = new();
    private readonly Queue<string> _lines = new();
    private long _dropped, _writtenAt;
    private bool _isReleased;

    /// <param name="target">Where they go in the end.</param>
    public HeldLines(TextWriter target)
    {
        _target = target;
        AppDomain.CurrentDomain.ProcessExit += OnProcessEnds;
        AppDomain.CurrentDomain.UnhandledException += OnProcessEnds;
    }

    public override Encoding Encoding => _target.Encoding;

    /// <summary>The newest line and how long ago it was written; null: there is none.</summary>
    public (string Line, TimeSpan Age)? Newest
    {
        get
        {
            lock (_lock)
                return _lines.Count == 0 ? null : (_lines.Last(), TimeSpan.FromMilliseconds(Environment.TickCount64 - _writtenAt));
        }
    }

    public override void Write(char value) => Write(value.ToString());

    public override void Write(char[] buffer, int index, int count) => Write(new string(buffer, index, count));

    public override void Write(string? value)
    {
        lock (_lock)
        {
            if (_isReleased)
            {
                _target.Write(value);
                return;
            }

            foreach (var character in value ?? "")
            {
                if (character == '\n')
                    EndLine();
                else if (character != '\r')
                    _line.Append(character);
            }
        }
    }

    public override void WriteLine(string? value) => Write($"{value}\n");

    public override void WriteLine(object? value) => Write($"{value}\n");

    /// <summary>Writes what was kept, and from now on everything at once.</summary>
    public void Release()
    {
        lock (_lock)
        {
            if (_isReleased)
                return;
            _isReleased = true;
            if (_line.Length > 0)
                EndLine();
            if (_dropped > 0)
                _target.WriteLine($"sharpvisor: {_dropped} lines were dropped while the screen was shown: -D FILE keeps a debug log, 2>FILE all of them");
            foreach (var line in _lines)
                _target.WriteLine(line);
            _lines.Clear();
            _target.Flush();
        }

        AppDomain.CurrentDomain.ProcessExit -= OnProcessEnds;
        AppDomain.CurrentDomain.UnhandledException -= OnProcessEnds;
    }

    protected override void Dispose(bool disposing)
    {
        Release();
        base.Dispose(disposing);
    }

    private void OnProcessEnds(object? sender, EventArgs e) => Release();

    private void EndLine()
    {
        _lines.Enqueue(_line.ToString());
        _line.Clear();
        _writtenAt = Environment.TickCount64;
        if (_lines.Count <= Limit)
            return;
        _lines.Dequeue();
        _dropped++;
    }
}
