using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Endpoints;

namespace Sharpvisor.Servers.Gdb;

/// <summary>The gdb server of a machine, which may be there or not, or elsewhere: the flag, and the monitor's command.</summary>
public sealed class GdbService : IAsyncDisposable
{
    private readonly SemaphoreSlim _turn = new(1);
    private readonly Func<ServerAddress, GdbServer> _open;
    private GdbServer? _server;
    private bool _isDisposed;

    /// <summary>A machine that is disposed disposes this first.</summary>
    /// <param name="monitor">Answers gdb's <c>monitor</c> commands; null: see <see cref="GdbServer.Start"/>.</param>
    public GdbService(Machine machine, ILogger logger, Func<string, Task<string>>? monitor = null)
        : this(address => new GdbServer(new MachineGdbTarget(machine), address, monitor, GdbLimits.Default, logger))
    {
        machine.AddCompanion(this);
    }

    internal GdbService(Func<ServerAddress, GdbServer> open)
    {
        _open = open;
    }

    /// <summary>Null: there is none.</summary>
    public GdbServer? Server => Volatile.Read(ref _server);

    /// <summary>Listens there from now on, and nowhere else. Whoever is attached is sent away.</summary>
    /// <param name="address">Null: nowhere.</param>
    /// <exception cref="ConfigurationException">It can't be opened; there is no server then.</exception>
    public async Task ListenAsync(ServerAddress? address)
    {
        await _turn.WaitAsync().ConfigureAwait(false);
        try
        {
            if (_server is { } old)
                await old.DisposeAsync().ConfigureAwait(false);
            Volatile.Write(ref _server, null);
            if (address is not null && !_isDisposed)
                Volatile.Write(ref _server, _open(address));
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>The monitor's <c>gdbserver [WHERE]</c>, and what it answers, as QEMU.</summary>
    /// <param name="where">As -gdb takes it; empty: port 1234.</param>
    /// <exception cref="ConfigurationException">It is wrong, or can't be opened.</exception>
    public async Task<string> CommandAsync(string where)
    {
        var device = where.Length == 0 ? "tcp::1234" : where;
        var address = ServerAddress.Parse(device, "gdbserver");
        await ListenAsync(address).ConfigureAwait(false);
        return address is null ? "Disabled gdbserver\n" : $"Waiting for gdb connection on device '{Server?.Name}'\n";
    }

    public async ValueTask DisposeAsync()
    {
        _isDisposed = true;
        await ListenAsync(null).ConfigureAwait(false);
    }
}
