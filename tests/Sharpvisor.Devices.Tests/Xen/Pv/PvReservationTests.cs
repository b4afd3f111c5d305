using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen.Pv;
using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>Frames that a paravirtual domain gives back and gets (memory_op), by machine frames.</summary>
public sealed class PvReservationTests : IDisposable
{
    private const ulong Increase = 0, Decrease = 1, CurrentReservation = 3, MaximumReservation = 4, Populate = 6;

    private const int Data = 610;

    private readonly PvBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void Frames_are_given_back_and_come_again_as_zeroes()
    {
        var pages = _bench.Layout.PageCount;
        _bench.Put(Data, 0, 0x1234);
        Assert.Equal(3, _bench.Reserve(Decrease, [_bench.Mfn(Data), _bench.Mfn(Data + 1), _bench.Mfn(Data + 2)]));
        Assert.Equal(pages - 3, _bench.Mmu.PageCount);
        Assert.Equal(default, _bench.Frame(Data) with { Type = default });
        Assert.Equal(ulong.MaxValue, _bench.Physical(_bench.Mfn(Data)));
        Assert.Equal(EBUSY, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P)));
        Assert.Equal((long)pages - 3, Ask(CurrentReservation));
        Assert.Equal((long)pages, Ask(MaximumReservation));
        PvModel.Check(_bench);

        ulong[] list = [0x5000, 0x5001, 0x5002, 0x5003];
        Assert.Equal(3, _bench.Reserve(Populate, list)); // a fourth is not there
        Assert.Equal([.. new[] { 0, 1, 2 }.Select(i => _bench.Mfn(Data + i)), 0x5003UL], list);
        Assert.Equal(0x5001UL, _bench.Physical(_bench.Mfn(Data + 1)));
        Assert.Equal(0UL, _bench.Get(Data, 0));
        Assert.Equal(pages, _bench.Mmu.PageCount);
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_frame_that_is_mapped_is_free_when_it_is_so_no_more()
    {
        _bench.Put(9, 0, 0x1234);
        Assert.Equal(1, _bench.Reserve(Decrease, [_bench.Mfn(9)]));
        Assert.Equal((1u, false), (_bench.Frame(9).References, _bench.Frame(9).IsAllocated));
        Assert.Equal(ulong.MaxValue, _bench.Physical(_bench.Mfn(9)));
        Assert.Equal(0x1234UL, _bench.Get(9, 0));
        PvModel.Check(_bench);
        ulong[] list = [0x5000];
        Assert.Equal(0, _bench.Reserve(Populate, list));
        Assert.Equal(0, _bench.Update(_bench.At(4, 9), 0));
        Assert.Equal(0u, _bench.Frame(9).References);
        PvModel.Check(_bench);
        Assert.Equal(1, _bench.Reserve(Populate, list));
        Assert.Equal((_bench.Mfn(9), 0UL), (list[0], _bench.Get(9, 0)));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_pinned_table_loses_its_pin_when_it_is_given_back()
    {
        _bench.Put(Data, 0, _bench.Entry(Data + 1, P | W));
        Assert.Equal(0, _bench.Pin(Data, 1));
        Assert.Equal(1, _bench.Reserve(Decrease, [_bench.Mfn(Data)]));
        Assert.Equal((0u, 1u), (_bench.Frame(Data).References, _bench.Frame(Data + 1).References));
        PvModel.Check(_bench);
    }

    [Fact]
    public void What_is_not_the_domains_is_not_taken()
    {
        Assert.Equal(1, _bench.Reserve(Decrease, [_bench.Mfn(Data), _bench.Mfn(Data), _bench.Mfn(Data + 1)])); // twice
        Assert.Equal(0, _bench.Reserve(Decrease, [5]));
        Assert.Equal(0, _bench.Reserve(Decrease, [ulong.MaxValue]));
        Assert.Equal(0, _bench.Reserve(Decrease, [PvLayout.SharedPages / Page]));
        Assert.Equal(0, _bench.Reserve(Decrease, [_bench.Layout.MachineFrames - 1], order: 1)); // half of it
        Assert.Equal(0, _bench.Reserve(Decrease, [_bench.Mfn(Data + 1)], domain: 3));
        Assert.Equal(0, _bench.Reserve(Decrease, [_bench.Mfn(Data + 1)], order: 10));
        Assert.Equal(0, _bench.Reserve(Decrease, [_bench.Mfn(Data + 1)], count: 1UL << 40));
        Assert.Equal(0, _bench.Call(12, Decrease, 0x1000));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_list_may_be_served_in_parts()
    {
        ulong[] list = [_bench.Mfn(Data), _bench.Mfn(Data + 1), _bench.Mfn(Data + 2)];
        Assert.Equal(3, _bench.Reserve(Decrease | (2 << 6), list));
        Assert.Equal((1u, 1u, 0u), (_bench.Frame(Data).References, _bench.Frame(Data + 1).References, _bench.Frame(Data + 2).References));
        Assert.Equal(7, _bench.Reserve(Decrease | (7 << 6), list));
        PvModel.Check(_bench);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(5)]
    [InlineData(6)]
    [InlineData(7)]
    [InlineData(9)]
    public void Large_extents_follow_each_other_on_their_boundary(int order)
    {
        var size = 1UL << order;
        var first = ((_bench.Mfn(FirstUnmapped) + size) / size) * size;
        Assert.Equal(1, _bench.Reserve(Decrease, [first], order));
        ulong[] list = [0x5000];
        Assert.Equal(1, _bench.Reserve(Decrease, [first + size + 1])); // one that is in no full extent
        Assert.Equal(1, _bench.Reserve(Populate, list, order));
        Assert.Equal(first, list[0]);
        for (ulong i = 0; i < size; i++)
            Assert.Equal(0x5000 + i, _bench.Physical(first + i));
        Assert.Equal(0, _bench.Reserve(Populate, list, order));
        Assert.Equal(1, _bench.Reserve(Increase, list));
        Assert.Equal((first + size + 1, ulong.MaxValue), (list[0], _bench.Physical(list[0])));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Single_frames_are_exchanged_for_such_that_follow_each_other()
    {
        var first = (_bench.Mfn(FirstUnmapped) + 8) & ~7UL;
        ulong[] given = [.. Enumerable.Range(0, 8).Select(i => first + (ulong)((i * 3) % 8))], wanted = [0x5000];
        _bench.Memory.TryWrite(first * Page, 0x1234UL);
        Assert.Equal(0, _bench.Exchange(given, 0, wanted, 3));
        Assert.Equal((first, 8UL), (wanted[0], _bench.GetArgument(64)));
        Assert.Equal([.. Enumerable.Range(0x5000, 8)], Enumerable.Range(0, 8).Select(i => (int)_bench.Physical(first + (ulong)i)));
        Assert.True(_bench.Memory.TryRead(first * Page, out ulong left));
        Assert.Equal(0UL, left);
        Assert.Equal(0, _bench.Exchange([first], 3, wanted = [0x6000, 0x6001, 0x6002, 0x6003, 0x6004, 0x6005, 0x6006, 0x6007], 0));
        Assert.Equal(Enumerable.Range(0, 8).Select(i => first + (ulong)i), wanted.Order());
        Assert.Equal(1UL, _bench.GetArgument(64));
        PvModel.Check(_bench);
    }

    [Fact]
    public void What_can_not_be_exchanged_stays()
    {
        var (a, b) = (_bench.Mfn(Data), _bench.Mfn(Data + 1));
        Assert.Equal(EINVAL, _bench.Exchange([a, a], 0, [1], 1)); // one frame twice
        Assert.Equal(EINVAL, _bench.Exchange([a, _bench.Mfn(9)], 0, [1, 2], 0));
        Assert.Equal(1UL, _bench.GetArgument(64)); // the first of them was
        Assert.Equal(EINVAL, _bench.Exchange([_bench.Mfn(9)], 0, [1], 0)); // mapped
        Assert.Equal(EINVAL, _bench.Exchange([5], 0, [1], 0));
        Assert.Equal(EINVAL, _bench.Exchange([a], 0, [1, 2], 0));
        Assert.Equal(EPERM, _bench.Exchange([a], 10, [1], 10));
        ulong[] given = [_bench.Mfn(Data + 2), _bench.Mfn(Data + 4)];
        var numbers = given.Select(_bench.Physical).ToArray();
        Assert.Equal(ENOMEM, _bench.Exchange(given, 0, [0x5000], 1)); // no two that follow each other
        Assert.Equal(numbers, given.Select(_bench.Physical));
        Assert.Equal(0UL, _bench.GetArgument(64));
        Assert.Equal(_bench.Layout.PageCount, _bench.Mmu.PageCount);
        Assert.Equal(EFAULT, _bench.Call(12, 11, 0x1000));
        PvModel.Check(_bench);
        Assert.Equal(0, _bench.Pin(Data + 1, 1));
        Assert.Equal(EINVAL, _bench.Exchange([b], 0, [1], 0));
        PvModel.Check(_bench);
    }

    [Fact]
    public void The_machine_is_described()
    {
        Assert.Equal(0, _bench.Call(12, 12, ArgumentAt(0))); // XENMEM_machphys_mapping
        Assert.Equal((IParavirtualDomain.MachineToPhysical, _bench.Layout.MachineFrames - 1), (_bench.GetArgument(0), _bench.GetArgument(16)));
        Assert.InRange(_bench.GetArgument(8), IParavirtualDomain.MachineToPhysical + (_bench.Layout.MachineFrames * 8), IParavirtualDomain.MachineToPhysical + (_bench.Layout.MachineFrames * 8) + Page);
        Assert.Equal((long)_bench.Layout.MachineFrames, _bench.Call(12, 2));
        Assert.Equal((long)_bench.Layout.PageCount - 1, _bench.Call(12, 14));

        _bench.PutArgument(0, 5); // XENMEM_memory_map
        _bench.PutArgument(8, ArgumentAt(64));
        Assert.Equal(0, _bench.Call(12, 9, ArgumentAt(0)));
        Assert.Equal((1UL, 0UL, _bench.Layout.PageCount * Page, 1), (_bench.GetArgument(0) & uint.MaxValue, _bench.GetArgument(64), _bench.GetArgument(72), BitConverter.ToInt32(_bench.GetArgument(80, 4))));

        _bench.PutArgument(0, 5); // XENMEM_machphys_mfn_list
        _bench.PutArgument(8, ArgumentAt(64));
        Assert.Equal(0, _bench.Call(12, 5, ArgumentAt(0)));
        Assert.Equal((1UL, PvLayout.MachineToPhysical / Page), (_bench.GetArgument(16) & uint.MaxValue, _bench.GetArgument(64)));
        Assert.Equal(EBUSY, _bench.Update(_bench.At(4, 100), (_bench.GetArgument(64) * Page) | P));
    }

    [Theory]
    [InlineData(2UL)]
    [InlineData(14UL)]
    public void Answers_that_need_no_memory_come_from_anywhere(ulong command) => Assert.True(_bench.Call(12, command, 0x1000) > 0);

    [Theory]
    [InlineData(3UL, EFAULT)]
    [InlineData(4UL, EFAULT)]
    [InlineData(5UL, EFAULT)]
    [InlineData(9UL, EFAULT)]
    [InlineData(12UL, EFAULT)]
    [InlineData(7UL, EACCES)]
    [InlineData(15UL, EACCES)]
    [InlineData(17UL, ENOSYS)]
    [InlineData(63UL, ENOSYS)]
    public void The_rest_is_refused(ulong command, int expected) => Assert.Equal(expected, _bench.Call(12, command, 0x1000));

    [Fact]
    public void Reservations_of_others_are_not_told()
    {
        _bench.PutArgument(0, 3);
        Assert.Equal(ESRCH, _bench.Call(12, CurrentReservation, ArgumentAt(0)));
        _bench.PutArgument(0, 0);
        Assert.Equal(EPERM, _bench.Call(12, MaximumReservation, ArgumentAt(0)));
    }

    [Fact]
    public void The_hole_below_4_GiB_belongs_to_nobody()
    {
        using var bench = new PvBench(8 << 20, 5 << 20);
        var last = _bench.Mfn(0) + (4 << 8) - 1;
        Assert.Equal((0x4FFUL, 0x10_0000UL), (bench.Mfn(1023), bench.Mfn(1024)));
        Assert.Equal((1023UL, ulong.MaxValue, ulong.MaxValue, 1024UL), (bench.Physical(last), bench.Physical(last + 1), bench.Physical(0xF_FFFF), bench.Physical(0x10_0000)));
        Assert.Equal(0, bench.Update(bench.At(4, 100), bench.Entry(1024, P | W)));
        Assert.Equal(EPERM, bench.Update(bench.At(4, 100), ((last + 1) * Page) | P));
        Assert.Equal(0, bench.Reserve(Decrease, [last], order: 1));
        bench.Mmu.Share(PvLayout.SharedPages);
        Assert.Equal(0, bench.Update(bench.At(4, 101), PvLayout.SharedPages | P | W));
        Assert.Equal(0, bench.Update(bench.At(4, 101), 0));
        Assert.Equal(1, bench.Reserve(Decrease, [bench.Mfn(1100)]));
        Assert.Equal(1, bench.Reserve(Populate, [0x5000]));
        PvModel.Check(bench);
    }

    private long Ask(ulong command)
    {
        _bench.PutArgument(0, 0x7FF0);
        return _bench.Call(12, command, ArgumentAt(0));
    }
}
