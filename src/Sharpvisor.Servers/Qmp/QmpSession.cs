// A session of QMP (docs/interop/qmp-spec of QEMU): greeting, negotiation, commands in order, events between them. Left
// out: out-of-band commands.
using System.Text.Json;
using System.Threading.Channels;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Qmp;

/// <summary>
/// One client. Commands are done one after the other, each when the answer to the last one has been taken; events come
/// in between. Whoever takes nothing while events gather is sent away.
/// </summary>
internal sealed class QmpSession : IDisposable
{
    /// <summary>Of answers and events that the client has not taken, in bytes.</summary>
    private const long MaximumPending = 1 << 20;

    /// <summary>Of a client on a Xen domain's store; each change is compared with every one.</summary>
    private const int MaximumWatches = 128;

    private static readonly TimeSpan FarewellLimit = TimeSpan.FromSeconds(1);

    private readonly Stream _stream;
    private readonly ControlContext _context;
    private readonly QmpCommands _commands;
    private readonly bool _isPretty;
    private readonly Channel<byte[]> _output = Channel.CreateUnbounded<byte[]>(new UnboundedChannelOptions { SingleReader = true });
    private readonly SemaphoreSlim _taken = new(0);
    private readonly CancellationTokenSource _end = new();
    private readonly List<IDisposable> _watches = [];
    private long _pending;
    private volatile bool _isReady;

    public QmpSession(Stream stream, ControlContext context, QmpCommands commands, bool isPretty) =>
        (_stream, _context, _commands, _isPretty) = (stream, context, commands, isPretty);

