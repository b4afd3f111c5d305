using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>Lists of requests: where they end, and what the domain is told of that.</summary>
public sealed class PvBatchTests : IDisposable
{
    // Frames of the domain that nothing maps at first.
    private const int Second = 602, Last = 603, Other = 604, Data = 610;

    private readonly PvBench _bench = new();

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void A_batch_ends_at_the_first_that_is_refused()
    {
        Assert.Equal(EBUSY, _bench.Updates((_bench.At(4, 100), 0), (_bench.At(4, 101), _bench.Entry(1, P | W)), (_bench.At(4, 102), 0)));
        Assert.Equal(1, _bench.Done);
        Assert.Equal((0UL, _bench.Entry(101, P | W), _bench.Entry(102, P | W)), (_bench.Get(4, 100), _bench.Get(4, 101), _bench.Get(4, 102)));
        Assert.Equal(EINVAL, _bench.Extended((0, _bench.Mfn(Last), 0), (4, _bench.Mfn(Data), 0)));
        Assert.Equal(1, _bench.Done);
        Assert.Equal(0, _bench.Updates());
        Assert.Equal(ENOSYS, _bench.Update(_bench.At(4, 100), 0, kind: 5));
        Assert.Equal(ENOSYS, _bench.Extended(14));
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_batch_may_go_on_and_counts_on()
    {
        _bench.PutArgument(16, _bench.At(4, 100));
        _bench.PutArgument(24, 0);
        _bench.PutArgument(0, 5);
        Assert.Equal(0, _bench.Call(1, ArgumentAt(16), 1 | (1u << 31), ArgumentAt(0), 0x7FF0));
        Assert.Equal(6, _bench.Done);
    }

    [Fact]
    public void A_batch_that_lies_nowhere_fails()
    {
        Assert.Equal(EFAULT, _bench.Call(1, 0xFFFF_8000_0000_0000, 1, 0, 0x7FF0));
        Assert.Equal(EFAULT, _bench.Call(1, 0x1000, 1, 0, 0x7FF0));
        Assert.Equal(EFAULT, _bench.Call(26, 0x1000, 1, 0, 0x7FF0));
        for (var i = 0; i < 256; i++)
        {
            Assert.True(_bench.Memory.TryWrite(_bench.At(511, i * 2), _bench.At(4, 100)));
            Assert.True(_bench.Memory.TryWrite(_bench.At(511, (i * 2) + 1), 0UL));
        }

        // The last mapped page: what is there is served.
        _bench.PutArgument(0, 0);
        Assert.Equal(EFAULT, _bench.Call(1, Base + (511 * Page) + (246 * 16), 20, ArgumentAt(0), 0x7FF0));
        Assert.Equal(10, _bench.Done);
    }

    [Fact]
    public void A_batch_without_end_ends()
    {
        var list = MakeEndlessList((_bench.At(4, 100), 0), (_bench.At(4, 100), 0));
        Assert.Equal(E2BIG, _bench.Call(1, list, uint.MaxValue >> 1, ArgumentAt(0), 0x7FF0));
        Assert.Equal(1 << 20, _bench.Done);
        PvModel.Check(_bench);
    }

    [Fact]
    public void A_batch_of_much_work_ends()
    {
        // A gigabyte is mapped and taken away again: 512 tables of 512 entries.
        for (var i = 0; i < 512; i++)
        {
            _bench.Put(Other, i, _bench.Entry(1000 + i, P | U));
            for (var j = 0; j < 512; j++)
                _bench.Put(1000 + i, j, _bench.Entry(9, P | U | W));
        }

        var list = MakeEndlessList((_bench.At(2, 6), _bench.Entry(Other, P | U)), (_bench.At(2, 6), 0));
        Assert.Equal(E2BIG, _bench.Call(1, list, uint.MaxValue >> 1, ArgumentAt(0), 0x7FF0));
        Assert.InRange(_bench.Done, 2, 600);
        PvModel.Check(_bench);
    }

    /// <summary>A list of mmu_updates of which all pages are the same one goes on for a gigabyte.</summary>
    /// <returns>Its linear address.</returns>
    private ulong MakeEndlessList((ulong Address, ulong Value) even, (ulong Address, ulong Value) odd)
    {
        for (var i = 0; i < 512; i++)
        {
            _bench.Put(Data, i, (i % 4) switch { 0 => even.Address, 1 => even.Value, 2 => odd.Address, _ => odd.Value });
            _bench.Put(Last, i, _bench.Entry(Data, P));
            _bench.Put(Second, i, _bench.Entry(Last, P | U));
        }

        Assert.Equal(0, _bench.Update(_bench.At(2, 5), _bench.Entry(Second, P | U)));
        _bench.PutArgument(0, 0);
        return Base - (510UL << 30) + (5UL << 30);
    }
}
