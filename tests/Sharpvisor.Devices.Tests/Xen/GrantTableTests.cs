using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Devices.Tests.Xen;

public sealed class GrantTableTests : IDisposable
{
    private const ulong Table = 0x10000, Second = 0x12000, Page = 0x40000;
    private const uint Permit = 1, ReadOnly = 4, Reading = 8, Writing = 16;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly GuestErrorLog _errors = new(NullLogger.Instance);
    private readonly GrantTable _table;

    public GrantTableTests()
    {
        _table = new GrantTable(_memory, _errors);
        _memory.TryWrite(Table, ulong.MaxValue);
        Assert.Equal(XenError.None, _table.SetFrame(0, Table));
    }

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void A_granted_page_is_marked_while_it_is_in_use()
    {
        Grant(8, Permit, 0, Page);
        Assert.True(_table.TryAcquire(8, writable: false, out var read));
        Assert.Equal(Page, read.Page);
        Assert.Equal(Permit | Reading, Flags(8));
        Assert.True(_table.TryAcquire(8, writable: true, out var written));
        Assert.Equal(Permit | Reading | Writing, Flags(8));
        Assert.Equal(2, _table.UseCount);
        _table.Release(written);
        Assert.Equal(Permit | Reading, Flags(8));
        _table.Release(read);
        Assert.Equal(Permit, Flags(8));
        Assert.Equal(0, _table.UseCount);
        Assert.Throws<InvalidOperationException>(() => _table.Release(read));
        Assert.Throws<InvalidOperationException>(() => _table.Release(read with { Reference = uint.MaxValue }));
    }

    [Fact]
    public void Frames_of_a_domain_with_page_tables_by_Xen_are_asked_for()
    {
        var frames = new RecordingFrames();
        _table.Frames = frames;
        Grant(8, Permit, 0, Page);
        Grant(9, Permit, 0, Page + 0x1000);
        Assert.True(_table.TryAcquire(8, writable: true, out var granted));
        Assert.False(_table.TryAcquire(9, writable: true, out _));
        Assert.Equal(Permit, Flags(9));
        Assert.True(_table.TryAcquirePage(Page, writable: false, out var named));
        Assert.False(_table.TryAcquirePage(Page + 0x1000, writable: false, out _));
        Assert.False(_table.TryAcquirePage(1UL << 40, writable: false, out _));
        Assert.Equal([(Page >> 12, true), (Page >> 12, false)], frames.Held);
        Assert.Equal(1, _table.UseCount);
        _table.Release(granted);
        _table.Release(named);
        Assert.Empty(frames.Held);
        Assert.Equal(0, _table.UseCount);
    }

    [Fact]
    public void A_writer_that_ends_leaves_the_other_one()
    {
        Grant(8, Permit, 0, Page);
        _table.TryAcquire(8, writable: true, out var granted);
        _table.TryAcquire(8, writable: true, out _);
        _table.Release(granted);
        Assert.Equal(Permit | Reading | Writing, Flags(8));
        Assert.Throws<InvalidOperationException>(() => _table.Release(granted with { IsWritable = false }));
    }

    [Fact]
    public void Of_a_list_all_are_in_use_or_none()
    {
        Grant(8, Permit, 0, Page);
        Grant(9, Permit | ReadOnly, 0, Page + 0x1000);
        var granted = new GrantedPage[2];
        Assert.False(_table.TryAcquire([8, 9], writable: true, granted));
        Assert.Equal((Permit, Permit | ReadOnly, 0), (Flags(8), Flags(9), _table.UseCount));
        Assert.True(_table.TryAcquire([8, 9], writable: false, granted));
        Assert.Equal([Page, Page + 0x1000], granted.Select(g => g.Page));
        _table.Release(granted);
        Assert.Equal((Permit, Permit | ReadOnly, 0), (Flags(8), Flags(9), _table.UseCount));
    }

    [Theory]
    [InlineData(0, 0, Page, false)]               // nothing granted
    [InlineData(2, 0, Page, false)]               // a transfer
    [InlineData(Permit, 5, Page, false)]          // to another domain
    [InlineData(Permit | ReadOnly, 0, Page, true)]
    [InlineData(Permit, 0, 0xFFFF_F000_0000, false)]
    [InlineData(Permit, 0, 0xFEE0_0000, false)]   // a device
    [InlineData(Permit, 0, 0x100000, false)]      // behind the end
    public void What_is_not_granted_is_refused(uint flags, uint domain, ulong page, bool writable)
    {
        Grant(9, flags, domain, page);
        Assert.False(_table.TryAcquire(9, writable, out _));
        Assert.Equal(flags, Flags(9));
        Assert.Single(_errors.Counts);
        Assert.Equal(0, _table.UseCount);
    }

    [Fact]
    public void References_end_with_the_table()
    {
        Assert.False(_table.TryAcquire(512, writable: false, out _));
        Assert.False(_table.TryAcquire(uint.MaxValue, writable: false, out _));
        Assert.Equal(XenError.None, _table.SetFrame(2, Second));
        Assert.False(_table.TryAcquire(512, writable: false, out _)); // frame 1 was laid nowhere
        _memory.TryWrite(Second + (5 * 8), Permit | (Page >> 12 << 32));
        Assert.True(_table.TryAcquire(1024 + 5, writable: true, out _));
        Assert.Equal(XenError.EINVAL, _table.SetFrame(64, Second));
        Assert.Equal(XenError.EINVAL, _table.SetFrame(-1, Second));
        Assert.Equal(XenError.EINVAL, _table.SetFrame(3, 0xFEE00000));
        Assert.Equal(XenError.EINVAL, _table.SetFrame(3, 0x12345));
        Assert.Equal(3, _table.FrameCount);
    }

    [Fact]
    public void A_frame_begins_empty_and_a_reset_forgets_all()
    {
        _memory.TryRead(Table, out ulong first);
        Assert.Equal(0u, first);
        Grant(8, Permit, 0, Page);
        Assert.True(_table.TryAcquire(8, writable: true, out var old));
        _table.Reset();
        Assert.Equal(0, _table.UseCount);
        Assert.Equal(XenError.None, _table.SetFrame(0, Table));
        Grant(8, Permit, 0, Page);
        Assert.True(_table.TryAcquire(8, writable: true, out _));
        _table.Release(old); // of the table before
        Assert.Equal(Permit | Reading | Writing, Flags(8));
    }

    private void Grant(uint reference, uint flags, uint domain, ulong page) =>
        Assert.True(_memory.TryWrite(Table + (reference * 8), flags | (ulong)domain << 16 | page >> 12 << 32));

    private uint Flags(uint reference) => _memory.TryRead(Table + (reference * 8), out ushort flags) ? flags : throw new InvalidOperationException();

    /// <summary>The domain has one frame.</summary>
    private sealed class RecordingFrames : IDomainFrames
    {
        public List<(ulong Frame, bool IsWritable)> Held { get; } = [];

        public bool TryAcquire(ulong mfn, bool writable)
        {
            if (mfn != Page >> 12)
                return false;
            Held.Add((mfn, writable));
            return true;
        }

        public void Release(ulong mfn, bool writable) => Assert.True(Held.Remove((mfn, writable)));
    }
}
