// Standard input and output. On a terminal it is raw and Ctrl-A starts a command; from a pipe or file every byte goes
// to the guest as it is, and the end of the input is not the end of the machine.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Char;

public sealed class StdioCharBackend : ThreadedCharBackend
{
    private readonly Descriptor _input, _output;
    private readonly Terminal? _terminal;
    private readonly Action _quit;
    private readonly StdioEscape? _escape;
    private bool _reported;

    /// <param name="quit">Ctrl-A x was typed.</param>
    public StdioCharBackend(ILogger logger, Action quit) : base("stdio", logger)
    {
        _input = Descriptor.StandardInput();
        _output = Descriptor.StandardOutput();
        _terminal = Terminal.TryMakeRaw();
        _escape = _terminal is null ? null : new StdioEscape();
        _quit = quit;
    }

    protected override void ReadLoop()
    {
        var buffer = new byte[4096];
        while (!Stopping)
        {
            var count = _input.Read(buffer);
            if (count <= 0)
                return;
            if (_escape is null ? !Deliver(buffer.AsSpan(0, count)) : !DeliverTyped(buffer.AsSpan(0, count)))
                return;
        }
    }

    protected override void WriteToHost(ReadOnlySpan<byte> data)
    {
        while (data.Length > 0)
        {
            var count = _output.Write(data);
            if (count <= 0)
            {
                if (!_reported && !Stopping)
                    Logger.LogError("stdio: standard output cannot be written any more; the guest's output is lost");
                _reported = true;
                return;
            }

            data = data[count..];
        }
    }

    protected override void StopHost()
    {
        _input.Stop();
        _output.Stop();
    }

    protected override void CloseHost()
    {
        _input.Dispose();
        _output.Dispose();
        _terminal?.Dispose();
    }

    private bool DeliverTyped(Span<byte> typed)
    {
        foreach (var key in typed)
        {
            var command = _escape!.Next(key, out var sent);
            if (sent is { } value && !Deliver([value]))
                return false;
            switch (command)
            {
                case StdioEscape.Command.Quit:
                    _quit();
                    return false;
                case StdioEscape.Command.Help:
                    Say(StdioEscape.Help);
                    break;
                case StdioEscape.Command.Break:
                    DeliverBreak();
                    break;
            }
        }

        return true;
    }
}
