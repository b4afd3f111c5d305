using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Backends.Tests.Block;

public sealed class ImageContractTests : IDisposable
{
    private readonly string _path = Path.GetTempFileName();

    public void Dispose() => File.Delete(_path);

    [Theory]
    [InlineData(CacheMode.Writeback)]
    [InlineData(CacheMode.Unsafe)]
    [InlineData(CacheMode.None)]
    public async Task A_raw_image_keeps_to_the_contract(CacheMode cache)
    {
        var options = new DriveOptions { Format = "raw", Cache = cache, Discard = true };
        if (cache == CacheMode.None && !IsDirectPossible())
            return; // no O_DIRECT on the file system of temporary files
        var contract = new BlockImageContract(
            length =>
            {
                File.WriteAllBytes(_path, []);
                using (var file = File.OpenWrite(_path))
                    file.SetLength(length);
                return RawImage.Open(_path, options, NullLogger.Instance);
            },
            isReadOnly => RawImage.Open(_path, options with { IsReadOnly = isReadOnly }, NullLogger.Instance));
        Assert.Empty(await contract.RunAsync());
    }

    [Fact]
    public async Task An_image_in_memory_keeps_to_the_contract() => Assert.Empty(await RunAsync((file, isReadOnly) => new MemoryImage(file, isReadOnly)));

    [Theory]
    [InlineData("a piece is lost", "transfers")]
    [InlineData("the offset is rounded", "transfers")]
    [InlineData("zeroes are one too few", "transfers")]
    [InlineData("a discard takes too much", "transfers")]
    [InlineData("a write changes its buffers", "transfers")]
    [InlineData("a read writes too far", "pieces")]
    [InlineData("everything is in range", "range")]
    [InlineData("no sector is filled up", "tail")]
    [InlineData("a flush does nothing", "persistence")]
    [InlineData("read-only is not", "read-only")]
    [InlineData("a writer undoes others", "concurrency")]
    [InlineData("old bytes come back", "resize")]
    public async Task A_wrong_image_is_caught(string fault, string check)
    {
        var wrong = await RunAsync((file, isReadOnly) => new WrongImage(file, isReadOnly, fault));
        Assert.Contains(wrong, w => w.StartsWith(check + ":", StringComparison.Ordinal));
    }

    private static Task<IReadOnlyList<string>> RunAsync(Func<MemoryFile, bool, IBlockImage> open)
    {
        var file = new MemoryFile(0);
        return new BlockImageContract(
            length => open(file = new MemoryFile(length), false),
            isReadOnly => open(file, isReadOnly)).RunAsync();
    }

    private bool IsDirectPossible()
    {
        File.WriteAllBytes(_path, new byte[4096]);
        try
        {
            RawImage.Open(_path, new DriveOptions { Format = "raw", Cache = CacheMode.None }, NullLogger.Instance).Dispose();
            return true;
        }
        catch (Core.Guests.ConfigurationException e) when (e.Message.Contains("O_DIRECT", StringComparison.Ordinal))
        {
            return false;
        }
    }

    /// <summary>An image with one mistake.</summary>
    private sealed class WrongImage(MemoryFile file, bool isReadOnly, string fault) : MemoryImage(file, isReadOnly && fault != "read-only is not")
    {
        // What a flush would have to write down.
        private readonly byte[] _atOpen = (byte[])file.Bytes.Clone();

        public override async ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
        {
            if (fault == "no sector is filled up" && offset + buffers.Length > Length)
                throw new BlockException(BlockError.OutOfRange, "behind the end");
            if (fault == "everything is in range" && offset >= 0 && offset + buffers.Length > Length)
                return;
            await base.ReadAsync(offset, buffers, cancellation);
            if (fault == "a read writes too far")
            {
                foreach (var piece in buffers)
                {
                    if (System.Runtime.InteropServices.MemoryMarshal.TryGetArray<byte>(piece, out var array) && array.Offset + array.Count < array.Array!.Length)
                        array.Array[array.Offset + array.Count] = 0;
                }
            }
        }

        public override async ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
        {
            if (fault == "a writer undoes others")
            {
                // Reads a block, waits, and writes all of it.
                var start = offset & ~511;
                var block = new byte[Math.Min((offset + buffers.Length - start + 511) & ~511, Length - start)];
                await base.ReadAsync(start, new BlockBuffers(block), cancellation);
                await Task.Delay(1, cancellation);
                buffers.CopyTo(block.AsSpan((int)(offset - start)));
                await base.WriteAsync(start, new BlockBuffers(block), cancellation);
                return;
            }

            if (fault == "a piece is lost" && buffers.PieceCount > 3)
                buffers = buffers.Slice(0, buffers.Length - 1);
            if (fault == "the offset is rounded" && buffers.Length < 100)
                offset &= ~511;
            await base.WriteAsync(offset, buffers, cancellation);
            if (fault == "a write changes its buffers")
                buffers.Clear();
        }

        public override ValueTask WriteZeroesAsync(long offset, long length, bool mayDiscard, CancellationToken cancellation = default) =>
            base.WriteZeroesAsync(offset, fault == "zeroes are one too few" && length > 0 ? length - 1 : length, mayDiscard, cancellation);

        public override ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) =>
            base.DiscardAsync(fault == "a discard takes too much" ? offset & ~511 : offset, length, cancellation);

        public override async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
        {
            var before = (byte[])File.Bytes.Clone();
            await base.ResizeAsync(length, cancellation);
            if (fault == "old bytes come back" && length > before.Length)
                File.Bytes.AsSpan(before.Length).Fill(0xAA);
        }

        public override ValueTask DisposeAsync()
        {
            if (fault == "a flush does nothing" && !IsReadOnly)
                _atOpen.CopyTo(File.Bytes, 0);
            return base.DisposeAsync();
        }
    }
}
