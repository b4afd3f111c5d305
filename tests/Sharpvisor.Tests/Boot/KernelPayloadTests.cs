using System.Buffers.Binary;
using System.IO.Compression;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

/// <summary>The ELF kernel in a bzImage, which a domain of Xen's is entered by.</summary>
public sealed class KernelPayloadTests
{
    private static readonly byte[] Kernel = Elf(is64: true, note: 0x1000040);

    [Fact]
    public void Gzip() => CheckPlan(Pack(GzipOf(Kernel)));

    [Fact]
    public void Lz4_as_Linux_packs_it() => CheckPlan(Pack([.. Lz4Of(Kernel), .. LengthOf(Kernel)]));

    [Fact]
    public void Not_packed_at_all() => CheckPlan(Pack(Kernel));

    [Fact]
    public void A_whole_file_may_be_packed()
    {
        CheckPlan(GzipOf(Kernel));
        CheckPlan(GzipOf(Pack([.. Lz4Of(Kernel), .. LengthOf(Kernel)])));
    }

    [Fact]
    public void An_Lz4_match_may_repeat_itself()
    {
        // Token: 1 literal, match of 4 + 15 + 3 from 1 back; then 5 literals.
        byte[] block = [0x1F, (byte)'a', 1, 0, 3, 0x50, .. "bcdef"u8];
        var text = new byte[1 + 22 + 5];
        Lz4.UnpackLegacy([0x02, 0x21, 0x4C, 0x18, (byte)block.Length, 0, 0, 0, .. block], text);
        Assert.Equal(new string('a', 23) + "bcdef", System.Text.Encoding.ASCII.GetString(text));
    }

    [Theory]
    [InlineData(new byte[] { 0x10, 97, 1 })] // half a distance
    [InlineData(new byte[] { 0x10, 97, 2, 0 })] // a match before the start
    [InlineData(new byte[] { 0x10, 97, 0, 0 })] // of distance 0
    [InlineData(new byte[] { 0xF0, 255, 255 })] // a length without end
    [InlineData(new byte[] { 0x50, 97 })] // fewer literals than it says
    [InlineData(new byte[] { 0x1F, 97, 1, 0, 255, 255, 0 })] // more than there is room for
    public void Damaged_Lz4_is_refused(byte[] block) => Assert.Throws<InvalidDataException>(
        () => Lz4.UnpackLegacy([0x02, 0x21, 0x4C, 0x18, (byte)block.Length, 0, 0, 0, .. block], new byte[64]));

    [Fact]
    public void What_can_not_be_unpacked_is_said()
    {
        AssertRefused(Pack([.. "BZh91AY"u8, .. LengthOf(Kernel)]), "bzip2");
        AssertRefused(Pack([1, 2, 3, 4, 5, 6, 7, 8]), "unknown way (it begins 01020304)");
        AssertRefused(Pack([.. Lz4Of(Kernel), 0, 0, 0, 0x70]), "corrupt");
        AssertRefused(Pack([.. Lz4Of(Kernel)[..^9], .. LengthOf(Kernel)]), "damaged");
        AssertRefused(Pack([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0x10, 0, 0, 0]), "damaged");
        AssertRefused(BzImage(k => U16(k, 0x206, 0x207)), "boot protocol before 2.08");
        AssertRefused(Pack(GzipOf(Elf(is64: true))), "no PVH entry");
        AssertRefused(GzipOf("#!/bin/sh\n"u8.ToArray()), "is a text file");
        AssertRefused(GzipOf(GzipOf(Kernel)), "is compressed with gzip");
        AssertRefused([.. GzipOf(Kernel)[..^20], .. LengthOf(Kernel)], "gzip can't unpack it");
        AssertRefused([.. GzipOf(Kernel), 0, 0, 0, 0x70], "corrupt");
        AssertRefused([0x1F, 0x8B, 8], "is too short for a kernel");
        AssertRefused("#!/bin/sh\n"u8.ToArray(), "is a text file");
    }

    private static void CheckPlan(byte[] image)
    {
        var plan = BootPlan.Create(Request(image) with { NeedsPvh = true, IsXen = true });
        Assert.Equal((KernelKind.Pvh, 0x1000040UL), (plan.Kind, plan.Entry));
        Assert.Contains(plan.MemoryMap, e => e is { Address: 0xFEFF8000, Length: 0x8000, Type: E820Type.Reserved });
    }

    private static void AssertRefused(byte[] image, string reason)
    {
        var e = Assert.Throws<ConfigurationException>(() => BootPlan.Create(Request(image) with { NeedsPvh = true }));
        Assert.Contains(reason, e.Message, StringComparison.Ordinal);
    }

    private static byte[] Pack(byte[] payload)
    {
        var image = BzImage();
        var body = (payload.Length + 0x10F) & ~15;
        Array.Resize(ref image, SetupLength + body);
        U32(image, 0x1F4, (uint)body / 16);
        U32(image, 0x248, 0x100);
        U32(image, 0x24C, (uint)payload.Length);
        payload.CopyTo(image, SetupLength + 0x100);
        return image;
    }

    private static byte[] GzipOf(byte[] data)
    {
        using var packed = new MemoryStream();
        using (var gzip = new GZipStream(packed, CompressionLevel.Fastest))
            gzip.Write(data);
        return packed.ToArray();
    }

    /// <summary>One block of literals.</summary>
    private static byte[] Lz4Of(byte[] data)
    {
        List<byte> block = [0xF0];
        var rest = data.Length - 15;
        for (; rest >= 255; rest -= 255)
            block.Add(255);
        block.Add((byte)rest);
        block.AddRange(data);
        return [0x02, 0x21, 0x4C, 0x18, .. LengthOf([.. block]), .. block];
    }

    private static byte[] LengthOf(byte[] data)
    {
        var length = new byte[4];
        BinaryPrimitives.WriteInt32LittleEndian(length, data.Length);
        return length;
    }
}
