// Files with a kernel's symbols: System.map (nm's output: address, kind, name), a vmlinux (ELF64 with .symtab, System V ABI
// chapter 4), and a bzImage, whose compressed kernel has lost its .symtab and is read for the table that it keeps for
// itself (Kallsyms). A payload packed by gzip or LZ4 can be unpacked here; xz, zstd and others cannot.
using System.Buffers.Binary;
using System.Globalization;
using System.IO.Compression;
using System.Text;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Debugging.Symbols;

/// <summary>Reads symbols from a file, where they were linked to be.</summary>
internal static class SymbolFile
{
    private const int MaximumMapSize = 64 << 20, MaximumImageSize = 512 << 20;
    private const int SectionHeaderSize = 64, SymbolSize = 24;
    private const uint SymbolTableSection = 2;

    /// <exception cref="ConfigurationException">It cannot be read, or has no symbols.</exception>
    public static SymbolTable Read(string path)
    {
        using var source = BootSource.FromFile(path);
        var start = source.Read(0, (int)Math.Min(source.Length, LinuxSetupHeader.Start + 64));
        if (start.AsSpan().StartsWith(ElfImage.Magic))
            return ReadElf(source);
        if (start.Length > 0x206 && BinaryPrimitives.ReadUInt32LittleEndian(start.AsSpan(0x202)) == LinuxSetupHeader.Magic)
            return ReadCompressed(source);
        return ReadMap(source);
    }

    /// <summary>Unpacks a bzImage's kernel.</summary>
    /// <exception cref="ConfigurationException">It is damaged, or packed in another way.</exception>
    internal static byte[] Unpack(BootSource source)
    {
        const int PayloadOffset = 0x248, PayloadLength = 0x24C;
        var setup = source.Read(0, 0x250);
        var start = (((setup[0x1F1] == 0 ? 4 : setup[0x1F1]) + 1) * 512L) + BinaryPrimitives.ReadUInt32LittleEndian(setup.AsSpan(PayloadOffset));
        long length = BinaryPrimitives.ReadUInt32LittleEndian(setup.AsSpan(PayloadLength));
        if (length < 16 || start > source.Length || length > Math.Min(source.Length - start, MaximumImageSize))
            throw new ConfigurationException($"{source.Name}: corrupt bzImage: a payload of {length} bytes at 0x{start:x}; copy it again");
        // The last four bytes are the unpacked size.
        var payload = source.Read(start, (int)length);
        try
        {
            return BinaryPrimitives.ReadUInt32BigEndian(payload) switch
            {
                var magic when magic >> 16 == 0x1F8B => Gunzip(payload),
                0x02214C18 => Lz4Legacy.Unpack(payload.AsSpan(0, payload.Length - 4), MaximumImageSize),
                0x28B52FFD => throw Packed("zstd"),
                0xFD377A58 => throw Packed("xz"),
                _ => throw Packed("a program that is not known here"),
            };
        }
        catch (InvalidDataException e)
        {
            throw new ConfigurationException($"{source.Name}: corrupt bzImage: {e.Message}; copy it again", e);
        }

        ConfigurationException Packed(string by) => new($"{source.Name}: the kernel in it is packed by {by}, which cannot be unpacked here; give a vmlinux or System.map, or no file: the kernel's memory has symbols, too");
    }

    private static byte[] Gunzip(byte[] payload)
    {
        using var unpacked = new MemoryStream();
        using var gzip = new GZipStream(new MemoryStream(payload), CompressionMode.Decompress);
        var buffer = new byte[1 << 20];
        for (int got; (got = gzip.Read(buffer)) > 0;)
        {
            if (unpacked.Length + got > MaximumImageSize)
                throw new InvalidDataException("the unpacked kernel is too large");
            unpacked.Write(buffer, 0, got);
        }

        return unpacked.ToArray();
    }

    private static SymbolTable ReadCompressed(BootSource source)
    {
        using var vmlinux = BootSource.FromBytes(Unpack(source), source.Name);
        var loads = ElfImage.Parse(vmlinux).LoadSegments.Where(s => s.VirtualAddress >= KernelImage.MapStart && s.FileLength > 0).ToArray();
        var symbols = new SymbolTable.Builder();
        if (loads.Length == 0)
            throw new ConfigurationException($"{source.Name}: has no kernel for x86-64 in it; give a vmlinux or System.map");
        var start = loads.Min(s => s.VirtualAddress);
        var end = loads.Max(s => s.VirtualAddress + s.FileLength);
        if (end - start > MaximumImageSize)
            throw new ConfigurationException($"{source.Name}: corrupt kernel of {end - start} bytes; copy it again");
        var image = new byte[end - start];
        foreach (var load in loads)
            vmlinux.Read((long)load.Offset, image.AsSpan((int)(load.VirtualAddress - start), (int)load.FileLength));
        return Kallsyms.TryRead(image, symbols)
            ? symbols.Build()
            : throw new ConfigurationException($"{source.Name}: the kernel in it has no symbols (CONFIG_KALLSYMS); give a vmlinux or System.map");
    }

