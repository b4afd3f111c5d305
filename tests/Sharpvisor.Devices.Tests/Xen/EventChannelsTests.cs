using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Devices.Tests.Xen;

public sealed class EventChannelsTests : IDisposable
{
    private const ulong SharedInfo = 0x10000, Info1 = 0x20040;
    private const int Domain = 5;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly GuestErrorLog _errors = new(NullLogger.Instance);
    private readonly EventChannels _channels;
    private readonly List<int> _upcalls = [];

    public EventChannelsTests()
    {
        _channels = new EventChannels(_memory, _errors, Domain, processorCount: 2, _upcalls.Add) { SharedInfo = SharedInfo };
        _channels.SetVcpuInfo(0, SharedInfo);
        _channels.SetVcpuInfo(1, Info1);
        Settle(0);
        Settle(1);
    }

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void A_back_end_and_the_domain_tell_each_other()
    {
        var heard = 0;
        Assert.Equal(XenError.None, _channels.AllocateUnbound(EventChannels.BackEnd, out var port));
        Assert.Equal(XenError.None, _channels.Send(port)); // nobody there yet
        Assert.True(_channels.TryConnect(port, () => heard++));
        Assert.False(_channels.TryConnect(port, () => { }));
        _channels.Send(port);
        Assert.Equal(1, heard);
        _channels.Notify(port);
        Assert.Equal([0], _upcalls);
        Assert.True(_channels.IsPending(port));
        Assert.Equal((1, 1UL << (int)(port / 64)), (Byte(SharedInfo), Word(SharedInfo + 8)));
        _channels.Notify(port); // it is pending already
        Assert.Single(_upcalls);
    }

    [Fact]
    public void A_masked_event_waits_for_the_unmask()
    {
        _channels.BindIpi(1, out var port);
        SetMask(port);
        _channels.Send(port);
        Assert.Empty(_upcalls);
        Assert.True(_channels.IsPending(port));
        Assert.Equal(XenError.None, _channels.Unmask(port));
        Assert.Equal([1], _upcalls);
        Settle(1);
        Clear(port);
        Assert.Equal(XenError.None, _channels.Unmask(port));
        Assert.Empty(_upcalls);
    }

    [Fact]
    public void An_upcall_comes_once_until_it_was_taken()
    {
        _channels.BindIpi(0, out var a);
        _channels.BindIpi(0, out var b);
        _channels.Send(a);
        _channels.Send(b);
        Assert.Single(_upcalls);
        Settle(0);
        Clear(a);
        _channels.Send(a);
        Assert.Single(_upcalls);
    }

    [Fact]
    public void Virtual_interrupts_are_bound_once()
    {
        Assert.Equal(XenError.None, _channels.BindVirq(EventChannels.VirqTimer, 1, out var port));
        Assert.Equal(XenError.EEXIST, _channels.BindVirq(EventChannels.VirqTimer, 1, out _));
        Assert.Equal(XenError.None, _channels.BindVirq(EventChannels.VirqTimer, 0, out _));
        Assert.Equal(XenError.EINVAL, _channels.BindVirq(EventChannels.VirqConsole, 1, out _));
        Assert.Equal(XenError.EINVAL, _channels.BindVirq(99, 0, out _));
        Assert.Equal(XenError.ENOENT, _channels.BindVirq(0, 2, out _));
        _channels.RaiseVirq(EventChannels.VirqTimer, 1);
        Assert.Equal([1], _upcalls);
        Assert.True(_channels.IsPending(port));
        Assert.Equal(XenError.EINVAL, _channels.Send(port));
        Assert.Equal(XenError.EINVAL, _channels.BindProcessor(port, 0));
    }

    [Fact]
    public void A_domain_connects_to_itself()
    {
        _channels.AllocateUnbound(EventChannels.Self, out var a);
        Assert.Equal(XenError.ESRCH, _channels.BindInterdomain(0, a, out _));
        Assert.Equal(XenError.EINVAL, _channels.BindInterdomain(Domain, 77, out _));
        Assert.Equal(XenError.None, _channels.BindInterdomain(Domain, a, out var b));
        Settle(0);
        _channels.Send(b);
        Assert.True(_channels.IsPending(a));
        _channels.Close(a);
        Assert.False(_channels.IsPending(a));
        _channels.GetStatus(b, out var status);
        Assert.Equal(EventChannelState.Unbound, status.State);
        Assert.Equal(XenError.EINVAL, _channels.Close(a));
    }

