using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Devices.Acpi;

/// <summary>Assembles ACPI machine language (ACPI 6.4, chapter 20). Named objects take their body as a function.</summary>
public sealed class AmlWriter
{
    private const byte ZeroOp = 0x00, OneOp = 0x01, NameOp = 0x08, BytePrefix = 0x0A, WordPrefix = 0x0B, DWordPrefix = 0x0C;
    private const byte StringPrefix = 0x0D, QWordPrefix = 0x0E, ScopeOp = 0x10, BufferOp = 0x11, PackageOp = 0x12;
    private const byte ExtOpPrefix = 0x5B, DeviceOp = 0x82;

    private readonly List<byte> _code = [];

    public ReadOnlySpan<byte> Code => System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_code);

    /// <summary>Scope: opens an existing object.</summary>
    /// <param name="path">Name segments, as <c>\_SB</c> or <c>_SB.PCI0</c>.</param>
    public void Scope(string path, Action<AmlWriter> body) => Block([ScopeOp], path, body);

    /// <summary>Device: a new object of four characters at most.</summary>
    public void Device(string name, Action<AmlWriter> body) => Block([ExtOpPrefix, DeviceOp], name, body);

    public void Name(string name, ulong value)
    {
        NameHeader(name);
        Integer(value);
    }

    public void Name(string name, string value)
    {
        NameHeader(name);
        _code.Add(StringPrefix);
        _code.AddRange(Encoding.ASCII.GetBytes(value));
        _code.Add(0);
    }

    /// <summary>A name for a package of integers.</summary>
    public void NamePackage(string name, params ReadOnlySpan<ulong> elements)
    {
        NameHeader(name);
        var content = new AmlWriter();
        content._code.Add((byte)elements.Length);
        foreach (var element in elements)
            content.Integer(element);
        WithLength([PackageOp], content);
    }

    /// <summary>_HID of a plug-and-play id such as <c>PNP0501</c>, in its compressed form.</summary>
    public void HardwareId(string id) => Name("_HID", EisaId(id));

    /// <summary>_CRS: the resources that a device uses.</summary>
    public void Resources(params ReadOnlySpan<byte[]> descriptors)
    {
        NameHeader("_CRS");
        var template = new List<byte>();
        foreach (var descriptor in descriptors)
            template.AddRange(descriptor);
        template.AddRange([0x79, 0x00]); // end tag; a checksum of 0 counts as right
        var content = new AmlWriter();
        content.Integer((ulong)template.Count);
        content._code.AddRange(template);
        WithLength([BufferOp], content);
    }

    /// <summary>I/O port descriptor (6.4.2.5), 16-bit decode, fixed.</summary>
    public static byte[] Ports(ushort first, byte count) =>
        [0x47, 1, (byte)first, (byte)(first >> 8), (byte)first, (byte)(first >> 8), 1, count];

    /// <summary>IRQ descriptor (6.4.2.1): edge triggered, active high, exclusive.</summary>
    public static byte[] Irq(int irq) => [0x22, (byte)(1 << irq), (byte)(1 << irq >> 8)];

    /// <summary>32-bit fixed memory range (6.4.3.4).</summary>
    public static byte[] Memory32(uint address, uint length, bool writable)
    {
        var descriptor = new byte[12];
        descriptor[0] = 0x86;
        descriptor[1] = 9;
        descriptor[3] = (byte)(writable ? 1 : 0);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(4), address);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor.AsSpan(8), length);
        return descriptor;
    }

    private static uint EisaId(string id)
    {
        var value = 0u;
        for (var i = 0; i < 3; i++)
            value = (value << 5) | (uint)(id[i] - '@');
        value = (value << 16) | Convert.ToUInt16(id[3..], 16);
        return BinaryPrimitives.ReverseEndianness(value);
    }

    private void NameHeader(string name)
    {
        _code.Add(NameOp);
        NameString(name);
    }

    private void Block(ReadOnlySpan<byte> op, string path, Action<AmlWriter> body)
    {
        var content = new AmlWriter();
        content.NameString(path);
        body(content);
        WithLength(op, content);
    }

    /// <summary>PkgLength (20.2.4) counts itself.</summary>
    private void WithLength(ReadOnlySpan<byte> op, AmlWriter content)
    {
        _code.AddRange(op);
        var length = content._code.Count;
        if (length + 1 < 0x40)
        {
            _code.Add((byte)(length + 1));
        }
        else
        {
            var extra = length + 2 < 1 << 12 ? 1 : length + 3 < 1 << 20 ? 2 : 3;
            length += 1 + extra;
            _code.Add((byte)((extra << 6) | (length & 15)));
            for (var i = 0; i < extra; i++)
                _code.Add((byte)(length >> (4 + (8 * i))));
        }

        _code.AddRange(content._code);
    }

    private void NameString(string path)
    {
        if (path.StartsWith('\\'))
        {
            _code.Add((byte)'\\');
            path = path[1..];
        }

        var segments = path.Split('.');
        if (segments.Length == 2)
            _code.Add(0x2E);
        else if (segments.Length > 2)
            _code.AddRange([0x2F, (byte)segments.Length]);
        foreach (var segment in segments)
            _code.AddRange(Encoding.ASCII.GetBytes(segment.PadRight(4, '_')));
    }

    private void Integer(ulong value)
    {
        var (prefix, size) = value switch
        {
            0 => (ZeroOp, 0),
            1 => (OneOp, 0),
            <= byte.MaxValue => (BytePrefix, 1),
            <= ushort.MaxValue => (WordPrefix, 2),
            <= uint.MaxValue => (DWordPrefix, 4),
            _ => (QWordPrefix, 8),
        };
        _code.Add(prefix);
        for (var i = 0; i < size; i++)
            _code.Add((byte)(value >> (8 * i)));
    }
}
