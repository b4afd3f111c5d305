// The beginning of a connection: RFC 6143, 7.1 to 7.3, for clients of 3.8, 3.7 and 3.3.
using System.Security.Cryptography;

namespace Sharpvisor.Servers.Vnc;

/// <param name="passwordRequired">VNC authentication rather than none.</param>
/// <param name="password">Null while none is set: then nobody gets in.</param>
internal sealed class RfbHandshake(RfbReader reader, RfbWriter writer, bool passwordRequired, Func<VncPassword?> password, VncLimits limits)
{
    /// <summary>Versions and security.</summary>
    /// <exception cref="ProtocolException">Not a client, or one without the password.</exception>
    /// <exception cref="TimeoutException">It takes too long.</exception>
    public async Task AuthenticateAsync(CancellationToken cancellation)
    {
        writer.Bytes("RFB 003.008\n"u8);
        await writer.FlushAsync(cancellation).ConfigureAwait(false);
        var minor = ParseVersion((await ReadAsync(12, limits.Handshake, cancellation).ConfigureAwait(false)).Span);
        var offered = passwordRequired ? SecurityType.VncAuthentication : SecurityType.None;
        if (minor < 7)
        {
            writer.U32((uint)offered);
        }
        else
        {
            writer.U8(1);
            writer.U8((byte)offered);
            await writer.FlushAsync(cancellation).ConfigureAwait(false);
            var chosen = (await ReadAsync(1, limits.Handshake, cancellation).ConfigureAwait(false)).U8(0);
            if (chosen != (byte)offered)
                await FailAsync(minor, $"security type {chosen} was not offered", cancellation).ConfigureAwait(false);
        }

        if (passwordRequired)
            await ChallengeAsync(minor, cancellation).ConfigureAwait(false);
        else if (minor >= 8)
            writer.U32(0); // SecurityResult; older ones have none without authentication
        await writer.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>ClientInit.</summary>
    /// <returns>Whether other clients may stay.</returns>
    public async Task<bool> ReadSharedAsync(CancellationToken cancellation) =>
        (await ReadAsync(1, limits.Handshake, cancellation).ConfigureAwait(false)).U8(0) != 0;

    private static int ParseVersion(ReadOnlySpan<byte> line)
    {
        if (!line.StartsWith("RFB 003."u8) || line[11] != '\n' || line[8..11].ContainsAnyExceptInRange((byte)'0', (byte)'9'))
            throw new ProtocolException("no client of RFB 3");
        var minor = ((line[8] - '0') * 100) + ((line[9] - '0') * 10) + (line[10] - '0');
        // 3.5 was never published and is to be taken as 3.3.
        return minor >= 8 ? 8 : minor == 7 ? 7 : 3;
    }

    private async Task ChallengeAsync(int minor, CancellationToken cancellation)
    {
        var challenge = RandomNumberGenerator.GetBytes(VncPassword.ChallengeSize);
        writer.Bytes(challenge);
        await writer.FlushAsync(cancellation).ConfigureAwait(false);
        // A person may be typing it.
        var response = await ReadAsync(challenge.Length, limits.Password, cancellation).ConfigureAwait(false);
        if (password() is not { } expected || !expected.Accepts(challenge, response.Span))
        {
            await Task.Delay(limits.WrongPassword, cancellation).ConfigureAwait(false);
            await FailAsync(minor, "authentication failed", cancellation).ConfigureAwait(false);
        }

        writer.U32(0);
    }

    private async Task FailAsync(int minor, string reason, CancellationToken cancellation)
    {
        writer.U32(1);
        if (minor >= 8)
            writer.Text(reason);
        await writer.FlushAsync(cancellation).ConfigureAwait(false);
        throw new ProtocolException(reason);
    }

    private async Task<ReadOnlyMemory<byte>> ReadAsync(int count, TimeSpan limit, CancellationToken cancellation) =>
        await reader.ReadAsync(count, cancellation).AsTask().WaitAsync(limit, cancellation).ConfigureAwait(false);
}
