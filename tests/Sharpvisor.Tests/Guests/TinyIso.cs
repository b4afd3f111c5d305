using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Tests.Guests;

/// <summary>
/// An ISO 9660 image (ECMA-119) with files in its root directory and, if wanted, a boot image without emulation (El Torito
/// 1.0), which is told where it is if it is isolinux, and a master boot record that starts it from a disk.
/// </summary>
internal static class TinyIso
{
    private const int Sector = 2048;
    private const int Descriptor = 16, BootDescriptor = 17, Terminator = 18, PathTable = 19, Root = 20, Catalog = 21, FirstFile = 22;

    public static byte[] Make(IReadOnlyList<(string Name, byte[] Data)> files, byte[]? bootImage = null, bool isIsolinux = false, byte[]? masterBootRecord = null)
    {
        List<(string Name, byte[] Data)> all = [.. files];
        if (bootImage is not null)
            all.Add((isIsolinux ? "ISOLINUX.BIN" : "BOOT.BIN", bootImage));
        var next = FirstFile;
        var places = all.Select(f =>
        {
            var at = next;
            next += (f.Data.Length + Sector - 1) / Sector;
            return at;
        }).ToArray();
        var image = new byte[next * Sector];
        WriteRoot(image.AsSpan(Root * Sector, Sector), all, places);
        WriteDescriptor(image.AsSpan(Descriptor * Sector, Sector), next);
        WriteHeader(image.AsSpan(Terminator * Sector, Sector), 255);
        image[PathTable * Sector] = 1; // the root's name has one byte
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan((PathTable * Sector) + 2), Root);
        image[(PathTable * Sector) + 6] = 1;
        for (var i = 0; i < all.Count; i++)
            all[i].Data.CopyTo(image, places[i] * Sector);
        if (bootImage is not null)
            WriteBoot(image, places[^1]);
        if (isIsolinux)
            WriteBootInformation(image.AsSpan(places[^1] * Sector, bootImage!.Length), places[^1]);
        if (masterBootRecord is not null)
            WriteMasterBootRecord(image, masterBootRecord, places[^1]);
        return image;
    }

    /// <summary>The boot information table of isolinux: where the volume descriptor and itself are, its length and sum.</summary>
    private static void WriteBootInformation(Span<byte> image, int at)
    {
        const int table = 8, end = 64;
        image[table..end].Clear();
        BinaryPrimitives.WriteInt32LittleEndian(image[table..], Descriptor);
        BinaryPrimitives.WriteInt32LittleEndian(image[(table + 4)..], at);
        BinaryPrimitives.WriteInt32LittleEndian(image[(table + 8)..], image.Length);
        var sum = 0u;
        for (var i = end; i + 4 <= image.Length; i += 4)
            sum += BinaryPrimitives.ReadUInt32LittleEndian(image[i..]);
        BinaryPrimitives.WriteUInt32LittleEndian(image[(table + 12)..], sum);
    }

    /// <summary>Isolinux's code for disks finds behind itself where its image is, in sectors of 512 bytes.</summary>
    private static void WriteMasterBootRecord(Span<byte> image, byte[] code, int bootImage)
    {
        const int place = 432, identity = 440, partition = 446, hidden = 0x17;
        code.CopyTo(image);
        BinaryPrimitives.WriteInt32LittleEndian(image[place..], bootImage * (Sector / 512));
        BinaryPrimitives.WriteUInt32LittleEndian(image[identity..], 0x54494E59);
        image[partition] = 0x80;
        image[partition + 1] = 0;
        image[partition + 2] = 1;
        image[partition + 4] = hidden;
        image[partition + 5] = image[partition + 6] = image[partition + 7] = 0xFF;
        BinaryPrimitives.WriteInt32LittleEndian(image[(partition + 12)..], image.Length / 512);
        image[510] = 0x55;
        image[511] = 0xAA;
    }

    private static void WriteHeader(Span<byte> sector, byte type)
    {
        sector[0] = type;
        "CD001"u8.CopyTo(sector[1..]);
        sector[6] = 1;
    }

    private static void WriteDescriptor(Span<byte> sector, int sectors)
    {
        WriteHeader(sector, 1);
        sector[8..882].Fill((byte)' ');
        Encoding.ASCII.GetBytes("TINY").CopyTo(sector[40..]);
        sector[72..80].Clear();
        Both32(sector[80..], sectors);
        sector[88..120].Clear();
        Both16(sector[120..], 1);
        Both16(sector[124..], 1);
        Both16(sector[128..], Sector);
        Both32(sector[132..], 10); // path table of one entry
        sector[140..156].Clear();
        BinaryPrimitives.WriteInt32LittleEndian(sector[140..], PathTable);
        WriteEntry(sector[156..190], "\0", Root, Sector, isDirectory: true);
        sector[881] = 1;
    }

    private static void WriteRoot(Span<byte> sector, List<(string Name, byte[] Data)> files, int[] places)
    {
        var at = WriteEntry(sector, "\0", Root, Sector, isDirectory: true);
        at += WriteEntry(sector[at..], "\u0001", Root, Sector, isDirectory: true);
        for (var i = 0; i < files.Count; i++)
            at += WriteEntry(sector[at..], files[i].Name + ";1", places[i], files[i].Data.Length, isDirectory: false);
    }

    private static int WriteEntry(Span<byte> entry, string name, int at, int length, bool isDirectory)
    {
        var size = (33 + name.Length + 1) & ~1;
        entry[..size].Clear();
        entry[0] = (byte)size;
        Both32(entry[2..], at);
        Both32(entry[10..], length);
        entry[18] = 126; // years since 1900
        entry[19] = entry[20] = 1;
        entry[25] = (byte)(isDirectory ? 2 : 0);
        Both16(entry[28..], 1);
        entry[32] = (byte)name.Length;
        Encoding.Latin1.GetBytes(name).CopyTo(entry[33..]);
        return size;
    }

    private static void WriteBoot(Span<byte> image, int bootImage)
    {
        var descriptor = image.Slice(BootDescriptor * Sector, Sector);
        WriteHeader(descriptor, 0);
        "EL TORITO SPECIFICATION"u8.CopyTo(descriptor[7..]);
        BinaryPrimitives.WriteInt32LittleEndian(descriptor[71..], Catalog);
        var catalog = image.Slice(Catalog * Sector, Sector);
        catalog[0] = 1; // validation entry: its words sum up to zero
        catalog[30] = 0x55;
        catalog[31] = 0xAA;
        BinaryPrimitives.WriteUInt16LittleEndian(catalog[28..], unchecked((ushort)-(1 + 0xAA55)));
        catalog[32] = 0x88; // bootable, no emulation
        BinaryPrimitives.WriteUInt16LittleEndian(catalog[38..], 4); // sectors of 512 bytes
        BinaryPrimitives.WriteInt32LittleEndian(catalog[40..], bootImage);
    }

    private static void Both32(Span<byte> field, int value)
    {
        BinaryPrimitives.WriteInt32LittleEndian(field, value);
        BinaryPrimitives.WriteInt32BigEndian(field[4..], value);
    }

    private static void Both16(Span<byte> field, short value)
    {
        BinaryPrimitives.WriteInt16LittleEndian(field, value);
        BinaryPrimitives.WriteInt16BigEndian(field[2..], value);
    }
}
