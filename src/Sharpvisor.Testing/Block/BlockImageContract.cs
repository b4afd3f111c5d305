// What every disk image has to keep to, whatever its format: see IBlockImage.
using Sharpvisor.Core.Block;

namespace Sharpvisor.Testing.Block;

/// <summary>Runs an image through everything that a drive may ask of it, and compares it with an array of bytes.</summary>
/// <param name="create">Makes an empty image of a length in bytes, in place of the one before, and opens it.</param>
/// <param name="reopen">Opens the image made last, read-only or not. The one before has been disposed, or was lost without it after a flush.</param>
public sealed class BlockImageContract(Func<long, IBlockImage> create, Func<bool, IBlockImage> reopen)
{
    private const int SectorSize = IBlockImage.SectorSize;
    private const int Length = 256 << 10;

    /// <summary>Whether images of every length can be made, not of whole sectors only.</summary>
    public bool HasAnyLength { get; init; } = true;

    /// <returns>What it does wrong, a line each; empty for a right one.</returns>
    public async Task<IReadOnlyList<string>> RunAsync()
    {
        List<string> wrong = [];
        foreach (var (name, check) in new (string, Func<Task>)[]
        {
            ("new", IsZeroWhenNew),
            ("transfers", TakesTransfersOfAnyShape),
            ("pieces", TakesManyPieces),
            ("range", RefusesWhatIsBehindTheEnd),
            ("tail", FillsUpTheLastSector),
            ("persistence", KeepsWhatWasFlushed),
            ("read-only", ChangesNothingWhenReadOnly),
            ("concurrency", TakesSeveralCallers),
            ("resize", ChangesItsLength),
        })
        {
            try
            {
                await check().ConfigureAwait(false);
            }
            catch (Exception e) when (e is ContractException or BlockException or ArgumentException or IndexOutOfRangeException or InvalidOperationException)
            {
                wrong.Add($"{name}: {e.Message}");
            }
        }

        return wrong;
    }

    private async Task IsZeroWhenNew()
    {
        var image = create(Length);
        await using var _ = image.ConfigureAwait(false);
        Require(image.Length == Length, $"its length is {image.Length}, not {Length}");
        await ExpectAsync(image, new byte[Length]).ConfigureAwait(false);
    }

    private async Task TakesTransfersOfAnyShape()
    {
        var image = create(Length);
        await using var _ = image.ConfigureAwait(false);
        var model = new byte[Length];
        var random = new Random(1);
        for (var i = 0; i < 200; i++)
        {
            var offset = random.Next(Length);
            var length = random.Next(random.Next(2) == 0 ? 2000 : 40_000) % (Length - offset);
            switch (random.Next(6))
            {
                case 0:
                    await image.WriteZeroesAsync(offset, length, mayDiscard: random.Next(2) == 0).ConfigureAwait(false);
                    model.AsSpan(offset, length).Clear();
                    break;
                case 1:
                    await image.DiscardAsync(offset, length).ConfigureAwait(false);
                    var kept = await ReadAsync(image, 0, Length).ConfigureAwait(false);
                    for (var at = offset; at < offset + length; at++)
                        model[at] = kept[at] == 0 ? (byte)0 : model[at];
                    Require(kept.AsSpan().SequenceEqual(model), $"a discard of {length} at {offset} changed something else");

                    model = kept;
                    break;
                case 2:
                    var part = await ReadAsync(image, offset, length).ConfigureAwait(false);
                    Require(part.AsSpan().SequenceEqual(model.AsSpan(offset, length)), $"a read of {length} at {offset} is not what was written");
                    break;
                default:
                    var data = new byte[length];
                    random.NextBytes(data);
                    var copy = (byte[])data.Clone();
                    await image.WriteAsync(offset, Scatter(data, random)).ConfigureAwait(false);
                    Require(data.AsSpan().SequenceEqual(copy), "a write changed what it was given");
                    data.CopyTo(model, offset);
                    break;
            }
        }

        await ExpectAsync(image, model).ConfigureAwait(false);
    }

