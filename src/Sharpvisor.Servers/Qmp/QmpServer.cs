// A QMP server: QEMU's machine protocol (docs/interop/qmp-spec of QEMU), JSON over a byte stream. Each client has a session
// of its own, with its own handshake. Left out: out-of-band commands, jobs, and what concerns devices that are not here.
using System.Text;
using System.Text.Json;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Qmp;

/// <summary>Serves QMP over any stream.</summary>
public sealed class QmpServer
{
    private readonly ControlContext _context;
    private readonly QmpCommands _commands;

    /// <param name="monitor">What human-monitor-command gives its lines to, with the number of a processor, and what it answers.</param>
    public QmpServer(ControlContext context, Func<string, int?, CancellationToken, Task<string>> monitor)
    {
        _context = context;
        _commands = new QmpCommands(context, monitor);
    }

    /// <param name="isPretty">Answers have lines and indents.</param>
    internal async Task ServeAsync(Stream stream, bool isPretty, CancellationToken cancellation)
    {
        using var session = new QmpSession(stream, _context, _commands, isPretty);
        await session.RunAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>JSON as text with an end of line.</summary>
    internal static byte[] Write(bool isPretty, Action<Utf8JsonWriter> content)
    {
        using var text = new MemoryStream();
        using (var writer = new Utf8JsonWriter(text, new JsonWriterOptions { Indented = isPretty, IndentSize = 4, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
            content(writer);
        text.Write("\r\n"u8);
        return text.ToArray();
    }

    /// <exception cref="JsonException">It is none, or has text that is no Unicode.</exception>
    internal static JsonDocument Parse(ReadOnlyMemory<byte> text)
    {
        if (!System.Text.Unicode.Utf8.IsValid(text.Span))
            throw new JsonException("JSON parse error, invalid UTF-8 sequence in string");
        var document = JsonDocument.Parse(text, new JsonDocumentOptions { MaxDepth = JsonFramer.MaximumDepth + 1 });
        try
        {
            CheckText(document.RootElement);
            return document;
        }
        catch (InvalidOperationException e)
        {
            document.Dispose();
            throw new JsonException("JSON parse error, invalid escape sequence in string", e);
        }
    }

    /// <summary>Looks at every string once, so that none throws later.</summary>
    private static void CheckText(JsonElement element)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (var member in element.EnumerateObject())
                {
                    _ = member.Name;
                    CheckText(member.Value);
                }

                break;
            case JsonValueKind.Array:
                foreach (var item in element.EnumerateArray())
                    CheckText(item);
                break;
            case JsonValueKind.String:
                _ = element.GetString();
                break;
        }
    }
}