    [Fact]
    public void Status_tells_what_a_port_is()
    {
        _channels.BindVirq(EventChannels.VirqDebug, 1, out var virq);
        _channels.AllocateUnbound(EventChannels.BackEnd, out var unbound);
        Assert.Equal(new EventChannelStatus(EventChannelState.Virq, 1, 0, 1), Status(virq));
        Assert.Equal(new EventChannelStatus(EventChannelState.Unbound, 0, 0, 0), Status(unbound));
        Assert.Equal(XenError.None, _channels.BindProcessor(unbound, 1));
        Assert.Equal(1, Status(unbound).Processor);
        Assert.Equal(default, Status(100));
        Assert.Equal(XenError.EINVAL, _channels.GetStatus(4096, out _));
    }

    [Fact]
    public void Ports_end()
    {
        for (var i = 1; i < EventChannels.PortCount; i++)
            Assert.Equal(XenError.None, _channels.BindIpi(i & 1, out _));
        Assert.Equal(XenError.ENOSPC, _channels.BindIpi(0, out _));
        _channels.Send(4095);
        Assert.True(_channels.IsPending(4095));
        _channels.Reset();
        Assert.False(_channels.IsPending(4095));
        Assert.Equal(XenError.None, _channels.BindIpi(0, out _));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(7u)]
    [InlineData(4096u)]
    [InlineData(uint.MaxValue)]
    public void A_port_that_is_none_is_an_error(uint port)
    {
        Assert.Equal(XenError.EINVAL, _channels.Send(port));
        Assert.Equal(XenError.EINVAL, _channels.Close(port));
        Assert.Equal(XenError.EINVAL, _channels.Unmask(port));
        Assert.Equal(XenError.EINVAL, _channels.BindProcessor(port, 0));
        Assert.False(_channels.TryConnect(port, () => { }));
        _channels.Notify(port);
        _channels.Disconnect(port);
        Assert.Empty(_upcalls);
    }

    [Fact]
    public void A_back_end_that_goes_hears_no_more_and_is_told_of_a_close()
    {
        var (heard, closed) = (0, 0);
        _channels.AllocateUnbound(EventChannels.BackEnd, out var port);
        _channels.TryConnect(port, () => heard++, () => closed++);
        _channels.Disconnect(port);
        _channels.Send(port);
        Assert.Equal((0, 0), (heard, closed));
        Assert.True(_channels.TryConnect(port, () => heard++, () => closed++));
        _channels.Close(port);
        _channels.Notify(port);
        Assert.Equal((0, 1), (heard, closed));
        Assert.Empty(_upcalls);
    }

    [Fact]
    public void A_vcpu_info_that_moves_is_told_at_once()
    {
        _channels.SetVcpuInfo(0, 0x30000);
        Assert.Equal([0], _upcalls);
        Assert.Equal((1, ulong.MaxValue), (Byte(0x30000), Word(0x30008)));
        Assert.True(_channels.HasUpcall(0));
    }

    [Fact]
    public void Pages_that_are_no_memory_are_the_domains_error()
    {
        _channels.BindIpi(0, out var port);
        _channels.SharedInfo = 0xFEE00000;
        _channels.Send(port);
        Assert.Single(_errors.Counts);
        Assert.Empty(_upcalls);
    }

    private EventChannelStatus Status(uint port)
    {
        Assert.Equal(XenError.None, _channels.GetStatus(port, out var status));
        return status;
    }

    private byte Byte(ulong address) => _memory.TryRead(address, out byte value) ? value : throw new InvalidOperationException();

    private ulong Word(ulong address) => _memory.TryRead(address, out ulong value) ? value : throw new InvalidOperationException();

    private void SetMask(uint port) => _memory.TrySetBits(SharedInfo + 0xA00 + (port / 64 * 8), 1UL << (int)(port % 64), out _);

    private void Clear(uint port) => _memory.TryClearBits(SharedInfo + 0x800 + (port / 64 * 8), 1UL << (int)(port % 64), out _);

    /// <summary>The domain takes its events.</summary>
    private void Settle(int processor)
    {
        _memory.TryWrite(_channels.VcpuInfo(processor), (byte)0);
        _memory.TryWrite(_channels.VcpuInfo(processor) + 8, 0UL);
        _upcalls.Clear();
    }
}
