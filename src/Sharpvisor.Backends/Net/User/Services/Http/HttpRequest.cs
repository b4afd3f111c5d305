// Requests of HTTP/1.1: RFC 9112, 2 to 7; RFC 9110, 5.
using System.Buffers;
using System.Globalization;
using System.Text;

namespace Sharpvisor.Backends.Net.User.Services.Http;

/// <summary>The head of a request, read strictly: what a specification forbids is an error and not guessed at.</summary>
internal sealed class HttpRequest
{
    private static readonly SearchValues<byte> TokenBytes =
        SearchValues.Create("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"u8);

    private static readonly UTF8Encoding StrictUtf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private static readonly string[] DateFormats = ["ddd, dd MMM yyyy HH:mm:ss 'GMT'", "dddd, dd-MMM-yy HH:mm:ss 'GMT'", "ddd MMM d HH:mm:ss yyyy"];

    private bool _hasBody;
    private int _hosts;
    private int _ranges;
    private bool _ignoresRange;

    private HttpRequest()
    {
    }

    /// <summary>As it was sent; empty as long as it is not known.</summary>
    public string Method { get; private set; } = "";

    /// <summary>As it was sent.</summary>
    public string Target { get; private set; } = "";

    /// <summary>What the target names, decoded, without the query.</summary>
    public string Path { get; private set; } = "";

    public bool IsHead => Method == "HEAD";

    /// <summary>HTTP/1.0.</summary>
    public bool IsOld { get; private set; }

    /// <summary>The client may send another request on the same connection.</summary>
    public bool KeepsAlive { get; private set; }

    public ByteRange? Range { get; private set; }

    public DateTimeOffset? IfModifiedSince { get; private set; }

    /// <summary>The range counts only if the file is of this time.</summary>
    public DateTimeOffset? IfRange { get; private set; }

    /// <param name="head">Up to the empty line and with it.</param>
    /// <param name="request">What could be read of it.</param>
    /// <returns><see cref="HttpStatus.OK"/>, or how the request is to be refused.</returns>
    public static HttpStatus Read(ReadOnlySpan<byte> head, out HttpRequest request)
    {
        request = new HttpRequest();
        var status = request.ReadRequestLine(TakeLine(ref head));
        while (status == HttpStatus.OK && TakeLine(ref head) is { IsEmpty: false } line)
            status = request.ReadField(line);
        if (status == HttpStatus.OK)
            status = request.Check();
        // Where a request ends that is not understood, nobody knows.
        if (status is not (HttpStatus.OK or HttpStatus.MethodNotAllowed) || request._hasBody)
            request.KeepsAlive = false;
        if (request._ranges > 1 || request._ignoresRange)
            request.Range = null;
        return status;
    }

    private static ReadOnlySpan<byte> TakeLine(ref ReadOnlySpan<byte> head)
    {
        var end = head.IndexOf("\r\n"u8);
        var line = head[..end];
        head = head[(end + 2)..];
        return line;
    }

    private HttpStatus ReadRequestLine(ReadOnlySpan<byte> line)
    {
        var first = line.IndexOf((byte)' ');
        var last = line.LastIndexOf((byte)' ');
        if (first <= 0 || last == first || line[..first].ContainsAnyExcept(TokenBytes))
            return HttpStatus.BadRequest;
        var target = line[(first + 1)..last];
        var version = line[(last + 1)..];
        if (target.IsEmpty || target.ContainsAnyExceptInRange((byte)'!', (byte)'~') || version.Length != 8 || !version.StartsWith("HTTP/"u8)
            || !char.IsAsciiDigit((char)version[5]) || version[6] != '.' || !char.IsAsciiDigit((char)version[7]))
            return HttpStatus.BadRequest;
        Method = Encoding.ASCII.GetString(line[..first]);
        Target = Encoding.ASCII.GetString(target);
        if (version[5] != '1')
            return HttpStatus.HTTPVersionNotSupported;
        IsOld = version[7] == '0';
        KeepsAlive = !IsOld;
        return HttpStatus.OK;
    }

