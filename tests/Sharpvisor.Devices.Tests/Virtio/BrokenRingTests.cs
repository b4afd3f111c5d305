using Sharpvisor.Core.Memory;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

/// <summary>Whatever a driver puts into a ring: the device is broken, says so once, and works again after a reset.</summary>
public sealed class BrokenRingTests
{
    private const ulong Packed = 1UL << VirtioPciDriver.PackedRing;
    private const int Next = 1, Write = 2, Indirect = 4;

    public static TheoryData<string> SplitFaults => [.. Split.Keys];

    public static TheoryData<string> PackedFaults => [.. PackedRings.Keys];

    /// <summary>Each writes descriptors at the table's start, and makes the first one available.</summary>
    private static readonly Dictionary<string, Action<SplitBench>> Split = new()
    {
        ["a descriptor index out of range"] = b => b.Ring.AddHead(16),
        ["a descriptor index out of range, far"] = b => b.Ring.AddHead(ushort.MaxValue),
        ["a descriptor index out of range, next"] = b => b.Chain((0x10000, 16, Next, 16)),
        ["a chain that loops"] = b => b.Chain((0x10000, 16, Next, 1), (0x10000, 16, Next, 0)),
        ["a chain that loops, in place"] = b => b.Chain((0x10000, 16, Next, 0)),
        ["an available index that jumps"] = b => b.Write16(b.Ring.DriverArea + 2, 17),
        ["an available index that jumps, back"] = b => b.Write16(b.Ring.DriverArea + 2, ushort.MaxValue),
        ["a descriptor without length"] = b => b.Chain((0x10000, 0, 0, 0)),
        ["a descriptor outside of memory"] = b => b.Chain((0x10000, uint.MaxValue, 0, 0)),
        ["a descriptor outside of memory, by a byte"] = b => b.Chain((b.Memory.Size - 15, 16, 0, 0)),
        ["a descriptor outside of memory, over registers"] = b => b.Chain((ModernPciDriver.Base, 16, 0, 0)),
        ["a descriptor outside of memory, over the VGA window"] = b => b.Chain((0x9FFF8, 16, 0, 0)),
        ["a descriptor outside of memory, around the end"] = b => b.Chain((ulong.MaxValue - 7, 16, 0, 0)),
        ["a readable descriptor behind a writable one"] = b => b.Chain((0x10000, 16, Next | Write, 1), (0x10000, 16, 0, 0)),
        ["a chain of 2 GiB"] = b =>
        {
            // Of the same 3 MiB again and again.
            for (var i = 0; i < 1024; i++)
                b.Descriptor(0x100000 + (16 * (ulong)i), 0x110000, 0x300000, Next, i + 1);
            b.Chain((0x100000, 16 * 1024, Indirect, 0));
        },
        ["an indirect table of a wrong length"] = b => b.Chain((0x10000, 17, Indirect, 0)),
        ["an indirect table of a wrong length, none"] = b => b.Chain((0x10000, 0, Indirect, 0)),
        ["an indirect table of a wrong length, 4 GiB"] = b => b.Chain((0x10000, 0xFFFFFFF0, Indirect, 0)),
        ["an indirect table outside of memory"] = b => b.Chain((0x7FFFFFF0, 64, Indirect, 0)),
        ["an indirect table outside of memory, 2 GiB"] = b => b.Chain((0x10000, 0x7FFFFFF0, Indirect, 0)),
        ["an indirect table within an indirect table"] = b =>
        {
            b.Descriptor(0x20000, 0x20000, 16, Indirect, 0);
            b.Chain((0x20000, 16, Indirect, 0));
        },
        ["a descriptor index out of range, in a table"] = b =>
        {
            b.Descriptor(0x20000, 0x10000, 16, Next, 1);
            b.Chain((0x20000, 16, Indirect, 0));
        },
        ["a chain that loops, in a table"] = b =>
        {
            b.Descriptor(0x20000, 0x10000, 16, Next, 1);
            b.Descriptor(0x20010, 0x10000, 16, Next, 0);
            b.Chain((0x20000, 32, Indirect, 0));
        },
        ["a chain of too many descriptors"] = b =>
        {
            for (var i = 0; i < 2000; i++)
                b.Descriptor(0x100000 + (16 * (ulong)i), 0x10000, 16, Next, i + 1);
            b.Chain((0x100000, 16 * 2000, Indirect, 0));
        },
        ["a request without header or status"] = b => b.Chain((0x10000, 15, 0, 0)),
        ["a request without header or status, no status"] = b => b.Chain((0x10000, 16, 0, 0)),
        ["a request without header or status, no header"] = b => b.Chain((0x10000, 16, Write, 0)),
        ["more buffers than its queue has room for"] = b =>
        {
            // A flush, again and again while none of them is done.
            b.Drive.HoldsRequests = true;
            b.Memory.TryWrite(0x10000, 4ul);
            b.Chain((0x10000, 16, Next, 1), (0x10020, 1, Write, 0));
            for (var i = 0; i < 16; i++)
            {
                b.Bench.Driver.Notify(0);
                b.Ring.AddHead(0);
            }

            b.Bench.Driver.Notify(0);
            b.Drive.HoldsRequests = false;
        },
    };

