using System.Buffers.Binary;
using System.Globalization;

namespace Sharpvisor.Core.Net;

/// <summary>An Ethernet address (IEEE 802, EUI-48).</summary>
public readonly record struct MacAddress
{
    public const int Length = 6;

    private readonly ulong _value; // the first byte on the wire is the highest of 48 bits

    private MacAddress(ulong value)
    {
        _value = value;
    }

    public static MacAddress Broadcast { get; } = new(0xFFFF_FFFF_FFFF);

    /// <summary>For many receivers, <see cref="Broadcast"/> among them.</summary>
    public bool IsGroup => (_value >> 40 & 1) != 0;

    /// <summary>The one that QEMU gives to the first, second ... NIC of a machine.</summary>
    public static MacAddress Default(int index) => new(0x5254_0012_3456 + (ulong)index);

    public static MacAddress Read(ReadOnlySpan<byte> bytes) => new((ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32 | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]));

    /// <summary>Six bytes in hexadecimal between colons or dashes.</summary>
    public static bool TryParse(string text, out MacAddress address)
    {
        address = default;
        var parts = text.Split(':', '-');
        var value = 0UL;
        if (parts.Length != Length)
            return false;
        foreach (var part in parts)
        {
            if (part.Length is < 1 or > 2 || !byte.TryParse(part, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var b))
                return false;
            value = value << 8 | b;
        }

        address = new MacAddress(value);
        return true;
    }

    public void Write(Span<byte> bytes)
    {
        BinaryPrimitives.WriteUInt16BigEndian(bytes, (ushort)(_value >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(bytes[2..], (uint)_value);
    }

    public override string ToString()
    {
        var bytes = new byte[Length];
        Write(bytes);
        return string.Join(':', bytes.Select(b => b.ToString("x2", CultureInfo.InvariantCulture)));
    }
}
