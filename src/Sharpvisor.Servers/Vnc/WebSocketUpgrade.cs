// The opening handshake of a WebSocket, server side: RFC 6455, 4.2, for the subprotocol "binary" that noVNC and websockify
// speak. The frames are the framework's. A page of any origin may connect, as noVNC is served from anywhere: a password
// is what keeps others out.
using System.Net.WebSockets;
using System.Security.Cryptography;

namespace Sharpvisor.Servers.Vnc;

internal static class WebSocketUpgrade
{
    private const int MaximumHead = 8192;
    private const string Guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

    /// <returns>The bytes that the messages carry.</returns>
    /// <exception cref="ProtocolException">Not a WebSocket client; it has been told so.</exception>
    /// <exception cref="TimeoutException">It takes too long.</exception>
    public static async Task<Stream> AcceptAsync(Stream stream, TimeSpan limit, CancellationToken cancellation)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(limit);
        try
        {
            var head = await ReadHeadAsync(stream, patience.Token).ConfigureAwait(false);
            var protocol = Answer(head, out var answer);
            await stream.WriteAsync(Latin1(answer), patience.Token).ConfigureAwait(false);
            if (protocol is null)
                throw new ProtocolException("no WebSocket for VNC");
            var socket = WebSocket.CreateFromStream(stream, new WebSocketCreationOptions { IsServer = true, SubProtocol = protocol.Length == 0 ? null : protocol });
            return WebSocketStream.Create(socket, WebSocketMessageType.Binary, TimeSpan.FromSeconds(1));
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new TimeoutException("no request for a WebSocket");
        }
    }

    /// <summary>The answer to a request's head.</summary>
    /// <returns>The subprotocol, empty for a client that names none; null when it is refused.</returns>
    internal static string? Answer(string head, out string answer)
    {
        answer = Refusal("400 Bad Request", "");
        var lines = head.Split("\r\n");
        if (!lines[0].StartsWith("GET ", StringComparison.Ordinal) || !lines[0].EndsWith(" HTTP/1.1", StringComparison.Ordinal))
            return null;
        var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
        foreach (var line in lines.Skip(1))
        {
            var colon = line.IndexOf(':', StringComparison.Ordinal);
            if (colon <= 0)
                return null;
            var (name, value) = (line[..colon], line[(colon + 1)..].Trim());
            headers[name] = headers.TryGetValue(name, out var earlier) ? $"{earlier}, {value}" : value;
        }

        if (!Has(headers, "Upgrade", "websocket") || !Has(headers, "Connection", "upgrade"))
        {
            answer = Refusal("426 Upgrade Required", "Upgrade: websocket\r\n");
            return null;
        }

        if (!Has(headers, "Sec-WebSocket-Version", "13"))
        {
            answer = Refusal("426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n");
            return null;
        }

        var key = headers.GetValueOrDefault("Sec-WebSocket-Key", "");
        if (key.Length != 24 || !Convert.TryFromBase64String(key, new byte[18], out var keySize) || keySize != 16)
            return null;
        var protocol = headers.ContainsKey("Sec-WebSocket-Protocol") ? "binary" : "";
        if (protocol.Length > 0 && !Has(headers, "Sec-WebSocket-Protocol", protocol))
            return null;
#pragma warning disable CA5350 // SHA-1 is what the RFC says; it secures nothing.
        var accept = Convert.ToBase64String(SHA1.HashData(Latin1(key + Guid)));
#pragma warning restore CA5350
        answer = $"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
            + (protocol.Length > 0 ? $"Sec-WebSocket-Protocol: {protocol}\r\n" : "") + "\r\n";
        return protocol;
    }

    /// <summary>The request up to the empty line. A client sends no more before it has an answer.</summary>
    private static async Task<string> ReadHeadAsync(Stream stream, CancellationToken cancellation)
    {
        var buffer = new byte[MaximumHead];
        var length = 0;
        while (!buffer.AsSpan(0, length).EndsWith("\r\n\r\n"u8))
        {
            if (length == buffer.Length)
                throw new ProtocolException("a request too long for a WebSocket");
            var received = await stream.ReadAsync(buffer.AsMemory(length), cancellation).ConfigureAwait(false);
            if (received == 0)
                throw new EndOfStreamException();
            length += received;
        }

        return System.Text.Encoding.Latin1.GetString(buffer, 0, length - 4);
    }

    private static bool Has(Dictionary<string, string> headers, string name, string item) =>
        headers.GetValueOrDefault(name, "").Split(',', StringSplitOptions.TrimEntries).Contains(item, StringComparer.OrdinalIgnoreCase);

    private static string Refusal(string status, string headers)
    {
        const string text = "Here is a WebSocket for a VNC client such as noVNC.\n";
        return $"HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Type: text/plain\r\nContent-Length: {text.Length}\r\n\r\n{text}";
    }

    private static byte[] Latin1(string text) => System.Text.Encoding.Latin1.GetBytes(text);
}
