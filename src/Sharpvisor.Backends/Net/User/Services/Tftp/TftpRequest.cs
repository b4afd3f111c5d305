// Requests of TFTP with their options.
// Follows: RFC 1350, 5; RFC 2347 to 2349 and 7440 (options: block size, timeout, length, window).
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Text;

namespace Sharpvisor.Backends.Net.User.Services.Tftp;

/// <summary>A read request with the options that it brings (RFC 1350, 2347 to 2349, 7440); what is no valid option is none.</summary>
/// <param name="IsText">netascii.</param>
/// <param name="BlockSize">As it was asked for, 8 to 65464; null: not.</param>
/// <param name="TimeoutSeconds">1 to 255; null: not asked for.</param>
/// <param name="WindowSize">1 to 65535; null: not asked for.</param>
/// <param name="WantsLength">tsize.</param>
internal sealed record TftpRequest(string Name, bool IsText, int? BlockSize, int? TimeoutSeconds, int? WindowSize, bool WantsLength)
{
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    /// <param name="body">What is behind the opcode.</param>
    /// <param name="mistake">What the client is told.</param>
    public static bool TryRead(ReadOnlySpan<byte> body, [NotNullWhen(true)] out TftpRequest? request, out string mistake)
    {
        request = null;
        if (!TryTake(ref body, out var name) || !TryTake(ref body, out var mode))
        {
            mistake = "malformed request";
            return false;
        }

        var isText = mode.Equals("netascii", StringComparison.OrdinalIgnoreCase);
        if (!isText && !mode.Equals("octet", StringComparison.OrdinalIgnoreCase))
        {
            mistake = "unknown mode; use octet or netascii";
            return false;
        }

        request = new TftpRequest(name, isText, null, null, null, false);
        while (TryTake(ref body, out var option) && TryTake(ref body, out var value))
        {
            request = option.ToLowerInvariant() switch
            {
                "blksize" => request with { BlockSize = request.BlockSize ?? Number(value, 8, 65464) },
                "timeout" => request with { TimeoutSeconds = request.TimeoutSeconds ?? Number(value, 1, 255) },
                "windowsize" => request with { WindowSize = request.WindowSize ?? Number(value, 1, 65535) },
                "tsize" => request with { WantsLength = true },
                _ => request,
            };
        }

        mistake = "";
        return true;
    }

    private static int? Number(string text, int least, int most) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= least && number <= most ? number : null;

    /// <summary>Takes the next string that ends with a zero.</summary>
    private static bool TryTake(ref ReadOnlySpan<byte> body, out string text)
    {
        text = "";
        var end = body.IndexOf((byte)0);
        if (end < 0)
            return false;
        try
        {
            text = Strict.GetString(body[..end]);
        }
        catch (DecoderFallbackException)
        {
            return false;
        }

        body = body[(end + 1)..];
        return true;
    }
}
