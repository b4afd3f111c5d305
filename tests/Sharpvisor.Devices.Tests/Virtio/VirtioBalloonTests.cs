using Sharpvisor.Devices.Virtio;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

public sealed class VirtioBalloonTests
{
    private const uint NumPages = 0, Actual = 4, PoisonVal = 12;
    private const int Inflate = 0, Deflate = 1, Stats = 2, Report = 3;
    private const ulong Page = 0x20_0000;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Pages_in_the_balloon_are_the_hosts(bool legacy)
    {
        using var bench = Start(legacy: legacy);
        Fill(bench, Page, 8);
        var done = Give(bench, Inflate, PageNumbers(Page, 0, 4, 2, 3, 3)); // in any order, one twice
        Assert.Equal(0u, done);
        Assert.Equal([0, 0xA5, 0, 0, 0, 0xA5, 0xA5, 0xA5], FirstBytes(bench, Page, 8));
        Assert.Equal(1, bench.TakeMessages());
        Assert.Equal(0u, Give(bench, Deflate, PageNumbers(Page, 0, 4, 2, 3)));
        Assert.Equal(1, bench.TakeMessages(VirtioPciDriver.FirstMessage + 1));
        Fill(bench, Page, 1);
        Assert.Equal(0xA5, FirstBytes(bench, Page, 1)[0]); // and they can be used again
        Assert.Empty(bench.Errors.Counts);
    }

    [Fact]
    public void Decoded_instructions_of_a_page_are_dropped()
    {
        using var bench = Start();
        var written = new List<ulong>();
        bench.Memory.CodeWritten += (page, _) => written.Add(page);
        bench.Memory.CodeLines(Page + 0x1000) = 1;
        Give(bench, Inflate, PageNumbers(Page, 0, 1, 2));
        Assert.Equal([(Page + 0x1000) >> 12], written);
    }

    [Theory]
    [InlineData(0xA0u)] // the VGA window
    [InlineData(0x1000u)] // behind RAM
    [InlineData(0xFFFF_FFFFu)]
    public void Pages_that_are_not_RAM_are_reported_and_left(uint page)
    {
        using var bench = Start();
        Fill(bench, Page, 1);
        Give(bench, Inflate, [.. BitConverter.GetBytes(page), .. PageNumbers(Page, 0)]);
        Assert.Equal(0, FirstBytes(bench, Page, 1)[0]);
        Assert.Equal(1, bench.Errors.Counts.Single().Value);
        Assert.Equal(0, bench.Driver.Status & VirtioPciDriver.NeedsReset);
    }

    [Fact]
    public void A_list_without_end_is_not_read_to_it()
    {
        using var bench = Start();
        Fill(bench, Page, 2);
        var list = new byte[(VirtioBalloon.MaximumPagesOfList + 1) * 4];
        for (var i = 0; i < VirtioBalloon.MaximumPagesOfList; i++)
            BitConverter.TryWriteBytes(list.AsSpan(4 * i), (uint)(Page >> 12));
        BitConverter.TryWriteBytes(list.AsSpan(list.Length - 4), (uint)(Page >> 12) + 1);
        Give(bench, Inflate, list);
        Assert.Equal([0, 0xA5], FirstBytes(bench, Page, 2));
    }

    [Fact]
    public void A_page_number_that_is_cut_is_ignored()
    {
        using var bench = Start();
        Fill(bench, Page, 2);
        Give(bench, Inflate, [.. PageNumbers(Page, 0), .. PageNumbers(Page, 1)[..3]]);
        Assert.Equal([0, 0xA5], FirstBytes(bench, Page, 2));
    }

    [Fact]
    public void The_driver_learns_of_a_new_target_and_tells_what_it_gave()
    {
        using var bench = Start();
        var device = Device(bench);
        device.TargetPages = 300;
        Assert.Equal(1, bench.TakeMessages(VirtioPciDriver.ConfigurationMessage));
        Assert.Equal(300u, bench.Driver.ReadDeviceConfig(NumPages, 4));
        Assert.Equal(1, ((ModernPciDriver)bench.Driver).Generation);
        bench.Driver.WriteDeviceConfig(NumPages, 4, 7);
        Assert.Equal(300u, device.TargetPages); // the host's
        bench.Driver.WriteDeviceConfig(Actual, 4, 256);
        Assert.Equal(256u, device.ActualPages);
        bench.Driver.Status = 0;
        Assert.Equal((300u, 0u), (device.TargetPages, device.ActualPages));
    }

    [Theory]
    [InlineData(0u, false)]
    [InlineData(0xAAAA_AAAAu, true)]
    public void Reported_pages_are_given_back_unless_free_ones_hold_a_pattern(uint pattern, bool stays)
    {
        using var bench = Start();
        bench.Driver.WriteDeviceConfig(PoisonVal, 4, pattern);
        Fill(bench, Page, 4);
        bench.Driver.Rings[Report].Add([], [new(Page, 0x2000), new(Page + 0x3000, 0x1000)]);
        bench.Driver.NotifyIfNeeded(Report);
        Assert.Equal(0u, bench.Driver.Rings[Report].TakeUsed()?.Written);
        Assert.Equal(stays ? [0xA5, 0xA5, 0xA5, 0xA5] : [0, 0, 0xA5, 0], FirstBytes(bench, Page, 4));
        Assert.Equal(stays ? 0u : 3u, Device(bench).ReportedPages);
    }

