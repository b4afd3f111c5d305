// The parts of an ELF executable that loading needs (System V ABI, chapters 4 and 5): header, program headers, notes.
using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal sealed class ElfImage
{
    private const int MaximumProgramHeaders = 256;
    private const int MaximumNoteBytes = 1 << 20;
    private const ushort Machine386 = 3, MachineX86_64 = 62;
    private const uint TypeLoad = 1, TypeNote = 4;

    /// <summary>EI_CLASS of a 64-bit file.</summary>
    public const byte Class64 = 2;

    public static ReadOnlySpan<byte> Magic => [0x7F, (byte)'E', (byte)'L', (byte)'F'];

    public required bool Is64Bit { get; init; }

    public required ulong Entry { get; init; }

    /// <summary>PT_LOAD with a size: addresses, offset in the file, bytes in file and memory.</summary>
    public required IReadOnlyList<Segment> LoadSegments { get; init; }

    private IReadOnlyList<Segment> NoteSegments { get; init; } = [];

    /// <exception cref="ConfigurationException">Not an x86 executable, or damaged.</exception>
    public static ElfImage Parse(BootSource source)
    {
        var header = source.Read(0, (int)Math.Min(64, source.Length));
        if (header.Length < 52)
            throw new ConfigurationException($"{source.Name}: truncated ELF file of {header.Length} bytes; copy it again");
        var machine = BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(18));
        if (header[5] != 1 || machine is not (Machine386 or MachineX86_64))
            throw new ConfigurationException($"{source.Name}: is an ELF file for {NameOf(header[5], machine)}; give one for x86-64");
        var is64 = header[4] == Class64;
        if (is64 && header.Length < 64)
            throw new ConfigurationException($"{source.Name}: truncated ELF file of {header.Length} bytes; copy it again");
        var type = BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(16));
        if (type is not (2 or 3))
            throw new ConfigurationException($"{source.Name}: is an ELF {(type == 1 ? "object file or module" : type == 4 ? "core dump" : $"file of type {type}")}, not an executable; give a vmlinux");
        var entry = is64 ? BinaryPrimitives.ReadUInt64LittleEndian(header.AsSpan(24)) : BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(24));
        var offset = is64 ? BinaryPrimitives.ReadUInt64LittleEndian(header.AsSpan(32)) : BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(28));
        var size = BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(is64 ? 54 : 42));
        var count = BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(is64 ? 56 : 44));
        if (size < (is64 ? 56 : 32) || count is 0 or > MaximumProgramHeaders || offset > (ulong)source.Length)
            throw new ConfigurationException($"{source.Name}: corrupt ELF file: {count} program headers of {size} bytes at 0x{offset:x}; copy it again");

        var table = source.Read((long)offset, size * count);
        List<Segment> loads = [], notes = [];
        for (var i = 0; i < count; i++)
        {
            var p = table.AsSpan(i * size, size);
            var kind = BinaryPrimitives.ReadUInt32LittleEndian(p);
            var segment = is64
                ? new Segment(U64(p, 16), U64(p, 24), U64(p, 8), U64(p, 32), U64(p, 40), U64(p, 48))
                : new Segment(U32(p, 8), U32(p, 12), U32(p, 4), U32(p, 16), U32(p, 20), U32(p, 28));
            if (kind == TypeLoad && segment.MemoryLength > 0)
            {
                if (segment.FileLength > segment.MemoryLength)
                    throw new ConfigurationException($"{source.Name}: corrupt ELF file: a segment has {segment.FileLength} bytes in the file and {segment.MemoryLength} in memory; copy it again");
                loads.Add(segment);
            }
            else if (kind == TypeNote)
            {
                notes.Add(segment);
            }
        }

        if (loads.Count == 0)
            throw new ConfigurationException($"{source.Name}: the ELF file has no segment to load; give a vmlinux");
        return new ElfImage { Is64Bit = is64, Entry = entry, LoadSegments = loads, NoteSegments = notes };
    }

    /// <summary>The number in a note of 4 or 8 bytes, or null when there is no such note.</summary>
    public ulong? FindNote(BootSource source, string owner, uint type)
    {
        foreach (var note in Notes(source, owner))
        {
            if (note.Type == type && note.Number is { } number)
                return number;
        }

        return null;
    }

    /// <summary>The notes of an owner, in the file's order.</summary>
    /// <exception cref="ConfigurationException">They lie outside of the file.</exception>
    public IReadOnlyList<Note> Notes(BootSource source, string owner)
    {
        List<Note> found = [];
        foreach (var segment in NoteSegments)
        {
            if (segment.FileLength > MaximumNoteBytes || segment.Offset > (ulong)source.Length)
                throw new ConfigurationException($"{source.Name}: corrupt ELF file: {segment.FileLength} bytes of notes at 0x{segment.Offset:x}; copy it again");
            ReadOnlySpan<byte> notes = source.Read((long)segment.Offset, (int)segment.FileLength);
            var alignment = segment.Alignment == 8 ? 8u : 4u;
            while (notes.Length >= 12)
            {
                ulong nameLength = U32(notes, 0), length = U32(notes, 4);
                var start = Align(12 + nameLength, alignment);
                var end = Align(start + length, alignment);
                if (start + length > (ulong)notes.Length)
                    break;
                if (Encoding.ASCII.GetString(notes.Slice(12, (int)nameLength)).TrimEnd('\0') == owner)
                    found.Add(new Note(U32(notes, 8), notes.Slice((int)start, (int)length).ToArray()));
                notes = end >= (ulong)notes.Length ? default : notes[(int)end..];
            }
        }

        return found;
    }

    private static string NameOf(byte dataEncoding, ushort machine) => machine switch
    {
        183 => "ARM64",
        40 => "ARM",
        243 => "RISC-V",
        21 => "PowerPC",
        22 => "S/390",
        8 => "MIPS",
        _ when dataEncoding == 2 => "a big-endian machine",
        _ => $"machine {machine}",
    };

    private static ulong Align(ulong value, uint alignment) => (value + alignment - 1) & ~(ulong)(alignment - 1);

    private static uint U32(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);

    /// <summary>A note of the owner asked for.</summary>
    public sealed record Note(uint Type, byte[] Data)
    {
        /// <summary>What its 4 or 8 bytes say; null: it has others.</summary>
        public ulong? Number => Data.Length switch
        {
            4 => U32(Data, 0),
            8 => U64(Data, 0),
            _ => null,
        };

        /// <summary>What it says as a string that ends with a zero.</summary>
        public string Text => Encoding.ASCII.GetString(Data).Split('\0')[0];
    }

    public sealed record Segment(ulong VirtualAddress, ulong PhysicalAddress, ulong Offset, ulong FileLength, ulong MemoryLength, ulong Alignment);
}
