// The client's side of QMP, for the tools that work on a machine that runs: docs of QEMU, docs/interop/qmp-spec.
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Qmp;

/// <summary>A connection to a machine's QMP socket. One command at a time; events that come meanwhile are kept for <see cref="WaitForAsync"/>.</summary>
public sealed class QmpClient : IAsyncDisposable
{
    private readonly Socket _socket;
    private readonly NetworkStream _stream;
    private readonly JsonFramer _framer = new(256 << 20);
    private readonly byte[] _buffer = new byte[64 << 10];
    private readonly Queue<JsonDocument> _events = [];
    private int _start, _end;

    private QmpClient(Socket socket)
    {
        _socket = socket;
        _stream = new NetworkStream(socket, ownsSocket: false);
    }

    /// <summary>Connects to a machine of <see cref="MachineDirectory"/>.</summary>
    /// <exception cref="ConfigurationException">It has ended meanwhile.</exception>
    public static async Task<QmpClient> ConnectAsync(MachineEntry machine, CancellationToken cancellation = default)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        QmpClient? client = null;
        try
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(machine.Path), cancellation).ConfigureAwait(false);
            client = new QmpClient(socket);
            using (await client.ReadAsync(cancellation).ConfigureAwait(false))
            {
                // The greeting.
            }

            using (await client.ExecuteAsync("qmp_capabilities", null, cancellation).ConfigureAwait(false))
                return client;
        }
        catch (Exception e) when (e is SocketException or IOException)
        {
            await CloseAsync(client, socket).ConfigureAwait(false);
            throw new ConfigurationException($"{machine.Name} ({machine.ProcessId}): {e.Message.TrimEnd('.')}; has it ended?", e);
        }
        catch
        {
            await CloseAsync(client, socket).ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Gives a command and waits for its answer, whose root is what it returned.</summary>
    /// <param name="arguments">Writes the members of the object of arguments; null: there are none.</param>
    /// <exception cref="ConfigurationException">The machine refuses it, with its own words.</exception>
    /// <exception cref="IOException">The machine has ended.</exception>
    public async Task<JsonDocument> ExecuteAsync(string command, Action<Utf8JsonWriter>? arguments = null, CancellationToken cancellation = default)
    {
        using var text = new MemoryStream();
        using (var writer = new Utf8JsonWriter(text))
        {
            writer.WriteStartObject();
            writer.WriteString("execute", command);
            if (arguments is not null)
            {
                writer.WriteStartObject("arguments");
                arguments(writer);
                writer.WriteEndObject();
            }

            writer.WriteEndObject();
        }

        text.WriteByte((byte)'\n');
        await _stream.WriteAsync(text.GetBuffer().AsMemory(0, (int)text.Length), cancellation).ConfigureAwait(false);
        while (true)
        {
            var answer = await ReadAsync(cancellation).ConfigureAwait(false);
            if (answer.RootElement.TryGetProperty("event", out _))
            {
                _events.Enqueue(answer);
                continue;
            }

            using var end = answer;
            if (answer.RootElement.TryGetProperty("return", out var value))
                return JsonDocument.Parse(Encoding.UTF8.GetBytes(value.GetRawText()));
            if (answer.RootElement.TryGetProperty("error", out var error))
                throw new ConfigurationException(error.GetProperty("desc").GetString() ?? command);
        }
    }

    /// <summary>Waits for an event of that name; others are left aside. The root of what is given is the event.</summary>
    /// <exception cref="IOException">The machine has ended.</exception>
    public async Task<JsonDocument> WaitForAsync(string name, CancellationToken cancellation = default)
    {
        while (true)
        {
            var message = _events.TryDequeue(out var kept) ? kept : await ReadAsync(cancellation).ConfigureAwait(false);
            if (message.RootElement.TryGetProperty("event", out var found) && found.GetString() == name)
                return message;
            message.Dispose();
        }
    }

    /// <summary>Gives a command to the human monitor and waits for its text.</summary>
    /// <exception cref="IOException">The machine has ended.</exception>
    public async Task<string> MonitorAsync(string commandLine, CancellationToken cancellation = default)
    {
        using var answer = await ExecuteAsync("human-monitor-command", w => w.WriteString("command-line", commandLine), cancellation).ConfigureAwait(false);
        return answer.RootElement.GetString() ?? "";
    }

    public async ValueTask DisposeAsync()
    {
        while (_events.TryDequeue(out var kept))
            kept.Dispose();
        await _stream.DisposeAsync().ConfigureAwait(false);
        _socket.Dispose();
    }

    private static async Task CloseAsync(QmpClient? client, Socket socket)
    {
        if (client is not null)
            await client.DisposeAsync().ConfigureAwait(false);
        socket.Dispose();
    }

    private async Task<JsonDocument> ReadAsync(CancellationToken cancellation)
    {
        while (true)
        {
            if (TryTake(out var value))
                return JsonDocument.Parse(value);
            _start = 0;
            _end = await _stream.ReadAsync(_buffer, cancellation).ConfigureAwait(false);
            if (_end == 0)
                throw new IOException("the machine has ended");
        }
    }

    private bool TryTake(out ReadOnlyMemory<byte> value)
    {
        ReadOnlySpan<byte> rest = _buffer.AsSpan(_start, _end - _start);
        var isThere = _framer.TryRead(ref rest, out var frame, out value);
        _start = _end - rest.Length;
        if (isThere && frame != JsonFrame.Value)
            throw new IOException($"the machine's answer is no JSON ({frame})");
        return isThere;
    }
}
