using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Pv;
using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>What Xen allows a paravirtual domain to do with page tables, and what it answers to the rest (arch/x86/mm.c).</summary>
public sealed class PvMmuTests : IDisposable
{
    // Frames of the domain that nothing maps at first.
    private const int Top = 600, Third = 601, Second = 602, Last = 603, Other = 604, Data = 610;

    private readonly PvBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void The_first_tables_are_pinned_and_typed()
    {
        var root = _bench.Frame(Root);
        Assert.Equal((PvFrameType.Level4, true, 3u), (root.Type, root.IsPinned, root.TypeCount)); // the pin and two processors
        Assert.Equal([PvFrameType.Level3, PvFrameType.Level2, PvFrameType.Level1], new[] { 2, 3, 4 }.Select(f => _bench.Frame(f).Type));
        Assert.Equal((PvFrameType.Writable, 1u), (_bench.Frame(9).Type, _bench.Frame(9).TypeCount));
        Assert.Equal((1ul, ulong.MaxValue), (_bench.Physical(_bench.Mfn(1)), _bench.Physical(0)));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_pinned_tree_is_referenced_and_goes_with_its_pin()
    {
        MakeTree();
        Assert.Equal(0, _bench.Pin(Top, 4));
        Assert.Equal([PvFrameType.Level4, PvFrameType.Level3, PvFrameType.Level2, PvFrameType.Level1, PvFrameType.Writable], Types(Top, Third, Second, Last, Data));
        Assert.Equal((0, 2u), ((int)_bench.Frame(Data + 1).TypeCount, _bench.Frame(Data + 1).References)); // mapped to be read
        PvModel.Check(_bench);
        Assert.Equal(EINVAL, _bench.Pin(Top, 4));
        Assert.Equal(0, _bench.Unpin(Top));
        Assert.Equal(EINVAL, _bench.Unpin(Top));
        Assert.All([Top, Third, Second, Last, Data, Data + 1], f => Assert.Equal((0u, 1u), (_bench.Frame(f).TypeCount, _bench.Frame(f).References)));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Tables_that_are_not_pinned_live_as_long_as_a_processor_uses_them()
    {
        MakeTree();
        _bench.Put(Top, 511, _bench.Entry(2, P | W | U)); // the kernel stays mapped
        Assert.Equal(0, _bench.UseKernelRoot(Top));
        Assert.Equal(_bench.Mfn(Top) * Page, _bench.Processor.KernelRoot);
        Assert.Equal(0, _bench.UseUserRoot(Top));
        Assert.Equal(2u, _bench.Frame(Top).TypeCount);
        PvModel.Check(_bench);
        Assert.Equal(0, _bench.UseKernelRoot(Root));
        Assert.Equal((PvFrameType.Level4, 1u), (_bench.Frame(Top).Type, _bench.Frame(Top).TypeCount));
        Assert.Equal(0, _bench.UseUserRoot(null));
        Assert.Equal((0u, 0u), (_bench.Frame(Top).TypeCount, _bench.Frame(Last).TypeCount));
        Assert.Equal(0UL, _bench.Processor.UserRoot);
        PvModel.Check(_bench);
        Assert.Equal(EINVAL, _bench.UseKernelRoot(3));
        Assert.Equal(EINVAL, _bench.UseUserRoot(9));
        Assert.Equal(_bench.Mfn(Root) * Page, _bench.Processor.KernelRoot);
    }

    [Fact]
    public void A_page_table_can_not_be_mapped_writable()
    {
        MakeTree();
        Assert.Equal(0, _bench.Pin(Last, 1));
        Assert.Equal(EBUSY, _bench.Update(_bench.At(4, 100), _bench.Entry(Last, P | W)));
        Assert.Equal(EBUSY, _bench.Map(Base + (100 * Page), _bench.Entry(Last, P | W)));
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(Last, P)));
        Assert.Equal(_bench.Entry(Last, P), _bench.Get(4, 100));
        Assert.False(_bench.Store(_bench.At(4, 100), _bench.Entry(Last, P | W)));
        Assert.Equal(_bench.Entry(Last, P), _bench.Get(4, 100));
        Assert.Equal(EINVAL, _bench.Extended(16, _bench.Mfn(Last))); // MMUEXT_CLEAR_PAGE
        PvModel.Check(_bench);
        Assert.Equal(0, _bench.Unpin(Last));
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(Last, P | W)));
        Assert.Equal(EINVAL, _bench.Pin(Last, 1));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_page_that_is_mapped_writable_becomes_no_table()
    {
        Assert.Equal(EINVAL, _bench.Pin(9, 1));
        Assert.Equal(0, _bench.Map(Base + (9 * Page), _bench.Entry(9, P)));
        Assert.Equal(0, _bench.Pin(9, 1));
        Assert.Equal(EBUSY, _bench.Map(Base + (9 * Page), _bench.Entry(9, P | W)));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_table_that_maps_itself_writable_is_refused()
    {
        _bench.Put(Last, 0, _bench.Entry(Data, P | W));
        _bench.Put(Last, 5, _bench.Entry(Last, P | W));
        Assert.Equal(EBUSY, _bench.Pin(Last, 1));
        Assert.Equal((0u, 1u), (_bench.Frame(Data).TypeCount, _bench.Frame(Data).References));
        PvModel.Check(_bench);
        _bench.Put(Last, 5, _bench.Entry(Last, P));
        Assert.Equal(0, _bench.Pin(Last, 1));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_tree_with_a_bad_leaf_is_refused_as_a_whole()
    {
        MakeTree();
        _bench.Put(Last, 511, _bench.Entry(1, P | W)); // the kernel's top table
        Assert.Equal(EBUSY, _bench.Pin(Top, 4));
        Assert.All([Top, Third, Second, Last, Data], f => Assert.Equal((0u, 1u), (_bench.Frame(f).TypeCount, _bench.Frame(f).References)));
        PvModel.Check(_bench);
    }

    [Theory]
    [InlineData(0x08UL)] // PWT
    [InlineData(0x10UL)] // PCD
    [InlineData(0x80UL)] // PAT
    public void Cache_attributes_are_for_domains_with_devices(ulong bit)
    {
        Assert.Equal(EINVAL, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P | bit)));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(3, 100), _bench.Entry(Last, P | bit)));
        _bench.Put(Last, 0, _bench.Entry(Data, P | bit));
        Assert.Equal(EINVAL, _bench.Pin(Last, 1));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Bits_for_the_domains_use_are_its_own()
    {
        const ulong available = 0x7FF0_0000_0000_0E00, global = 0x100;
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P | available | NoExecute | global)));
        Assert.Equal(_bench.Entry(Data, P | available | NoExecute | global), _bench.Get(4, 100));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(3, 100), _bench.Entry(Last, P | global)));
        Assert.Equal(0, _bench.Update(_bench.At(3, 100), _bench.Entry(Last, P | available)));
        Assert.Equal(0, _bench.Update(_bench.At(4, 101), 0xDEAD_BEEF_DEAD_BEEE)); // not present: anything
        PvModel.Check(_bench);
    }

    [Fact]
    public void Superpages_are_refused()
    {
        const ulong large = 0x80;
        Assert.Equal(EINVAL, _bench.Update(_bench.At(3, 1), _bench.Entry(Data, P | W | large)));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(2, 1), _bench.Entry(Data, P | W | large)));
        Assert.Equal(EOPNOTSUPP, _bench.Extended(19, _bench.Mfn(Data)));
    }

    [Fact]
    public void Only_frames_of_its_own_are_mapped()
    {
        var end = _bench.Layout.MachineFrames * Page;
        Assert.Equal(EPERM, _bench.Update(_bench.At(4, 100), 0 | P)); // the first megabyte
        Assert.Equal(EPERM, _bench.Update(_bench.At(4, 100), end | P));
        Assert.Equal(EPERM, _bench.Update(_bench.At(4, 100), 0xFEE0_0000 | P));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(4, 100), FrameMask | P));
        Assert.Equal(EBUSY, _bench.Update(_bench.At(4, 100), PvLayout.MachineToPhysical | P));
        Assert.Equal(EBUSY, _bench.Update(_bench.At(4, 100), PvLayout.MachineToPhysical | P | W));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(3, 100), end | P));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(1, 0), PvLayout.MachineToPhysical | P));
        Assert.Equal(EINVAL, _bench.Update(end, 0));
        Assert.Equal(EINVAL, _bench.Update(0x1000, 0));
        Assert.Equal(EINVAL, _bench.Extended(0, _bench.Layout.MachineFrames));
        Assert.Equal(EINVAL, _bench.Extended(4, ulong.MaxValue));
        Assert.Equal(EINVAL, _bench.Extended(5, 0));
        Assert.Equal(EINVAL, _bench.Extended(15, 5));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Pages_of_Xen_are_mapped_when_they_were_given()
    {
        Assert.Equal(EPERM, _bench.Update(_bench.At(4, 100), PvLayout.SharedPages | P | W));
        _bench.Mmu.Share(PvLayout.SharedPages);
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), PvLayout.SharedPages | P | W));
        Assert.Equal(EPERM, _bench.Update(_bench.At(4, 101), (PvLayout.SharedPages + Page) | P | W));
        Assert.Equal(EINVAL, _bench.Extended(0, PvLayout.SharedPages / Page)); // but they are no tables
        PvModel.Check(_bench);
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), 0));
        PvModel.Check(_bench);
    }

    [Fact]
    public void The_slots_of_Xen_in_a_top_table_are_not_the_domains()
    {
        Assert.Equal(EINVAL, _bench.Update(_bench.At(Root, 256), 0));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(Root, 271), _bench.Entry(2, P)));
        Assert.Equal(0, _bench.Update(_bench.At(Root, 272), _bench.Entry(2, P | W)));
        MakeTree();
        _bench.Put(Top, 260, _bench.Entry(9, P | W)); // not looked at: no processor does
        Assert.Equal(0, _bench.Pin(Top, 4));
        PvModel.Check(_bench);
        Assert.Equal(EINVAL, _bench.Map(0xFFFF_8000_0000_0000, _bench.Entry(Data, P)));
        Assert.Equal(EINVAL, _bench.Map(0x8000_0000_0000_0000, _bench.Entry(Data, P)));
    }

    [Fact]
    public void Linear_page_tables_are_read_only_and_of_one_step()
    {
        Assert.Equal(EINVAL, _bench.Update(_bench.At(Root, 300), _bench.Entry(Root, P | W)));
        Assert.Equal(0, _bench.Update(_bench.At(Root, 300), _bench.Entry(Root, P)));
        Assert.Equal(3u, _bench.Frame(Root).TypeCount); // of itself: no reference, or it would never go
        MakeTree();
        Assert.Equal(0, _bench.Pin(Top, 4));
        Assert.Equal(0, _bench.Update(_bench.At(Root, 301), _bench.Entry(Top, P)));
        Assert.Equal((1, -1), (_bench.Frame(Root).Linear, _bench.Frame(Top).Linear));
        PvModel.Check(_bench);
        Assert.Equal(EINVAL, _bench.Update(_bench.At(Top, 301), _bench.Entry(Root, P))); // in a circle
        Assert.Equal(0, _bench.Unpin(Top));
        Assert.Equal((PvFrameType.Level4, 1u), (_bench.Frame(Top).Type, _bench.Frame(Top).TypeCount));
        PvModel.Check(_bench);
        Assert.Equal(0, _bench.Update(_bench.At(Root, 301), 0));
        Assert.Equal(0u, _bench.Frame(Top).TypeCount);
        PvModel.Check(_bench);
    }

    [Fact]
    public void An_update_replaces_references()
    {
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P | W)));
        Assert.Equal((1u, 2u), (_bench.Frame(Data).TypeCount, _bench.Frame(Data).References));
        Assert.Equal((0u, 1u), (_bench.Frame(100).TypeCount, _bench.Frame(100).References));
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P)));
        Assert.Equal((0u, 2u), (_bench.Frame(Data).TypeCount, _bench.Frame(Data).References));
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P | A | U)));
        Assert.Equal(2u, _bench.Frame(Data).References);
        PvModel.Check(_bench);

        Assert.Equal(0, _bench.Pin(Last, 1));
        Assert.Equal(0, _bench.Update(_bench.At(3, 9), _bench.Entry(Last, P | W)));
        Assert.Equal(2u, _bench.Frame(Last).TypeCount);
        Assert.Equal(0, _bench.Update(_bench.At(3, 9), _bench.Entry(Other, P | W)));
        Assert.Equal((1u, PvFrameType.Level1), (_bench.Frame(Last).TypeCount, _bench.Frame(Other).Type));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Accessed_and_dirty_are_kept_where_asked()
    {
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(100, P | W | A | D)));
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(100, P), kind: 2));
        Assert.Equal(_bench.Entry(100, P | A | D), _bench.Get(4, 100));
        Assert.Equal(0, _bench.Update(_bench.At(4, 100), _bench.Entry(100, P | W)));
        Assert.Equal(_bench.Entry(100, P | W), _bench.Get(4, 100));
        PvModel.Check(_bench);
    }

    [Fact]
    public void An_update_of_what_is_no_table_is_an_ordinary_store()
    {
        Assert.Equal(0, _bench.Update(_bench.At(Data, 3), 0x1234));
        Assert.Equal(0x1234UL, _bench.Get(Data, 3));
        Assert.Equal(0u, _bench.Frame(Data).TypeCount);
        Assert.True(_bench.Mmu.TryTakeSegmentPage(_bench.Processor, _bench.Mfn(Data)));
        Assert.Equal(EINVAL, _bench.Update(_bench.At(Data, 3), 0x5678));
        Assert.Equal(EBUSY, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P | W)));
        Assert.True(_bench.Mmu.MayWriteDescriptor(_bench.Mfn(Data)));
        Assert.False(_bench.Mmu.MayWriteDescriptor(_bench.Mfn(4)));
        _bench.Mmu.ReleaseSegmentPage(_bench.Mfn(Data));
        Assert.False(_bench.Mmu.TryTakeSegmentPage(_bench.Processor, _bench.Mfn(9)));
        Assert.False(_bench.Mmu.TryTakeSegmentPage(_bench.Processor, 5));
        PvModel.Check(_bench);
    }

    [Fact]
    public void The_machine_to_physical_table_follows_updates()
    {
        Assert.Equal(0, _bench.Update(_bench.Mfn(Data) * Page, 0x77, kind: 1));
        Assert.Equal(0x77UL, _bench.Physical(_bench.Mfn(Data)));
        Assert.Equal(EINVAL, _bench.Update(0x1000, 0x77, kind: 1));
        Assert.Equal(ulong.MaxValue, _bench.Physical(1));
        Assert.False(_bench.Mmu.TryTranslateHole(0xFFFF_8000_0000_0000 + (1 << 30), out _));
        Assert.False(_bench.Memory.TryWrite(PvLayout.MachineToPhysical, 5UL)); // not even who comes so far writes it
    }

    [Theory]
    [InlineData(0x7FF0UL, 0)]
    [InlineData(7UL, 0)]
    [InlineData(0UL, EPERM)]
    [InlineData(0x7FF2UL, EPERM)]
    [InlineData(8UL, ESRCH)]
    [InlineData(0x7FF1UL, EBUSY)]
    [InlineData(0x8_7FF0UL, 0)] // tables of domain 7, which is the caller
    [InlineData(0x9_7FF0UL, ESRCH)]
    public void Other_domains_are_none_of_its_business(ulong domain, int expected)
    {
        _bench.Domain = domain;
        Assert.Equal(expected, _bench.Update(_bench.At(4, 100), _bench.Entry(Data, P)));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Mappings_of_other_domains_are_refused()
    {
        Assert.Equal(0, _bench.Call(22, Base + (100 * Page), _bench.Entry(Data, P), 0, 0x7FF0));
        Assert.Equal(EBUSY, _bench.Call(22, Base + (100 * Page), _bench.Entry(Data, P | W), 0, 0x7FF1));
        Assert.Equal(EPERM, _bench.Call(22, Base + (100 * Page), 0xFEE0_0000 | P, 0, 0x7FF1));
        Assert.Equal(ESRCH, _bench.Call(22, Base + (100 * Page), _bench.Entry(Data, P | W), 0, 3));
        _bench.Domain = 0x7FF1;
        Assert.Equal(EINVAL, _bench.Extended(6));
        PvModel.Check(_bench);
    }

    [Fact]
    public void Only_addresses_with_a_table_are_mapped()
    {
        Assert.Equal(EINVAL, _bench.Map(Base + (512 * Page), _bench.Entry(Data, P)));
        Assert.Equal(EINVAL, _bench.Map(0, _bench.Entry(Data, P)));
        Assert.Equal(0, _bench.Map(Base + (100 * Page) + 0x123, _bench.Entry(Data, P)));
        Assert.Equal(_bench.Entry(Data, P), _bench.Get(4, 100));
    }

    [Fact]
    public void Translations_are_forgotten_as_asked()
    {
        const ulong linear = Base + (100 * Page);
        Flushed([(1, null)], _bench.Map(linear, 0, 1));
        Flushed([(1, linear)], _bench.Map(linear, 0, 2));
        Flushed([(1, null), (2, null)], _bench.Map(linear, 0, 1 | 4));
        Flushed([(1, linear), (2, linear)], _bench.Map(linear, 0, 2 | 4));
        _bench.PutArgument(512, 0xFE);
        Flushed([(2, null)], _bench.Map(linear, 0, 1 | ArgumentAt(512)));
        Flushed([(2, linear)], _bench.Map(linear, 0, 2 | ArgumentAt(512)));
        Flushed([], _bench.Map(linear, 0));
        Flushed([(1, null)], _bench.Extended(6));
        Flushed([(1, 0x1234)], _bench.Extended(7, 0x1234));
        Flushed([(2, null)], _bench.Extended(8, 0, ArgumentAt(512)));
        Flushed([(2, 0x5000)], _bench.Extended(9, 0x5000, ArgumentAt(512)));
        Flushed([(1, null), (2, null)], _bench.Extended(10));
        Flushed([(1, 0x5000), (2, 0x5000)], _bench.Extended(11, 0x5000));
        Flushed([], _bench.Extended(11, 0xFFFF_8000_0000_0000));
        Flushed([(1, null)], _bench.UseKernelRoot(Root));
        Assert.Equal(EFAULT, _bench.Map(linear, 0, 1 | 0x1000));
        Assert.Equal(EINVAL, _bench.Extended(8, 0, 0x1000));
        Assert.Equal(EACCES, _bench.Extended(12));
        Assert.Equal(EINVAL, _bench.Extended(18));

        void Flushed((ulong, ulong?)[] expected, long result)
        {
            Assert.Equal(0, result);
            Assert.Equal(expected, _bench.Processor.Flushes);
            _bench.Processor.Flushes.Clear();
        }
    }

    [Fact]
    public void A_page_that_was_writable_is_forgotten_before_it_is_a_table()
    {
        Assert.Equal(0, _bench.Map(Base + (9 * Page), _bench.Entry(9, P)));
        Assert.Empty(_bench.Processor.Flushes);
        Assert.Equal(0, _bench.Pin(9, 1));
        Assert.Equal([(1UL, null), (2UL, (ulong?)null)], _bench.Processor.Flushes);

        // Who has flushed since is left alone.
        Assert.Equal(0, _bench.Map(Base + (10 * Page), _bench.Entry(10, P)));
        Assert.Equal(0, _bench.Extended(6));
        _bench.Processor.Flushes.Clear();
        Assert.Equal(0, _bench.Pin(10, 1));
        Assert.Equal([(2UL, (ulong?)null)], _bench.Processor.Flushes);
        _bench.Processor.Flushes.Clear();
        Assert.Equal(0, _bench.Pin(Last, 1));
        Assert.Empty(_bench.Processor.Flushes);
    }

    [Fact]
    public void Pages_are_cleared_and_copied()
    {
        _bench.Put(Data, 7, 0x77);
        Assert.Equal(0, _bench.Extended(17, _bench.Mfn(Other), _bench.Mfn(Data)));
        Assert.Equal(0x77UL, _bench.Get(Other, 7));
        Assert.Equal(0, _bench.Extended(16, _bench.Mfn(Data)));
        Assert.Equal(0UL, _bench.Get(Data, 7));
        Assert.Equal(EINVAL, _bench.Extended(17, _bench.Mfn(4), _bench.Mfn(Data)));
        Assert.Equal(EINVAL, _bench.Extended(17, _bench.Mfn(Data), 3));
        Assert.Equal(EINVAL, _bench.Extended(16, 3));
        PvModel.Check(_bench);
    }

    [Fact]
    public void An_LDT_is_told_to_the_processor()
    {
        Assert.Equal(0, _bench.Extended(13, Base + (20 * Page), 32));
        Assert.Equal((Base + (20 * Page), 32), _bench.Processor.Ldt);
        Assert.Equal(0, _bench.Extended(13, 0x1234, 0));
        Assert.Equal((0UL, 0), _bench.Processor.Ldt);
        Assert.Equal(EINVAL, _bench.Extended(13, Base + 8, 32));
        Assert.Equal(EINVAL, _bench.Extended(13, 0xFFFF_8000_0000_0000, 32));
        Assert.Equal(EINVAL, _bench.Extended(13, Base, 8193));
    }

    [Fact]
    public void Stores_to_a_table_are_checked()
    {
        Assert.True(_bench.Store(_bench.At(4, 100), _bench.Entry(Data, P | W)));
        PvModel.Check(_bench);
        Assert.True(_bench.Store(_bench.At(4, 100), 0));
        PvModel.Check(_bench);
        Assert.True(_bench.Store(_bench.At(4, 101) + 1, [0]));
        PvModel.Check(_bench);
        Assert.False(_bench.Store(_bench.At(4, 102), _bench.Entry(3, P | W)));
        Assert.Equal(_bench.Entry(102, P | W), _bench.Get(4, 102));
        PvModel.Check(_bench);

        // Two entries at once: both or none.
        var both = new byte[16];
        BitConverter.TryWriteBytes(both, _bench.Entry(Data, P | W));
        BitConverter.TryWriteBytes(both.AsSpan(8), _bench.Entry(Data, P | W | 0x10));
        Assert.False(_bench.Store(_bench.At(4, 102), both));
        Assert.Equal((_bench.Entry(102, P | W), _bench.Entry(103, P | W), 1u), (_bench.Get(4, 102), _bench.Get(4, 103), _bench.Frame(Data).References));
        PvModel.Check(_bench);

        // Other tables, and what is none.
        Assert.False(_bench.Mmu.BeginTableWrite(_bench.At(3, 0)));
        Assert.False(_bench.Mmu.BeginTableWrite(_bench.At(9, 0)));
        Assert.False(_bench.Mmu.BeginTableWrite(0x1000));
        Assert.False(_bench.Mmu.BeginTableWrite(ulong.MaxValue));
    }

    [Fact]
    public void A_walker_that_sets_accessed_meanwhile_changes_no_reference()
    {
        Assert.True(_bench.Mmu.BeginTableWrite(_bench.At(4, 100)));
        _bench.Put(4, 100, _bench.Entry(Data, P | W));
        _bench.Put(4, 101, _bench.Entry(101, P | W | A | D));
        Assert.True(_bench.Mmu.EndTableWrite(_bench.Processor));
        Assert.Equal(_bench.Entry(101, P | W | A | D), _bench.Get(4, 101));
        PvModel.Check(_bench);
    }

    [Fact]
    public void What_a_back_end_writes_becomes_no_table()
    {
        Assert.True(_bench.Mmu.TryAcquire(_bench.Mfn(Data), writable: true));
        Assert.True(_bench.Mmu.TryAcquire(_bench.Mfn(Other), writable: false));
        PvModel.Check(_bench, [(_bench.Mfn(Data), true), (_bench.Mfn(Other), false)]);
        Assert.Equal(EINVAL, _bench.Pin(Data, 1));
        Assert.Equal(0, _bench.Pin(Other, 1));
        Assert.False(_bench.Mmu.TryAcquire(_bench.Mfn(Other), writable: true));
        Assert.False(_bench.Mmu.TryAcquire(5, writable: false));
        _bench.Mmu.Release(_bench.Mfn(Data), writable: true);
        _bench.Mmu.Release(_bench.Mfn(Other), writable: false);
        Assert.Equal(0, _bench.Pin(Data, 1));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_processor_starts_with_tables_of_its_own()
    {
        Assert.Equal(XenError.EINVAL, _bench.Mmu.SetRoots(_bench.Processors[1], _bench.Mfn(9) * Page, 0));
        Assert.Equal(XenError.EINVAL, _bench.Mmu.SetRoots(_bench.Processors[1], _bench.Mfn(Root) * Page, _bench.Mfn(9) * Page));
        Assert.Equal((_bench.Mfn(Root) * Page, 0UL), (_bench.Processors[1].KernelRoot, _bench.Processors[1].UserRoot));
        MakeTree();
        Assert.Equal(XenError.EINVAL, _bench.Mmu.SetRoots(_bench.Processors[1], _bench.Mfn(Top) * Page, _bench.Mfn(9) * Page));
        PvModel.Check(_bench);
        Assert.Equal(XenError.None, _bench.Mmu.SetRoots(_bench.Processors[1], _bench.Mfn(Top) * Page, _bench.Mfn(Root) * Page));
        PvModel.Check(_bench);
    }

    /// <summary>What another processor is to begin with stays a table, and is not its own before that.</summary>
    [Fact]
    public void Tables_are_taken_for_a_processor_that_is_to_begin()
    {
        MakeTree();
        var other = _bench.Processors[1];
        var before = other.KernelRoot;
        Assert.Equal(XenError.None, _bench.Mmu.ReserveRoots(_bench.Processors[0], 1, _bench.Mfn(Top) * Page, 0));
        Assert.Equal((before, (_bench.Mfn(Top), 0UL)), (other.KernelRoot, _bench.Mmu.RootsOf(1)));
        _bench.Mmu.UseRoots(other);
        Assert.Equal((_bench.Mfn(Top) * Page, 0UL), (other.KernelRoot, other.UserRoot));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_top_table_that_is_none_any_more_counts()
    {
        MakeTree();
        Assert.Equal(0, _bench.UseUserRoot(Top));
        var (tables, roots) = (_bench.Mmu.TableGeneration, _bench.Mmu.RootGeneration(_bench.Mfn(Top) * Page));
        Assert.Equal(0, _bench.UseUserRoot(null));
        Assert.True(_bench.Mmu.TableGeneration > tables);
        Assert.True(_bench.Mmu.RootGeneration(_bench.Mfn(Top) * Page) > roots);
    }

    [Fact]
    public void Changes_of_code_count_as_such()
    {
        Assert.True(Changes(() => _bench.Update(_bench.At(4, 100), _bench.Entry(100, P | W | NoExecute))));
        Assert.False(Changes(() => _bench.Update(_bench.At(4, 100), _bench.Entry(101, P | W | NoExecute))));
        Assert.False(Changes(() => _bench.Update(_bench.At(4, 100), 0)));
        Assert.False(Changes(() => _bench.Update(_bench.At(4, 100), _bench.Entry(100, P | W)))); // nobody has fetched from there
        Assert.True(Changes(() => _bench.Store(_bench.At(4, 100), 0) ? 0 : 1));
        Assert.True(Changes(() => _bench.Update(_bench.At(3, 0), _bench.Entry(4, P | W))));

        bool Changes(Func<long> change)
        {
            var before = _bench.Mmu.CodeGeneration;
            Assert.Equal(0, change());
            return _bench.Mmu.CodeGeneration != before;
        }
    }

    [Fact]
    public void A_store_that_is_undone_may_have_been_seen()
    {
        var generation = _bench.Mmu.TableGeneration;
        Assert.False(_bench.Store(_bench.At(4, 100), _bench.Entry(1, P | W)));
        Assert.True(_bench.Mmu.TableGeneration > generation);
        Assert.Equal([(1UL, null), (2UL, (ulong?)null)], _bench.Processor.Flushes);
    }

    [Fact]
    public void A_reset_begins_anew()
    {
        MakeTree();
        Assert.Equal(0, _bench.Pin(Top, 4));
        Assert.Equal(0, _bench.UseUserRoot(Top));
        _bench.Reset();
        Assert.Equal(0u, _bench.Frame(Top).TypeCount);
        PvModel.Check(_bench);
    }

    /// <summary>Four tables, one of each level, that map two pages, one of them writable.</summary>
    private void MakeTree()
    {
        _bench.Put(Top, 0, _bench.Entry(Third, P | W | U));
        _bench.Put(Third, 1, _bench.Entry(Second, P | W | U));
        _bench.Put(Second, 2, _bench.Entry(Last, P | W | U));
        _bench.Put(Last, 3, _bench.Entry(Data, P | W | U));
        _bench.Put(Last, 4, _bench.Entry(Data + 1, P | U));
    }

    private IEnumerable<PvFrameType> Types(params int[] frames) => frames.Select(f => _bench.Frame(f).Type);
}
