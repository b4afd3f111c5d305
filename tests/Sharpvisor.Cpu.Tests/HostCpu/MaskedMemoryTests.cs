using Sharpvisor.Cpu.HostCpu;

namespace Sharpvisor.Cpu.Tests.HostCpu;

public unsafe class MaskedMemoryTests
{
    /// <summary>Each byte is its offset's low byte; a page at 0x2000 is absent; writes are noted.</summary>
    private sealed class Memory : IElementMemory
    {
        public Dictionary<ulong, byte> Written { get; } = [];

        public List<ulong> Reads { get; } = [];

        public bool TryRead(ulong offset, int size, out ulong value)
        {
            Reads.Add(offset);
            value = 0;
            for (var i = size - 1; i >= 0; i--)
                value = value << 8 | (byte)(offset + (ulong)i);
            return CanWrite(offset, size);
        }

        public bool CanWrite(ulong offset, int size) => offset >> 12 != 2 && (offset + (ulong)size - 1) >> 12 != 2;

        public void Write(ulong offset, int size, ulong value)
        {
            for (var i = 0; i < size; i++)
                Written.Add(offset + (ulong)i, (byte)(value >> (8 * i)));
        }
    }

    private static bool Execute(Guest guest, Memory memory, int bitness, params byte[] code)
    {
        var instruction = Guest.Decode(bitness, code);
        Assert.True(MaskedMemory.Handles(instruction));
        Assert.Null(HostThunks.TryCreate(instruction, bitness));
        return MaskedMemory.Execute(instruction, guest.State, ref memory);
    }

    [Fact]
    public void A_gather_reads_the_selected_elements_and_clears_the_mask()
    {
        using var guest = new Guest();
        var memory = new Memory();
        guest.State->Gpr[3] = 0x1000;
        guest.Quads(0).Fill(0x1111_1111_1111_1111);
        ulong[] index = [0x0000_0001_0000_0000, 0xFFFF_FFFF_0000_0002, 0x0000_0004_0000_0003, 0x0000_0006_0000_0005];
        ulong[] mask = [0x8000_0000_8000_0000, 0x8000_0000_7FFF_FFFF, 0, 0xFFFF_FFFF_0000_0000];
        index.CopyTo(guest.Quads(2));
        mask.CopyTo(guest.Quads(1));
        Assert.True(Execute(guest, memory, 64, 0xC4, 0xE2, 0x75, 0x90, 0x44, 0x93, 0x10)); // vpgatherdd ymm0, [rbx+ymm2*4+16], ymm1
        Assert.Equal([0x1010, 0x1014, 0x100C, 0x1028], memory.Reads);
        Assert.Equal([0x1716151413121110, 0x0F0E0D0C_11111111, 0x1111_1111_1111_1111, 0x2B2A2928_11111111], guest.Quads(0).ToArray());
        Assert.Equal([0, 0, 0, 0], guest.Quads(1).ToArray());
    }

    [Fact]
    public void A_faulting_gather_keeps_what_it_has()
    {
        using var guest = new Guest();
        var memory = new Memory();
        ulong[] index = [0x1000, 0x2000, 0x1020, 0x1030];
        index.CopyTo(guest.Quads(2));
        guest.Quads(1).Fill(1UL << 63);
        guest.Quads(0).Fill(7);
        byte[] code = [0xC4, 0xE2, 0xF5, 0x91, 0x04, 0x15, 0, 0, 0, 0]; // vpgatherqq ymm0, [ymm2], ymm1
        Assert.False(Execute(guest, memory, 64, code));
        Assert.Equal([0x07060504_03020100, 7, 7, 7], guest.Quads(0).ToArray());
        Assert.Equal([0, ulong.MaxValue, ulong.MaxValue, ulong.MaxValue], guest.Quads(1).ToArray());
        guest.Quads(2)[1] = 0x1010;
        memory.Reads.Clear();
        Assert.True(Execute(guest, memory, 64, code));
        Assert.Equal([0x1010, 0x1020, 0x1030], memory.Reads);
        Assert.Equal([0, 0, 0, 0], guest.Quads(1).ToArray());
    }

    [Fact]
    public void Four_bytes_by_eight_byte_indices_fill_half_a_register()
    {
        using var guest = new Guest();
        guest.Quads(0).Fill(ulong.MaxValue);
        guest.Quads(1).Fill(ulong.MaxValue);
        guest.Quads(2)[0] = 0x40;
        guest.Quads(2)[1] = 0x50;
        Assert.True(Execute(guest, new Memory(), 64, 0xC4, 0xE2, 0x71, 0x93, 0x04, 0x15, 0, 0, 0, 0)); // vgatherqps xmm0, [xmm2], xmm1
        Assert.Equal([0x53525150_43424140, 0, 0, 0], guest.Quads(0).ToArray());
        Assert.Equal([0, 0, 0, 0], guest.Quads(1).ToArray());
    }

