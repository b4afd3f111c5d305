// Responses of HTTP/1.1: RFC 9112, 4; RFC 9110, 8, 13 and 14.
using System.Globalization;
using System.Text.Unicode;
using Sharpvisor.Backends.Net.User.Services.Content;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User.Services.Http;

/// <summary>What a request is answered with: a head, and behind it a part of a file or a line of text.</summary>
internal sealed class HttpResponse : IDisposable
{
    private readonly INamedFile? _file;
    private readonly bool _hasBody;

    private HttpResponse(HttpStatus status, HttpRequest? request, INamedFile? file = null, long start = 0, long end = 0)
    {
        (Status, Request, _file, Start, End) = (status, request, file, start, end);
        _hasBody = request is not { IsHead: true } && status != HttpStatus.NotModified;
    }

    public HttpStatus Status { get; }

    /// <summary>Null: there was none that could be read.</summary>
    public HttpRequest? Request { get; }

    public bool KeepsAlive => Request is { KeepsAlive: true };

    /// <summary>The file, if its bytes are to be sent.</summary>
    public INamedFile? Body => _hasBody && IsContent ? _file : null;

    /// <summary>Of the file: the first byte to be sent.</summary>
    public long Start { get; }

    /// <summary>Behind the last one.</summary>
    public long End { get; }

    private bool IsContent => Status is HttpStatus.OK or HttpStatus.PartialContent;

    public static HttpResponse Refuse(HttpStatus status, HttpRequest? request) => new(status, request);

    /// <summary>Looks up what a good request asks for.</summary>
    public static HttpResponse Make(HttpRequest request, INamedContent content)
    {
        const string index = "index.html";
        var result = content.TryOpen(request.Path.EndsWith('/') ? request.Path + index : request.Path, out var file);
        if (file is null)
        {
            return Refuse(result switch
            {
                OpenResult.NotFound => HttpStatus.NotFound,
                OpenResult.Refused => HttpStatus.Forbidden,
                _ => HttpStatus.InternalServerError,
            }, request);
        }

        var modified = Seconds(file.Modified);
        if (request.IfModifiedSince is { } since && modified <= since)
            return new HttpResponse(HttpStatus.NotModified, request, file);
        if (request.Range is null || request.IsHead || (request.IfRange is { } only && only != modified))
            return new HttpResponse(HttpStatus.OK, request, file, 0, file.Length);
        return request.Range.Value.TryResolve(file.Length, out var start, out var end)
            ? new HttpResponse(HttpStatus.PartialContent, request, file, start, end)
            : new HttpResponse(HttpStatus.RangeNotSatisfiable, request, file);
    }

    /// <summary>Writes the head, and the text of an error behind it.</summary>
    /// <returns>How many bytes.</returns>
    public int WriteHead(Span<byte> room)
    {
        var at = 0;
        var culture = CultureInfo.InvariantCulture;
        Utf8.TryWrite(room, culture, $"HTTP/1.1 {(int)Status} {Status.Reason()}\r\nDate: {DateTimeOffset.UtcNow:r}\r\nAccept-Ranges: bytes\r\n", out var count);
        at += count;
        if (Status == HttpStatus.MethodNotAllowed)
            at += Write(room[at..], "Allow: GET, HEAD\r\n"u8);
        if (!KeepsAlive)
            at += Write(room[at..], "Connection: close\r\n"u8);
        else if (Request!.IsOld)
            at += Write(room[at..], "Connection: keep-alive\r\n"u8);
        if (_file is not null && Seconds(_file.Modified) is { } modified)
        {
            Utf8.TryWrite(room[at..], culture, $"Last-Modified: {modified:r}\r\n", out count);
            at += count;
        }

        if (Status is HttpStatus.PartialContent)
            Utf8.TryWrite(room[at..], culture, $"Content-Range: bytes {Start}-{End - 1}/{_file!.Length}\r\n", out count);
        else if (Status is HttpStatus.RangeNotSatisfiable)
            Utf8.TryWrite(room[at..], culture, $"Content-Range: bytes */{_file!.Length}\r\n", out count);
        else
            count = 0;
        at += count;
        return at + WriteEnd(room[at..]);
    }

    public void Dispose() => _file?.Dispose();

    private int WriteEnd(Span<byte> room)
    {
        var culture = CultureInfo.InvariantCulture;
        if (Status == HttpStatus.NotModified)
            return Write(room, "\r\n"u8);
        if (IsContent)
        {
            Utf8.TryWrite(room, culture, $"Content-Type: {ContentType.Of(Request!.Path)}\r\nContent-Length: {End - Start}\r\n\r\n", out var count);
            return count;
        }

        Span<byte> text = stackalloc byte[64];
        Utf8.TryWrite(text, culture, $"{(int)Status} {Status.Reason()}\n", out var textLength);
        Utf8.TryWrite(room, culture, $"Content-Type: text/plain\r\nContent-Length: {textLength}\r\n\r\n", out var headLength);
        return headLength + (_hasBody ? Write(room[headLength..], text[..textLength]) : 0);
    }

    private static int Write(Span<byte> room, ReadOnlySpan<byte> text)
    {
        text.CopyTo(room);
        return text.Length;
    }

    /// <summary>HTTP's dates have no fractions.</summary>
    private static DateTimeOffset? Seconds(DateTimeOffset? time) =>
        time is { } t ? new DateTimeOffset(t.UtcTicks - (t.UtcTicks % TimeSpan.TicksPerSecond), TimeSpan.Zero) : null;
}
