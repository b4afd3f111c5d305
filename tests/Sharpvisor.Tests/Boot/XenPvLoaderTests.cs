using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Pv;
using Sharpvisor.Tests.Guests;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

/// <summary>The domain that a paravirtual kernel finds, read through its own page tables.</summary>
public sealed class XenPvLoaderTests
{
    private const ulong Page = GuestMemory.PageSize, Writable = 2;

    private static readonly XenPvStart Start = new(0xFE00_0000, StorePort: 1, ConsolePort: 2);

    [Theory]
    [InlineData(64 << 20, 3UL << 30)]
    [InlineData(256 << 20, 3UL << 30)]
    [InlineData(64 << 20, 18UL << 20)] // the hole is in the middle of it
    public void Everything_is_where_start_info_says(int size, ulong below4G)
    {
        using var memory = new GuestMemory((ulong)size, below4G);
        var initrd = new byte[(3 << 20) + 5];
        new Random(1).NextBytes(initrd);
        var domain = new Domain(memory, new PvKernel().ToArray(), initrd, "console=hvc0");
        Assert.Equal(PvKernel.Base + 0x100_0040, domain.Plan.Entry);
        Assert.Equal("console=hvc0", domain.Text(domain.Info + 128));
        Assert.Equal("xen-3.0-x86_64", domain.Text(domain.Info));
        Assert.Equal(((ulong)size - (1 << 20)) / Page, domain.Field(32));
        Assert.Equal(Start.SharedInfo, domain.Field(40));
        Assert.Equal((8UL, 1UL, 2UL), (domain.Field(48), domain.Field(64) & uint.MaxValue, domain.Field(80) & uint.MaxValue));
        Assert.Equal((domain.Plan.StorePage / Page, domain.Plan.ConsolePage / Page), (domain.Field(56), domain.Field(72)));
        Assert.Equal((ulong)initrd.Length, domain.Field(120));
        Assert.Equal(initrd, domain.ReadFrames(domain.Field(112), initrd.Length));

        // The kernel, its zeroes, and what comes behind it.
        Assert.Equal((0xC3, 0, 0xC3, 1, 0), (domain.Byte(PvKernel.Base + 0x100_0000), domain.Byte(PvKernel.Base + 0x100_0001), domain.Byte(PvKernel.Base + 0x100_1000), domain.Byte(PvKernel.Base + 0x100_1001), domain.Byte(PvKernel.Base + 0x100_2000)));
        Assert.Equal(PvKernel.Base + 0x100_5000, domain.Info);
        Assert.Equal(domain.Info + Page, domain.LinearOf(domain.Plan.StorePage));
        Assert.Equal(domain.Info + (2 * Page), domain.LinearOf(domain.Plan.ConsolePage));
        Assert.Equal(domain.Info + (3 * Page), domain.Field(88));
        Assert.Equal(domain.Field(88) + (domain.Field(96) * Page) + Page, domain.Plan.StackPointer);
    }

    [Fact]
    public void The_list_of_frames_is_that_of_the_machine_and_mapped_where_the_kernel_wants_it()
    {
        using var memory = new GuestMemory(40 << 20, 20 << 20);
        var domain = new Domain(memory, new PvKernel().ToArray());
        Assert.Equal(PvKernel.FrameListAt, domain.Field(104));
        for (ulong pfn = 0; pfn < domain.Plan.Layout.PageCount; pfn++)
            Assert.Equal(domain.Plan.Layout.ToMachine(pfn), domain.Word(PvKernel.FrameListAt + (pfn * 8)));
        Assert.Equal(Enumerable.Range(0x100, 0x1300).Concat(Enumerable.Range(0x10_0000, 0x1400)).Select(f => (ulong)f), Enumerable.Range(0, 0x2700).Select(f => domain.Plan.Layout.ToMachine((ulong)f)));
        Assert.All(Enumerable.Range(0, 0x2700).Select(f => (ulong)f), pfn => Assert.Equal(pfn, domain.Plan.Layout.ToPhysical(domain.Plan.Layout.ToMachine(pfn))));

        // Its tables and itself lie in frames that nothing else has.
        Assert.Equal(domain.Plan.Layout.ToMachine(domain.Field(1152) + domain.Field(1160) - 1), domain.Entry(PvKernel.FrameListAt + ((domain.Plan.Layout.PageCount - 1) * 8)) / Page);
        Assert.False(domain.TryEntry(PvKernel.FrameListAt + ((domain.Plan.Layout.PageCount * 8) + Page - 1) / Page * Page, out _));
        Assert.False(domain.TryEntry(PvKernel.Base + (domain.Field(1152) * Page), out _));
    }