    [Fact]
    public void Addresses_wrap_at_their_size()
    {
        using var guest = new Guest();
        var memory = new Memory();
        guest.State->Gpr[3] = 0xFFFF_FFFF_FFFF_FFF0;
        guest.Quads(1)[0] = ulong.MaxValue;
        guest.Quads(2)[0] = 0x20;
        Assert.True(Execute(guest, memory, 32, 0xC4, 0xE2, 0xF1, 0x91, 0x04, 0x13)); // vpgatherqq xmm0, [ebx+xmm2], xmm1
        Assert.Equal([0x10], memory.Reads);
    }

    [Fact]
    public void An_operand_runs_on_over_the_end_of_its_address_size()
    {
        using var guest = new Guest();
        var memory = new Memory();
        guest.State->Gpr[3] = 0xFFFC;
        guest.Quads(1).Fill(ulong.MaxValue);
        Assert.True(Execute(guest, memory, 32, 0x67, 0xC4, 0xE2, 0x71, 0x8E, 0x07)); // vpmaskmovd [bx], xmm1, xmm0
        Assert.Equal((0xFFFCul, 0x1_000Bul), (memory.Written.Keys.Min(), memory.Written.Keys.Max()));
    }

    [Fact]
    public void Unselected_elements_neither_fault_nor_load()
    {
        using var guest = new Guest();
        guest.State->Gpr[1] = 0x1FF8;
        guest.Quads(0).Fill(9);
        guest.Quads(1)[0] = ulong.MaxValue; // only the element before the absent page
        Assert.True(Execute(guest, new Memory(), 64, 0xC4, 0xE2, 0x75, 0x2D, 0x01)); // vmaskmovpd ymm0, ymm1, [rcx]
        Assert.Equal([0xFFFEFDFC_FBFAF9F8, 0, 0, 0], guest.Quads(0).ToArray());
        guest.Quads(1)[1] = ulong.MaxValue;
        Assert.False(Execute(guest, new Memory(), 64, 0xC4, 0xE2, 0x75, 0x2D, 0x01));
        Assert.Equal([0xFFFEFDFC_FBFAF9F8, 0, 0, 0], guest.Quads(0).ToArray());
    }

    [Fact]
    public void A_masked_store_writes_all_or_nothing()
    {
        using var guest = new Guest();
        var memory = new Memory();
        guest.State->Gpr[1] = 0x1FF8;
        guest.Quads(0).Fill(0x0807_0605_0403_0201);
        guest.Quads(1)[0] = ulong.MaxValue;
        guest.Quads(1)[1] = 1UL << 31;
        Assert.False(Execute(guest, memory, 64, 0xC4, 0xE2, 0x71, 0x8E, 0x01)); // vpmaskmovd [rcx], xmm1, xmm0
        Assert.Empty(memory.Written);
        guest.Quads(1)[1] = 0;
        Assert.True(Execute(guest, memory, 64, 0xC4, 0xE2, 0x71, 0x8E, 0x01));
        Assert.Equal(8, memory.Written.Count);
        Assert.Equal(8, memory.Written[0x1FFF]);
    }

    [Fact]
    public void Bytes_go_to_the_destination_index()
    {
        using var guest = new Guest();
        var memory = new Memory();
        guest.State->Gpr[7] = 0xFFFF_0000_0000_0FF8;
        guest.Quads(0)[0] = 0x0807_0605_0403_0201;
        guest.Quads(1)[0] = 0x80_00_00_00_00_00_80_00;
        Assert.True(Execute(guest, memory, 32, 0x66, 0x0F, 0xF7, 0xC1)); // maskmovdqu xmm0, xmm1
        Assert.Equal([(0xFF9ul, (byte)2), (0xFFFul, (byte)8)], memory.Written.Select(w => (w.Key, w.Value)));

        memory.Written.Clear();
        guest.StatusWord = 3 << 11;
        HostX87.Load(guest.State);
        guest.Run(0x0F, 0x6F, 0x11); // movq mm2, [rcx]: zero
        *(ulong*)guest.Memory = 0x8000;
        guest.Run(0x0F, 0x6F, 0x19); // movq mm3, [rcx]
        HostX87.Save(guest.State);
        guest.StatusWord = 5 << 11;
        Shift(guest, 5);
        HostX87.Load(guest.State);
        Assert.True(Execute(guest, memory, 64, 0x0F, 0xF7, 0xDB)); // maskmovq mm3, mm3
        HostX87.Save(guest.State);
        Assert.Equal([(0xFFFF_0000_0000_0FF9ul, (byte)0x80)], memory.Written.Select(w => (w.Key, w.Value)));
        Assert.Equal((0, 0xFF), (guest.StatusWord >> 11 & 7, guest.Tags));
    }

    /// <summary>The image is by stack position: another top moves the registers in it.</summary>
    private static void Shift(Guest guest, int top)
    {
        var image = (byte*)&guest.State->X87 + 32;
        var old = new Span<byte>(image, 128).ToArray();
        for (var i = 0; i < 8; i++)
            old.AsSpan(16 * ((i + top) & 7), 16).CopyTo(new Span<byte>(image + (16 * i), 16));
    }
}