    private async Task TakesManyPieces()
    {
        var image = create(Length);
        await using var _ = image.ConfigureAwait(false);
        var data = new byte[200 * 40];
        new Random(2).NextBytes(data);
        var pieces = Enumerable.Range(0, 200).SelectMany(i => new[] { data.AsMemory(i * 40, 40), Memory<byte>.Empty }).ToArray();
        await image.WriteAsync(1000, new BlockBuffers(pieces)).ConfigureAwait(false);
        var back = new byte[data.Length];
        pieces = [.. Enumerable.Range(0, 200).Select(i => back.AsMemory(i * 40, 40))];
        await image.ReadAsync(1000, new BlockBuffers(pieces)).ConfigureAwait(false);
        Require(back.AsSpan().SequenceEqual(data), "200 pieces did not come back in order");

        // A part of the buffers only: what lies around it is left alone.
        back.AsSpan().Fill(0xEE);
        await image.ReadAsync(1000 + 10, new BlockBuffers(pieces).Slice(10, 100)).ConfigureAwait(false);
        Require(back.AsSpan(10, 100).SequenceEqual(data.AsSpan(10, 100)), "a part of the pieces is not what was written");
        Require(!back.AsSpan(0, 10).ContainsAnyExcept((byte)0xEE) && !back.AsSpan(110).ContainsAnyExcept((byte)0xEE), "a read wrote around its buffers");
    }

    private async Task RefusesWhatIsBehindTheEnd()
    {
        var image = create(Length);
        await using var _ = image.ConfigureAwait(false);
        foreach (var (offset, length) in new (long, int)[] { (Length, 1), (Length - 1, 2), (-1, 1), (long.MaxValue, SectorSize), (Length, SectorSize) })
        {
            var buffers = new BlockBuffers(new byte[length]);
            await ThrowsAsync(BlockError.OutOfRange, $"a read of {length} at {offset}", () => image.ReadAsync(offset, buffers)).ConfigureAwait(false);
            await ThrowsAsync(BlockError.OutOfRange, $"a write of {length} at {offset}", () => image.WriteAsync(offset, buffers)).ConfigureAwait(false);
            await ThrowsAsync(BlockError.OutOfRange, $"zeroes of {length} at {offset}", () => image.WriteZeroesAsync(offset, length, true)).ConfigureAwait(false);
            await ThrowsAsync(BlockError.OutOfRange, $"a discard of {length} at {offset}", () => image.DiscardAsync(offset, length)).ConfigureAwait(false);
        }

        await ThrowsAsync(BlockError.OutOfRange, "zeroes of a negative length", () => image.WriteZeroesAsync(0, -1, true)).ConfigureAwait(false);
        await image.ReadAsync(Length, default).ConfigureAwait(false);
        await image.WriteAsync(Length, default).ConfigureAwait(false);
        Require(image.Length == Length, "its length has changed");
    }

    private async Task FillsUpTheLastSector()
    {
        if (!HasAnyLength)
            return;
        const int length = SectorSize + 100;
        var image = create(length);
        await using var _ = image.ConfigureAwait(false);
        Require(image.Length == length, $"its length is {image.Length}, not {length}");
        var data = new byte[length];
        Array.Fill(data, (byte)0x55);
        await image.WriteAsync(0, new BlockBuffers(data)).ConfigureAwait(false);
        var sectors = await ReadAsync(image, 0, 2 * SectorSize).ConfigureAwait(false);
        Require(sectors.AsSpan(0, length).SequenceEqual(data) && !sectors.AsSpan(length).ContainsAnyExcept((byte)0), "the last sector does not end with zeroes");
        await ThrowsAsync(BlockError.OutOfRange, "a read behind the last sector", () => image.ReadAsync(2 * SectorSize, new BlockBuffers(new byte[1]))).ConfigureAwait(false);
        Array.Fill(sectors, (byte)0x66);
        await image.WriteAsync(SectorSize, new BlockBuffers(sectors.AsMemory(0, SectorSize))).ConfigureAwait(false);
        var back = await ReadAsync(image, SectorSize, SectorSize).ConfigureAwait(false);
        Require(!back.AsSpan().ContainsAnyExcept((byte)0x66), "a write of the last sector lost its end");
    }

    private async Task KeepsWhatWasFlushed()
    {
        var image = create(Length);
        var model = new byte[Length];
        new Random(3).NextBytes(model);
        await image.WriteAsync(0, new BlockBuffers(model)).ConfigureAwait(false);
        await image.WriteZeroesAsync(5000, 10_000, mayDiscard: true).ConfigureAwait(false);
        model.AsSpan(5000, 10_000).Clear();
        await image.FlushAsync().ConfigureAwait(false);
        await image.DisposeAsync().ConfigureAwait(false);
        var again = reopen(false);
        await using var _ = again.ConfigureAwait(false);
        Require(again.Length == Length, $"opened again its length is {again.Length}, not {Length}");
        await ExpectAsync(again, model).ConfigureAwait(false);
    }

