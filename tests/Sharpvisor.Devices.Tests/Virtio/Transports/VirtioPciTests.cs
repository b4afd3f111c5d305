using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Devices.Virtio.Transports;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio.Transports;

public sealed class VirtioPciTests
{
    private const int Common = 0;

    [Theory]
    [InlineData(false, false, 0x1001, 0, 2)]
    [InlineData(true, false, 0x1001, 0, 2)]
    [InlineData(false, true, 0x1042, 1, 0x1100)]
    public void Ids_are_those_of_QEMU(bool disableModern, bool disableLegacy, uint id, uint revision, uint subsystem)
    {
        using var bench = Disk(new VirtioPciOptions { DisableModern = disableModern, DisableLegacy = disableLegacy }, legacy: disableModern);
        Assert.Equal(0x1AF4u | (id << 16), bench.Driver.ReadConfig(0, 4));
        Assert.Equal(revision | 0x01000000, bench.Driver.ReadConfig(8, 4));
        Assert.Equal(0x1AF4u | (subsystem << 16), bench.Driver.ReadConfig(0x2C, 4));
        Assert.Equal(disableLegacy ? 0u : 1, bench.Driver.ReadConfig(0x10, 1) & 1);
        Assert.Equal(disableModern ? 0u : 0xC, bench.Driver.ReadConfig(0x20, 1) & 0xF);
        Assert.Equal(disableModern ? 0 : 5, bench.Driver.Capabilities(9).Count());
    }

    [Fact]
    public void A_random_number_generator_has_its_ids()
    {
        using var bench = new VirtioBench(errors => new VirtioRng(_ => { }, errors));
        Assert.Equal(0x10051AF4u, bench.Driver.ReadConfig(0, 4));
        Assert.Equal(4u, bench.Driver.ReadConfig(0x2E, 2));
        Assert.Equal(0x00FF0000u, bench.Driver.ReadConfig(8, 4));
    }

    [Fact]
    public void A_modern_driver_is_not_offered_what_is_legacy_and_a_legacy_one_not_what_is_modern()
    {
        using var modern = Disk();
        Assert.Equal(0x1_3000_2E54UL | (1UL << 14), modern.Driver.OfferedFeatures);
        using var legacy = Disk(legacy: true);
        Assert.Equal(0x3900_2E54UL | (1UL << 14), legacy.Driver.OfferedFeatures);
    }

    [Fact]
    public void Features_are_agreed_on_once()
    {
        using var bench = Disk();
        Assert.Throws<InvalidOperationException>(() => bench.Driver.Negotiate(0)); // without VERSION_1
        bench.Driver.Negotiate(ulong.MaxValue);
        var accepted = bench.Function.Device.AcceptedFeatures;
        Write(bench, 8, 4, 0);
        Write(bench, 12, 4, 0);
        Assert.Equal(accepted, bench.Function.Device.AcceptedFeatures);
        Assert.Single(bench.Errors.Counts);
    }

    [Fact]
    public void A_queue_is_as_large_as_the_driver_wants()
    {
        using var bench = Disk();
        bench.Driver.Start(ulong.MaxValue, size: 4);
        Write(bench, 22, 2, 0);
        Assert.Equal(4u, Read(bench, 24, 2));
        Assert.Equal(1u, Read(bench, 28, 2));
        Write(bench, 24, 2, 8); // too late
        Assert.Equal(4u, Read(bench, 24, 2));
        bench.Driver.Status = 0;
        Assert.Equal(256u, Read(bench, 24, 2));
        Assert.Equal(0u, Read(bench, 28, 2));
        Write(bench, 24, 2, 512);
        Write(bench, 24, 2, 0);
        Assert.Equal(256u, Read(bench, 24, 2));
        Write(bench, 22, 2, 1); // a queue that is not there
        Assert.Equal(0u, Read(bench, 24, 2));
        Assert.Equal(0xFFFFu, Read(bench, 26, 2));
    }