    [Fact]
    public void The_region_ends_on_4_MiB_with_room_behind_it_and_maps_frames_in_order()
    {
        using var memory = new GuestMemory(64 << 20);
        var domain = new Domain(memory, new PvKernel().ToArray());
        ulong pages = 0;
        while (domain.TryEntry(PvKernel.Base + (pages * Page), out var entry))
        {
            Assert.Equal(domain.Plan.Layout.ToMachine(pages), entry / Page);
            var at = PvKernel.Base + (pages * Page);
            var isTable = at >= domain.Field(88) && at < domain.Field(88) + (domain.Field(96) * Page);
            Assert.Equal(!isTable, (entry & Writable) != 0);
            pages++;
        }

        Assert.Equal(0UL, pages * Page % (4 << 20));
        Assert.InRange((PvKernel.Base + (pages * Page)) - domain.Plan.StackPointer, 512UL << 10, (4UL << 20) + (512 << 10));
    }

    [Fact]
    public void No_page_table_can_be_written()
    {
        using var memory = new GuestMemory(64 << 20);
        var domain = new Domain(memory, new PvKernel().ToArray());
        var tables = domain.Tables();
        Assert.Contains(domain.Plan.Root / Page, tables);
        foreach (var (_, entry) in domain.Mappings())
            Assert.False(tables.Contains(entry / Page) && (entry & Writable) != 0);
        Assert.All(tables, t => Assert.True(domain.Plan.Layout.IsDomainRam(t)));
    }

    [Theory]
    [InlineData(3UL << 30)]
    [InlineData(18UL << 20)]
    public void Xen_takes_the_tables(ulong below4G)
    {
        using var memory = new GuestMemory(64 << 20, below4G);
        var domain = new Domain(memory, new PvKernel().ToArray(), new byte[5000]);
        var mmu = new PvMmu(memory, domain.Plan.Layout, 1, 1, new GuestErrorLog(NullLogger.Instance));
        mmu.Reset(domain.Plan.Root);
        Assert.Equal((PvFrameType.Level4, 1u, true), (mmu.Describe(domain.Plan.Root / Page).Type, mmu.Describe(domain.Plan.Root / Page).TypeCount, mmu.Describe(domain.Plan.Root / Page).IsPinned));
        Assert.All(domain.Tables(), t => Assert.InRange(mmu.Describe(t).Type, PvFrameType.Level1, PvFrameType.Level4));
        for (ulong pfn = 0; pfn < domain.Plan.Layout.PageCount; pfn++)
        {
            Assert.True(mmu.TryTranslateHole(IParavirtualDomain.MachineToPhysical + (domain.Plan.Layout.ToMachine(pfn) * 8), out var at));
            Assert.True(memory.TryRead(at, out ulong found));
            Assert.Equal(pfn, found);
        }

        memory.TryWrite(domain.Plan.Root, domain.Plan.Root | 3);
        Assert.Throws<InvalidOperationException>(() => mmu.Reset(domain.Plan.Root));
    }

    [Fact]
    public void A_kernel_without_wishes_finds_list_and_initrd_behind_itself()
    {
        using var memory = new GuestMemory(64 << 20);
        var kernel = new PvKernel();
        kernel.Notes.Remove(PvKernel.FrameListNote);
        kernel.Notes.Remove(PvKernel.ModuleNote);
        byte[] initrd = [.. Enumerable.Range(0, 5000).Select(i => (byte)i)];
        var domain = new Domain(memory, kernel.ToArray(), initrd);
        Assert.Equal(0UL, domain.Field(48));
        Assert.Equal(PvKernel.Base + 0x100_5000, domain.Field(112));
        Assert.Equal(initrd, domain.Read(domain.Field(112), initrd.Length));
        Assert.Equal(PvKernel.Base + 0x100_7000, domain.Field(104));
        Assert.Equal((0x100UL, 0x101UL), (domain.Word(domain.Field(104)), domain.Word(domain.Field(104) + 8)));
        Assert.Equal((0UL, 0UL), (domain.Field(1152), domain.Field(1160)));
    }

    [Fact]
    public void The_hypercall_page_is_filled()
    {
        using var memory = new GuestMemory(64 << 20);
        var kernel = new PvKernel();
        kernel.Notes[PvKernel.HypercallNote] = PvKernel.Base + 0x100_1000;
        var domain = new Domain(memory, kernel.ToArray());
        Assert.Equal("51 41 53 B8 0C 00 00 00 0F 05 41 5B 59 C3", Hex(domain.Read(PvKernel.Base + 0x100_1000 + (12 * 32), 14)));
        Assert.Equal("51 41 53 50 B8 17 00 00 00 0F 05", Hex(domain.Read(PvKernel.Base + 0x100_1000 + (23 * 32), 11)));
    }

