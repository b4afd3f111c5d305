using System.Text;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

public sealed class BadInputTests
{
    private const string WhatToGive = "; give an x86-64 Linux bzImage (vmlinuz), an ELF vmlinux, an ELF image with a PVH entry, or a multiboot kernel";

    public static TheoryData<string, byte[], string> Kernels => new()
    {
        { "empty", [], "kernel: is empty" + WhatToGive },
        { "text", Encoding.UTF8.GetBytes("Grüße\nfrom a text file\n"), "kernel: is a text file, not a kernel" + WhatToGive },
        { "short", [1, 2, 3], "kernel: is too short for a kernel" + WhatToGive },
        { "noise", [.. Enumerable.Repeat((byte)0, 4096)], "kernel: is not a kernel" + WhatToGive },
        { "arm64", Arm64(), "kernel: is an ARM64 kernel" + WhatToGive },
        { "gzip", [0x1F, 0x8B, 8, 0], "kernel: is compressed with gzip: unpack it first, or it is the kernel of another architecture" + WhatToGive },
        { "truncated bzImage", BzImage()[..3000], "kernel: truncated bzImage: 6641 bytes expected, 3000 there; copy it again" },
        { "bzImage cut in its header", BzImage()[..0x210], "kernel: truncated or corrupt: 616 bytes expected at offset 0, 528 in all; copy it again" },
        { "old protocol", BzImage(k => U16(k, 0x206, 0x201)), "kernel: boot protocol 2.01 is too old, 2.02 is the oldest that works without firmware; give a newer kernel, or -machine kernel-boot=firmware" },
        { "zImage", BzImage(k => k[0x211] = 0), "kernel: is a zImage, which loads below 1 MiB; give a bzImage, or -machine kernel-boot=firmware" },
        { "elf32 without pvh", Elf(is64: false), "kernel: is a 32-bit ELF file without a PVH entry (Xen note 18); give a 64-bit vmlinux, a bzImage, or a kernel built with CONFIG_PVH" },
        { "elf for arm64", Elf(is64: true, machine: 183), "kernel: is an ELF file for ARM64; give one for x86-64" },
        { "truncated elf", Elf(is64: true)[..0x280], "kernel: truncated: a segment of 256 bytes at offset 512, but 640 bytes in all; copy it again" },
        { "elf low", Elf(is64: true, address: 0x8000), "kernel: wants to be loaded at 0x8000, below 1 MiB, where a direct boot keeps its parameters; link it at 1 MiB or above" },
        { "elf beyond ram", Elf(is64: true, address: 0x40000000), "kernel: the kernel needs memory at 0x40000000 to 0x40002fff; the guest has 512 MiB there: give it at least 1025M with -m" },
        { "elf nowhere", Elf(is64: true, address: 0xFFFFFFFFFFFFF000), "kernel: the kernel needs memory at 0xfffffffffffff000 to 0x1fff; the guest has no RAM there" },
        { "elf entry outside", Elf(is64: true, entry: 0x10), "kernel: its entry 0x10 lies outside of what it loads; give a vmlinux whose entry is a physical address" },
    };

    [Theory]
    [MemberData(nameof(Kernels))]
    public void A_bad_kernel_is_refused_in_one_line(string what, byte[] kernel, string message)
    {
        var error = Assert.Throws<ConfigurationException>(() => BootPlan.Create(Request(kernel)));
        Assert.True(message == error.Message, $"{what}: {error.Message}");
    }

    [Fact]
    public void A_guest_too_small_for_the_kernel_is_told_how_much_it_needs() =>
        Refused(
            Request(BzImage(), below4G: 1 << 20),
            "kernel: the kernel needs memory at 0x200000 to 0x31fffff; the guest has 1 MiB there: give it at least 50M with -m");

    [Fact]
    public void An_initrd_larger_than_memory_is_refused_with_the_size_that_would_do() =>
        Refused(
            Request(BzImage(), below4G: 100 << 20, initrd: new byte[40 << 20]),
            "initrd: the initrd has 40 MiB, the guest has room for 36 MiB next to the kernel: give it at least 105M with -m");

    [Fact]
    public void The_size_that_would_do_does()
    {
        var plan = BootPlan.Create(Request(BzImage(), below4G: 105 << 20, initrd: new byte[40 << 20]));
        Assert.True(plan.Initrd!.Address >= 0x4000000);
    }

    [Fact]
    public void An_empty_initrd_is_refused() =>
        Refused(Request(BzImage(), initrd: []), "initrd: the initrd is empty; give a cpio archive or leave -initrd out");

    [Theory]
    [InlineData(2047, false)]
    [InlineData(2048, true)]
    public void A_command_line_may_be_as_long_as_the_kernel_says(int length, bool refused)
    {
        var request = Request(BzImage(), commandLine: new string('x', length));
        if (refused)
            Refused(request, "the kernel command line has 2048 bytes, kernel takes 2047 at most: shorten -append");
        else
            BootPlan.Create(request);
    }

    [Fact]
    public void Overlapping_segments_are_refused()
    {
        var elf = Elf(is64: true, note: 0x1000040);
        // Turn the note segment into a second load segment one byte into the first.
        U32(elf, 64 + 56, 1);
        U64(elf, 64 + 56 + 24, 0x1000001);
        Refused(Request(elf), "kernel: corrupt: two parts at 0x1000001 and 0x1000000 overlap; copy it again");
    }

    [Fact]
    public void Missing_files_and_directories_are_named()
    {
        Assert.Equal("/nonexistent/vmlinuz: no such file; check the path", Assert.Throws<ConfigurationException>(() => BootSource.FromFile("/nonexistent/vmlinuz")).Message);
        Assert.Equal("/tmp: is a directory; give a file", Assert.Throws<ConfigurationException>(() => BootSource.FromFile("/tmp")).Message);
    }

    [Fact]
    public void Bytes_outside_of_ram_are_refused()
    {
        using var memory = new GuestMemory(1 << 20);
        Assert.Throws<ConfigurationException>(() => BootSource.FromGuestMemory(memory, 0xFFFF0, 0x100, "x"));
    }

    [Fact]
    public void No_damaged_kernel_gets_past_the_loader_with_anything_but_a_plan_or_a_message()
    {
        var random = new Random(1);
        byte[][] seeds = [BzImage(), Elf(true), Elf(true, note: 0x1000040), Elf(false, note: 0x1000040)];
        using var memory = new GuestMemory(64 << 20);
        for (var i = 0; i < 20_000; i++)
        {
            var kernel = (byte[])seeds[i % seeds.Length].Clone();
            for (var n = random.Next(1, 6); n > 0; n--)
                kernel[random.Next(Math.Min(kernel.Length, 0x300))] = (byte)random.Next(256);
            if (random.Next(4) == 0)
                kernel = kernel[..random.Next(kernel.Length)];
            try
            {
                var plan = BootPlan.Create(Request(kernel, memory.Below4G, initrd: new byte[100]));
                if (i % 20 == 0)
                    plan.WriteTo(memory);
            }
            catch (ConfigurationException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }
    }

    private static void Refused(BootRequest request, string message) =>
        Assert.Equal(message, Assert.Throws<ConfigurationException>(() => BootPlan.Create(request)).Message);

    private static byte[] Arm64()
    {
        var image = new byte[4096];
        image[0] = (byte)'M';
        image[1] = (byte)'Z';
        U32(image, 0x38, 0x644D5241);
        return image;
    }
}
