// Writes ACPI machine language: scopes, devices, methods, names, packages. Follows ACPI 6.4, chapter 20.
using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Devices.Acpi;

/// <summary>Assembles ACPI machine language (ACPI 6.4, chapter 20). Named objects take their body as a function.</summary>
public sealed class AmlWriter
{
    private const byte NameOp = 0x08, StringPrefix = 0x0D, ScopeOp = 0x10, PackageOp = 0x12, MethodOp = 0x14;
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
    public void Resources(params ReadOnlySpan<byte[]> descriptors) => Resources("_CRS", descriptors);

    /// <param name="name">_CRS or _PRS: in use, or to choose from.</param>
    public void Resources(string name, params ReadOnlySpan<byte[]> descriptors) => NameTerm(name, Aml.ResourceTemplate(descriptors));

    /// <summary>A name for a value that is bytes of code itself.</summary>
    internal void NameTerm(string name, byte[] value)
    {
        NameHeader(name);
        _code.AddRange(value);
    }

    /// <summary>Method: its statements in order.</summary>
    internal void Method(string name, int arguments, bool serialized, params ReadOnlySpan<byte[]> statements)
    {
        var content = new List<byte>(Aml.Name(name)) { (byte)(arguments | (serialized ? 8 : 0)) };
        foreach (var statement in statements)
            content.AddRange(statement);
        Add(Aml.Sized([MethodOp], [.. content]));
    }

    internal void Add(byte[] term) => _code.AddRange(term);

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

    private void WithLength(ReadOnlySpan<byte> op, AmlWriter content) => Add(Aml.Sized(op, content.Code));

    private void NameString(string path) => Add(Aml.Name(path));

    private void Integer(ulong value) => Add(Aml.Integer(value));
}
