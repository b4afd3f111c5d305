using System.Text;
using Sharpvisor.Boot;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

public sealed class BzImageTests
{
    [Fact]
    public void A_64_bit_kernel_is_entered_at_0x200_behind_its_preferred_address()
    {
        var plan = BootPlan.Create(Request(BzImage()));
        Assert.Equal(KernelKind.Linux64, plan.Kind);
        Assert.Equal(0x1000000UL, plan.LoadAddress);
        Assert.Equal(0x1000200UL, plan.Entry);
    }

    [Fact]
    public void In_long_mode_with_flat_segments_and_rsi_at_boot_params()
    {
        var plan = BootPlan.Create(Request(BzImage()));
        var state = new CpuState { Rip = 0xFFF0, Cr0 = 0x60000010, Activity = ActivityState.WaitForSipi };
        plan.ApplyTo(ref state);
        Assert.Equal(0x1000200UL, state.Rip);
        Assert.Equal(0x7000UL, state.Gpr[6]);
        Assert.Equal(0x80000011UL, state.Cr0);
        Assert.Equal(0x20UL, state.Cr4);
        Assert.Equal(0x500UL, state.Efer);
        Assert.Equal(2UL, state.Rflags);
        Assert.Equal(0x10, state.Segments[1].Selector);
        Assert.True(state.Segments[1].Long);
        Assert.False(state.Segments[1].Big);
        foreach (var i in new[] { 0, 2, 3, 4, 5 })
            Assert.Equal(0x18, state.Segments[i].Selector);
        Assert.Equal(ActivityState.Active, state.Activity);
    }

    [Fact]
    public void The_page_tables_map_4_GiB_to_themselves()
    {
        using var memory = new GuestMemory(64 << 20);
        var plan = BootPlan.Create(Request(BzImage(k => U32(k, 0x260, 0x10000)), memory.Below4G));
        plan.WriteTo(memory);
        var state = default(CpuState);
        plan.ApplyTo(ref state);
        foreach (var address in new ulong[] { 0, 0x1000200, 0x7FFFFFFF, 0xC0000000, 0xFFFFF000 })
            Assert.Equal(address, Walk(memory, state.Cr3, address));
    }

    [Fact]
    public void The_gdt_in_ram_agrees_with_the_loaded_segments()
    {
        using var memory = new GuestMemory(64 << 20);
        var plan = BootPlan.Create(Request(BzImage(k => U32(k, 0x260, 0x10000)), memory.Below4G));
        plan.WriteTo(memory);
        var state = default(CpuState);
        plan.ApplyTo(ref state);
        Assert.True(memory.TryRead(state.Gdtr.Base + 0x10, out ulong code));
        Assert.True(memory.TryRead(state.Gdtr.Base + 0x18, out ulong data));
        Assert.Equal(0x00AF9B000000FFFFUL, code);
        Assert.Equal(0x00CF93000000FFFFUL, data);
        Assert.Equal((ushort)((code >> 40) & 0xF0FF), state.Segments[1].Attributes);
        Assert.Equal((ushort)((data >> 40) & 0xF0FF), state.Segments[3].Attributes);
    }

    [Fact]
    public void Boot_params_carry_header_command_line_initrd_memory_map_and_rsdp()
    {
        using var memory = new GuestMemory(512 << 20);
        var plan = BootPlan.Create(Request(BzImage(), memory.Below4G, initrd: new byte[0x12345], commandLine: "quiet ü"));
        plan.WriteTo(memory);
        var page = new byte[4096];
        Assert.True(memory.TryRead(plan.ParametersAddress, page));

        Assert.Equal(0x53726448u, BitConverter.ToUInt32(page, 0x202));
        Assert.Equal(0xFF, page[0x210]);
        Assert.Equal(0, page[0x1EF]); // the sentinel says that the page was cleared
        Assert.Equal(0xE0000UL, BitConverter.ToUInt64(page, 0x070));
        var commandLine = new byte[9];
        Assert.True(memory.TryRead(BitConverter.ToUInt32(page, 0x228), commandLine));
        Assert.Equal("quiet ü\0", Encoding.UTF8.GetString(commandLine));
        var address = BitConverter.ToUInt32(page, 0x218);
        Assert.Equal(0x12345u, BitConverter.ToUInt32(page, 0x21C));
        Assert.Equal(0u, address & 0xFFF);
        Assert.Equal(plan.Initrd!.Address, address);
        Assert.True(address + 0x12345 <= 512u << 20);
        var entries = Enumerable.Range(0, page[0x1E8]).Select(i => (
            BitConverter.ToUInt64(page, 0x2D0 + (20 * i)),
            BitConverter.ToUInt64(page, 0x2D8 + (20 * i)),
            BitConverter.ToUInt32(page, 0x2E0 + (20 * i)))).ToArray();
        Assert.Equal(
            [(0UL, 0x9FC00UL, 1u), (0x9FC00UL, 0x400UL, 2u), (0xE0000UL, 0x20000UL, 2u), (0x100000UL, 0x1FF00000UL, 1u)],
            entries);
    }