    [Fact]
    public void Addresses_are_written_and_read_in_halves()
    {
        using var bench = Disk();
        for (var i = 0; i < 6; i++)
            Write(bench, 0x20 + (4 * i), 4, 0x11111110u * (uint)(i + 1));
        for (var i = 0; i < 6; i++)
            Assert.Equal(0x11111110u * (uint)(i + 1), Read(bench, 0x20 + (4 * i), 4));
        Assert.Equal(0x4444444033333330u, Read(bench, 0x28, 8));
        Write(bench, 0x28, 8, 0x1234567890ABCDEF);
        Assert.Equal(0x1234567890ABCDEFu, Read(bench, 0x28, 8));
    }

    [Fact]
    public void Vectors_that_are_not_there_are_refused()
    {
        using var bench = Disk();
        foreach (var register in new[] { 16, 26 })
        {
            Assert.Equal(0xFFFFu, Read(bench, register, 2));
            Write(bench, register, 2, 1);
            Assert.Equal(1u, Read(bench, register, 2));
            Write(bench, register, 2, 2);
            Assert.Equal(0xFFFFu, Read(bench, register, 2));
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Without_MSI_X_the_pin_is_asserted_until_the_status_is_read(bool legacy)
    {
        using var bench = Disk(legacy: legacy, msix: false);
        bench.Driver.Start(ulong.MaxValue);
        bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        Assert.True(bench.IsIntxAsserted);
        Assert.Equal(1, bench.Driver.ReadInterruptStatus());
        Assert.False(bench.IsIntxAsserted);
        Assert.Equal(0, bench.Driver.ReadInterruptStatus());
        bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        bench.Driver.Status = 0;
        Assert.False(bench.IsIntxAsserted);
        Assert.Empty(bench.Pci.Messages);
    }

    [Fact]
    public void With_MSI_X_and_no_vector_there_is_no_interrupt()
    {
        using var bench = Disk();
        bench.Driver.Start(ulong.MaxValue);
        Write(bench, 22, 2, 0);
        Write(bench, 26, 2, 0xFFFF);
        bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        Assert.NotNull(bench.Driver.Rings[0].TakeUsed());
        Assert.Empty(bench.Pci.Messages);
        Assert.False(bench.IsIntxAsserted);
    }

    [Fact]
    public void A_change_of_the_configuration_is_told()
    {
        using var bench = new VirtioBench(errors => new Changing(errors));
        bench.Driver.Start(ulong.MaxValue);
        var generation = ((ModernPciDriver)bench.Driver).Generation;
        ((Changing)bench.Function.Device).Change(42);
        Assert.NotEqual(generation, ((ModernPciDriver)bench.Driver).Generation);
        Assert.Equal(42u, bench.Driver.ReadDeviceConfig(0, 1));
        Assert.Equal(VirtioPciDriver.ConfigurationMessage, Assert.Single(bench.Pci.Messages).Data);
        Assert.Equal(3, bench.Driver.ReadInterruptStatus());
    }

    [Fact]
    public void The_configuration_of_a_legacy_device_moves_with_MSI_X()
    {
        using var bench = Disk(legacy: true);
        Assert.Equal(4096u, bench.Pci.Ports.Read(LegacyPciDriver.Base + 20, 4));
        bench.Driver.Start(ulong.MaxValue);
        Assert.Equal(0u, bench.Pci.Ports.Read(LegacyPciDriver.Base + 20, 2)); // the vector of the configuration
        Assert.Equal(4096u, bench.Pci.Ports.Read(LegacyPciDriver.Base + 24, 4));
    }

    [Fact]
    public void An_old_legacy_driver_becomes_bus_master_without_asking()
    {
        using var bench = Disk(legacy: true);
        bench.Driver.WriteConfig(4, 2, 1);
        bench.Driver.Status = 1;
        Assert.Equal(1u, bench.Driver.ReadConfig(4, 2));
        bench.Driver.Status = 3;
        Assert.Equal(5u, bench.Driver.ReadConfig(4, 2));
    }

    [Fact]
    public void A_legacy_driver_may_use_the_queue_before_it_is_ready_and_resets_by_its_address()
    {
        using var bench = Disk(legacy: true);
        bench.Driver.Start(ulong.MaxValue);
        bench.Driver.Status = 3; // DRIVER_OK taken back
        bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        Assert.NotNull(bench.Driver.Rings[0].TakeUsed());
        bench.Pci.Ports.Write(LegacyPciDriver.Base + 8, 4, 0);
        Assert.Equal(0, bench.Driver.Status);
    }

    [Fact]
    public void A_modern_driver_must_be_ready_first()
    {
        using var bench = Disk();
        bench.Driver.Start(ulong.MaxValue);
        bench.Driver.Status = 0xB;
        var (_, status) = bench.AddRequest(4, 0, [], []);
        bench.Driver.Notify(0);
        Assert.Null(bench.Driver.Rings[0].TakeUsed());
        bench.Driver.Status = 0xF;
        Assert.NotNull(bench.Driver.Rings[0].TakeUsed()); // what waited is served at once
        Assert.Equal(0, bench.Driver.Get(status)[0]);
    }

    [Fact]
    public void Registers_are_reached_through_configuration_space()
    {
        using var bench = Disk();
        var at = bench.Driver.Capabilities(9).Single(c => bench.Driver.ReadConfig(c + 3, 1) == 5);
        void Select(uint offset, uint length, uint bar = 4)
        {
            bench.Driver.WriteConfig(at + 4, 1, bar);
            bench.Driver.WriteConfig(at + 8, 4, offset);
            bench.Driver.WriteConfig(at + 12, 4, length);
        }

        Select(0x12, 2);
        Assert.Equal(1u, bench.Driver.ReadConfig(at + 16, 4)); // queues
        Select(0x2000, 4);
        Assert.Equal(4096u, bench.Driver.ReadConfig(at + 16, 4)); // capacity
        Select(0x14, 1);
        bench.Driver.WriteConfig(at + 16, 1, 3);
        Assert.Equal(3, bench.Driver.Status);
        foreach (var (offset, length, bar) in new[] { (0x14u, 3u, 4u), (0x14u, 0u, 4u), (0x13u, 2u, 4u), (0x4000u, 1u, 4u), (uint.MaxValue, 1u, 4u), (0x14u, 1u, 0u), (0x14u, uint.MaxValue, 4u) })
        {
            Select(offset, length, bar);
            bench.Driver.WriteConfig(at + 16, 4, 0x0F);
            bench.Driver.ReadConfig(at + 16, 4);
            Assert.Equal(3, bench.Driver.Status);
        }
    }

    [Fact]
    public void A_notification_of_a_queue_that_is_not_there_is_ignored()
    {
        using var bench = Disk();
        bench.Driver.Start(ulong.MaxValue);
        bench.Pci.Mmio.Write(ModernPciDriver.Base + 0x3FFC, 2, 0);
        Assert.Equal(0x0F, bench.Driver.Status);
        Assert.Single(bench.Errors.Counts);
    }

    private static VirtioBench Disk(VirtioPciOptions? options = null, bool legacy = false, bool msix = true) =>
        new(errors => new VirtioBlk(new MemoryDrive(4096), new VirtioBlkOptions(), errors), legacy, msix, options);

    private static ulong Read(VirtioBench bench, int register, int size) => bench.Pci.Mmio.Read(ModernPciDriver.Base + Common + (uint)register, size);

    private static void Write(VirtioBench bench, int register, int size, ulong value) => bench.Pci.Mmio.Write(ModernPciDriver.Base + Common + (uint)register, size, value);

    private sealed class Changing(GuestErrorLog errors) : VirtioDevice("changing", VirtioDeviceType.Console, 4, [8], errors)
    {
        protected override ulong Features => 0;

        public void Change(byte value)
        {
            Configuration[0] = value;
            OnConfigurationChanged();
        }

        protected override void OnQueueNotify(Virtqueue queue)
        {
        }
    }
}