    private async Task ChangesNothingWhenReadOnly()
    {
        var image = create(Length);
        var model = new byte[Length];
        new Random(4).NextBytes(model);
        await image.WriteAsync(0, new BlockBuffers(model)).ConfigureAwait(false);
        await image.FlushAsync().ConfigureAwait(false);
        Require(!image.IsReadOnly, "says that it is read-only");
        await image.DisposeAsync().ConfigureAwait(false);
        var again = reopen(true);
        await using var _ = again.ConfigureAwait(false);
        Require(again.IsReadOnly && !again.CanDiscard, "opened read-only it says that it is not");
        var data = new BlockBuffers(new byte[100]);
        await ThrowsAsync(BlockError.ReadOnly, "a write", () => again.WriteAsync(0, data)).ConfigureAwait(false);
        await ThrowsAsync(BlockError.ReadOnly, "zeroes", () => again.WriteZeroesAsync(0, 100, true)).ConfigureAwait(false);
        await ThrowsAsync(BlockError.ReadOnly, "a discard", () => again.DiscardAsync(0, 100)).ConfigureAwait(false);
        await ThrowsAsync(BlockError.ReadOnly, "a new length", () => again.ResizeAsync(100)).ConfigureAwait(false);
        await again.FlushAsync().ConfigureAwait(false);
        await ExpectAsync(again, model).ConfigureAwait(false);
    }

    private async Task TakesSeveralCallers()
    {
        const int callers = 4, part = Length / callers, chunk = 700;
        var image = create(Length);
        await using var _ = image.ConfigureAwait(false);
        var model = new byte[Length];
        new Random(5).NextBytes(model);
        await Task.WhenAll(Enumerable.Range(0, callers).Select(caller => Task.Run(async () =>
        {
            // Interleaved, so that callers meet in the same blocks and tables of a format.
            for (var at = caller * chunk; at < Length; at += callers * chunk)
                await image.WriteAsync(at, new BlockBuffers(model.AsMemory(at, Math.Min(chunk, Length - at)))).ConfigureAwait(false);
            await image.FlushAsync().ConfigureAwait(false);
            await ReadAsync(image, caller * part, part).ConfigureAwait(false);
        }))).ConfigureAwait(false);
        await ExpectAsync(image, model).ConfigureAwait(false);
    }

    private async Task ChangesItsLength()
    {
        var image = create(Length);
        await using var _ = image.ConfigureAwait(false);
        var model = new byte[2 * Length];
        new Random(6).NextBytes(model.AsSpan(0, Length));
        await image.WriteAsync(0, new BlockBuffers(model.AsMemory(0, Length))).ConfigureAwait(false);
        try
        {
            await image.ResizeAsync(2 * Length).ConfigureAwait(false);
        }
        catch (BlockException e) when (e.Error == BlockError.Unsupported)
        {
            await ExpectAsync(image, model[..Length]).ConfigureAwait(false);
            return;
        }

        Require(image.Length == 2 * Length, "it is not longer");
        await ExpectAsync(image, model).ConfigureAwait(false);
        await image.ResizeAsync(Length / 2).ConfigureAwait(false);
        await ThrowsAsync(BlockError.OutOfRange, "a read where it was longer", () => image.ReadAsync(Length / 2, new BlockBuffers(new byte[1]))).ConfigureAwait(false);
        await image.ResizeAsync(Length).ConfigureAwait(false);
        model.AsSpan(Length / 2).Clear();
        await ExpectAsync(image, model[..Length]).ConfigureAwait(false);
    }

    private static async Task<byte[]> ReadAsync(IBlockImage image, long offset, int length)
    {
        var data = new byte[length];
        Array.Fill(data, (byte)0xDD);
        await image.ReadAsync(offset, Scatter(data, new Random(length))).ConfigureAwait(false);
        return data;
    }

    private static async Task ExpectAsync(IBlockImage image, byte[] model)
    {
        var data = await ReadAsync(image, 0, model.Length).ConfigureAwait(false);
        var at = data.AsSpan().CommonPrefixLength(model);
        Require(at == model.Length, $"the byte at {at} is not what was written");
    }

    private static BlockBuffers Scatter(Memory<byte> data, Random random)
    {
        List<Memory<byte>> pieces = [];
        while (data.Length > 0)
        {
            var length = Math.Min(data.Length, 1 + random.Next(data.Length + 100));
            pieces.Add(data[..length]);
            data = data[length..];
        }

        return new BlockBuffers(pieces.ToArray());
    }

    private static async Task ThrowsAsync(BlockError error, string what, Func<ValueTask> call)
    {
        try
        {
            await call().ConfigureAwait(false);
        }
        catch (BlockException e)
        {
            Require(e.Error == error, $"{what} fails with {e.Error}, not {error}");
            return;
        }

        throw new ContractException($"{what} succeeds");
    }

    private static void Require(bool condition, string message)
    {
        if (!condition)
            throw new ContractException(message);
    }

    private sealed class ContractException(string message) : Exception(message);
}
