// ACPI tables that do not have an address yet, and the two ways to give them one: by ourselves, or by firmware that
// follows a script.
// Follows: QEMU's "etc/table-loader" as SeaBIOS and OVMF understand it (commands ALLOCATE, ADD_POINTER, ADD_CHECKSUM).

using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Devices.Acpi;

/// <summary>The RSDP and all other tables in one piece each. A pointer holds the offset of its target in the tables.</summary>
public sealed class AcpiImage
{
    /// <summary>Files of fw_cfg.</summary>
    public const string LoaderFile = "etc/table-loader", RsdpFile = "etc/acpi/rsdp", TablesFile = "etc/acpi/tables";

    /// <summary>How far behind the RSDP <see cref="LinkAt"/> puts the tables.</summary>
    internal const int TablesOffset = 64;

    private const int CommandLength = 128, FileNameLength = 56, Alignment = TablesOffset;
    private const byte HighMemory = 1, FSegment = 2;

    private readonly List<byte> _tables = [];
    private readonly List<(bool InRsdp, int Offset, int Size)> _pointers = [];
    private readonly List<(bool InRsdp, int Start, int Length, int Offset)> _checksums = [];

    /// <summary>Without checksums where these depend on the address.</summary>
    public byte[] Rsdp { get; } = new byte[36];

    public byte[] Tables => [.. _tables];

    /// <summary>The tables, with the RSDP first, where they are to lie.</summary>
    /// <param name="address">A multiple of 64 below 4 GiB.</param>
    public byte[] LinkAt(ulong address)
    {
        var tablesAt = address + Alignment;
        byte[] image = [.. Rsdp, .. new byte[Alignment - Rsdp.Length], .. _tables];
        foreach (var (inRsdp, offset, size) in _pointers)
        {
            var field = image.AsSpan((inRsdp ? 0 : Alignment) + offset);
            if (size == 8)
                BinaryPrimitives.WriteUInt64LittleEndian(field, BinaryPrimitives.ReadUInt64LittleEndian(field) + tablesAt);
            else
                BinaryPrimitives.WriteUInt32LittleEndian(field, BinaryPrimitives.ReadUInt32LittleEndian(field) + (uint)tablesAt);
        }

        foreach (var (inRsdp, start, length, offset) in _checksums)
        {
            var part = image.AsSpan(inRsdp ? 0 : Alignment);
            part[offset] = AcpiTable.Checksum(part.Slice(start, length));
        }

        return image;
    }

    /// <summary>What firmware does to place and link the two files.</summary>
    public byte[] LoaderScript()
    {
        var script = new List<byte>();
        Allocate(script, RsdpFile, 16, FSegment);
        Allocate(script, TablesFile, Alignment, HighMemory);
        foreach (var (inRsdp, offset, size) in _pointers)
        {
            var command = Command(2, inRsdp ? RsdpFile : TablesFile);
            Encoding.ASCII.GetBytes(TablesFile, command.AsSpan(4 + FileNameLength));
            BinaryPrimitives.WriteInt32LittleEndian(command.AsSpan(4 + (2 * FileNameLength)), offset);
            command[8 + (2 * FileNameLength)] = (byte)size;
            script.AddRange(command);
        }

        foreach (var (inRsdp, start, length, offset) in _checksums)
        {
            var command = Command(3, inRsdp ? RsdpFile : TablesFile);
            BinaryPrimitives.WriteInt32LittleEndian(command.AsSpan(4 + FileNameLength), offset);
            BinaryPrimitives.WriteInt32LittleEndian(command.AsSpan(8 + FileNameLength), start);
            BinaryPrimitives.WriteInt32LittleEndian(command.AsSpan(12 + FileNameLength), length);
            script.AddRange(command);
        }

        return [.. script];
    }

    /// <summary>Adds a table and returns its offset.</summary>
    /// <param name="checksumAt">Offset of its checksum byte; -1: it has none.</param>
    internal int Add(byte[] table, int checksumAt = 9)
    {
        while (_tables.Count % Alignment != 0)
            _tables.Add(0);
        var at = _tables.Count;
        _tables.AddRange(table);
        if (checksumAt >= 0)
        {
            // Firmware subtracts the sum of all bytes from this one.
            _tables[at + checksumAt] = 0;
            _checksums.Add((false, at, table.Length, at + checksumAt));
        }

        return at;
    }

    /// <summary>Makes a field of a table point to another one.</summary>
    internal void Point(int table, int field, int size, int target)
    {
        var at = table + field;
        for (var i = 0; i < size; i++)
            _tables[at + i] = (byte)((ulong)target >> (8 * i));
        _pointers.Add((false, at, size));
    }

    /// <summary>Fills in the root: revision 2 with both tables of tables.</summary>
    internal void SetRoot(int rsdt, int xsdt)
    {
        const int version1Length = 20;
        "RSD PTR "u8.CopyTo(Rsdp);
        "SHARPV"u8.CopyTo(Rsdp.AsSpan(9));
        Rsdp[15] = 2;
        BinaryPrimitives.WriteInt32LittleEndian(Rsdp.AsSpan(16), rsdt);
        BinaryPrimitives.WriteInt32LittleEndian(Rsdp.AsSpan(20), Rsdp.Length);
        BinaryPrimitives.WriteInt32LittleEndian(Rsdp.AsSpan(24), xsdt);
        _pointers.Add((true, 16, 4));
        _pointers.Add((true, 24, 8));
        _checksums.Add((true, 0, version1Length, 8));
        _checksums.Add((true, 0, Rsdp.Length, 32));
    }

    private static void Allocate(List<byte> script, string file, int alignment, byte zone)
    {
        var command = Command(1, file);
        BinaryPrimitives.WriteInt32LittleEndian(command.AsSpan(4 + FileNameLength), alignment);
        command[8 + FileNameLength] = zone;
        script.AddRange(command);
    }

    private static byte[] Command(byte number, string file)
    {
        var command = new byte[CommandLength];
        command[0] = number;
        Encoding.ASCII.GetBytes(file, command.AsSpan(4));
        return command;
    }
}
