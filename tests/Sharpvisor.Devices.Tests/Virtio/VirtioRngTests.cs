using Sharpvisor.Devices.Virtio;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

public sealed class VirtioRngTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Buffers_are_filled_to_their_end(bool legacy)
    {
        using var bench = Make(legacy);
        bench.Driver.Start(VirtioBench.AllFeatures);
        GuestBuffer[] buffers = [new(bench.Driver.Allocator.Allocate(100), 100), new(bench.Driver.Allocator.Allocate(30), 30)];
        var id = bench.Driver.Rings[0].Add([], buffers);
        bench.Driver.NotifyIfNeeded(0);
        Assert.Equal((id, 130u), bench.Driver.Rings[0].TakeUsed());
        Assert.All(buffers, b => Assert.All(bench.Driver.Get(b), value => Assert.Equal(0x5A, value)));
        Assert.Equal(1, bench.TakeMessages());
    }

    [Fact]
    public void A_large_buffer_is_filled_in_part()
    {
        using var bench = Make(false);
        bench.Driver.Start(VirtioBench.AllFeatures);
        bench.Driver.Rings[0].Add([], [new(0x100000, 0x80000)]);
        bench.Driver.Notify(0);
        Assert.Equal(0x10000u, bench.Driver.Rings[0].TakeUsed()?.Written);
        Assert.True(bench.Memory.TryRead<byte>(0x110000, out var behind));
        Assert.Equal(0, behind);
    }

    [Fact]
    public void A_buffer_that_cannot_be_written_gets_nothing()
    {
        using var bench = Make(false);
        bench.Driver.Start(VirtioBench.AllFeatures);
        bench.Driver.Rings[0].Add([new(0x100000, 16)], []);
        bench.Driver.Notify(0);
        Assert.Equal(0u, bench.Driver.Rings[0].TakeUsed()?.Written);
        Assert.True(bench.Memory.TryRead<byte>(0x100000, out var there));
        Assert.Equal(0, there);
    }

    private static VirtioBench Make(bool legacy) => new(errors => new VirtioRng(part => part.Span.Fill(0x5A), errors), legacy);
}
