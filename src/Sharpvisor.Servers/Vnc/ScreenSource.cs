using Sharpvisor.Core;
using Sharpvisor.Core.Display;

namespace Sharpvisor.Servers.Vnc;

/// <summary>
/// The screen as all clients of a server share it: drawn when one of them asks and the last drawing has become old, so
/// not at all while nobody does.
/// </summary>
internal sealed class ScreenSource(MachineGate gate, IScreen screen, TimeSpan interval, TimeProvider time)
{
    /// <summary>
    /// Of a larger screen clients see the upper left part, as of QEMU's: each has a copy of what it sees, and a guest must
    /// not choose how much memory of the host that takes.
    /// </summary>
    public const int MaximumWidth = 5120, MaximumHeight = 2160;

    private readonly Lock _lock = new();
    private readonly Framebuffer _current = new();
    private bool _isTextMode;
    private long _sequence;
    private long _renderedAt;

    /// <summary>The screen showed text when it was drawn last.</summary>
    public bool IsTextMode
    {
        get
        {
            lock (_lock)
                return _isTextMode;
        }
    }

    /// <summary>How long until <see cref="Capture"/> has something for a client that it has not seen.</summary>
    public TimeSpan TimeToNext(ClientFrame frame)
    {
        lock (_lock)
        {
            if (_sequence == 0 || frame.Sequence != _sequence)
                return TimeSpan.Zero;
            var rest = interval - time.GetElapsedTime(_renderedAt);
            return rest > TimeSpan.Zero ? rest : TimeSpan.Zero;
        }
    }

    /// <summary>Brings a client's picture up to date.</summary>
    /// <param name="resize">Whether the client's picture may take the size of the screen.</param>
    /// <param name="beforeChange">Called with the screen before its changes are taken.</param>
    /// <returns>Whether anything changed.</returns>
    public bool Capture(ClientFrame frame, bool resize, Action<Framebuffer>? beforeChange = null)
    {
        lock (_lock)
        {
            Refresh();
            if (frame.Sequence == _sequence)
                return false;
            frame.Sequence = _sequence;
            var (width, height) = (Math.Min(_current.Width, MaximumWidth), Math.Min(_current.Height, MaximumHeight));
            if (resize && (frame.Width != width || frame.Height != height))
                frame.Resize(width, height);
            else
                beforeChange?.Invoke(_current);
            return frame.Update(_current);
        }
    }

    private void Refresh()
    {
        if (_sequence != 0 && time.GetElapsedTime(_renderedAt) < interval)
            return;
        using (gate.Enter())
        {
            screen.Render(_current);
            _isTextMode = screen.IsTextMode;
        }

        _sequence++;
        _renderedAt = time.GetTimestamp();
    }
}
