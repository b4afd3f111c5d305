using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

public sealed class ElfTests
{
    [Fact]
    public void A_vmlinux_is_loaded_by_physical_addresses_and_entered_in_long_mode()
    {
        using var memory = new GuestMemory(64 << 20);
        Assert.True(memory.TryWrite(0x1000100, 0xFFFFFFFFu)); // where .bss will be
        var plan = BootPlan.Create(Request(Elf(is64: true, entry: 0x1000010), memory.Below4G));
        plan.WriteTo(memory);
        Assert.Equal(KernelKind.LinuxElf64, plan.Kind);
        Assert.Equal(0x1000010UL, plan.Entry);
        Assert.True(memory.TryRead(0x10000FF, out byte last));
        Assert.Equal(0xC3, last);
        Assert.True(memory.TryRead(0x1000100, out uint bss));
        Assert.Equal(0u, bss);
        Assert.True(memory.TryRead(plan.ParametersAddress + 0x202, out uint header));
        Assert.Equal(0x53726448u, header);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_kernel_with_a_PVH_note_is_entered_there_in_protected_mode(bool is64)
    {
        using var memory = new GuestMemory(512 << 20);
        var plan = BootPlan.Create(Request(Elf(is64, note: 0x1000040), memory.Below4G, initrd: new byte[0x2000]));
        plan.WriteTo(memory);
        Assert.Equal(KernelKind.Pvh, plan.Kind);
        Assert.Equal(0x1000040UL, plan.Entry);
        var state = default(CpuState);
        plan.ApplyTo(ref state);
        Assert.Equal(0x11UL, state.Cr0);
        Assert.Equal(0UL, state.Cr4);
        Assert.Equal(plan.ParametersAddress, state.Gpr[3]);
        Assert.Equal(0x67u, state.Tr.Limit);

        var info = new byte[56];
        Assert.True(memory.TryRead(state.Gpr[3], info));
        Assert.Equal(0x336EC578u, BitConverter.ToUInt32(info, 0));
        Assert.Equal(1u, BitConverter.ToUInt32(info, 4));
        Assert.Equal(1u, BitConverter.ToUInt32(info, 12));
        Assert.Equal(0xE0000UL, BitConverter.ToUInt64(info, 32));
        Assert.True(memory.TryRead(BitConverter.ToUInt64(info, 16), out ulong module));
        Assert.Equal(plan.Initrd!.Address, module);
        Assert.True(memory.TryRead(BitConverter.ToUInt64(info, 16) + 8, out ulong moduleSize));
        Assert.Equal(0x2000UL, moduleSize);
        Assert.True(memory.TryRead(BitConverter.ToUInt64(info, 24), out byte commandLine));
        Assert.Equal((byte)'c', commandLine);
        Assert.Equal(4u, BitConverter.ToUInt32(info, 48));
        Assert.True(memory.TryRead(BitConverter.ToUInt64(info, 40) + (3 * 24) + 8, out ulong ram));
        Assert.Equal((512UL << 20) - 0x100000, ram);
    }
    [Fact]
    public void The_kernel_of_a_PVH_domain_finds_modules_with_their_command_lines()
    {
        using var memory = new GuestMemory(512 << 20);
        IReadOnlyList<BootModule> modules =
        [
            new(BootSource.FromBytes(new byte[] { 1, 2, 3 }, "/boot/linux"), "/boot/linux console=hvc0"),
            new(BootSource.FromBytes(new byte[] { 4 }, "initrd"), "initrd"),
        ];
        var request = Request(Elf(is64: false, note: 0x1000040), memory.Below4G) with { NeedsPvh = true, Modules = modules };
        var plan = BootPlan.Create(request);
        plan.WriteTo(memory);
        var info = new byte[56 + 64];
        Assert.True(memory.TryRead(plan.ParametersAddress, info));
        Assert.Equal((2u, plan.ParametersAddress + 56), (BitConverter.ToUInt32(info, 12), BitConverter.ToUInt64(info, 16)));
        var (first, second) = (BitConverter.ToUInt64(info, 56), BitConverter.ToUInt64(info, 88));
        Assert.Equal((0x1003000UL, 3UL, 0x1004000UL, 1UL), (first, BitConverter.ToUInt64(info, 64), second, BitConverter.ToUInt64(info, 96)));
        Assert.True(memory.TryRead(first, out int bytes) & memory.TryRead(second, out byte single));
        Assert.Equal((0x030201, 4), (bytes, single));
        var line = new byte[13];
        Assert.True(memory.TryRead(BitConverter.ToUInt64(info, 72), line));
        Assert.Equal("console=hvc0\0"u8, line);
        Assert.Equal(0UL, BitConverter.ToUInt64(info, 104));

        AssertRefused(request with { Modules = [.. Enumerable.Repeat(modules[1], 127)] }, "127 modules");
        AssertRefused(request with { Modules = [modules[0] with { CommandLine = new string('x', 65536) }] }, "65537 bytes");
        AssertRefused(request with { Modules = [modules[0] with { CommandLine = "a\0b" }] }, "NUL");
        AssertRefused(request with { Modules = [new(BootSource.FromBytes(new byte[32 << 20], "big"), "")], Below4G = 32 << 20 }, "big: the module");

        static void AssertRefused(BootRequest request, string reason) =>
            Assert.Contains(reason, Assert.Throws<ConfigurationException>(() => BootPlan.Create(request)).Message, StringComparison.Ordinal);
    }
}
