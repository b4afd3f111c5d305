using System.Buffers.Binary;
using System.Net;

namespace Sharpvisor.Backends.Net.User.Services;

/// <summary>IPv4 addresses as numbers, so that they can be counted.</summary>
internal static class Ipv4
{
    /// <exception cref="ArgumentException">Not of IPv4.</exception>
    public static uint ToNumber(IPAddress address)
    {
        Span<byte> bytes = stackalloc byte[4];
        if (!address.TryWriteBytes(bytes, out _))
            throw new ArgumentException($"{address} is no IPv4 address", nameof(address));
        return BinaryPrimitives.ReadUInt32BigEndian(bytes);
    }

    public static IPAddress FromNumber(uint number)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(bytes, number);
        return new IPAddress(bytes);
    }
}
