// Status codes of HTTP.
// Follows: RFC 9110, 15.

namespace Sharpvisor.Backends.Net.User.Services.Http;

/// <summary>The status codes that are used here (RFC 9110, 15).</summary>
internal enum HttpStatus
{
    OK = 200,
    PartialContent = 206,
    NotModified = 304,
    BadRequest = 400,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    ContentTooLarge = 413,
    RangeNotSatisfiable = 416,

    /// <summary>RFC 6585.</summary>
    RequestHeaderFieldsTooLarge = 431,
    InternalServerError = 500,
    NotImplemented = 501,
    HTTPVersionNotSupported = 505,
}

internal static class HttpStatusText
{
    public static string Reason(this HttpStatus status) => status switch
    {
        HttpStatus.OK => "OK",
        HttpStatus.PartialContent => "Partial Content",
        HttpStatus.NotModified => "Not Modified",
        HttpStatus.BadRequest => "Bad Request",
        HttpStatus.Forbidden => "Forbidden",
        HttpStatus.NotFound => "Not Found",
        HttpStatus.MethodNotAllowed => "Method Not Allowed",
        HttpStatus.ContentTooLarge => "Content Too Large",
        HttpStatus.RangeNotSatisfiable => "Range Not Satisfiable",
        HttpStatus.RequestHeaderFieldsTooLarge => "Request Header Fields Too Large",
        HttpStatus.InternalServerError => "Internal Server Error",
        HttpStatus.NotImplemented => "Not Implemented",
        _ => "HTTP Version Not Supported",
    };
}
