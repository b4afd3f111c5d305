using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Testing.Interrupts;

namespace Sharpvisor.Devices.Tests.Xen;

/// <summary>How a domain is told of events other than by a vector of each processor.</summary>
public sealed class XenCallbackTests : XenDomainBench
{
    [Fact]
    public void A_callback_is_a_line_that_follows_the_flag()
    {
        var (line, pin) = (new RecordingLine(), new RecordingLine());
        Xen.Callback.Lines = [.. Enumerable.Repeat(new RecordingLine(), 10), line];
        Xen.Callback.Pin = (0x18, pin);
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        Take(0x10000);
        Assert.Equal(Invalid, SetCallback(11));
        Assert.Equal(Invalid, SetCallback(1UL << 56 | 0x20 << 8));
        Assert.Equal(Invalid, SetCallback(3UL << 56));
        Assert.Equal(Invalid, SetCallback(2UL << 56 | 15));
        Assert.Equal(0, SetCallback(10));
        Assert.False(line.IsAsserted);
        var port = SendSelf();
        Assert.True(line.IsAsserted);
        Take(0x10000);
        Xen.Callback.Update();
        Assert.False(line.IsAsserted);
        Memory.TryWrite(0x10800, 0UL);
        Send(port);
        Assert.Equal(0, SetCallback(1UL << 56 | 0x18 << 8)); // the other one takes it over
        Assert.False(line.IsAsserted);
        Assert.True(pin.IsAsserted);
        Assert.Equal(-1, Interrupt(0));
        Assert.Equal(0, SetCallback(2UL << 56 | 0xF3));
        Assert.False(pin.IsAsserted);
        Assert.Equal(0xF3, Apics[0].AcknowledgeInterrupt());
        Assert.Equal(-1, Apics[0].AcknowledgeInterrupt());

        long SetCallback(ulong value)
        {
            Put16(0, 0x7FF0);
            Put32(4, 0);
            Put64(8, value);
            return Call(34, 0, Arguments);
        }

        uint SendSelf()
        {
            Put32(0, 0);
            Assert.Equal(0, Call(32, 7, Arguments));
            var port = Get32(4);
            Unmask(port);
            Send(port);
            return port;
        }

        void Send(uint port)
        {
            Put32(0, port);
            Assert.Equal(0, Call(32, 4, Arguments));
        }
    }

    [Fact]
    public void A_level_of_the_PIC_ends_with_the_flag()
    {
        var (pic, port) = UsePic(isLevel: true);
        SendTo(port);
        Assert.Equal(0x25, Apics[0].AcknowledgeInterrupt());
        TakeAll();
        Eoi(pic);
        Assert.Equal(-1, Apics[0].AcknowledgeInterrupt()); // it would come again and again
        SendTo(port);
        TakeAll(); // by a kernel that looked before it was told
        Assert.Equal(-1, Apics[0].AcknowledgeInterrupt());
        SendTo(port);
        Assert.Equal(0x25, Apics[0].AcknowledgeInterrupt());
        Eoi(pic);
        Assert.Equal(0x25, Apics[0].AcknowledgeInterrupt()); // the flag is still set
    }

    [Fact]
    public void Each_event_is_an_edge_for_the_PIC()
    {
        var (pic, port) = UsePic(isLevel: false);
        for (var i = 0; i < 3; i++)
        {
            SendTo(port);
            Assert.Equal(0x25, Apics[0].AcknowledgeInterrupt());
            Eoi(pic); // first, as for edges
            TakeAll();
        }

        Assert.Equal(-1, Apics[0].AcknowledgeInterrupt());
    }

    [Theory]
    [InlineData(XenCallbackOffer.ProcessorVector, 1u << 6, 1u << 8, 0, 0)]
    [InlineData(XenCallbackOffer.Vector, 0, 1u << 8, NotThere, 0)]
    [InlineData(XenCallbackOffer.Line, 0, 0, NotThere, Invalid)]
    public void What_is_offered(XenCallbackOffer offer, uint leaf, uint feature, long processorVector, long vector)
    {
        Xen.Callback.Offer = offer;
        Assert.Equal(leaf, Xen.QueryCpuid(0, 0x4000_0004, 0).Eax & (1u << 6));
        Put32(0, 0);
        Assert.Equal(0, Call(17, 6, Arguments));
        Assert.Equal(feature, Get32(4) & (1u << 8));
        Put32(0, 0);
        Put32(4, 0xF3);
        Assert.Equal(processorVector, Call(34, 23, Arguments));
        Put32(0, 0x7FF0);
        Put32(4, 0);
        Put64(8, 2UL << 56 | 0xF3);
        Assert.Equal(vector, Call(34, 0, Arguments));
    }

    /// <summary>A PIC with vectors from 20h on, whose IRQ 5 is the callback, and a port that raises it.</summary>
    private (Pic Pic, uint Port) UsePic(bool isLevel)
    {
        var pic = new Pic(Bus.Lint0);
        Bus.Pic = pic;
        Bus.SamplingLines += Xen.Callback.Update;
        pic.EndingInterrupt += Xen.Callback.Update;
        Xen.Callback.Lines = [.. Enumerable.Range(0, 6).Select(pic.Input)];
        foreach (var (offset, value) in ((uint, ulong)[])[(0, 0x11), (1, 0x20), (1, 4), (1, 1)])
            pic.MasterPorts.Write(offset, 1, value);
        pic.ElcrPorts.Write(0, 1, isLevel ? 0x20UL : 0);
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        TakeAll();
        Put32(0, 0x7FF0);
        Put32(4, 0);
        Put64(8, 5);
        Assert.Equal(0, Call(34, 0, Arguments));
        Put32(0, 0);
        Assert.Equal(0, Call(32, 7, Arguments)); // bind_ipi
        var port = Get32(4);
        Unmask(port);
        Assert.Equal(-1, Apics[0].AcknowledgeInterrupt());
        return (pic, port);
    }

    private void SendTo(uint port)
    {
        Put32(0, port);
        Assert.Equal(0, Call(32, 4, Arguments));
    }

    private static void Eoi(Pic pic) => pic.MasterPorts.Write(0, 1, 0x20);

    /// <summary>The kernel takes what is pending, without a hypercall.</summary>
    private void TakeAll()
    {
        Take(0x10000);
        Memory.TryWrite(0x10800, 0UL);
    }
}
