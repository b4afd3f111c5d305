// The terms of ACPI machine language that the bodies of our methods need. Follows ACPI 6.4, 20.2.5 (Term Objects Encoding).
// Leaves out every term that no table here uses.
using System.Text;

namespace Sharpvisor.Devices.Acpi;

/// <summary>
/// Terms of ACPI machine language (ACPI 6.4, 20.2.5) as bytes: what the body of a method is put together from. Every
/// operation takes its operands first and the place of its result, a <see cref="Name"/>, an argument or nothing, last.
/// </summary>
internal static class Aml
{
    private const byte ExtOpPrefix = 0x5B;

    /// <summary>No result is kept (NullName).</summary>
    public static byte[] Nowhere => [0x00];

    public static byte[] Argument(int number) => [(byte)(0x68 + number)];

    public static byte[] Local(int number) => [(byte)(0x60 + number)];

    public static byte[] Integer(ulong value)
    {
        var (prefix, size) = value switch
        {
            0 => ((byte)0x00, 0),
            1 => ((byte)0x01, 0),
            <= byte.MaxValue => ((byte)0x0A, 1),
            <= ushort.MaxValue => ((byte)0x0B, 2),
            <= uint.MaxValue => ((byte)0x0C, 4),
            _ => ((byte)0x0E, 8),
        };
        var bytes = new byte[1 + size];
        bytes[0] = prefix;
        for (var i = 0; i < size; i++)
            bytes[i + 1] = (byte)(value >> (8 * i));
        return bytes;
    }

    /// <summary>A name or a path, as a reference or a call: <c>PRQ0</c>, <c>PCI0.ISA.P40C</c>, <c>\_SB</c>.</summary>
    public static byte[] Name(string path)
    {
        var code = new List<byte>();
        if (path.StartsWith('\\'))
        {
            code.Add((byte)'\\');
            path = path[1..];
        }

        var segments = path.Split('.');
        if (segments.Length == 2)
            code.Add(0x2E);
        else if (segments.Length > 2)
            code.AddRange([0x2F, (byte)segments.Length]);
        foreach (var segment in segments)
            code.AddRange(Encoding.ASCII.GetBytes(segment.PadRight(4, '_')));
        return [.. code];
    }

    public static byte[] Store(byte[] value, byte[] target) => [0x70, .. value, .. target];

    public static byte[] And(byte[] a, byte[] b, byte[] target) => [0x7B, .. a, .. b, .. target];

    public static byte[] Or(byte[] a, byte[] b, byte[] target) => [0x7D, .. a, .. b, .. target];

    public static byte[] Less(byte[] a, byte[] b) => [0x95, .. a, .. b];

    public static byte[] Return(byte[] value) => [0xA4, .. value];

    /// <summary>If: the statements run when the value is not zero.</summary>
    public static byte[] If(byte[] condition, params ReadOnlySpan<byte[]> statements) => Sized([0xA0], [.. condition, .. Join(statements)]);

    /// <summary>CreateDWordField: a name for 32 bits of a buffer.</summary>
    /// <param name="offset">In bytes.</param>
    public static byte[] DWordField(byte[] buffer, ulong offset, string name) => [0x8A, .. buffer, .. Integer(offset), .. Name(name)];

    /// <summary>Package of elements that are bytes of code themselves.</summary>
    public static byte[] Package(params ReadOnlySpan<byte[]> elements) => Sized([0x12], [(byte)elements.Length, .. Join(elements)]);


    /// <summary>A buffer of resource descriptors with their end tag.</summary>
    public static byte[] ResourceTemplate(params ReadOnlySpan<byte[]> descriptors)
    {
        byte[] template = [.. Join(descriptors), 0x79, 0x00]; // a checksum of 0 counts as right
        return Sized([0x11], [.. Integer((ulong)template.Length), .. template]);
    }

    /// <summary>OperationRegion in PCI configuration space of the device it stands in.</summary>
    public static byte[] PciConfigRegion(string name, byte offset, byte length) =>
        [ExtOpPrefix, 0x80, .. Name(name), 0x02, .. Integer(offset), .. Integer(length)];

    /// <summary>Field of bytes, each with a name, from the start of a region on.</summary>
    public static byte[] ByteFields(string region, params ReadOnlySpan<string> names)
    {
        var content = new List<byte>(Name(region)) { 0x01 }; // byte access, no lock, preserve
        foreach (var name in names)
        {
            content.AddRange(Name(name));
            content.Add(8);
        }

        return Sized([ExtOpPrefix, 0x81], [.. content]);
    }

    /// <summary>An operation with its length (PkgLength of 20.2.4, which counts itself).</summary>
    public static byte[] Sized(ReadOnlySpan<byte> op, ReadOnlySpan<byte> content)
    {
        var code = new List<byte>(content.Length + 6);
        code.AddRange(op);
        var length = content.Length;
        if (length + 1 < 0x40)
        {
            code.Add((byte)(length + 1));
        }
        else
        {
            var extra = length + 2 < 1 << 12 ? 1 : length + 3 < 1 << 20 ? 2 : 3;
            length += 1 + extra;
            code.Add((byte)((extra << 6) | (length & 15)));
            for (var i = 0; i < extra; i++)
                code.Add((byte)(length >> (4 + (8 * i))));
        }

        code.AddRange(content);
        return [.. code];
    }

    private static byte[] Join(ReadOnlySpan<byte[]> parts)
    {
        var bytes = new List<byte>();
        foreach (var part in parts)
            bytes.AddRange(part);
        return [.. bytes];
    }
}