    private static SymbolTable ReadElf(BootSource source)
    {
        var header = source.Read(0, (int)Math.Min(64, source.Length));
        if (header.Length < 64 || header[4] != ElfImage.Class64 || header[5] != 1 || U16(header, 18) != 62)
            throw new ConfigurationException($"{source.Name}: is no ELF file for x86-64; give the kernel's vmlinux or System.map");
        long count = U16(header, 60);
        var offset = U64(header, 40);
        if (U16(header, 58) != SectionHeaderSize || offset > (ulong)source.Length || (count * SectionHeaderSize) > source.Length - (long)offset)
            throw Damaged();
        var table = source.Read((long)offset, (int)count * SectionHeaderSize);
        for (var i = 0; i < count; i++)
        {
            var section = table.AsSpan(i * SectionHeaderSize);
            if (BinaryPrimitives.ReadUInt32LittleEndian(section[4..]) != SymbolTableSection)
                continue;
            var link = BinaryPrimitives.ReadUInt32LittleEndian(section[40..]);
            if (link >= count)
                throw Damaged();
            return ReadSymbols(Content(section), Content(table.AsSpan((int)link * SectionHeaderSize)), table);
        }

        throw new ConfigurationException($"{source.Name}: has no symbol table (it is stripped); give an unstripped vmlinux or System.map");

        byte[] Content(ReadOnlySpan<byte> section)
        {
            var start = U64(section, 24);
            var size = U64(section, 32);
            if (start > (ulong)source.Length || size > Math.Min((ulong)source.Length - start, MaximumImageSize))
                throw Damaged();
            return source.Read((long)start, (int)size);
        }

        ConfigurationException Damaged() => new($"{source.Name}: damaged ELF file; copy it again");
    }

    private static SymbolTable ReadSymbols(byte[] entries, byte[] strings, byte[] sections)
    {
        const int Executable = 4, Absolute = 0xFFF1, Function = 2, NoType = 0, Data = 1;
        var symbols = new SymbolTable.Builder();
        for (var at = 0; at + SymbolSize <= entries.Length; at += SymbolSize)
        {
            var entry = entries.AsSpan(at);
            var name = BinaryPrimitives.ReadUInt32LittleEndian(entry);
            var section = U16(entry, 6);
            if (name == 0 || name >= strings.Length || section == 0 || (entry[4] & 15) is not (Function or NoType or Data))
                continue;
            var text = strings.AsSpan((int)name);
            var end = text.IndexOf((byte)0);
            if (end <= 0)
                continue;
            var isText = section * SectionHeaderSize < sections.Length && (U64(sections.AsSpan(section * SectionHeaderSize), 8) & Executable) != 0;
            var kind = section == Absolute ? 'a' : isText ? 't' : 'd';
            symbols.Add(U64(entry, 8), (byte)(entry[4] >> 4 != 0 ? char.ToUpperInvariant(kind) : kind), text[..end]);
        }

        return symbols.Build();
    }

    private static SymbolTable ReadMap(BootSource source)
    {
        var symbols = new SymbolTable.Builder();
        if (source.Length > MaximumMapSize)
            throw new ConfigurationException($"{source.Name}: is neither a System.map nor a vmlinux nor a bzImage");
        ReadOnlySpan<byte> text = source.Read(0, (int)source.Length);
        var number = 0;
        foreach (var range in text.Split((byte)'\n'))
        {
            number++;
            var line = text[range].TrimEnd((byte)'\r');
            if (line.IsEmpty)
                continue;
            var space = line.IndexOf((byte)' ');
            if (space is < 1 or > 16 || line.Length < space + 4 || line[space + 2] != ' ' ||
                !ulong.TryParse(line[..space], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var address) || line[(space + 3)..].Contains((byte)0))
                throw new ConfigurationException($"{source.Name}, line {number}: is not \"address kind name\"; give a System.map, a vmlinux or a bzImage");
            symbols.Add(address, line[space + 1], line[(space + 3)..]);
        }

        if (symbols.Addresses.Count < 2)
            throw new ConfigurationException($"{source.Name}: has no symbols{(symbols.Addresses.Count == 1 ? " (it says: " + Encoding.UTF8.GetString(text).Trim() + ")" : "")}; leave it out: the kernel's memory has symbols, too");
        return symbols.Build();
    }

    private static ushort U16(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[offset..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
