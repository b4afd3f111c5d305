// VNC authentication: RFC 6143, 7.2.2. Eight characters and DES: it keeps honest people out, not an attacker who listens.
using System.Security.Cryptography;

namespace Sharpvisor.Servers.Vnc;

internal sealed class VncPassword
{
    public const int ChallengeSize = 16;

    /// <summary>Of a password only so many bytes count.</summary>
    public const int MaximumLength = 8;

    private readonly Des _cipher;

    public VncPassword(ReadOnlySpan<byte> password)
    {
        Span<byte> key = stackalloc byte[MaximumLength];
        key.Clear();
        for (var i = 0; i < Math.Min(key.Length, password.Length); i++)
            key[i] = ReverseBits(password[i]); // the first implementation did, and so do all since
        _cipher = new Des(key);
        CryptographicOperations.ZeroMemory(key);
    }

    /// <summary>What a client that knows the password answers.</summary>
    public void Respond(Span<byte> challenge)
    {
        _cipher.Encrypt(challenge[..8]);
        _cipher.Encrypt(challenge[8..ChallengeSize]);
    }

    public bool Accepts(ReadOnlySpan<byte> challenge, ReadOnlySpan<byte> response)
    {
        Span<byte> expected = stackalloc byte[ChallengeSize];
        challenge.CopyTo(expected);
        Respond(expected);
        return CryptographicOperations.FixedTimeEquals(expected, response);
    }

    private static byte ReverseBits(byte value)
    {
        var result = 0;
        for (var i = 0; i < 8; i++)
            result |= ((value >> i) & 1) << (7 - i);
        return (byte)result;
    }
}