    private HttpStatus ReadField(ReadOnlySpan<byte> line)
    {
        var colon = line.IndexOf((byte)':');
        if (colon <= 0 || line[..colon].ContainsAnyExcept(TokenBytes))
            return HttpStatus.BadRequest; // also a line that continues the one before
        var bytes = line[(colon + 1)..].Trim(" \t"u8);
        if (bytes.ContainsAnyInRange((byte)0, (byte)8) || bytes.ContainsAnyInRange((byte)10, (byte)31) || bytes.Contains((byte)127))
            return HttpStatus.BadRequest;
        var value = Encoding.Latin1.GetString(bytes);
        switch (Encoding.ASCII.GetString(line[..colon]).ToLowerInvariant())
        {
            case "host":
                _hosts++;
                break;
            case "connection":
                foreach (var option in value.Split(',', StringSplitOptions.TrimEntries))
                {
                    if (option.Equals("close", StringComparison.OrdinalIgnoreCase))
                        KeepsAlive = false;
                    else if (IsOld && option.Equals("keep-alive", StringComparison.OrdinalIgnoreCase))
                        KeepsAlive = true;
                }

                break;
            case "content-length":
                if (value.Length == 0 || !value.All(char.IsAsciiDigit))
                    return HttpStatus.BadRequest;
                _hasBody |= value.Any(c => c != '0');
                break;
            case "transfer-encoding":
                _hasBody = true;
                return Method is "GET" or "HEAD" ? HttpStatus.NotImplemented : HttpStatus.OK;
            case "range":
                _ranges++;
                Range = ByteRange.TryParse(value);
                break;
            case "if-modified-since":
                IfModifiedSince = ParseDate(value);
                break;
            case "if-range":
                IfRange = ParseDate(value);
                _ignoresRange = IfRange is null; // the tag of a version that we do not have
                break;
        }

        return HttpStatus.OK;
    }

    private HttpStatus Check()
    {
        if (_hosts > 1 || (_hosts == 0 && !IsOld))
            return HttpStatus.BadRequest;
        if (Method is "POST" or "PUT" or "DELETE" or "OPTIONS" or "PATCH" or "TRACE" or "CONNECT")
            return HttpStatus.MethodNotAllowed;
        if (Method is not ("GET" or "HEAD"))
            return HttpStatus.NotImplemented;
        if (_hasBody)
            return HttpStatus.ContentTooLarge;
        return TryDecode(Target) is { } path ? Accept(path) : HttpStatus.BadRequest;

        HttpStatus Accept(string path)
        {
            Path = path;
            return HttpStatus.OK;
        }
    }

    /// <summary>The path of a target in origin or absolute form (RFC 9112, 3.2); null: malformed.</summary>
    private static string? TryDecode(string target)
    {
        const string scheme = "http://";
        if (target.StartsWith(scheme, StringComparison.OrdinalIgnoreCase))
        {
            var slash = target.AsSpan(scheme.Length).IndexOfAny('/', '?');
            target = slash < 0 ? "/" : target[(scheme.Length + slash)..];
            if (target[0] == '?')
                target = "/" + target;
        }

        var end = target.IndexOf('?', StringComparison.Ordinal);
        var path = end < 0 ? target : target[..end];
        if (!path.StartsWith('/') || path.Contains('#', StringComparison.Ordinal))
            return null;
        var bytes = new byte[path.Length];
        var count = 0;
        for (var i = 0; i < path.Length; i++)
        {
            var value = (int)path[i];
            if (value == '%')
            {
                if (i + 2 >= path.Length || !byte.TryParse(path.AsSpan(i + 1, 2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var escaped) || escaped == 0)
                    return null;
                value = escaped;
                i += 2;
            }

            bytes[count++] = (byte)value;
        }

        try
        {
            return StrictUtf8.GetString(bytes, 0, count);
        }
        catch (DecoderFallbackException)
        {
            return null;
        }
    }

    private static DateTimeOffset? ParseDate(string value) =>
        DateTimeOffset.TryParseExact(value, DateFormats, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal | DateTimeStyles.AllowInnerWhite, out var date) ? date : null;
}