    [Fact]
    public void The_body_lies_at_the_load_address_and_a_reset_restores_it()
    {
        using var memory = new GuestMemory(128 << 20);
        var plan = BootPlan.Create(Request(BzImage(), memory.Below4G));
        for (var i = 0; i < 2; i++)
        {
            plan.WriteTo(memory);
            Assert.True(memory.TryRead(plan.LoadAddress + 0xFFF, out byte last));
            Assert.Equal(0x5A, last);
            Assert.True(memory.TryWrite(plan.LoadAddress + 0xFFF, (byte)0));
        }
    }

    [Fact]
    public void A_kernel_without_XLF_KERNEL_64_is_entered_by_the_32_bit_protocol()
    {
        var plan = BootPlan.Create(Request(BzImage(k => U16(k, 0x236, 0))));
        Assert.Equal(KernelKind.Linux32, plan.Kind);
        Assert.Equal(0x1000000UL, plan.Entry);
        var state = default(CpuState);
        plan.ApplyTo(ref state);
        Assert.Equal(0x11UL, state.Cr0);
        Assert.Equal(0UL, state.Efer);
        Assert.Equal(0x7000UL, state.Gpr[6]);
        Assert.Equal(0UL, state.Gpr[3] | state.Gpr[5] | state.Gpr[7]);
        Assert.True(state.Segments[1].Big);
        Assert.False(state.Segments[1].Long);
    }

    [Fact]
    public void A_relocatable_kernel_goes_lower_when_its_preferred_place_is_beyond_ram()
    {
        var plan = BootPlan.Create(Request(BzImage(k => U32(k, 0x260, 0x400000)), below4G: 16 << 20));
        Assert.Equal(0x200000UL, plan.LoadAddress);
    }

    [Fact]
    public void A_kernel_that_is_not_relocatable_goes_to_1_MiB()
    {
        var plan = BootPlan.Create(Request(BzImage(k => k[0x234] = 0)));
        Assert.Equal(0x100000UL, plan.LoadAddress);
    }

    [Fact]
    public void The_initrd_stays_below_initrd_addr_max()
    {
        var plan = BootPlan.Create(Request(BzImage(k => U32(k, 0x22C, 0x07FFFFFF)), initrd: new byte[0x1800]));
        Assert.Equal(0x07FFE000UL, plan.Initrd!.Address);
    }

    [Fact]
    public void An_initrd_without_room_below_goes_above_4_GiB_by_the_ext_fields()
    {
        using var memory = new GuestMemory(160 << 20, maxBelow4G: 80 << 20);
        var plan = BootPlan.Create(Request(BzImage(), memory.Below4G, initrd: new byte[24 << 20], above4G: memory.Above4G));
        Assert.Equal(0x1_0000_0000UL + (80UL << 20) - (24UL << 20), plan.Initrd!.Address);
        plan.WriteTo(memory);
        Assert.True(memory.TryRead(plan.ParametersAddress + 0x0C0, out uint high));
        Assert.Equal(1u, high);
    }

    [Fact]
    public async Task Kernels_come_from_files_streams_and_guest_memory_alike()
    {
        var image = BzImage();
        var path = Path.GetTempFileName();
        await File.WriteAllBytesAsync(path, image);
        using var memory = new GuestMemory(128 << 20);
        Assert.True(memory.TryWrite(0x200000, image));
        using var file = BootSource.FromFile(path);
        using var stream = await BootSource.FromStreamAsync(new MemoryStream(image), "stream");
        using var guest = BootSource.FromGuestMemory(memory, 0x200000, image.Length, "guest");
        File.Delete(path);
        foreach (var source in new[] { file, stream, guest })
        {
            memory.Clear();
            BootPlan.Create(Request(image, memory.Below4G) with { Kernel = source }).WriteTo(memory);
            Assert.True(memory.TryRead(0x1000FF8, out ulong body));
            Assert.Equal(0x5A5A5A5A5A5A5A5AUL, body);
        }
    }

    private static ulong Walk(GuestMemory memory, ulong cr3, ulong address)
    {
        Assert.True(memory.TryRead(cr3 + (((address >> 39) & 511) * 8), out ulong pml4e));
        Assert.True(memory.TryRead((pml4e & ~0xFFFUL) + (((address >> 30) & 511) * 8), out ulong pdpte));
        Assert.True(memory.TryRead((pdpte & ~0xFFFUL) + (((address >> 21) & 511) * 8), out ulong pde));
        Assert.Equal(3UL, pml4e & 3);
        Assert.Equal(3UL, pdpte & 0x83);
        Assert.Equal(0x83UL, pde & 0x83);
        return (pde & ~0x1FFFFFUL) | (address & 0x1FFFFF);
    }
}
