// DNS messages, as far as a forwarder reads them.
// Follows: RFC 1035, 4.1.
// Leaves out: what lies behind the question.

using System.Buffers.Binary;

namespace Sharpvisor.Backends.Net.User.Services.Dns;

/// <summary>As much of a DNS message (RFC 1035, 4.1) as one has to know that passes it on.</summary>
internal static class DnsMessage
{
    public const int HeaderLength = 12;

    /// <summary>RCODE.</summary>
    public const int NoError = 0, FormatError = 1, ServerFailure = 2, NotImplemented = 4, Refused = 5;

    private const int LongestLabel = 63, LongestName = 255;

    public static ushort Id(ReadOnlySpan<byte> message) => BinaryPrimitives.ReadUInt16BigEndian(message);

    public static void SetId(Span<byte> message, ushort id) => BinaryPrimitives.WriteUInt16BigEndian(message, id);

    /// <summary>QR.</summary>
    public static bool IsResponse(ReadOnlySpan<byte> message) => (message[2] & 0x80) != 0;

    public static int ResponseCode(ReadOnlySpan<byte> message) => message[3] & 15;

    public static int QuestionCount(ReadOnlySpan<byte> message) => BinaryPrimitives.ReadUInt16BigEndian(message[4..]);

    /// <summary>The one question: name, type and class.</summary>
    /// <returns>Empty: there is none, there are several, or it is malformed.</returns>
    public static ReadOnlySpan<byte> Question(ReadOnlySpan<byte> message)
    {
        if (message.Length < HeaderLength || QuestionCount(message) != 1)
            return [];
        var at = HeaderLength;
        while (at < message.Length && message[at] is > 0 and <= LongestLabel)
            at += 1 + message[at];
        if (at >= message.Length || message[at] != 0 || at + 1 - HeaderLength > LongestName || message.Length < at + 5)
            return [];
        return message[HeaderLength..(at + 5)];
    }

    /// <summary>Whether two questions are the same, for which capitals do not count (RFC 4343).</summary>
    public static bool SameQuestion(ReadOnlySpan<byte> one, ReadOnlySpan<byte> other)
    {
        if (one.Length != other.Length)
            return false;
        for (var i = 0; i < one.Length; i++)
        {
            if (Lower(one[i]) != Lower(other[i]))
                return false;
        }

        return true;

        static int Lower(byte value) => value is >= (byte)'A' and <= (byte)'Z' ? value | 0x20 : value;
    }

    /// <summary>Makes an answer that says no more than a code.</summary>
    /// <param name="query">At least a header.</param>
    /// <returns>How long it is.</returns>
    public static int WriteError(ReadOnlySpan<byte> query, int code, Span<byte> answer)
    {
        const int response = 0x80, keptOfFlags = 0x79, recursionAvailable = 0x80; // opcode and "recursion desired" are the query's
        var question = Question(query);
        answer[..HeaderLength].Clear();
        query[..2].CopyTo(answer);
        answer[2] = (byte)(response | (query[2] & keptOfFlags));
        answer[3] = (byte)(recursionAvailable | code);
        answer[5] = question.IsEmpty ? (byte)0 : (byte)1;
        question.CopyTo(answer[HeaderLength..]);
        return HeaderLength + question.Length;
    }
}
