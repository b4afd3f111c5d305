using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Tests.Debugging.Symbols;

/// <summary>Symbols of files: all forms, for a kernel that runs elsewhere than it was linked to.</summary>
public sealed class SymbolFileTests : IDisposable
{
    private const ulong Linked = 0xFFFF_FFFF_8100_0000, BannerAt = 0x10000;

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-symbols-").FullName;

    private string File => Path.Combine(_directory, "symbols");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public void System_map_is_moved_by_the_slide()
    {
        System.IO.File.WriteAllText(File, $"0000000000000000 A fixed_percpu_data\n{Linked:x} T _stext\n{Linked + 0x1000:x} t leaf\n{Linked + BannerAt:x} D linux_banner\n");
        Check();
    }

    [Fact]
    public void Vmlinux_is_read()
    {
        System.IO.File.WriteAllBytes(File, Elf(("fixed_percpu_data", 0, 2), ("_stext", Linked, 1), ("leaf", Linked + 0x1000, 1), ("linux_banner", Linked + BannerAt, 2)));
        Check();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void The_kernel_in_a_bzImage_is_unpacked(bool isGzip)
    {
        List<(ulong, char, string)> symbols = [(0, 'A', "fixed_percpu_data"), (Linked, 'T', "_stext"), (Linked + 0x1000, 't', "leaf")];
        symbols.AddRange(Enumerable.Range(0, 600).Select(i => (Linked + 0x8000 + (ulong)i, 't', $"filler_0123456789_{i}")));
        symbols.Add((Linked + BannerAt, 'D', "linux_banner"));
        var vmlinux = LoadableElf(KallsymsImage.Make(symbols, KallsymsLayout.New, Linked, true));
        System.IO.File.WriteAllBytes(File, BzImage(isGzip ? Gzip(vmlinux) : Lz4(vmlinux)));
        Check();
    }

    [Fact]
    public void A_file_of_another_kernel_is_refused()
    {
        System.IO.File.WriteAllText(File, $"{Linked:x} T _stext\n{Linked + 0x12000:x} D linux_banner\n");
        Assert.Contains("not of the kernel that runs", Error(), StringComparison.Ordinal);
        System.IO.File.WriteAllText(File, $"{Linked:x} T _stext\n{Linked + 0x12000:x} D another_symbol\n");
        Assert.Contains("no symbol linux_banner", Error(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("no map")]
    [InlineData("")]
    [InlineData("ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n")]
    [InlineData("zzzz T name\nzzzz T name2\n")]
    public void Other_texts_are_refused_in_one_line(string text)
    {
        System.IO.File.WriteAllText(File, text);
        Assert.DoesNotContain('\n', Error());
    }

    [Fact]
    public void Damaged_files_do_no_harm()
    {
        var random = new Random(5);
        byte[][] good = [Elf(("_stext", Linked, 1), ("linux_banner", Linked + BannerAt, 2)), BzImage(Lz4(LoadableElf(new byte[3000]))), BzImage(Gzip(LoadableElf(new byte[3000])))];
        for (var i = 0; i < 3000; i++)
        {
            var bytes = good[i % 3].AsSpan(0, i % 2 == 0 ? random.Next(good[i % 3].Length) : good[i % 3].Length).ToArray();
            for (var k = random.Next(6); k >= 0 && bytes.Length > 0; k--)
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            System.IO.File.WriteAllBytes(File, bytes);
            try
            {
                SymbolFile.Read(File);
            }
            catch (ConfigurationException)
            {
                // That is what is wanted of a damaged file.
            }
        }
    }

    private void Check()
    {
        var guest = new MadeUpKernel([(0x1000, "leaf")]).Guest;
        var kernel = LinuxKernel.Find(guest, File);
        Assert.Equal(MadeUpKernel.Text - Linked, kernel.Slide);
        Assert.Equal(MadeUpKernel.Banner, kernel.Banner);
        Assert.True(kernel.Symbols.TryFindText(MadeUpKernel.Text + 0x1004, out var symbol, out _));
        Assert.Equal(new GuestSymbol(MadeUpKernel.Text + 0x1000, symbol.Kind, "leaf"), symbol);
        Assert.True(kernel.Symbols.TryGetAddress("fixed_percpu_data", out var address));
        Assert.Equal(0UL, address);
        Assert.Contains("moved by 0x11400000", ContextDump.Write(guest, kernel), StringComparison.Ordinal);
        var cache = new KernelCache();
        Assert.Same(cache.Find(guest, File), cache.Find(guest, File));
        Assert.NotSame(cache.Find(guest, File), cache.Find(guest));
    }

    private string Error() => Assert.Throws<ConfigurationException>(() => LinuxKernel.Find(new MadeUpKernel([(0x1000, "leaf")]).Guest, File)).Message;

    /// <summary>Sections: none, code, data, symbols, names.</summary>
    private static byte[] Elf(params (string Name, ulong Address, int Section)[] symbols)
    {
        var names = new MemoryStream();
        names.WriteByte(0);
        var entries = new MemoryStream();
        entries.Write(new byte[24]);
        foreach (var (name, address, section) in symbols)
        {
            var entry = new byte[24];
            BinaryPrimitives.WriteInt32LittleEndian(entry, (int)names.Position);
            entry[4] = 0x12;
            entry[6] = (byte)section;
            BinaryPrimitives.WriteUInt64LittleEndian(entry.AsSpan(8), address);
            entries.Write(entry);
            names.Write(Encoding.ASCII.GetBytes(name + '\0'));
        }

        var file = new byte[64 + (5 * 64)];
        Header(file, programHeaders: 0);
        BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(40), 64);
        file[58] = 64;
        file[60] = 5;
        file[64 + 64 + 8] = 4; // SHF_EXECINSTR
        Section(3, 2, (ulong)file.Length, (ulong)entries.Length, 4);
        Section(4, 3, (ulong)(file.Length + entries.Length), (ulong)names.Length, 0);
        return [.. file, .. entries.ToArray(), .. names.ToArray()];

        void Section(int index, int type, ulong offset, ulong size, int link)
        {
            var place = file.AsSpan(64 + (index * 64));
            BinaryPrimitives.WriteInt32LittleEndian(place[4..], type);
            BinaryPrimitives.WriteUInt64LittleEndian(place[24..], offset);
            BinaryPrimitives.WriteUInt64LittleEndian(place[32..], size);
            BinaryPrimitives.WriteInt32LittleEndian(place[40..], link);
        }
    }

    private static byte[] LoadableElf(byte[] image)
    {
        var file = new byte[64 + 56];
        Header(file, programHeaders: 1);
        file[64] = 1;
        ReadOnlySpan<ulong> values = [(ulong)file.Length, Linked, 0x100_0000, (ulong)image.Length, (ulong)image.Length, 4096];
        for (var i = 0; i < values.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(64 + 8 + (i * 8)), values[i]);
        return [.. file, .. image];
    }

    private static void Header(byte[] file, int programHeaders)
    {
        ReadOnlySpan<byte> start = [0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];
        start.CopyTo(file);
        file[16] = 2;
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = (byte)programHeaders;
    }

    private static byte[] BzImage(byte[] payload)
    {
        var file = new byte[1024 + 512];
        file[0x1F1] = 1;
        Encoding.ASCII.GetBytes("HdrS").CopyTo(file, 0x202);
        BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(0x248), 512);
        BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(0x24C), payload.Length + 4);
        return [.. file, .. payload, 0, 0, 0, 0];
    }

