// Standard input and output. On a terminal it is raw and Ctrl-A starts a command; from a pipe or file every byte goes
// to the guest as it is, unless a monitor shares it, and the end of the input is not the end of the machine.
using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Char;

public sealed class StdioCharBackend : ThreadedCharBackend
{
    private readonly Descriptor _input, _output;
    private readonly Terminal? _terminal;
    private readonly Action _quit;
    private readonly StdioEscape? _escape;
    private readonly MonitorLine? _monitor;
    private bool _reported;

    /// <param name="quit">Ctrl-A x was typed.</param>
    /// <param name="hasMonitor">Ctrl-A c leads to <see cref="Monitor"/>, and Ctrl-A is a command from a pipe, too.</param>
    public StdioCharBackend(ILogger logger, Action quit, bool hasMonitor = false) : base("stdio", logger)
    {
        _input = Descriptor.StandardInput();
        _output = Descriptor.StandardOutput();
        _terminal = Terminal.TryMakeRaw();
        _escape = _terminal is null && !hasMonitor ? null : new StdioEscape();
        _monitor = hasMonitor ? new MonitorLine(this) : null;
        _quit = quit;
    }

    public bool IsTerminal => _terminal is not null;

    /// <summary>What shares the terminal: it shows what both say, and what is typed goes to the one that was chosen. Null: nobody does.</summary>
    public ICharBackend? Monitor => _monitor;

    protected override void ReadLoop()
    {
        var buffer = new byte[4096];
        while (!Stopping)
        {
            var count = _input.Read(buffer);
            if (count <= 0)
            {
                DeliverHangUp();
                return;
            }

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
                    Logger.LogError("stdio: standard output cannot be written any more; what is said there is lost");
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

    private protected override void OnDrained() => _monitor?.OnWritable();

    private bool DeliverTyped(Span<byte> typed)
    {
        foreach (var key in typed)
        {
            var command = _escape!.Next(key, out var sent);
            if (sent is { } value && !(_monitor is { IsChosen: true } ? _monitor.Deliver(value) : TypeAhead(value)))
                return false;
            switch (command)
            {
                case StdioEscape.Command.Quit:
                    _quit();
                    return false;
                case StdioEscape.Command.Help:
                    Say(_monitor is null ? StdioEscape.Help : StdioEscape.Help + StdioEscape.MonitorHelp);
                    break;
                case StdioEscape.Command.Break:
                    DeliverBreak();
                    break;
                case StdioEscape.Command.Switch:
                    _monitor?.Switch();
                    break;
            }
        }

        return true;
    }

    /// <summary>A monitor's end of the terminal.</summary>
    private sealed class MonitorLine(StdioCharBackend terminal) : ICharBackend
    {
        private readonly ManualResetEventSlim _hasRoom = new(false);
        private ICharFrontend? _frontend;
        private MachineGate? _gate;

        public string Name => "stdio";

        /// <summary>What is typed goes here.</summary>
        public bool IsChosen { get; private set; }

        public void Attach(ICharFrontend frontend, MachineGate gate) => (_gate, _frontend) = (gate, frontend);

        public int Write(ReadOnlySpan<byte> data)
        {
            if (terminal.Stopping)
                return data.Length;
            return terminal.WriteAside(data);
        }

        public void OnReceiveReady() => _hasRoom.Set();

        /// <summary>The terminal has room again.</summary>
        public void OnWritable()
        {
            if (_frontend is null)
                return;
            using (_gate!.Enter())
                _frontend.OnWritable();
        }

        public void Switch()
        {
            if (_frontend is null)
                return;
            IsChosen = !IsChosen;
            using (_gate!.Enter())
                _frontend.OnFocus(IsChosen);
        }

        public bool Deliver(byte value)
        {
            while (!terminal.Stopping)
            {
                _hasRoom.Reset();
                using (_gate!.Enter())
                {
                    if (_frontend!.ReceiveCapacity > 0)
                    {
                        _frontend.Receive([value]);
                        return true;
                    }
                }

                _hasRoom.Wait(100);
            }

            return false;
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