    private static readonly Dictionary<string, Action<PackedDriverRing>> PackedRings = new()
    {
        ["a buffer id out of range"] = r => r.AddDescriptors([(new(0x10000, 16), 0)], 16),
        ["a chain that loops"] = r =>
        {
            r.AddDescriptors([.. Enumerable.Range(0, 15).Select(_ => (new GuestBuffer(0x10000, 16), Next))], 0);
            r.AddDescriptors([(new(0x10000, 16), Next)], 0);
        },
        ["a descriptor without length"] = r => r.AddDescriptors([(new(0x10000, 0), 0)], 0),
        ["a descriptor outside of memory"] = r => r.AddDescriptors([(new(0x10000, uint.MaxValue), 0)], 0),
        ["a descriptor outside of memory, over registers"] = r => r.AddDescriptors([(new(ModernPciDriver.Base, 16), 0)], 0),
        ["a readable descriptor behind a writable one"] = r => r.AddDescriptors([(new(0x10000, 16), Write), (new(0x10000, 16), 0)], 0),
        ["an indirect table within a chain"] = r => r.AddDescriptors([(new(0x10000, 16), 0), (new(0x20000, 16), Indirect)], 0),
        ["an indirect table of a wrong length"] = r => r.AddDescriptors([(new(0x10000, 24), Indirect)], 0),
        ["an indirect table outside of memory"] = r => r.AddDescriptors([(new(0x10000, 0x7FFFFFF0), Indirect)], 0),
        ["a chain of too many descriptors"] = r => r.AddDescriptors([(new(0x120000, 16 * 1025), Indirect)], 0),
        ["a request without header or status"] = r => r.AddDescriptors([(new(0x10000, 16), 0)], 0),
    };

    [Theory]
    [MemberData(nameof(SplitFaults))]
    public void Of_a_split_ring(string fault)
    {
        foreach (var legacy in new[] { false, true })
        {
            using var bench = VirtioBench.Disk(out var drive, legacy, options: new() { QueueSize = 16 });
            bench.Driver.Start(VirtioBench.AllFeatures & ~Packed);
            Split[fault](new SplitBench(bench, drive));
            CheckBroken(bench, fault, legacy);
        }
    }

    [Theory]
    [MemberData(nameof(PackedFaults))]
    public void Of_a_packed_ring(string fault)
    {
        using var bench = VirtioBench.Disk(out _, options: new() { QueueSize = 16 });
        bench.Driver.Start(VirtioBench.AllFeatures);
        for (var i = 0; i < 1025; i++)
            bench.Memory.TryWrite(0x120000 + (16 * (ulong)i), [.. BitConverter.GetBytes(0x10000ul), .. BitConverter.GetBytes(16ul)]);
        PackedRings[fault]((PackedDriverRing)bench.Driver.Rings[0]);
        CheckBroken(bench, fault, legacy: false);
    }

