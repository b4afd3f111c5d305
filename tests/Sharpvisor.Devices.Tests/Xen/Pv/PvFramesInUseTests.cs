using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Pv;
using static Sharpvisor.Devices.Tests.Xen.Pv.PvBench;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>Frames of a paravirtual domain that the hypervisor and back ends write to are no page tables, and nobody else's.</summary>
public sealed class PvFramesInUseTests : IDisposable
{
    private const ulong GrantTableOp = 20, SetupTable = 2, VcpuOp = 24, RegisterRunstate = 5, RegisterVcpuInfo = 10;
    private const int Data = 100, Other = 101, Unmapped = 610;

    private readonly PvBench _bench = new(isDomain: true);

    public void Dispose() => _bench.Dispose();

    [Fact]
    public void The_rings_of_store_and_console_stay()
    {
        foreach (var frame in new[] { StoreFrame, ConsoleFrame })
        {
            Assert.Equal(0, _bench.Map(Base + ((ulong)frame * Page), _bench.Entry(frame, P)));
            Assert.Equal(EINVAL, _bench.Pin(frame, 1));
            Assert.Equal(1, _bench.Reserve(1, [_bench.Mfn(frame)]));
            Assert.Equal(0, _bench.Map(Base + ((ulong)frame * Page), 0));
            Assert.Equal(1u, _bench.Frame(frame).References);
        }

        PvModel.Check(_bench, [(_bench.Mfn(StoreFrame), true), (_bench.Mfn(ConsoleFrame), true)]);
    }

    [Fact]
    public void Vcpu_info_lies_where_the_domain_may_write()
    {
        Assert.Equal(EINVAL, Register(XenDomain.OwnPage(0) / Page));
        Assert.Equal(EINVAL, Register(0));
        Assert.Equal(EINVAL, Register(_bench.Mfn(4))); // a page table
        Assert.Equal(0, Register(_bench.Mfn(Data)));
        Assert.Equal(EINVAL, Register(_bench.Mfn(Other))); // as Xen: once
        Assert.Equal(0, _bench.Map(Base + (Data * Page), 0));
        Assert.Equal(EINVAL, _bench.Pin(Data, 1));

        long Register(ulong frame)
        {
            _bench.PutArgument(0, frame);
            _bench.PutArgument(8, 64);
            return _bench.Call(VcpuOp, RegisterVcpuInfo, 0, ArgumentAt(0));
        }
    }

    [Fact]
    public void A_runstate_area_holds_its_frame_until_it_is_elsewhere()
    {
        Assert.Equal(0, Register(Base + (Data * Page)));
        Assert.Equal(0, _bench.Map(Base + (Data * Page), 0));
        Assert.Equal(EINVAL, _bench.Pin(Data, 1));
        Assert.Equal(EFAULT, Register(Base + (4 * Page)));
        Assert.Equal(0, Register(Base + (Other * Page)));
        Assert.Equal(0, Pin(Data));
        Assert.Equal(0, Register(0));
        Assert.Equal(0, _bench.Map(Base + (Other * Page), 0));
        Assert.Equal(0, Pin(Other));

        // Times that were written there may look like entries.
        long Pin(int pfn)
        {
            _bench.Memory.TryWrite(_bench.Mfn(pfn) * Page, new byte[Page]);
            return _bench.Pin(pfn, 1);
        }

        long Register(ulong linear)
        {
            _bench.PutArgument(0, linear);
            return _bench.Call(VcpuOp, RegisterRunstate, 0, ArgumentAt(0));
        }
    }

    [Fact]
    public void A_grant_is_of_a_frame_of_the_domain_and_holds_it()
    {
        _bench.PutArgument(0, 0x7FF0 | (1UL << 32));
        _bench.PutArgument(16, ArgumentAt(64));
        Assert.Equal(0, _bench.Call(GrantTableOp, SetupTable, ArgumentAt(0), 1));
        var table = _bench.GetArgument(64) * Page;
        Assert.Equal(0, _bench.Map(Base + (200 * Page), table | P | W));
        Grant(8, _bench.Mfn(Unmapped));
        Grant(9, _bench.Mfn(4));
        Grant(10, XenDomain.OwnPage(0) / Page);
        Grant(11, 0x80);
        Grant(12, PvLayout.MachineToPhysical / Page);
        var grants = _bench.Xen!.Grants;
        Assert.True(grants.TryAcquire(8, writable: true, out var granted));
        Assert.True(grants.TryAcquire(9, writable: false, out var read));
        Assert.False(grants.TryAcquire(9, writable: true, out _));
        Assert.All(new uint[] { 10, 11, 12 }, r => Assert.False(grants.TryAcquire(r, writable: false, out _)));
        Assert.Equal(EINVAL, _bench.Pin(Unmapped, 1));
        Assert.Equal(1, _bench.Reserve(1, [_bench.Mfn(Unmapped)]));
        Assert.Equal(1u, _bench.Frame(Unmapped).References);
        grants.Release(granted);
        grants.Release(read);
        Assert.Equal(0u, _bench.Frame(Unmapped).References);
        PvModel.Check(_bench, [(_bench.Mfn(StoreFrame), true), (_bench.Mfn(ConsoleFrame), true)]);

        void Grant(uint reference, ulong frame) => Assert.True(_bench.Memory.TryWrite(table + (reference * 8), 1 | (frame << 32)));
    }

    [Fact]
    public void A_reset_ends_all_uses()
    {
        _bench.PutArgument(0, Base + (Data * Page));
        Assert.Equal(0, _bench.Call(VcpuOp, RegisterRunstate, 0, ArgumentAt(0)));
        _bench.Reset();
        PvModel.Check(_bench, [(_bench.Mfn(StoreFrame), true), (_bench.Mfn(ConsoleFrame), true)]);
    }
}
