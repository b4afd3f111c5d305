// The form that all ACPI tables share. Follows ACPI 6.4, 5.2.6 (System Description Table Header).
using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Devices.Acpi;

/// <summary>A system description table in the making: the common header (ACPI 6.4, 5.2.6) and what follows.</summary>
internal sealed class AcpiTable
{
    public const int HeaderLength = 36;

    private readonly List<byte> _bytes = [];

    public AcpiTable(string signature, byte revision)
    {
        Ascii(signature, 4);
        U32(0); // length
        U8(revision);
        U8(0); // checksum
        Ascii("SHARPV", 6);
        Ascii("SHARPVIS", 8);
        U32(1);
        Ascii("SHPV", 4);
        U32(1);
    }

    public static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (var value in bytes)
            sum += value;
        return (byte)-sum;
    }

    public void U8(byte value) => _bytes.Add(value);

    public void U16(ushort value) => _bytes.AddRange([(byte)value, (byte)(value >> 8)]);

    public void U32(uint value)
    {
        U16((ushort)value);
        U16((ushort)(value >> 16));
    }

    public void U64(ulong value)
    {
        U32((uint)value);
        U32((uint)(value >> 32));
    }

    public void Zeros(int count) => _bytes.AddRange(new byte[count]);

    public void Bytes(ReadOnlySpan<byte> bytes) => _bytes.AddRange(bytes);

    public void Ascii(string text, int length) => _bytes.AddRange(Encoding.ASCII.GetBytes(text.PadRight(length)[..length]));

    /// <summary>Generic address structure (5.2.3.2).</summary>
    /// <param name="accessSize">1 to 4: byte to qword; 0: undefined.</param>
    public void Address(AddressSpaceId space, ulong address, byte bits, byte accessSize)
    {
        U8((byte)space);
        U8(bits);
        U8(0);
        U8(accessSize);
        U64(address);
    }

    public byte[] Finish()
    {
        var bytes = _bytes.ToArray();
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), (uint)bytes.Length);
        bytes[9] = Checksum(bytes);
        return bytes;
    }
}

internal enum AddressSpaceId : byte
{
    SystemMemory = 0,
    SystemIo = 1,
}
