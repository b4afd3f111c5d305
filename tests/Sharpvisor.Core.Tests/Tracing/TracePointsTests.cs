using System.Diagnostics.Tracing;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Tracing;

namespace Sharpvisor.Core.Tests.Tracing;

public sealed class TracePointsTests
{
    private static readonly TraceEvent PageFault = new(TraceKind.Exception, 1, 14, 6, 0xFFFF_FFFF_8100_0000, 0x1000);
    private static readonly TraceEvent Serial = new(TraceKind.Port, -1, 0x3F8, 0x41, 1, IsWrite: true, Device: "serial");
    private static readonly TraceEvent Request = new(TraceKind.Virtio, -1, 2, 512, 1, Device: "virtio-blk");

    [Theory]
    [InlineData("exception", true, false, false)]
    [InlineData("exception:14", true, false, false)]
    [InlineData("exception:0xe", true, false, false)]
    [InlineData("exception:0-13", false, false, false)]
    [InlineData("port", false, true, false)]
    [InlineData("port:0x3f8-0x3ff", false, true, false)]
    [InlineData("port:0x3f9-0x3ff", false, false, false)]
    [InlineData("port:SERIAL", false, true, false)]
    [InlineData("virtio:blk", false, false, true)]
    [InlineData("virtio:1-2", false, false, true)]
    [InlineData("virtio:net", false, false, false)]
    [InlineData("all", true, true, true)]
    public void Filters_choose(string text, bool exception, bool port, bool virtio)
    {
        var filter = TraceFilter.Parse(text);
        Assert.Equal((exception, port, virtio), (filter.Wants(PageFault), filter.Wants(Serial), filter.Wants(Request)));
        Assert.Equal(filter, TraceFilter.Parse(filter.ToString()));
    }

    [Theory]
    [InlineData("")]
    [InlineData("ports")]
    [InlineData("port:")]
    [InlineData("port:5-")]
    [InlineData("port:5-4")]
    [InlineData("syscall:read")]
    [InlineData("all:3")]
    [InlineData("exception:99999999999999999999999")]
    public void Mistakes_are_one_line(string text)
    {
        if (text == "port:")
            Assert.Equal("", TraceFilter.Parse(text).Device); // any device
        else
            Assert.DoesNotContain('\n', Assert.Throws<ConfigurationException>(() => TraceFilter.Parse(text)).Message);
    }

    [Fact]
    public void Lines_are_written_for_what_is_wanted_only()
    {
        List<string> lines = [];
        using var points = new TracePoints();
        var changes = 0;
        points.Changed += () => changes++;
        Assert.Equal(TraceKind.None, points.Kinds & ~TraceKind.Mmio);
        points.Set([TraceFilter.Parse("exception:14"), TraceFilter.Parse("virtio")], lines.Add);
        Assert.Equal(1, changes);
        Assert.True(points.Wants(TraceKind.Exception) && points.Wants(TraceKind.Virtio) && !points.Wants(TraceKind.Port));
        points.Write(PageFault);
        points.Write(PageFault with { Number = 13 });
        points.Write(Serial);
        points.Write(Request);
        Assert.Equal(["exception cpu 1 vector 0x0e error 0x6 rip 0xffffffff81000000 cr2 0x1000", "virtio done device virtio-blk queue 2 bytes 512"], lines);
        points.Set([]);
        Assert.Equal(2, changes);
        Assert.False(points.Wants(TraceKind.Exception));
    }

    /// <summary>What dotnet-trace does, within the process.</summary>
    [Fact]
    public void Listeners_of_the_event_source_turn_events_on_and_get_them()
    {
        using var points = new TracePoints();
        Assert.False(points.Wants(TraceKind.Mmio));
        using (var listener = new Listener())
        {
            listener.EnableEvents(GuestEventSource.Log, EventLevel.Informational, (EventKeywords)TraceKind.Mmio);
            Assert.True(points.Wants(TraceKind.Mmio));
            points.Write(new TraceEvent(TraceKind.Mmio, -1, 0xFEE0_0080, 7, 4, IsWrite: true, Device: "apic"));
            var (name, payload) = Assert.Single(listener.Events);
            Assert.Equal("Mmio", name);
            Assert.Equal([true, 0xFEE0_0080UL, 4, 7UL, "apic"], payload);
        }

        Assert.False(points.Wants(TraceKind.Mmio));
        using var disposed = new TracePoints();
        disposed.Dispose();
        disposed.Changed += () => Assert.Fail("it is disposed");
        disposed.Set([TraceFilter.Parse("all")]);
        Assert.False(disposed.Wants(TraceKind.Port));
    }

    private sealed class Listener : EventListener
    {
        public List<(string, object?[])> Events { get; } = [];

        protected override void OnEventWritten(EventWrittenEventArgs eventData)
        {
            if (eventData.EventSource.Name == "Sharpvisor" && eventData.EventId > 0)
                Events.Add((eventData.EventName!, [.. eventData.Payload!]));
        }
    }
}
