using Sharpvisor.Core;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Display;

/// <summary>What a machine shows, for the program that made it. Any thread may use it.</summary>
public sealed class GuestScreen
{
    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(20);

    private readonly MachineGate _gate;
    private readonly Task<MachineExit> _exit;
    private readonly Framebuffer _last = new();
    private TextScreen? _lastText;
    private bool _ended;

    internal GuestScreen(IScreen device, MachineGate gate, Task<MachineExit> exit)
    {
        Device = device;
        _gate = gate;
        _exit = exit;
    }

    /// <summary>The adapter itself, used under the machine's gate while the machine lives.</summary>
    public IScreen Device { get; }

    /// <summary>Draws what is shown now. After the machine was disposed: what was shown last.</summary>
    public void Capture(Framebuffer target)
    {
        using (_gate.Enter())
        {
            if (!_ended)
            {
                Device.Render(target);
                return;
            }

            target.Resize(_last.Width, _last.Height);
            _last.Pixels.CopyTo(target.Pixels);
        }
    }

    /// <summary>Characters are shown rather than pixels.</summary>
    public bool IsTextMode
    {
        get
        {
            using (_gate.Enter())
                return _ended ? _lastText is not null : Device.IsTextMode;
        }
    }

    /// <summary>The characters that are shown in a text mode, otherwise null.</summary>
    public TextScreen? ReadText()
    {
        using (_gate.Enter())
            return _ended ? _lastText : Device.ReadText();
    }

    /// <summary>Writes a PNG file.</summary>
    /// <exception cref="ConfigurationException">The file can't be written.</exception>
    public void CapturePng(string path)
    {
        try
        {
            using var file = File.Create(path);
            CapturePng(file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new ConfigurationException($"{path}: the screenshot cannot be written: {e.Message}", e);
        }
    }

    /// <summary>Writes a PNG picture.</summary>
    public void CapturePng(Stream target)
    {
        var picture = new Framebuffer();
        Capture(picture);
        PngWriter.Write(target, picture);
    }

    /// <summary>Waits until a text mode's screen shows <paramref name="text"/> within a line, or across lines that '\n' separates.</summary>
    /// <returns>The screen that does.</returns>
    /// <exception cref="OperationCanceledException">Cancelled; the message has the last screen.</exception>
    /// <exception cref="EndOfStreamException">The machine ended first; the message has the last screen.</exception>
    public async Task<TextScreen> ExpectTextAsync(string text, CancellationToken cancellation = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(text);
        while (true)
        {
            var hasEnded = _exit.IsCompleted; // before the look, so that the last screen is looked at
            var screen = ReadText();
            if (screen?.ToString().Contains(text, StringComparison.Ordinal) == true)
                return screen;
            if (hasEnded)
                throw new EndOfStreamException($"{(await _exit.ConfigureAwait(false)).Message} before \"{text}\" appeared; {Describe(screen)}");
            try
            {
                await Task.Delay(PollInterval, cancellation).ConfigureAwait(false);
            }
            catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
            {
                throw new OperationCanceledException($"waited for \"{text}\" in vain; {Describe(screen)}", cancellation);
            }
        }
    }

    /// <summary>Video memory goes away: keeps the last picture.</summary>
    internal void End()
    {
        using (_gate.Enter())
        {
            if (_ended)
                return;
            _lastText = Device.ReadText();
            Device.Render(_last);
            _ended = true;
        }
    }

    private static string Describe(TextScreen? screen) =>
        screen is null ? "the screen is in a graphics mode" : $"the screen:\n{screen.ToString().TrimEnd('\n')}";
}
