using Sharpvisor.Core.Memory;

namespace Sharpvisor.Core.Tests.Memory;

/// <summary>Regions beside RAM and over its first megabyte.</summary>
public sealed class MemoryMapTests
{
    private const ulong MiB = 1 << 20, Bar = 0xE000_0000;

    [Theory]
    [InlineData(Bar)]
    [InlineData(0xC0000UL)]
    public void A_region_is_seen_where_it_is_mapped_and_no_more_when_it_is_not(ulong gpa)
    {
        using var memory = new GuestMemory(2 * MiB);
        var wasMemory = memory.IsRam(gpa, 8);
        var region = memory.AddRegion("video", 0x3000);
        var mapping = memory.Map(gpa, region);
        Assert.True(memory.TryWrite(gpa + 0x0FFC, 0x1122334455667788UL));
        Assert.Equal(0x88, region.Bytes(0xFFC, 1)[0]);
        Assert.True(memory.IsRam(gpa, 0x3000));
        Assert.Equal(gpa == 0xC0000, memory.IsRam(gpa, 0x1000) && memory.TryRead(gpa + 0x2FFC, out ulong _)); // RAM follows there
        Assert.True(memory.TrySlice(gpa + 0x1000, 4, out var slice));
        Assert.Equal(0x44, slice.Span[0]);
        memory.Unmap(mapping);
        memory.Unmap(mapping);
        Assert.Equal(wasMemory, memory.IsRam(gpa, 8));
        Assert.Equal(wasMemory, memory.TryRead(gpa, out ulong value));
        Assert.Equal(0UL, value);
    }

    [Fact]
    public unsafe void The_four_states_of_a_pam_segment()
    {
        using var memory = new GuestMemory(2 * MiB);
        var rom = memory.AddRegion("rom", 0x4000);
        rom.Bytes(0, 0x4000).Fill(0x5A);
        const ulong at = 0xF0000;
        memory.TryWrite(at, (byte)1);

        var mapping = memory.Map(at, 0x4000, rom, 0, null, 0);
        Assert.True(memory.TryRead(at, out byte value));
        Assert.Equal(0x5A, value);
        Assert.False(memory.TryWrite(at, (byte)2));
        Assert.False(memory.IsRam(at, 1));

        memory.Unmap(mapping);
        mapping = memory.Map(at, 0x4000, rom, 0, memory.Ram, at);
        Assert.True(memory.TryWrite(at, (byte)3));
        Assert.True(memory.TryRead(at, out value));
        Assert.Equal(0x5A, value);
        Assert.False(memory.TryGetPointer(at) == memory.TryGetWritable(at));
        Span<byte> both = stackalloc byte[16];
        Assert.True(memory.TryRead(at - 8, both)); // RAM and ROM
        Assert.Equal((0, 0x5A), (both[7], both[8]));

        memory.Unmap(mapping);
        mapping = memory.Map(at, 0x4000, memory.Ram, at, null, 0);
        Assert.True(memory.TryRead(at, out value));
        Assert.Equal(3, value);
        Assert.False(memory.TryWrite(at, (byte)4));

        memory.Unmap(mapping);
        Assert.True(memory.TryWrite(at, (byte)5));
        Assert.Equal(5, memory.Ram.Bytes(at, 1)[0]);
    }

    [Fact]
    public void A_write_that_some_of_its_pages_refuse_writes_nothing()
    {
        using var memory = new GuestMemory(2 * MiB);
        memory.Map(0xC1000, 0x1000, memory.AddRegion("rom", 0x1000), 0, null, 0);
        Assert.False(memory.TryWrite(0xC0FFC, ulong.MaxValue));
        Assert.True(memory.TryRead(0xC0FFC, out uint value));
        Assert.Equal(0u, value);
        Assert.False(memory.IsRam(0xC0000, 0x2000));
        Assert.True(memory.IsRam(0xC2000, MiB));
    }

    [Fact]
    public void Ram_is_never_hidden_and_the_first_of_two_mappings_is_seen()
    {
        using var memory = new GuestMemory(2 * MiB);
        var first = memory.AddRegion("first", 0x1000);
        var second = memory.AddRegion("second", 0x2000);
        first.Bytes(0, 1)[0] = 1;
        second.Bytes(0, 1)[0] = 2;
        second.Bytes(0x1000, 1)[0] = 3;
        memory.Map(MiB, first);
        Assert.True(memory.TryWrite(MiB, (byte)9));
        Assert.Equal(1, first.Bytes(0, 1)[0]);

        var seen = memory.Map(Bar, first);
        memory.Map(Bar, second);
        Assert.True(memory.TryRead(Bar, out byte value) && value == 1);
        Assert.True(memory.TryRead(Bar + 0x1000, out value) && value == 3);
        memory.Unmap(seen);
        Assert.True(memory.TryRead(Bar, out value) && value == 2);
    }

    [Fact]
    public void Whoever_writes_to_a_region_with_code_in_it_is_noticed()
    {
        using var memory = new GuestMemory(2 * MiB);
        var region = memory.AddRegion("video", 0x2000);
        List<(ulong Page, ulong Lines)> written = [];
        memory.CodeWritten += (page, lines) => written.Add((page, lines));
        memory.Map(Bar, region);
        memory.CodeLines(Bar + 0x1000) = 0b110;
        region.MarkWritten(0, 0x1001);
        Assert.Empty(written);
        region.MarkWritten(0x1040, 1);
        memory.TryWrite(Bar + 0x1080, (byte)1);
        Assert.Equal([((Bar >> 12) + 1, 0b010UL), ((Bar >> 12) + 1, 0b100UL)], written);
        Assert.Equal(0UL, memory.CodeLines(0xD000_0000)); // nobody's
    }

    [Theory]
    [InlineData(0x1234UL, 0x1000UL, 0UL)]
    [InlineData(Bar, 0UL, 0UL)]
    [InlineData(Bar, 0x3000UL, 0UL)]
    [InlineData(Bar, 0x1000UL, 0x2000UL)]
    [InlineData(GuestMemory.MapLimit - 0x1000, 0x2000UL, 0UL)]
    [InlineData(GuestMemory.MapLimit, 0x1000UL, 0UL)]
    [InlineData(ulong.MaxValue & ~0xFFFUL, 0x1000UL, 0UL)]
    public void A_range_that_cannot_be_mapped(ulong gpa, ulong length, ulong offset)
    {
        using var memory = new GuestMemory(2 * MiB);
        var region = memory.AddRegion("video", 0x2000);
        Assert.Throws<ArgumentException>(() => memory.Map(gpa, length, region, offset, region, offset));
        Assert.Empty(memory.Mappings);
    }
}
