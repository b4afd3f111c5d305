using System.Text;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

/// <summary>An ELF kernel with the notes of a paravirtual 64-bit domain, built byte by byte.</summary>
internal sealed class PvKernel
{
    public const ulong Base = 0xFFFF_FFFF_8000_0000, FrameListAt = 0x80_0000_0000;

    public const uint EntryNote = 1, HypercallNote = 2, BaseNote = 3, OffsetNote = 4, VersionNote = 5, LoaderNote = 8, FeaturesNote = 10,
        ValidNote = 13, FrameListNote = 15, ModuleNote = 16;

    private const int CodeOffset = 0x1000;

    /// <summary>What the segment begins with; else bytes that tell where they are: C3h, then the page's number.</summary>
    public byte[] Code { get; init; } = [.. Enumerable.Range(0, 0x2000).Select(i => i % 4096 == 0 ? (byte)0xC3 : (byte)(i / 4096))];

    /// <summary>Where the kernel's one segment goes.</summary>
    public ulong Address { get; init; } = 0x100_0000;

    public ulong MemoryLength { get; init; } = 0x5000;

    /// <summary>By type: numbers (8 bytes), strings, or bytes.</summary>
    public Dictionary<uint, object> Notes { get; } = new()
    {
        [EntryNote] = Base + 0x100_0040,
        [BaseNote] = Base,
        [OffsetNote] = 0UL,
        [VersionNote] = "xen-3.0",
        [LoaderNote] = "generic",
        [FeaturesNote] = "!writable_page_tables|pae_pgdir_above_4gb",
        [FrameListNote] = FrameListAt,
        [ModuleNote] = 1UL,
    };

    public byte[] ToArray()
    {
        using var notes = new MemoryStream();
        foreach (var (type, value) in Notes)
        {
            var data = value switch
            {
                ulong number => BitConverter.GetBytes(number),
                string text => Encoding.ASCII.GetBytes(text + "\0"),
                _ => (byte[])value,
            };
            notes.Write(BitConverter.GetBytes(4));
            notes.Write(BitConverter.GetBytes(data.Length));
            notes.Write(BitConverter.GetBytes(type));
            notes.Write("Xen\0"u8);
            notes.Write(data);
            notes.Write(new byte[-data.Length & 3]);
        }

        var image = Elf(is64: true, address: Address, note: 0);
        Array.Resize(ref image, CodeOffset + Code.Length);
        Array.Clear(image, 0x100, image.Length - 0x100);
        U32(image, 64 + 4, 7); // PF_R, PF_W and PF_X: without, Xen loads nothing
        U64(image, 64 + 8, CodeOffset);
        U64(image, 64 + 32, (ulong)Code.Length);
        U64(image, 64 + 40, MemoryLength);
        U64(image, 64 + 56 + 8, 0x200);
        U64(image, 64 + 56 + 32, (ulong)notes.Length);
        notes.ToArray().CopyTo(image, 0x200);
        Code.CopyTo(image, CodeOffset);
        return image;
    }
}
