// -display curses: the screen of a text mode on the terminal, and its keys for the guest. Ctrl-A x ends the machine.
using System.Text;
using System.Threading.Channels;
using Sharpvisor.Backends.Char;
using Sharpvisor.Cli.Output;
using Sharpvisor.Core.Display;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Input;
using Sharpvisor.Display;

namespace Sharpvisor.Cli.Display;

/// <summary>Has the terminal from <see cref="Open"/> until it is disposed.</summary>
internal sealed class CursesDisplay : IAsyncDisposable
{
    private static readonly TimeSpan FrameTime = TimeSpan.FromMilliseconds(33);

    /// <summary>A sequence that goes on after a longer time is none: it was the Escape key.</summary>
    private static readonly TimeSpan SequenceTime = TimeSpan.FromMilliseconds(50);

    private readonly Machine _machine;
    private readonly GuestScreen _screen;
    private readonly Action _quit;
    private readonly HeldLines? _messages;
    private readonly Terminal _terminal;
    private readonly Descriptor _input = Descriptor.StandardInput(), _output = Descriptor.StandardOutput();
    private readonly CancellationTokenSource _end = new();
    private readonly Channel<byte> _typed = Channel.CreateUnbounded<byte>();
    private readonly AnsiPainter _painter = new();
    private readonly Framebuffer _picture = new();
    private readonly Thread _reader;
    private readonly Task _painting, _typing;
    private int _left, _disposed;

    private CursesDisplay(Machine machine, GuestScreen screen, Terminal terminal, Action quit, HeldLines? messages)
    {
        _machine = machine;
        _screen = screen;
        _terminal = terminal;
        _quit = quit;
        _messages = messages;
        AppDomain.CurrentDomain.ProcessExit += OnProcessEnds;
        AppDomain.CurrentDomain.UnhandledException += OnProcessEnds;
        Write(AnsiPainter.Enter);
        _reader = new Thread(ReadLoop) { IsBackground = true, Name = "curses input" };
        _reader.Start();
        _painting = Task.Run(PaintLoopAsync);
        _typing = Task.Run(TypeLoopAsync);
    }

    /// <summary>Says why there can be no such display, before anything is opened for it.</summary>
    /// <exception cref="ConfigurationException">Standard input or output is no terminal.</exception>
    public static void Check()
    {
        const int standardInput = 0, standardOutput = 1;
        if (!Terminal.IsTerminal(standardInput) || !Terminal.IsTerminal(standardOutput))
            throw new ConfigurationException("-display curses: standard input and output must be a terminal; run it in one, or give -display none");
    }

    /// <param name="quit">Ctrl-A x was typed.</param>
    /// <param name="messages">Those of the host, which would spoil the screen otherwise; null: they go elsewhere.</param>
    public static CursesDisplay Open(Machine machine, Action quit, HeldLines? messages)
    {
        Check();
        var screen = machine.Screen ?? throw new ConfigurationException("-display curses: the machine has no screen; leave -vga none out");
        return new CursesDisplay(machine, screen, Terminal.TryMakeRaw()!, quit, messages);
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        await _end.CancelAsync().ConfigureAwait(false);
        _input.Stop();
        _typed.Writer.TryComplete();
        await Task.WhenAll(_painting, _typing).ConfigureAwait(false);
        _reader.Join();
        Leave();
        AppDomain.CurrentDomain.ProcessExit -= OnProcessEnds;
        AppDomain.CurrentDomain.UnhandledException -= OnProcessEnds;
        _terminal.Dispose();
        _input.Dispose();
        _output.Dispose();
        _end.Dispose();
    }

    private void OnProcessEnds(object? sender, EventArgs e) => Leave();

    private void Leave()
    {
        if (Interlocked.Exchange(ref _left, 1) == 0)
            Write(AnsiPainter.Leave);
    }

    private async Task PaintLoopAsync()
    {
        try
        {
            while (!_end.IsCancellationRequested)
            {
                Write(Paint());
                await Task.Delay(FrameTime, _end.Token).ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            // The display ends.
        }
    }

    private string Paint()
    {
        var (width, height) = _terminal.Size;
        var message = _messages?.Newest is { } newest && newest.Age < StatusLine.Time ? newest.Line : null;
        if (_screen.ReadText() is { } text)
            return _painter.Paint(message is null ? text : StatusLine.Add(text, message, height), width, height);
        _screen.Capture(_picture);
        return _painter.PaintNotice($"{_picture.Width}x{_picture.Height} graphics mode{(message is null ? "" : "; ")}{message}");
    }

    private void ReadLoop()
    {
        var escape = new StdioEscape();
        var buffer = new byte[256];
        while (true)
        {
            var count = _input.Read(buffer);
            if (count <= 0)
                return;
            foreach (var value in buffer.AsSpan(0, count))
            {
                var command = escape.Next(value, out var sent);
                if (command == StdioEscape.Command.Quit)
                {
                    _quit();
                    return;
                }

                if (sent is { } key)
                    _typed.Writer.TryWrite(key);
            }
        }
    }

    private async Task TypeLoopAsync()
    {
        var keys = new TerminalKeys();
        var reader = _typed.Reader;
        try
        {
            while (true)
            {
                using var patience = CancellationTokenSource.CreateLinkedTokenSource(_end.Token);
                if (keys.IsWaiting)
                    patience.CancelAfter(SequenceTime);
                try
                {
                    if (!await reader.WaitToReadAsync(patience.Token).ConfigureAwait(false))
                        return;
                }
                catch (OperationCanceledException) when (!_end.IsCancellationRequested)
                {
                    await PressAsync(keys.Flush()).ConfigureAwait(false);
                    continue;
                }

                while (reader.TryRead(out var value))
                    await PressAsync(keys.Next(value)).ConfigureAwait(false);
            }
        }
        catch (Exception e) when (e is OperationCanceledException or InvalidOperationException)
        {
            // The display or the machine ends.
        }
    }

    private Task PressAsync(IReadOnlyList<Key> keys) => keys.Count == 0 ? Task.CompletedTask : _machine.Keyboard.PressAsync(keys, TimeSpan.Zero, _end.Token);

    private void Write(string text)
    {
        ReadOnlySpan<byte> bytes = Encoding.UTF8.GetBytes(text);
        while (bytes.Length > 0)
        {
            var count = _output.Write(bytes);
            if (count <= 0)
                return;
            bytes = bytes[count..];
        }
    }
}
