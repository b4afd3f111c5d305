using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor.Devices.Tests.Xen;

/// <summary>Where pages of a domain move, and how it ends or begins anew.</summary>
public sealed class XenDomainResetTests : XenDomainBench
{
    private const ulong List = Arguments + 0x100;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_grant_table_is_set_up_by_a_list(bool is64)
    {
        AddToPhysmap(space: 1, index: 1, page: 0x21);
        Assert.Equal(0, Setup(3));
        Assert.Equal(3, Xen.Grants.FrameCount);
        ulong[] frames = is64 ? [ulong.MaxValue, 0x21, ulong.MaxValue] : [uint.MaxValue, 0x21, uint.MaxValue];
        Assert.Equal(frames, Enumerable.Range(0, 3).Select(i => Frame((ulong)i)));
        Assert.Equal(-1, Setup(65));
        Assert.Equal(-8, Setup(1, domain: 0));
        Assert.Equal(-2, Setup(1, domain: 99));
        Assert.Equal(-5, Setup(1, list: 0xFFFF_0000));
        Assert.Equal(Invalid, Call(20, 2, Arguments, 2));
        Assert.Equal(Fault, Call(20, 2, Nowhere, 1));

        int Setup(uint count, ushort domain = 0x7FF0, ulong list = List)
        {
            Put64(0, domain);
            Put32(4, count);
            Put64(8, 0x7777);
            if (is64)
                Put64(16, list);
            else
                Put32(12, (uint)list);
            Assert.Equal(0UL, Xen.Call(new Hypercall(0, 0, is64, 20, 2, Arguments, 1, 0, 0), this).Value);
            return (short)Get32(8);
        }

        ulong Frame(ulong index)
        {
            Assert.True(Memory.TryRead(List + (index * 8), out ulong wide) & Memory.TryRead(List + (index * 4), out uint narrow));
            return is64 ? wide : narrow;
        }
    }

    [Fact]
    public void What_moves_keeps_what_it_holds()
    {
        AddToPhysmap(space: 1, index: 0, page: 0x21);
        Memory.TryWrite(0x21008, 0x1234UL);
        AddToPhysmap(space: 1, index: 0, page: 0x22);
        Assert.True(Memory.TryRead(0x22008, out ulong entry));
        Assert.Equal(0x1234UL, entry);

        AddToPhysmap(space: 0, index: 0, page: 0x10);
        RegisterVcpuInfo(1, 0x30, 0);
        Memory.TryWrite(0x10A00, 0x5555UL); // the mask
        AddToPhysmap(space: 0, index: 0, page: 0x11);
        Assert.True(Memory.TryRead(0x11A00, out ulong mask));
        Assert.Equal((0x5555UL, 0x11000UL, 0x30000UL), (mask, Xen.Events.VcpuInfo(0), Xen.Events.VcpuInfo(1)));
    }

    [Fact]
    public void A_soft_reset_is_a_new_domain_in_the_same_memory()
    {
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        AddToPhysmap(space: 1, index: 0, page: 0x21);
        Put64(0, 0x14000);
        Assert.Equal(0, Call(24, 5, 0, Arguments)); // runstate
        SetVector(0);
        Put32(0, 0);
        Assert.Equal(0, Call(32, 7, Arguments)); // bind_ipi
        var port = Get32(4);
        Xen.Store.Write(Domain, 0, $"/local/domain/{Domain}/data", default);
        Memory.TryWrite(0x40000, 0x77UL);
        Clock.Advance(1000);
        Put32(0, 5);
        Assert.Equal(0, Call(29, 2, Arguments));
        Assert.Empty(Asked);
        Assert.Equal((0UL, 0, 0UL, (byte)0), (Xen.Events.SharedInfo, Xen.Grants.FrameCount, Xen.Events.VcpuInfo(0), Xen.Processors[0].UpcallVector));
        Put32(0, port);
        Assert.Equal(Invalid, Call(32, 4, Arguments)); // the port is closed
        Assert.NotEqual(0UL, GetParameter(2)); // the store's is there
        Assert.True(Memory.TryRead(0x40000, out ulong kept));
        Assert.Equal(0x77UL, kept);
        Assert.Equal(1000, BitConverter.ToInt64(Xen.Processors[0].Runstate.Get(is64: true), 16));
        Memory.TryWrite(0x14000, 99);
        Xen.SetActivity(0, ProcessorActivity.Halted);
        Assert.True(Memory.TryRead(0x14000, out int state));
        Assert.Equal(99, state); // it is nobody's any more
        AddToPhysmap(space: 0, index: 0, page: 0x12);
        Assert.True(Memory.TryRead(0x12A00, out ulong mask));
        Assert.Equal(ulong.MaxValue, mask);
    }

    [Fact]
    public void A_domain_that_halts_for_good_is_off()
    {
        Xen.SetActivity(1, ProcessorActivity.Running);
        Xen.SetActivity(0, ProcessorActivity.Off);
        Assert.Empty(Asked);
        Xen.SetActivity(1, ProcessorActivity.Halted); // an interrupt may still come
        Assert.Empty(Asked);
        Xen.SetActivity(1, ProcessorActivity.Off);
        Assert.Equal(["off"], Asked);
    }

    [Fact]
    public void Hypercalls_are_counted_by_kind()
    {
        Call(17, 0, 0);
        Call(17, 0, 0);
        Call(17, 99, 0);
        Call(21, 0, 5);
        Call(77, 1, 0);
        Xen.Call(new Hypercall(0, 3, true, 17, 0, 0, 0, 0, 0), this); // not the kernel's
        Assert.Equal(["xen_version 0 2", "xen_version 99 1", "vm_assist  1", "  1"], Xen.CountCalls().Select(c => $"{c.Name} {c.Command} {c.Count}"));
        for (var i = 0UL; i < 1000; i++)
            Call(i * 1000, 0, 0);
        Assert.InRange(Xen.CountCalls().Count, 200, 300);
        Assert.Equal(1005, Xen.CountCalls().Sum(c => c.Count));
        Xen.Reset();
        Assert.Empty(Xen.CountCalls());
    }
}