    [Theory]
    [InlineData(Page + 8, 0x1000u)]
    [InlineData(Page, 0x800u)]
    public void Reports_of_parts_of_pages_change_nothing(ulong address, uint length)
    {
        using var bench = Start();
        Fill(bench, Page, 2);
        bench.Driver.Rings[Report].Add([], [new(address, length)]);
        bench.Driver.Notify(Report);
        Assert.NotNull(bench.Driver.Rings[Report].TakeUsed());
        Assert.Equal([0xA5, 0xA5], FirstBytes(bench, Page, 2));
    }

    [Fact]
    public void A_reporting_queue_and_features_are_there_only_when_asked_for()
    {
        using var plain = new VirtioBench(errors => new VirtioBalloon(new VirtioBalloonOptions(), errors));
        Assert.Equal(0x12u, (uint)plain.Driver.OfferedFeatures & 0xFF);
        Assert.Equal(3, plain.Function.Device.Queues.Count);
        using var all = Start();
        Assert.Equal(0x36u, (uint)all.Driver.OfferedFeatures & 0xFF);
        Assert.Equal(4, all.Function.Device.Queues.Count);
    }

    [Fact]
    public void Statistics_are_those_of_after_the_question()
    {
        using var bench = Start();
        var answers = new List<BalloonStatistics?>();
        Device(bench).RequestStatistics(answers.Add); // nothing to ask by yet
        var first = GiveStatistics(bench, (4, 1));
        Assert.Equal((first, 0u), bench.Driver.Rings[Stats].TakeUsed()); // the old ones: others, please
        Assert.Empty(answers);
        GiveStatistics(bench, (0, 10), (5, 1UL << 40), (4, 2), (4, 3), (99, 7), (6, ulong.MaxValue));
        Assert.Equal(new BalloonStatistics { SwapIn = 10, TotalMemory = 1UL << 40, FreeMemory = 3 }, answers.Single());
        Assert.Null(bench.Driver.Rings[Stats].TakeUsed()); // stays with the device until the next question
        Device(bench).RequestStatistics(answers.Add);
        Assert.NotNull(bench.Driver.Rings[Stats].TakeUsed());
        Device(bench).RequestStatistics(answers.Add); // one answer is enough for both
        GiveStatistics(bench, (9, 1));
        Assert.Equal([1ul, 1ul], answers.Skip(1).Select(a => a!.HugePageFailures!.Value));
    }

    [Fact]
    public void Who_waits_for_statistics_learns_that_the_driver_has_gone()
    {
        using var bench = Start();
        var answers = new List<BalloonStatistics?>();
        GiveStatistics(bench, (4, 1));
        Device(bench).RequestStatistics(answers.Add);
        Assert.Empty(answers);
        bench.Driver.Status = 0;
        Assert.Equal([null], answers);
        Device(bench).RequestStatistics(answers.Add);
        Assert.Equal([null, null], answers);
    }

    [Fact]
    public void Of_several_buffers_for_statistics_the_last_one_is_kept()
    {
        using var bench = Start();
        var first = GiveStatistics(bench, (4, 1));
        var second = GiveStatistics(bench, (4, 2));
        Assert.Equal(first, bench.Driver.Rings[Stats].TakeUsed()?.Id);
        Device(bench).RequestStatistics(_ => { });
        Assert.Equal(second, bench.Driver.Rings[Stats].TakeUsed()?.Id);
    }

    private static VirtioBench Start(bool legacy = false)
    {
        var bench = new VirtioBench(errors => new VirtioBalloon(new VirtioBalloonOptions { DeflatesOnOom = true, ReportsFreePages = true }, errors), legacy);
        bench.Driver.Start(VirtioBench.AllFeatures, queues: 4);
        return bench;
    }

    private static VirtioBalloon Device(VirtioBench bench) => (VirtioBalloon)bench.Function.Device;

    private static void Fill(VirtioBench bench, ulong address, int pages) => Assert.True(bench.Memory.TryWrite(address, Enumerable.Repeat((byte)0xA5, pages * 4096).ToArray()));

    private static byte[] FirstBytes(VirtioBench bench, ulong address, int pages) =>
        [.. Enumerable.Range(0, pages).Select(i => bench.Memory.TryRead<byte>(address + (ulong)(i * 4096) + 100, out var value) ? value : throw new InvalidOperationException())];

    private static byte[] PageNumbers(ulong first, params int[] pages) => [.. pages.SelectMany(p => BitConverter.GetBytes((uint)(first >> 12) + (uint)p))];

    private static uint? Give(VirtioBench bench, int queue, byte[] list)
    {
        bench.Driver.Rings[queue].Add([bench.Driver.Put(list)], []);
        bench.Driver.NotifyIfNeeded(queue);
        return bench.Driver.Rings[queue].TakeUsed()?.Written;
    }

    private static int GiveStatistics(VirtioBench bench, params (ushort Tag, ulong Value)[] statistics)
    {
        byte[] entries = [.. statistics.SelectMany(s => BitConverter.GetBytes(s.Tag).Concat(BitConverter.GetBytes(s.Value)))];
        var id = bench.Driver.Rings[Stats].Add([bench.Driver.Put(entries)], []);
        bench.Driver.Notify(Stats);
        return id;
    }
}
