using System.Text;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;
using Sharpvisor.Tests.Guests;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

public sealed class MultibootTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    private static BootRequest WithModules(byte[] kernel, ulong below4G = 512 << 20, params (int Length, string Line)[] modules) => Request(kernel, below4G, commandLine: "a b") with
    {
        Modules = [.. modules.Select((m, i) => new BootModule(BootSource.FromBytes(new byte[m.Length], $"module{i}"), m.Line))],
    };

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void It_is_loaded_and_entered_as_the_specification_says(bool isElf)
    {
        using var memory = new GuestMemory(64 << 20);
        Assert.True(memory.TryWrite(0x201000, 0xFFFFFFFFu)); // in .bss
        var kernel = isElf ? MultibootKernel.Elf() : MultibootKernel.Flat();
        var plan = BootPlan.Create(Request(kernel, memory.Below4G));
        plan.WriteTo(memory);
        Assert.Equal(KernelKind.Multiboot, plan.Kind);
        Assert.Equal(0x200000UL, plan.LoadAddress);
        Assert.Equal(isElf ? 0x200000UL : 0x2000E0UL, plan.Entry);
        Assert.True(memory.TryRead(0x201000, out uint bss));
        Assert.Equal(0u, bss);
        Assert.True(memory.TryRead(plan.Entry, out byte first));
        Assert.Equal(0xBC, first); // mov esp,...

        var state = new CpuState { Rflags = 0x202, Cr4 = 0x20, Efer = 0x500 };
        plan.ApplyTo(ref state);
        Assert.Equal(0x2BADB002UL, state.Gpr[0]);
        Assert.Equal(plan.ParametersAddress, state.Gpr[3]);
        Assert.Equal((0x11UL, 0UL, 0UL, 2UL), (state.Cr0, state.Cr4, state.Efer, state.Rflags));
        Assert.True(state.Segments[1].Big && state.Segments[2].Big);
        Assert.Equal((0UL, 0xFFFFFFFFu), (state.Segments[3].Base, state.Segments[3].Limit));
    }

    [Fact]
    public void Modules_lie_on_pages_behind_the_kernel_and_are_listed_with_their_strings()
    {
        using var memory = new GuestMemory(64 << 20);
        var plan = BootPlan.Create(WithModules(MultibootKernel.Elf(), memory.Below4G, (0x1001, "one x y"), (0, "empty"), (5, "three")));
        plan.WriteTo(memory);
        Assert.True(memory.TryRead(plan.ParametersAddress, out uint flags));
        Assert.Equal(0x24Fu, flags);
        Assert.Equal("kernel a b", Text(memory, plan.ParametersAddress + 16));
        Assert.Equal("sharpvisor", Text(memory, plan.ParametersAddress + 64));
        Assert.True(memory.TryRead(plan.ParametersAddress + 20, out uint count));
        Assert.True(memory.TryRead(plan.ParametersAddress + 24, out uint list));
        var kernelEnd = plan.Segments.Where(s => s.Name == "kernel").Max(s => s.End);
        ulong end = kernelEnd;
        foreach (var (length, line, i) in new[] { (0x1001u, "one x y", 0u), (0u, "empty", 1u), (5u, "three", 2u) })
        {
            Assert.True(memory.TryRead(list + (16 * i), out uint start));
            Assert.True(memory.TryRead(list + (16 * i) + 4, out uint stop));
            Assert.True(start % 0x1000 == 0 && start >= end, $"module {i} at 0x{start:x}");
            Assert.Equal(length, stop - start);
            Assert.Equal(line, Text(memory, list + (16 * i) + 8));
            end = stop;
        }

        Assert.Equal(3u, count);
    }

    [Fact]
    public void The_memory_map_is_that_of_the_machine()
    {
        using var memory = new GuestMemory(64 << 20, maxBelow4G: 48 << 20);
        var plan = BootPlan.Create(Request(MultibootKernel.Elf(), memory.Below4G, above4G: memory.Above4G));
        plan.WriteTo(memory);
        var info = new byte[116];
        Assert.True(memory.TryRead(plan.ParametersAddress, info));
        Assert.Equal((639u, 47u << 10), (BitConverter.ToUInt32(info, 4), BitConverter.ToUInt32(info, 8)));
        var map = new byte[BitConverter.ToUInt32(info, 44)];
        Assert.True(memory.TryRead(BitConverter.ToUInt32(info, 48), map));
        var entries = new List<(ulong, ulong, uint)>();
        for (var at = 0; at < map.Length; at += 4 + BitConverter.ToInt32(map, at))
            entries.Add((BitConverter.ToUInt64(map, at + 4), BitConverter.ToUInt64(map, at + 12), BitConverter.ToUInt32(map, at + 20)));
        Assert.Equal(
            [(0, 0x9FC00, 1), (0x9FC00, 0x400, 2), (0xE0000, 0x20000, 2), (0x100000, 47 << 20, 1), (1UL << 32, 16 << 20, 1)],
            entries);
    }

    [Fact]
    public void An_entry_that_is_linked_virtually_is_translated()
    {
        var kernel = MultibootKernel.Elf();
        U32(kernel, 24, 0xC0200010);
        U32(kernel, 52 + 8, 0xC0200000);
        Assert.Equal(0x200010UL, BootPlan.Create(Request(kernel)).Entry);
    }

    [Theory]
    [InlineData(8192 - 12, true)]
    [InlineData(8192 - 8, false)]
    [InlineData(0x1FE2, false)] // not at a multiple of four
    public void The_header_is_searched_in_the_first_8192_bytes(int offset, bool isFound)
    {
        var image = new byte[0x4000];
        MultibootKernel.PutHeader(image, offset, 0);
        Assert.Equal(isFound, BootPlan.TakesModules(BootSource.FromBytes(image, "kernel")));
    }

    [Fact]
    public void A_header_with_a_wrong_checksum_is_none_and_a_bzImage_goes_first()
    {
        var kernel = MultibootKernel.Elf();
        kernel[0x108]++;
        Assert.False(BootPlan.TakesModules(BootSource.FromBytes(kernel, "kernel")));
        Assert.False(BootPlan.TakesModules(BootSource.FromBytes(BzImage(k => MultibootKernel.PutHeader(k, 0x800, 0)), "kernel")));
    }

    [Fact]
    public void A_64_bit_kernel_with_a_PVH_entry_beside_is_started_by_that()
    {
        var kernel = Elf(is64: true, note: 0x1000040);
        MultibootKernel.PutHeader(kernel, 0x210, 3);
        Assert.Equal(KernelKind.Pvh, BootPlan.Create(Request(kernel)).Kind);
    }

    public static TheoryData<string, byte[], string> BadKernels => new()
    {
        { "elf64", Multiboot64(), "kernel: is a 64-bit ELF file, multiboot takes 32-bit ones: cannot load an x86-64 image, give a 32-bit one (objcopy -O elf32-i386)" },
        { "no format", NoFormat(), "kernel: has a multiboot header without addresses, but is no ELF file: nothing says where to load it; give the kernel's ELF file" },
        { "fields cut off", MultibootKernel.Flat()[..0x70], "kernel: truncated or corrupt: 20 bytes expected at offset 108, 112 in all; copy it again" },
        { "unknown requirement", MultibootKernel.Elf(flags: 0x23), "kernel: its multiboot header requires what version 1 does not define (flags 0x00000023); give a multiboot 1 kernel" },
        { "begins before the file", MultibootKernel.Flat(k => U32(k, 0x60 + 16, 0x100000)), "kernel: corrupt multiboot header: the header is at 0x60 of the file and at 0x200040 in memory, but loading begins at 0x100000; link it anew" },
        { "begins behind the header", MultibootKernel.Flat(k => U32(k, 0x60 + 16, 0x200100)), "kernel: corrupt multiboot header: the header is at 0x60 of the file and at 0x200040 in memory, but loading begins at 0x200100; link it anew" },
        { "ends before it begins", MultibootKernel.Flat(k => U32(k, 0x60 + 20, 0x1000)), "kernel: corrupt multiboot header: loading ends at 0x1000, before it begins at 0x200000; link it anew" },
        { "bss ends early", MultibootKernel.Flat(k => U32(k, 0x60 + 24, 0x200010)), null! },
        { "more than the file", MultibootKernel.Flat(k => U32(k, 0x60 + 20, 0x210000)), null! },
        { "beyond RAM", MultibootKernel.Flat(k => U32(k, 0x60 + 24, 0xF0000000)), "kernel: the kernel needs memory at 0x200000 to 0xefffffff; the guest has 512 MiB there: give it at least 3840M with -m" },
        { "entry outside", MultibootKernel.Flat(k => U32(k, 0x60 + 28, 0x1000)), "kernel: corrupt multiboot header: its entry 0x1000 lies outside of what it loads; link it anew" },
        { "over the information", ElfAt(0x5000), "kernel: the kernel lies over 0x6000, where the multiboot information goes; link it at 1 MiB or above" },
        { "over video memory", ElfAt(0x9F000), null! },
    };

    [Theory]
    [MemberData(nameof(BadKernels))]
    public void A_bad_kernel_is_refused_in_one_line(string what, byte[] kernel, string? message)
    {
        var error = Assert.Throws<ConfigurationException>(() => BootPlan.Create(Request(kernel)));
        Assert.StartsWith("kernel: ", error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', error.Message);
        Assert.True(message is null || message == error.Message, $"{what}: {error.Message}");
    }

    [Fact]
    public void Modules_that_do_not_fit_are_refused_with_the_memory_that_would_do()
    {
        var request = WithModules(MultibootKernel.Elf(), 8 << 20, (5 << 20, "m"), (1 << 20, "n"));
        Assert.Equal(
            "module1: the module has 1 MiB, the guest has room for 0 MiB behind the kernel: give it at least 9M with -m",
            Assert.Throws<ConfigurationException>(() => BootPlan.Create(request)).Message);
        BootPlan.Create(request with { Below4G = 9 << 20 });
    }

    [Fact]
    public void Modules_are_for_multiboot_kernels() => Assert.Equal(
        "kernel: modules are for multiboot kernels, and it is none; give one -initrd",
        Assert.Throws<ConfigurationException>(() => BootPlan.Create(WithModules(BzImage(), modules: (1, "m")))).Message);

    [Fact]
    public void Too_long_strings_are_refused() => Assert.Contains(
        "shorten -append and -initrd",
        Assert.Throws<ConfigurationException>(() => BootPlan.Create(WithModules(MultibootKernel.Elf(), modules: (1, new string('x', 70000))))).Message,
        StringComparison.Ordinal);

    [Fact]
    public void A_list_has_files_arguments_and_doubled_commas()
    {
        var directory = Directory.CreateTempSubdirectory().FullName;
        try
        {
            File.WriteAllText($"{directory}/a", "first");
            File.WriteAllText($"{directory}/b,c", "second");
            var modules = BootModule.OpenList($"{directory}/a one,,two three,{directory}/b,,c");
            Assert.Equal([$"{directory}/a one,two three", $"{directory}/b,c"], modules.Select(m => m.CommandLine));
            Assert.Equal([5L, 6L], modules.Select(m => m.Source.Length));
            foreach (var module in modules)
                module.Source.Dispose();
            Assert.Contains("no such file", Assert.Throws<ConfigurationException>(() => BootModule.OpenList($"{directory}/a,{directory}/missing x")).Message, StringComparison.Ordinal);
            Assert.Contains("a module without a file", Assert.Throws<ConfigurationException>(() => BootModule.OpenList($"{directory}/a,")).Message, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    [Fact]
    public void No_damaged_kernel_gets_past_the_loader_with_anything_but_a_plan_or_a_message()
    {
        var random = new Random(2);
        byte[][] seeds = [MultibootKernel.Elf(), MultibootKernel.Flat()];
        using var memory = new GuestMemory(16 << 20);
        var plans = 0;
        for (var i = 0; i < 10_000; i++)
        {
            var kernel = (byte[])seeds[i % 2].Clone();
            for (var n = random.Next(1, 5); n > 0; n--)
                kernel[random.Next(0x110)] = (byte)random.Next(256);
            try
            {
                var way = (BootWay)random.Next(2);
                BootPlan.Create(WithModules(kernel, memory.Below4G, (100, "m")) with { Way = way }).WriteTo(memory);
                plans++;
            }
            catch (ConfigurationException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }

        Assert.InRange(plans, 100, 9_900);
    }

    [Theory]
    [EngineData(true)]
    [EngineData(false)]
    public async Task A_kernel_finds_what_it_was_given(string engine, bool isElf)
    {
        await using var machine = await MultibootMachine.Builder(engine, isElf ? MultibootKernel.Elf() : MultibootKernel.Flat()).StartAsync();
        Assert.Equal(0x21, (await machine.WaitForExitAsync().WaitAsync(Limit)).Code);
        Assert.Equal(
            """
            2badb002 0000024f 
            kernel quiet ü
            sharpvisor
            one
            first module
            two with arguments
            second
            0000027f 00007c00 
            00000000 00000000 00000000 0009fc00 00000001 
            00000000 0009fc00 00000000 00000400 00000002 
            00000000 000e0000 00000000 00020000 00000002 
            00000000 00100000 00000000 01f00000 00000001 
            00000000 

            """,
            machine.Serial.Output);
    }

    private static string Text(GuestMemory memory, ulong pointer)
    {
        Assert.True(memory.TryRead(pointer, out uint address));
        var bytes = new byte[64];
        Assert.True(memory.TryRead(address, bytes));
        return Encoding.UTF8.GetString(bytes.AsSpan(0, bytes.AsSpan().IndexOf((byte)0)));
    }

    private static byte[] Multiboot64()
    {
        var kernel = Elf(is64: true);
        MultibootKernel.PutHeader(kernel, 0x210, 3);
        return kernel;
    }

    private static byte[] NoFormat()
    {
        var kernel = new byte[0x400];
        MultibootKernel.PutHeader(kernel, 0, 3);
        return kernel;
    }

    private static byte[] ElfAt(uint address)
    {
        var kernel = MultibootKernel.Elf();
        foreach (var offset in new[] { 24, 52 + 8, 52 + 12 })
            U32(kernel, offset, address);
        return kernel;
    }
}