    private static byte[] Gzip(byte[] bytes)
    {
        using var packed = new MemoryStream();
        using (var gzip = new GZipStream(packed, CompressionLevel.Fastest, leaveOpen: true))
            gzip.Write(bytes);
        return packed.ToArray();
    }

    /// <summary>One block in the legacy frame; matches are taken where four bytes were seen before.</summary>
    private static byte[] Lz4(byte[] bytes)
    {
        List<byte> block = [];
        Dictionary<uint, int> seen = [];
        var anchor = 0;
        for (var at = 0; at < bytes.Length - 12;)
        {
            var word = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));
            var isSeen = seen.TryGetValue(word, out var before) && at - before <= ushort.MaxValue;
            seen[word] = at;
            if (!isSeen)
            {
                at++;
                continue;
            }

            var length = 4;
            while (at + length < bytes.Length - 5 && bytes[before + length] == bytes[at + length])
                length++;
            Sequence(bytes.AsSpan(anchor, at - anchor), length - 4);
            block.AddRange([(byte)(at - before), (byte)((at - before) >> 8)]);
            Rest(length - 4);
            anchor = at += length;
        }

        Sequence(bytes.AsSpan(anchor), 0);
        var frame = new byte[8];
        BinaryPrimitives.WriteUInt32LittleEndian(frame, 0x184C2102);
        BinaryPrimitives.WriteInt32LittleEndian(frame.AsSpan(4), block.Count);
        return [.. frame, .. block];

        void Sequence(ReadOnlySpan<byte> literals, int match)
        {
            block.Add((byte)((Math.Min(literals.Length, 15) << 4) | Math.Min(match, 15)));
            Rest(literals.Length);
            block.AddRange(literals);
        }

        void Rest(int length)
        {
            for (length -= 15; length >= 0; length -= 255)
                block.Add((byte)Math.Min(length, 255));
        }
    }
}