    [Theory]
    [InlineData(0xFFFF_FFFF_FFFF_F000, 0x10000, 0x20000, 16)]
    [InlineData(0x10000, 0xFFFF_FFFF_FFFF_FFFE, 0x20000, 16)]
    [InlineData(0x10000, 0x11000, 0xA0000, 16)] // the VGA window
    [InlineData(0x10000, 0x11000, (16 << 20) - 8, 16)] // goes beyond the end
    [InlineData(0xE0200000, 0x11000, 0x12000, 16)] // over the device's own registers
    [InlineData(0x10008, 0x11000, 0x12000, 16)] // not aligned
    [InlineData(0x10000, 0x11001, 0x12000, 16)]
    [InlineData(0x10000, 0x11000, 0x12002, 16)]
    [InlineData(0x10000, 0x11000, 0x12000, 12)] // no power of two
    [InlineData(0, 0, 0, 16, 0xA0000)]
    public void A_ring_where_no_memory_is(ulong descriptors, ulong driver, ulong device, int size, ulong shift = 0)
    {
        using var bench = VirtioBench.Disk(out _, options: new() { QueueSize = 16 });
        bench.Driver.Negotiate(VirtioBench.AllFeatures & ~Packed);
        ((ModernPciDriver)bench.Driver).PlaceQueue(0, size, descriptors + shift, driver + shift, device + shift);
        bench.Driver.Status |= VirtioPciDriver.DriverOk;
        CheckBroken(bench, "a ring that does not lie in memory as it should", legacy: false);
    }

    private static void CheckBroken(VirtioBench bench, string fault, bool legacy)
    {
        for (var i = 0; i < 3; i++)
            bench.Driver.Notify(0);
        var error = Assert.Single(bench.Errors.Counts);
        Assert.Equal($"virtio-blk: {fault.Split(',')[0]}", error.Key);
        Assert.Equal(1, error.Value);
        // A legacy driver has no bit for it.
        Assert.Equal(legacy ? 0 : VirtioPciDriver.NeedsReset, bench.Driver.Status & VirtioPciDriver.NeedsReset);
        Assert.All(bench.Driver.Rings, r => Assert.Null(r.TakeUsed()));
        bench.Driver.Status = 0;
        bench.Driver.Start(VirtioBench.AllFeatures);
        var data = new GuestBuffer(bench.Driver.Allocator.Allocate(512), 512);
        Assert.Equal(0, bench.Request(0, 1, [], [data]));
    }

    private sealed class SplitBench(VirtioBench bench, Testing.Block.MemoryDrive drive)
    {
        public VirtioBench Bench => bench;

        public Testing.Block.MemoryDrive Drive => drive;

        public GuestMemory Memory => bench.Memory;

        public SplitDriverRing Ring => (SplitDriverRing)bench.Driver.Rings[0];

        public void Chain(params (ulong Address, uint Length, int Flags, int Next)[] descriptors)
        {
            for (var i = 0; i < descriptors.Length; i++)
                Descriptor(Ring.DescriptorArea + (16 * (ulong)i), descriptors[i].Address, descriptors[i].Length, descriptors[i].Flags, descriptors[i].Next);
            Ring.AddHead(0);
        }

        public void Descriptor(ulong at, ulong address, uint length, int flags, int next) => Memory.TryWrite(
            at, [.. BitConverter.GetBytes(address), .. BitConverter.GetBytes(length), .. BitConverter.GetBytes((ushort)flags), .. BitConverter.GetBytes((ushort)next)]);

        public void Write16(ulong address, ushort value) => Memory.TryWrite(address, value);
    }
}
