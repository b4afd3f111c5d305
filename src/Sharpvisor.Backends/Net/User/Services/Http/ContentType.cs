// Media types (RFC 9110, 8.3).
namespace Sharpvisor.Backends.Net.User.Services.Http;

/// <summary>What a file is by the end of its name, for a browser and for firmware.</summary>
internal static class ContentType
{
    public static string Of(string path) => Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".txt" or ".cfg" or ".conf" or ".ipxe" or ".log" => "text/plain; charset=utf-8",
        ".html" or ".htm" => "text/html; charset=utf-8",
        ".css" => "text/css",
        ".js" => "text/javascript",
        ".json" => "application/json",
        ".xml" => "application/xml",
        ".png" => "image/png",
        ".jpg" or ".jpeg" => "image/jpeg",
        ".svg" => "image/svg+xml",
        ".gz" => "application/gzip",
        ".efi" => "application/efi", // UEFI 2.10, 24.7.3.2
        _ => "application/octet-stream",
    };
}
