using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio.Transports;

public sealed class VirtioMmioTests : IDisposable
{
    private static readonly int[] Sizes = [1, 2, 4, 8];

    private readonly GuestMemory _memory = new(4 << 20);
    private readonly GuestErrorLog _errors = new(NullLogger.Instance);
    private readonly MemoryDrive _drive = new(100, "disk") { CanDiscard = true };
    private readonly RecordingLine _line = new();
    private readonly VirtioBlk _disk;
    private readonly VirtioMmio _mmio;
    private readonly MmioDriver _driver;

    public VirtioMmioTests()
    {
        _disk = new VirtioBlk(_drive, new VirtioBlkOptions { QueueCount = 2, QueueSize = 64 }, _errors) { OffersPackedRings = true };
        _mmio = new VirtioMmio(_disk, _memory, _line);
        _mmio.Reset();
        _driver = new MmioDriver(_mmio, _memory);
    }

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void Registers_tell_what_it_is()
    {
        Assert.Equal([0x7472_6976u, 2u, 2u, 0x554D_4551u], new uint[] { 0, 4, 8, 12 }.Select(_driver.Read));
        Assert.Equal(64u, _driver.Read(0x34));
        _driver.Write(0x30, 2); // the one behind the last
        Assert.Equal(0u, _driver.Read(0x34));
        Assert.Equal(100u, _driver.ReadDeviceConfig(0, 8));
        Assert.Equal(uint.MaxValue, _driver.Read(0xB0)); // no shared memory
        Assert.Equal(0u, _driver.OfferedFeatures & (1 << 24)); // what is legacy is not offered
        Assert.Equal(1u, _driver.OfferedFeatures >> 32 & 1);
        _driver.Write(0x14, 2);
        Assert.Equal(0u, _driver.Read(0x10));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Requests_go_through_and_interrupt_until_acknowledged(bool packed)
    {
        _driver.Start(packed ? ulong.MaxValue : ~(1UL << VirtioDriver.PackedRing), queues: 2);
        for (var queue = 0; queue < 2; queue++)
        {
            Assert.Equal(0, Read(queue, sector: 3));
            Assert.True(_line.IsAsserted);
            Assert.Equal(1, _driver.ReadInterruptStatus());
            Assert.False(_line.IsAsserted);
            Assert.Equal(0, _driver.ReadInterruptStatus());
        }

        _driver.Status = 0;
        Assert.Equal(0u, _driver.Read(0x44));
        Assert.Empty(_errors.Counts);
    }

    [Fact]
    public void A_fault_of_the_driver_is_a_change_of_the_configuration()
    {
        _driver.Start(ulong.MaxValue);
        _driver.Rings[0].Add([_driver.Put([1])], []);
        _driver.Notify(0);
        Assert.Equal(VirtioDriver.NeedsReset, _driver.Status & VirtioDriver.NeedsReset);
        Assert.Equal(2, _driver.ReadInterruptStatus());
    }

    [Fact]
    public void A_queue_that_is_stopped_forgets_what_was_under_way()
    {
        _driver.Start(~(1UL << VirtioDriver.PackedRing));
        _drive.HoldsRequests = true;
        var status = Submit(0, 1);
        _driver.Write(0x44, 0);
        Assert.Equal(0u, _driver.Read(0x44));
        _drive.CompleteNext();
        Assert.Equal(0xEE, _driver.Get(status)[0]);
        Assert.Null(_driver.Rings[0].TakeUsed());
        Assert.False(_line.IsAsserted);
        Assert.Equal(64u, _driver.Read(0x34));
    }

    [Fact]
    public void Features_need_version_1()
    {
        Assert.Throws<InvalidOperationException>(() => _driver.Negotiate(0));
        _driver.Negotiate(ulong.MaxValue);
    }

    [Fact]
    public void Every_register_takes_all_sizes_and_all_ones()
    {
        for (var offset = 0u; offset < VirtioMmio.Length; offset++)
        {
            foreach (var size in Sizes)
            {
                _mmio.Write(offset, size, ulong.MaxValue);
                var value = _mmio.Read(offset, size);
                Assert.True(offset >= 0x100 || size == 4 || value == 0);
                _mmio.Write(offset, size, 0);
            }
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_accesses_to_all_registers(int seed)
    {
        var random = new Random(seed);
        uint[] likely = [0x10, 0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0xA0];
        var ready = 0;
        for (var i = 0; i < 40_000; i++)
        {
            var size = random.Next(4) == 0 ? Sizes[random.Next(4)] : 4;
            var offset = random.Next(4) == 0 ? (uint)random.Next((int)VirtioMmio.Length) : likely[random.Next(likely.Length)];
            var value = random.Next(3) switch { 0 => (ulong)random.Next(32), 1 => (ulong)random.NextInt64(), _ => 1UL << random.Next(64) };
            switch (random.Next(5))
            {
                case 0 or 1 or 2:
                    _mmio.Write(offset, size, value);
                    break;
                case 3:
                    _memory.TryWrite((ulong)random.Next(0x100), (ulong)random.NextInt64());
                    _mmio.Read(offset, size);
                    break;
                default:
                    _drive.HoldsRequests = random.Next(2) == 0;
                    if (_drive.HeldRequests > 0)
                        _drive.CompleteNext();
                    break;
            }

            ready += _disk.Queues.Count(q => q.IsEnabled);
        }

        _mmio.Reset();
        Assert.Equal(0, _drive.HeldRequests);
        Assert.InRange(ready, 100, int.MaxValue); // otherwise this would show nothing
    }

    private GuestBuffer Submit(int queue, ulong sector)
    {
        var header = _driver.Put([0, 0, 0, 0, 0, 0, 0, 0, .. BitConverter.GetBytes(sector)]);
        var status = _driver.Put([0xEE]);
        _driver.Rings[queue].Add([header], [new(_driver.Allocator.Allocate(512), 512), status]);
        _driver.NotifyIfNeeded(queue);
        return status;
    }

    private byte Read(int queue, ulong sector)
    {
        var status = Submit(queue, sector);
        Assert.Equal(513u, _driver.Rings[queue].TakeUsed()?.Written);
        return _driver.Get(status)[0];
    }
}
