using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Core.Tests.Memory;

public sealed class GuestMemoryTests
{
    private const ulong MiB = 1 << 20;
    private const ulong FourGiB = 1UL << 32;

    [Theory]
    [InlineData(0)]
    [InlineData(4096)]
    [InlineData(MiB + 1)]
    [InlineData(GuestMemory.MaximumSize + 4096)]
    [InlineData(ulong.MaxValue)]
    public void A_size_out_of_range_is_the_users_mistake(ulong size)
    {
        var error = Assert.Throws<ConfigurationException>(() => new GuestMemory(size));
        Assert.DoesNotContain('\n', error.Message);
        Assert.Contains("64G", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_largest_size_is_reserved_without_being_backed()
    {
        using var memory = new GuestMemory(GuestMemory.MaximumSize);
        Assert.True(memory.TryWrite(FourGiB + memory.Above4G - 8, 0x1122334455667788UL));
        Assert.True(memory.TryRead(FourGiB + memory.Above4G - 8, out ulong value));
        Assert.Equal(0x1122334455667788UL, value);
    }

    [Theory]
    [InlineData(0x9FFFF, 1, true)]
    [InlineData(0x9FFFF, 2, false)]
    [InlineData(0xA0000, 1, false)]
    [InlineData(0xBFFFF, 1, false)]
    [InlineData(0xBFFFF, 2, false)]
    [InlineData(0xC0000, 8, true)]
    [InlineData(0x90000, 0x40000, false)] // over the whole window
    public void The_vga_window_is_not_ram(ulong gpa, int length, bool isRam)
    {
        using var memory = new GuestMemory(2 * MiB);
        var bytes = new byte[length];
        Assert.Equal(isRam, memory.IsRam(gpa, (ulong)length));
        Assert.Equal(isRam, memory.TryRead(gpa, bytes));
        Assert.Equal(isRam, memory.TryWrite(gpa, bytes));
        Assert.Equal(isRam, memory.TrySlice(gpa, length, out var slice));
        Assert.Equal(isRam ? length : 0, slice.Length);
    }

    [Fact]
    public unsafe void Memory_past_the_pci_hole_starts_at_4_gib_and_is_not_the_memory_below()
    {
        using var memory = new GuestMemory(4 * MiB, maxBelow4G: 3 * MiB);
        Assert.Equal(3 * MiB, memory.Below4G);
        Assert.Equal(MiB, memory.Above4G);

        Assert.True(memory.TryWrite(3 * MiB - 4, 0xAAAAAAAAu));
        Assert.True(memory.TryWrite(FourGiB, 0xBBBBBBBBu));
        Assert.True(memory.TryRead(3 * MiB - 4, out uint low));
        Assert.True(memory.TryRead(FourGiB, out uint high));
        Assert.Equal((0xAAAAAAAAu, 0xBBBBBBBBu), (low, high));

        Assert.False(memory.TryWrite(3 * MiB - 4, 0UL)); // half in the hole: nothing is written
        Assert.True(memory.TryRead(3 * MiB - 4, out low));
        Assert.Equal(0xAAAAAAAAu, low);
        Assert.False(memory.TryRead(FourGiB - 4, out ulong _));
        Assert.False(memory.TryRead(FourGiB + MiB - 4, out ulong _));
        Assert.False(memory.TryRead(3 * MiB, out byte _));
        Assert.True(memory.TryGetPointer(3 * MiB) == null);
        Assert.True(memory.TryGetPointer(FourGiB) == memory.HostBase + (3 * MiB));
    }

    [Theory]
    [InlineData(ulong.MaxValue, 1UL)]
    [InlineData(ulong.MaxValue, ulong.MaxValue)]
    [InlineData(0UL, ulong.MaxValue)]
    [InlineData(0x1000UL, ulong.MaxValue - 0x800)]
    [InlineData(FourGiB, ulong.MaxValue)]
    [InlineData(FourGiB, ulong.MaxValue - FourGiB + 2)]
    [InlineData(ulong.MaxValue - 3, 8UL)]
    public void A_range_that_wraps_around_is_not_ram(ulong gpa, ulong length)
    {
        using var memory = new GuestMemory(4 * MiB, maxBelow4G: 3 * MiB);
        Assert.False(memory.IsRam(gpa, length));
        memory.MarkWritten(gpa, length); // must not reach outside of its tables
    }

    [Fact]
    public void A_slice_shows_and_changes_the_same_bytes()
    {
        using var memory = new GuestMemory(2 * MiB);
        Assert.True(memory.TrySlice(0x100FFE, 4, out var slice));
        memory.TryWrite(0x100FFE, 0x04030201u);
        Assert.Equal([1, 2, 3, 4], slice.ToArray());
        slice.Span[3] = 9;
        Assert.True(memory.TryRead(0x101001, out byte last));
        Assert.Equal(9, last);
        Assert.False(memory.TrySlice(0x100000, -1, out _));
        Assert.True(memory.TrySlice(0x100000, 0, out var empty));
        Assert.Equal(0, empty.Length);
    }

    [Fact]
    public void Only_writes_to_lines_with_code_are_told_and_with_exactly_those_lines()
    {
        using var memory = new GuestMemory(2 * MiB);
        List<(ulong Page, ulong Lines)> written = [];
        memory.CodeWritten += (page, lines) => written.Add((page, lines));

        memory.TryWrite(0x101040, 1UL);
        Assert.Empty(written);

        memory.CodeLines(0x101000) = 0b110; // lines 1 and 2: 0x40 to 0xBF
        memory.TryWrite(0x10103F, (byte)1);
        memory.TryWrite(0x1010C0, 1UL);
        Assert.Empty(written);
        memory.TryWrite(0x10103C, 1UL); // lines 0 and 1
        Assert.Equal([(0x101UL, 0b11UL)], written);

        written.Clear();
        memory.CodeLines(0x102000) = 1;
        memory.MarkWritten(0x100FFF, 0x1002); // one byte before, the whole page, one byte behind
        Assert.Equal([(0x101UL, ulong.MaxValue), (0x102UL, 1UL)], written);

        written.Clear();
        memory.MarkWritten(0x101000, 0);
        Assert.Empty(written);
    }

    [Fact]
    public void Code_above_4_gib_is_told_by_its_guest_physical_page()
    {
        using var memory = new GuestMemory(4 * MiB, maxBelow4G: 3 * MiB);
        List<(ulong Page, ulong Lines)> written = [];
        memory.CodeWritten += (page, lines) => written.Add((page, lines));
        memory.CodeLines(FourGiB + 0x2000) = ulong.MaxValue;

        memory.TryWrite(FourGiB + 0x2FFF, (byte)1);
        Assert.Equal([((FourGiB + 0x2000) >> 12, 1UL << 63)], written);

        written.Clear();
        memory.Clear();
        Assert.Equal([((FourGiB + 0x2000) >> 12, ulong.MaxValue)], written);
        Assert.True(memory.TryRead(FourGiB + 0x2FFF, out byte cleared));
        Assert.Equal(0, cleared);
    }

    [Fact]
    public void A_window_on_RAM_allocates_nothing_and_may_lie_anywhere()
    {
        using var memory = new GuestMemory(5 * 1024 * MiB, maxBelow4G: 3 * 1024 * MiB);
        ulong[] places = [0, 0x9F000, MiB, (1024 * MiB) - 0x800, (2048 * MiB) - 1, FourGiB, FourGiB + (1024 * MiB) - 0x800];
        foreach (var place in places)
        {
            Assert.True(memory.TryWrite(place, (byte)0xA5));
            Assert.True(memory.TrySlice(place, 0x1000, out var slice));
            Assert.Equal(0xA5, slice.Span[0]);
            slice.Span[0xFFF] = 0x5A;
            Assert.True(memory.TryRead(place + 0xFFF, out byte last));
            Assert.Equal(0x5A, last);
        }

        Assert.True(memory.TrySlice(0x3FFF_FFFF, int.MaxValue, out var longest)); // more than a part of RAM that is kept
        longest.Span[^1] = 1;
        Assert.True(memory.TryRead(0x3FFF_FFFFul + int.MaxValue - 1, out byte end));
        Assert.Equal(1, end);
        var before = GC.GetAllocatedBytesForCurrentThread();
        foreach (var place in places)
            memory.TrySlice(place, 0x1000, out _);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public void Pages_given_back_are_zero_and_the_hosts()
    {
        using var memory = new GuestMemory(16 << 20, maxBelow4G: 8 << 20);
        Assert.True(memory.TryWrite(2 << 20, Enumerable.Repeat((byte)0xA5, 4 << 20).ToArray()));
        var before = memory.ResidentSize;
        Assert.InRange(before, 4ul << 20, 16ul << 20);
        Assert.True(memory.TryDiscard(2 << 20, (4 << 20) - 4096));
        if (OperatingSystem.IsLinux())
            Assert.InRange(memory.ResidentSize, 1u, before - (3 << 20));
        Assert.True(memory.TryRead<byte>((2 << 20) + 5, out var gone) && gone == 0);
        Assert.True(memory.TryRead<byte>((6 << 20) - 1, out var kept) && kept == 0xA5);
        Assert.True(memory.TryDiscard(0, 0x1000));
        Assert.True(memory.TryDiscard(0x1_0000_0000, 8 << 20));
    }

    [Theory]
    [InlineData(0x1000, 0x800)]
    [InlineData(0x1800, 0x1000)]
    [InlineData(0x1000, 0)]
    [InlineData(0x9F000, 0x2000)] // reaches into the VGA window
    [InlineData(0x7F_F000, 0x2000)] // and behind RAM
    [InlineData(ulong.MaxValue - 0xFFF, 0x1000)]
    [InlineData(0x1000, ulong.MaxValue - 0xFFF)]
    public void What_is_not_whole_pages_of_RAM_is_not_given_back(ulong address, ulong length)
    {
        using var memory = new GuestMemory(8 << 20);
        memory.TryWrite<byte>(0x1FFF, 0xA5);
        Assert.False(memory.TryDiscard(address, length));
        Assert.True(memory.TryRead<byte>(0x1FFF, out var kept) && kept == 0xA5);
    }

    [Fact]
    public void A_ROM_is_not_given_back()
    {
        using var memory = new GuestMemory(8 << 20);
        var rom = memory.AddRegion("rom", 0x1000);
        rom.Bytes(0, 1)[0] = 0xA5;
        memory.Map(0xC0000, rom);
        Assert.False(memory.TryDiscard(0xC0000, 0x1000));
        Assert.Equal(0xA5, rom.Bytes(0, 1)[0]);
    }
}
