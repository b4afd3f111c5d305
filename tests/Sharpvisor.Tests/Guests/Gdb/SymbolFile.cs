using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Tests.Guests.Gdb;

/// <summary>An ELF file of symbols only, as <c>symbol-file</c> takes it: what /proc/kallsyms says, for gdb.</summary>
internal static class SymbolFile
{
    private const int HeaderSize = 64, SectionSize = 64, SymbolSize = 24;

    /// <param name="text">Where the code begins.</param>
    public static void Write(string path, ulong text, IReadOnlyDictionary<string, ulong> symbols)
    {
        const uint noBits = 8, symbolTable = 2, stringTable = 3;
        var names = new MemoryStream();
        names.WriteByte(0);
        var table = new byte[(symbols.Count + 1) * SymbolSize];
        var at = SymbolSize;
        foreach (var (name, address) in symbols)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(table.AsSpan(at), (uint)names.Length);
            table[at + 4] = 0x12; // STB_GLOBAL, STT_FUNC
            BinaryPrimitives.WriteUInt16LittleEndian(table.AsSpan(at + 6), 1);
            BinaryPrimitives.WriteUInt64LittleEndian(table.AsSpan(at + 8), address);
            names.Write([.. Encoding.ASCII.GetBytes(name), 0]);
            at += SymbolSize;
        }

        var sectionNames = Encoding.ASCII.GetBytes("\0.text\0.symtab\0.strtab\0");
        var file = new byte[HeaderSize + (5 * SectionSize) + table.Length + (int)names.Length + sectionNames.Length];
        new byte[] { 0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1 }.CopyTo(file, 0);
        Put16(file, 16, 2); // ET_EXEC
        Put16(file, 18, 62); // EM_X86_64
        Put32(file, 20, 1);
        Put64(file, 40, HeaderSize);
        Put16(file, 52, HeaderSize);
        Put16(file, 58, SectionSize);
        Put16(file, 60, 5);
        Put16(file, 62, 4);
        var data = HeaderSize + (5 * SectionSize);
        Section(file, 1, name: 1, noBits, flags: 6, address: text, offset: (ulong)data, size: 1 << 26);
        Section(file, 2, name: 7, symbolTable, flags: 0, address: 0, (ulong)data, (ulong)table.Length, link: 3, info: 1, entry: SymbolSize);
        Section(file, 3, name: 15, stringTable, flags: 0, address: 0, (ulong)(data + table.Length), (ulong)names.Length);
        Section(file, 4, name: 15, stringTable, flags: 0, address: 0, (ulong)(data + table.Length + names.Length), (ulong)sectionNames.Length);
        table.CopyTo(file, data);
        names.ToArray().CopyTo(file, data + table.Length);
        sectionNames.CopyTo(file, file.Length - sectionNames.Length);
        File.WriteAllBytes(path, file);
    }

    private static void Section(byte[] file, int index, uint name, uint type, ulong flags, ulong address, ulong offset, ulong size, uint link = 0, uint info = 0, ulong entry = 0)
    {
        var at = HeaderSize + (index * SectionSize);
        Put32(file, at, name);
        Put32(file, at + 4, type);
        Put64(file, at + 8, flags);
        Put64(file, at + 16, address);
        Put64(file, at + 24, offset);
        Put64(file, at + 32, size);
        Put32(file, at + 40, link);
        Put32(file, at + 44, info);
        Put64(file, at + 48, 16);
        Put64(file, at + 56, entry);
    }

    private static void Put16(byte[] file, int at, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(at), value);

    private static void Put32(byte[] file, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(at), value);

    private static void Put64(byte[] file, int at, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(at), value);
}