    public async Task RunAsync(CancellationToken cancellation)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellation, _end.Token);
        var writing = WriteAsync();
        _context.Happened += OnHappened;
        try
        {
            Send(WriteGreeting);
            await ReadAsync(either.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or ObjectDisposedException)
        {
            // The client has gone, or the machine ends.
        }
        finally
        {
            _context.Happened -= OnHappened;
            _watches.ForEach(w => w.Dispose());
            _output.Writer.TryComplete();
            await Task.WhenAny(writing, Task.Delay(FarewellLimit, CancellationToken.None)).ConfigureAwait(false);
            await _end.CancelAsync().ConfigureAwait(false);
            await writing.ConfigureAwait(false);
        }
    }

    public void Dispose()
    {
        _end.Dispose();
        _taken.Dispose();
    }

    private async Task ReadAsync(CancellationToken cancellation)
    {
        var framer = new JsonFramer();
        var buffer = new byte[16 << 10];
        while (true)
        {
            var count = await _stream.ReadAsync(buffer, cancellation).ConfigureAwait(false);
            if (count == 0)
                return;
            for (var start = 0; start < count;)
            {
                if (!Take(framer, buffer.AsSpan(0, count), ref start, out var frame, out var value))
                    break;
                switch (frame)
                {
                    case JsonFrame.Value:
                        await AnswerAsync(value, cancellation).ConfigureAwait(false);
                        break;
                    case JsonFrame.TooLong:
                        SendError(null, ErrorClass.GenericError, $"JSON parse error, a command of more than {JsonFramer.MaximumLength} bytes");
                        break;
                    case JsonFrame.TooDeep:
                        SendError(null, ErrorClass.GenericError, $"JSON parse error, nested more than {JsonFramer.MaximumDepth} levels deep");
                        break;
                    case JsonFrame.Broken:
                        SendError(null, ErrorClass.GenericError, "JSON parse error, a line ends within a string");
                        break;
                }

                while (Interlocked.Read(ref _pending) > 0)
                    await _taken.WaitAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    private static bool Take(JsonFramer framer, ReadOnlySpan<byte> input, ref int start, out JsonFrame frame, out ReadOnlyMemory<byte> value)
    {
        var rest = input[start..];
        var isThere = framer.TryRead(ref rest, out frame, out value);
        start = input.Length - rest.Length;
        return isThere;
    }

    private async Task AnswerAsync(ReadOnlyMemory<byte> text, CancellationToken cancellation)
    {
        JsonElement? id = null;
        try
        {
            using var request = QmpServer.Parse(text);
            var root = request.RootElement;
            if (root.ValueKind != JsonValueKind.Object)
                throw new ControlException("QMP input must be a JSON object");
            id = root.TryGetProperty("id", out var found) ? found.Clone() : null;
            var result = await ExecuteAsync(root, cancellation).ConfigureAwait(false);
            Send(w =>
            {
                w.WriteStartObject();
                w.WritePropertyName("return");
                if (result is null)
                {
                    w.WriteStartObject();
                    w.WriteEndObject();
                }
                else
                {
                    result(w);
                }

                WriteId(w, id);
                w.WriteEndObject();
            });
        }
        catch (JsonException e)
        {
            SendError(id, ErrorClass.GenericError, e.Message.StartsWith("JSON parse error", StringComparison.Ordinal) ? e.Message : $"JSON parse error, {e.Message}");
        }
        catch (ControlException e)
        {
            SendError(id, e.Class, e.Message);
        }
        catch (Exception e) when (e is ConfigurationException or InvalidOperationException or ArgumentException)
        {
            SendError(id, ErrorClass.GenericError, e.Message);
        }
        catch (Exception e) when (e is not OperationCanceledException)
        {
            _context.Logger.LogError(e, "qmp: an internal error in a command");
            SendError(id, ErrorClass.GenericError, $"internal error: {e.Message}");
        }
    }

    private async Task<Action<Utf8JsonWriter>?> ExecuteAsync(JsonElement root, CancellationToken cancellation)
    {
        foreach (var member in root.EnumerateObject())
        {
            if (member.Name is not ("execute" or "exec-oob" or "arguments" or "id"))
                throw new ControlException($"QMP input member '{member.Name}' is unexpected");
        }

        if (root.TryGetProperty("exec-oob", out _))
            throw new ControlException("Out-of-band execution is not enabled: the capability 'oob' is not offered");
        if (!root.TryGetProperty("execute", out var command))
            throw new ControlException("QMP input lacks member 'execute'");
        if (command.ValueKind != JsonValueKind.String)
            throw new ControlException("QMP input member 'execute' must be a string");
        JsonElement? arguments = root.TryGetProperty("arguments", out var given) ? given : null;
        if (arguments is { ValueKind: not JsonValueKind.Object })
            throw new ControlException("QMP input member 'arguments' must be an object");
        var name = command.GetString()!;
        if (name == "qmp_capabilities")
            return Negotiate(new QmpArguments(arguments));
        if (!_isReady)
        {
            throw new ControlException(ErrorClass.CommandNotFound, _commands.Knows(name)
                ? "Expecting capabilities negotiation with 'qmp_capabilities'"
                : $"The command {name} has not been found");
        }

        if (name == "x-xenstore-watch")
            return Watch(new QmpArguments(arguments));
        return await _commands.ExecuteAsync(name, new QmpArguments(arguments), cancellation).ConfigureAwait(false);
    }

    private Action<Utf8JsonWriter>? Negotiate(QmpArguments arguments)
    {
        if (_isReady)
            throw new ControlException(ErrorClass.CommandNotFound, "Capabilities negotiation is already complete, command ignored");
        arguments.Check(["enable"]);
        arguments.RequireEmptyList("enable", "Capability of this name is not available");
        _isReady = true;
        return null;
    }

    /// <summary>A watch on a Xen domain's store, whose events are this client's alone.</summary>
    private Action<Utf8JsonWriter>? Watch(QmpArguments arguments)
    {
        arguments.Check(["path"]);
        if (_watches.Count >= MaximumWatches)
            throw new ControlException($"more than {MaximumWatches} watches");
        var path = arguments.String("path");
        _watches.Add(_commands.XenStore.Watch(path, changed => OnHappened(new ControlEvent("XENSTORE_WATCH", DateTimeOffset.UtcNow, [("path", changed), ("token", path)]))));
        return null;
    }

    private void WriteGreeting(Utf8JsonWriter w)
    {
        w.WriteStartObject();
        w.WriteStartObject("QMP");
        w.WritePropertyName("version");
        _commands.WriteVersion(w);
        w.WriteStartArray("capabilities");
        w.WriteEndArray();
        w.WriteEndObject();
        w.WriteEndObject();
    }

    private void OnHappened(ControlEvent e)
    {
        if (!_isReady)
            return;
        if (Interlocked.Read(ref _pending) > MaximumPending)
        {
            _end.Cancel();
            return;
        }

        Send(w =>
        {
            var microseconds = (e.Time - DateTimeOffset.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;
            w.WriteStartObject();
            w.WriteStartObject("timestamp");
            w.WriteNumber("seconds", microseconds / 1_000_000);
            w.WriteNumber("microseconds", microseconds % 1_000_000);
            w.WriteEndObject();
            w.WriteString("event", e.Name);
            if (e.Data.Count > 0)
            {
                w.WriteStartObject("data");
                foreach (var (name, value) in e.Data)
                    QmpCommands.WriteMember(w, name, value);
                w.WriteEndObject();
            }

            w.WriteEndObject();
        });
    }

    private void SendError(JsonElement? id, ErrorClass errorClass, string message) => Send(w =>
    {
        w.WriteStartObject();
        w.WriteStartObject("error");
        w.WriteString("class", errorClass.ToString());
        w.WriteString("desc", message);
        w.WriteEndObject();
        WriteId(w, id);
        w.WriteEndObject();
    });

    private static void WriteId(Utf8JsonWriter w, JsonElement? id)
    {
        if (id is not { } value)
            return;
        w.WritePropertyName("id");
        value.WriteTo(w);
    }

    private void Send(Action<Utf8JsonWriter> content)
    {
        var bytes = QmpServer.Write(_isPretty, content);
        Interlocked.Add(ref _pending, bytes.Length);
        _output.Writer.TryWrite(bytes);
    }

    private async Task WriteAsync()
    {
        try
        {
            await foreach (var bytes in _output.Reader.ReadAllAsync(_end.Token).ConfigureAwait(false))
            {
                await _stream.WriteAsync(bytes, _end.Token).ConfigureAwait(false);
                if (Interlocked.Add(ref _pending, -bytes.Length) == 0)
                    _taken.Release();
            }
        }
        catch (Exception e) when (e is OperationCanceledException or IOException or ObjectDisposedException)
        {
            // It takes nothing any more: the reader is told as well.
            await _end.CancelAsync().ConfigureAwait(false);
        }
    }
}
