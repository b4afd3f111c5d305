using Sharpvisor.Core.Block;

namespace Sharpvisor.Core.Tests.Block;

public sealed class BlockBuffersTests
{
    private readonly byte[] _data = [.. Enumerable.Range(0, 100).Select(i => (byte)i)];

    [Fact]
    public void A_slice_has_the_bytes_of_its_range_however_they_are_cut()
    {
        var random = new Random(1);
        for (var i = 0; i < 2000; i++)
        {
            var buffers = Cut(random);
            var start = random.Next(_data.Length + 1);
            var length = random.Next(_data.Length - start + 1);
            var slice = buffers.Slice(start, length);
            Assert.Equal(length, slice.Length);
            var bytes = new byte[length];
            slice.CopyTo(bytes);
            Assert.Equal(_data.AsSpan(start, length).ToArray(), bytes);
            var pieces = 0;
            foreach (var piece in slice)
            {
                Assert.NotEqual(0, piece.Length);
                pieces++;
            }

            Assert.True(pieces <= slice.PieceCount);
            // A slice of a slice.
            var inner = slice.Slice(length / 2);
            bytes = new byte[inner.Length];
            inner.CopyTo(bytes);
            Assert.Equal(_data.AsSpan(start + (length / 2), length - (length / 2)).ToArray(), bytes);
        }
    }

    [Fact]
    public void Writing_a_slice_writes_nothing_else()
    {
        var buffers = Cut(new Random(2)).Slice(10, 30);
        buffers.CopyFrom([0xFF, 0xFE]);
        Assert.Equal<byte>([9, 0xFF, 0xFE, 12], _data.AsSpan(9, 4).ToArray());
        buffers.Clear();
        Assert.Equal(9, _data[9]);
        Assert.Equal(40, _data[40]);
        Assert.DoesNotContain(_data[10..40], b => b != 0);
    }

    [Theory]
    [InlineData(-1, 1)]
    [InlineData(0, 101)]
    [InlineData(100, 1)]
    [InlineData(1, -1)]
    public void A_range_that_is_not_there_is_refused(int start, int length) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new BlockBuffers(_data).Slice(start, length));

    [Fact]
    public void Nothing_has_no_pieces()
    {
        Assert.Equal(0, default(BlockBuffers).Length);
        foreach (var _ in new BlockBuffers(ReadOnlyMemory<Memory<byte>>.Empty))
            Assert.Fail("a piece of nothing");
    }

    private BlockBuffers Cut(Random random)
    {
        List<Memory<byte>> pieces = [];
        for (var at = 0; at < _data.Length;)
        {
            var length = Math.Min(random.Next(12), _data.Length - at);
            pieces.Add(_data.AsMemory(at, length));
            at += length;
        }

        return new BlockBuffers(pieces.ToArray());
    }
}