    [Fact]
    public void Without_a_console_there_is_no_frame_of_one()
    {
        using var memory = new GuestMemory(64 << 20);
        var domain = new Domain(memory, new PvKernel().ToArray(), start: new XenPvStart(0xFE00_0000, 7, 0));
        Assert.Equal((0UL, 0UL, 7UL), (domain.Field(72), domain.Field(80) & uint.MaxValue, domain.Field(64) & uint.MaxValue));
    }

    [Fact]
    public void It_can_be_written_again()
    {
        using var memory = new GuestMemory(64 << 20);
        var plan = XenPvPlan.Create(Request(new PvKernel().ToArray(), memory.Below4G, new byte[100]));
        plan.WriteTo(memory, Start);
        var first = new byte[(64 << 20) - (1 << 20)];
        Assert.True(memory.TryRead(1 << 20, first));
        memory.Clear();
        plan.WriteTo(memory, Start);
        var second = new byte[first.Length];
        Assert.True(memory.TryRead(1 << 20, second));
        Assert.True(first.AsSpan().SequenceEqual(second));
    }

    public static TheoryData<string, byte[], string> BadKernels => new()
    {
        { "no notes", Elf(is64: true), "kernel: has no notes for Xen; give a Linux kernel built with CONFIG_XEN_PV, or another -machine" },
        { "32 bits", Elf(is64: false, note: 5), "kernel: is a 32-bit kernel, paravirtual domains here have 64 bits; give a 64-bit kernel, or -machine xenpvh" },
        { "PVH only", Elf(is64: true, note: 5), "kernel: has no entry for paravirtual domains (Xen note 1); give a Linux kernel built with CONFIG_XEN_PV, or -machine xenpvh" },
        { "a loader of its own", With(PvKernel.LoaderNote, "mine"), "kernel: is made for Xen's loader \"mine\", which is not here; give a kernel for \"generic\"" },
        { "an old interface", With(PvKernel.VersionNote, "xen-2.0"), "kernel: is made for the interface \"xen-2.0\", this is \"xen-3.0\"; give a newer kernel" },
        { "translated", With(PvKernel.FeaturesNote, "!auto_translated_physmap"), "kernel: needs Xen's feature \"auto_translated_physmap\", which is not offered to paravirtual domains here; give another kernel or -machine xenpvh" },
        { "a feature of tomorrow", With(PvKernel.FeaturesNote, "dom0|!telepathy"), "kernel: needs Xen's feature \"telepathy\", which is unknown here; give another kernel or -machine xenpvh" },
        { "entry outside", With(PvKernel.EntryNote, PvKernel.Base), "kernel: its entry 0xffffffff80000000 lies outside of what it loads; copy it again" },
        { "hypercall page outside", With(PvKernel.HypercallNote, PvKernel.Base + 0x100_5000), "kernel: its hypercall page 0xffffffff81005000 lies outside of what it loads; copy it again" },
        { "hypercall page askew", With(PvKernel.HypercallNote, PvKernel.Base + 0x100_0800), "kernel: its hypercall page 0xffffffff81000800 is not on a page boundary; copy it again" },
        { "no entry is valid", With(PvKernel.ValidNote, (byte[])[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "kernel: takes no entry of a page table for present (Xen note 13); copy it again" },
        { "list in the hole", With(PvKernel.FrameListNote, 0xFFFF_8000_0000_0000UL), "kernel: wants its list of frames (Xen note 15) at 0xffff800000000000, where a paravirtual domain can have none; copy it again" },
        { "list nowhere", With(PvKernel.FrameListNote, 0x8000_0000_0000_0000), "kernel: wants its list of frames (Xen note 15) at 0x8000000000000000, where a paravirtual domain can have none; copy it again" },
        { "list over the end", With(PvKernel.FrameListNote, 0xFFFF_FFFF_FFFF_F000), "kernel: wants its list of frames (Xen note 15) at 0xfffffffffffff000, where a paravirtual domain can have none; copy it again" },
        { "list askew", With(PvKernel.FrameListNote, 0x80_0000_0008UL), "kernel: wants its list of frames (Xen note 15) at 0x8000000008, where a paravirtual domain can have none; copy it again" },
        { "list over the kernel", With(PvKernel.FrameListNote, PvKernel.Base + 0x1000), "kernel: wants its list of frames at 0xffffffff80001000, over the memory at 0xffffffff80000000; copy it again" },
        { "too far up", new PvKernel { Address = 0x1000_0000, Notes = { [PvKernel.EntryNote] = PvKernel.Base + 0x1000_0000 } }.ToArray(), "kernel: kernel, initrd and what a paravirtual domain starts with need 256 MiB, the domain has 63: give it at least 258M with -m" },
        { "all of memory", new PvKernel { MemoryLength = 1UL << 36 }.ToArray(), "kernel: kernel, initrd and what a paravirtual domain starts with need 65552 MiB, the domain has 63: give it at least 65554M with -m" },
        { "longer than numbers are", new PvKernel { MemoryLength = ulong.MaxValue - 5 }.ToArray(), "kernel: corrupt ELF file: a segment of 0xfffffffffffffffa bytes at 0x1000000 (offset 0x0); copy it again" },
        { "before the offset", With(PvKernel.OffsetNote, 0x200_0000UL), "kernel: corrupt ELF file: a segment of 0x5000 bytes at 0x1000000 (offset 0x2000000); copy it again" },
        { "truncated", new PvKernel().ToArray()[..0x2000], "kernel: truncated: a segment of 8192 bytes at 4096, 8192 there; copy it again" },
        { "text", Encoding.ASCII.GetBytes("#!/bin/sh\n"), "kernel: is a text file, not a kernel; give an x86-64 Linux bzImage (vmlinuz), an ELF vmlinux, an ELF image with a PVH entry, or a multiboot kernel" },
    };

    [Theory]
    [MemberData(nameof(BadKernels))]
    public void A_bad_kernel_is_refused_in_one_line(string what, byte[] kernel, string message)
    {
        var error = Assert.Throws<ConfigurationException>(() => XenPvPlan.Create(Request(kernel, 64 << 20)));
        Assert.True(message == error.Message, $"{what}: {error.Message}");
    }

    [Fact]
    public void What_else_does_not_fit_is_refused()
    {
        var kernel = new PvKernel().ToArray();
        Refused(Request(kernel, 64 << 20, commandLine: new string('x', 1024)), "-append: the command line has 1024 bytes, a paravirtual domain takes 1023; shorten it");
        Refused(Request(kernel, 64 << 20, new byte[60 << 20]), "kernel: kernel, initrd and what a paravirtual domain starts with need 80 MiB, the domain has 63: give it at least 82M with -m");
        Refused(Request(kernel, 64 << 20, []), "initrd: the initrd is empty; give a cpio archive or leave -initrd out");
        using var memory = new GuestMemory(82 << 20);
        _ = new Domain(memory, kernel, new byte[60 << 20]);

        static void Refused(BootRequest request, string message) =>
            Assert.Equal(message, Assert.Throws<ConfigurationException>(() => XenPvPlan.Create(request)).Message);
    }

    /// <summary>Any damage is either refused in a line or leads to a domain that lies in its memory.</summary>
    [Fact]
    public void Damaged_kernels_do_no_harm()
    {
        var random = new Random(20261122);
        var good = new PvKernel().ToArray();
        using var memory = new GuestMemory(64 << 20);
        var accepted = 0;
        for (var round = 0; round < 500; round++)
        {
            var image = (byte[])good.Clone();
            for (var i = random.Next(1, 4); i > 0; i--)
            {
                var at = random.Next(2) == 0 ? random.Next(0x40, 0x100) : random.Next(0x200, 0x320);
                if (random.Next(2) == 0)
                    image[at] = (byte)random.Next(256);
                else
                    U64(image, at & ~7, random.Next(3) == 0 ? (ulong)random.NextInt64() : (ulong)random.NextInt64() >> random.Next(64));
            }

            try
            {
                var plan = XenPvPlan.Create(Request(image, 64 << 20, [1, 2, 3]));
                plan.WriteTo(memory, Start);
                accepted++;
            }
            catch (ConfigurationException)
            {
            }
        }

        Assert.InRange(accepted, 1, 499);
    }

    [GuestTheory("cloud/vmlinuz", "generic/vmlinuz", "newer/vmlinuz")]
    [Trait("Category", "Guest")]
    [InlineData("cloud/vmlinuz")]
    [InlineData("generic/vmlinuz")]
    [InlineData("newer/vmlinuz")]
    public void Debians_kernel(string file)
    {
        using var memory = new GuestMemory(256 << 20);
        using var kernel = GuestCache.Open(file);
        var bytes = kernel.Read(0, (int)kernel.Length);
        var domain = new Domain(memory, bytes, [1, 2, 3], "console=hvc0");
        Assert.Equal(domain.Plan.StartInfo, domain.Info);
        Assert.Equal(PvKernel.FrameListAt, domain.Field(104));
        Assert.Equal((byte[])[1, 2, 3], domain.ReadFrames(domain.Field(112), 3));
        Assert.True(domain.TryEntry(domain.Plan.Entry, out _));
        Assert.Contains("Linux version 6.", Encoding.Latin1.GetString(domain.Read(PvKernel.Base + 0x100_0000, 48 << 20)), StringComparison.Ordinal);
    }

    private static byte[] With(uint note, object value)
    {
        var kernel = new PvKernel();
        kernel.Notes[note] = value;
        return kernel.ToArray();
    }

    private static string Hex(byte[] bytes) => string.Join(' ', bytes.Select(b => b.ToString("X2", System.Globalization.CultureInfo.InvariantCulture)));

    /// <summary>A domain in memory, seen as its kernel sees it.</summary>
    private sealed class Domain
    {
        private readonly GuestMemory _memory;

        public Domain(GuestMemory memory, byte[] kernel, byte[]? initrd = null, string commandLine = "", XenPvStart? start = null)
        {
            _memory = memory;
            Plan = XenPvPlan.Create(Request(kernel, memory.Below4G, initrd, commandLine, memory.Above4G));
            Plan.WriteTo(memory, start ?? Start);
        }

        public XenPvPlan Plan { get; }

        public ulong Info => Plan.StartInfo;

        public ulong Field(int offset) => Word(Info + (ulong)offset);

        public int Byte(ulong linear) => Read(linear, 1)[0];

        public ulong Word(ulong linear) => BitConverter.ToUInt64(Read(linear, 8));

        public string Text(ulong linear) => Encoding.ASCII.GetString(Read(linear, 100)).Split('\0')[0];

        public byte[] Read(ulong linear, int length)
        {
            var bytes = new byte[length];
            for (var done = 0; done < length;)
            {
                var at = linear + (ulong)done;
                var part = Math.Min(length - done, (int)(Page - (at % Page)));
                Assert.True(_memory.TryRead((Entry(at) & 0xF_FFFF_FFFF_F000) + (at % Page), bytes.AsSpan(done, part)));
                done += part;
            }

            return bytes;
        }

        public byte[] ReadFrames(ulong pfn, int length)
        {
            var bytes = new byte[length];
            for (var done = 0; done < length; done += (int)Page)
                Assert.True(_memory.TryRead(Plan.Layout.ToMachine(pfn++) * Page, bytes.AsSpan(done, Math.Min((int)Page, length - done))));
            return bytes;
        }

        public ulong LinearOf(ulong machine) => PvKernel.Base + (Plan.Layout.ToPhysical(machine / Page) * Page);

        public ulong Entry(ulong linear)
        {
            Assert.True(TryEntry(linear, out var entry), $"0x{linear:x} is not mapped");
            return entry;
        }

        public bool TryEntry(ulong linear, out ulong entry)
        {
            entry = Plan.Root | 1;
            for (var shift = 39; shift >= 12; shift -= 9)
            {
                Assert.True(_memory.TryRead((entry & 0xF_FFFF_FFFF_F000) + ((linear >> shift & 511) * 8), out entry));
                if ((entry & 1) == 0)
                    return false;
            }

            return true;
        }

        /// <summary>The frames of all tables.</summary>
        public HashSet<ulong> Tables()
        {
            HashSet<ulong> found = [];
            Walk(Plan.Root / Page, 4, 0, found, []);
            return found;
        }

        /// <summary>All pages that are mapped, with their entries.</summary>
        public List<(ulong Linear, ulong Entry)> Mappings()
        {
            List<(ulong, ulong)> found = [];
            Walk(Plan.Root / Page, 4, 0, [], found);
            return found;
        }

        private void Walk(ulong table, int level, ulong linear, HashSet<ulong> tables, List<(ulong, ulong)> pages)
        {
            tables.Add(table);
            for (ulong i = 0; i < 512; i++)
            {
                Assert.True(_memory.TryRead((table * Page) + (i * 8), out ulong entry));
                if ((entry & 1) == 0)
                    continue;
                var at = linear + (i << (3 + (9 * level)));
                if (level == 1)
                    pages.Add((at, entry));
                else
                    Walk(entry / Page, level - 1, at, tables, pages);
            }
        }
    }
}
