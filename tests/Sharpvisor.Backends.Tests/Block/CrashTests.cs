using System.Globalization;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Block;
using Sharpvisor.Core.Block;
using Sharpvisor.Testing.Block;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>
/// Images in a file that remembers each operation: what is there if the process, or the host, ends at any of them, and what
/// becomes of errors at any of them. SHARPVISOR_CRASHES=N for how many of them, of each kind.
/// </summary>
public sealed class CrashTests : IDisposable
{
    private const int Size = 2 << 20, Sectors = Size / 512, LongestWrite = 200;

    private static readonly int Points = int.Parse(Environment.GetEnvironmentVariable("SHARPVISOR_CRASHES") ?? "60", CultureInfo.InvariantCulture);

    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-crash-").FullName;

    public static TheoryData<string> Kinds => new(
        "qcow2",
        "qcow2 cluster=512",
        "qcow2 cluster=4096 backing",
        "qcow2 cluster=512 refcounts=1",
        "qcow2 cluster=512 refcounts=64 nearly-full", // its refcount table is soon too short
        "qcow2 cluster=1024 snapshot no-discard",
        "qcow2 cluster=4096 refcounts=64 lazy",
        "qcow2 cluster=4096 v2 no-discard",
        "qcow2 cluster=1024 v2 backing",
        "vhd",
        "vhd batmap",
        "vhd backing",
        "vhd backing batmap");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task An_end_at_any_operation_leaves_what_was_flushed(string kind)
    {
        var made = Make(kind);
        using var file = new SimulatedFile(made);
        var history = new History(kind, seed: 1, Sectors);
        await using (var image = Open(file, kind))
            await history.RunAsync(image, file, steps: 200);
        foreach (var at in Some(file.Count, seed: 2))
            await ExpectAsync(file, history, at);
    }

    [Fact]
    public async Task A_longer_refcount_table_is_whole_before_the_header_names_it()
    {
        const string kind = "qcow2 cluster=512 refcounts=64 nearly-full";
        var made = Make(kind);
        using var file = new SimulatedFile(made);
        await using (var image = Open(file, kind))
            await new History(kind, seed: 1, Sectors).RunAsync(image, file, steps: 150);
        var named = Enumerable.Range(1, file.Count).First(at => !file.AfterKill(at).ToArray().AsSpan(48, 8).SequenceEqual(made.AsSpan(48, 8)));
        for (var seed = 0; seed < 30; seed++)
        {
            using var left = file.AfterPowerFailure(named, new Random(seed));
            Assert.DoesNotContain(Check(left, kind).Messages, m => !IsLeak(m));
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task Several_writers_at_a_time_leave_what_was_flushed(string kind)
    {
        const int writers = 3, part = Sectors / writers / 8 * 8;
        using var file = new SimulatedFile(Make(kind));
        var histories = Enumerable.Range(0, writers).Select(i => new History(kind, seed: 10 + i, part, i * part)).ToArray();
        await using (var image = Open(file, kind))
            await Task.WhenAll(histories.Select(h => Task.Run(() => h.RunAsync(image, file, steps: 60))));
        foreach (var at in Some(file.Count, seed: 3))
            await ExpectAsync(file, histories, at);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task An_error_at_any_operation_is_told_and_loses_nothing(string kind)
    {
        var made = Make(kind);
        var random = new Random(4);
        var count = 0;
        using (var file = new SimulatedFile(made))
        {
            await using var image = Open(file, kind);
            await new History(kind, seed: 5, Sectors).RunAsync(image, file, steps: 40);
            count = file.Count;
        }

        foreach (var failing in Some(count, seed: 6))
        {
            using var file = new SimulatedFile(made);
            var errors = 0;
            // Once, or for some time. An fsync that has failed is another matter.
            var last = failing + (random.Next(2) == 0 ? 0 : random.Next(6));
            var asked = 0;
            file.Fails = (operation, _) => ++asked > failing && asked <= last + 1 && operation is not FileOperation.Sync
                ? new BlockException(errors++ % 2 == 0 ? BlockError.NoSpace : BlockError.Io, "it fails")
                : null;
            var history = new History(kind, seed: 5, Sectors);
            await using (var image = Open(file, kind))
                await history.RunAsync(image, file, steps: 40, $"{kind}, operations from {failing} to {last}");
            file.Fails = null;
            await ExpectAllAsync(file, history, $"{kind}, operations from {failing} to {last} failed");
            await ExpectAsync(file, history, random.Next(file.Count + 1));
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task A_host_that_is_full_again_and_again_loses_nothing(string kind)
    {
        var random = new Random(7);
        var made = Make(kind);
        for (var run = 0; run < Math.Max(1, Points / 20); run++)
        {
            using var file = new SimulatedFile(made);
            file.Room = file.AllocatedBytes;
            var history = new History(kind, seed: run, Sectors) { OnError = () => file.Room += 4096 * random.Next(1, 12) };
            await using (var image = Open(file, kind))
            {
                await history.RunAsync(image, file, steps: 60, $"{kind}, run {run}");
                file.Room = long.MaxValue;
            }

            Assert.True(history.Errors > 0 || kind.EndsWith("nearly-full", StringComparison.Ordinal));
            await ExpectAllAsync(file, history, $"{kind}, run {run}");
            for (var i = 0; i < 5; i++)
                await ExpectAsync(file, history, random.Next(file.Count + 1));
        }
    }

    [Theory]
    [InlineData("qcow2 cluster=512")]
    [InlineData("qcow2 cluster=1024 snapshot")]
    [InlineData("qcow2 cluster=4096 refcounts=64 lazy")]
    [InlineData("vhd backing batmap")]
    public async Task A_repair_that_ends_at_any_operation_can_be_done_again(string kind)
    {
        using var file = new SimulatedFile(Make(kind));
        var history = new History(kind, seed: 8, Sectors);
        await using (var image = Open(file, kind))
            await history.RunAsync(image, file, steps: 80);
        var bytes = file.AfterKill(file.Count * 2 / 3).ToArray();
        var table = (int)System.Buffers.Binary.BinaryPrimitives.ReadInt64BigEndian(bytes.AsSpan(48));
        if (kind.StartsWith("vhd", StringComparison.Ordinal))
            bytes.AsSpan(bytes.Length - 512).Fill(0xFF);
        else if (!kind.EndsWith("lazy", StringComparison.Ordinal))
            bytes.AsSpan(table, Number(kind, "cluster", 65536)).Clear(); // nothing is counted
        using var broken = new SimulatedFile(bytes);
        Assert.NotEqual(0, Check(broken, kind).Corruptions);
        Assert.True(Check(broken, kind, ImageRepair.All).IsClean);
        foreach (var at in Some(broken.Count, seed: 9))
        {
            foreach (var left in new[] { broken.AfterKill(at), broken.AfterPowerFailure(at, new Random(at)) })
            {
                Assert.True(Check(left, kind, ImageRepair.All).IsClean, $"{kind}, ended after {at} operations");
                Assert.Empty(Check(left, kind).Messages);
                await using var image = Open(left, kind, isReadOnly: true);
                await history.VerifyAsync(image, file.Count * 2 / 3, $"{kind}, repaired after {at} operations");
                left.Dispose();
            }
        }
    }

    /// <summary>As many numbers up to a count as there shall be, all if there are no more.</summary>
    private static IEnumerable<int> Some(int count, int seed)
    {
        if (count <= Points)
            return Enumerable.Range(0, count + 1);
        var random = new Random(seed);
        return Enumerable.Range(0, Points).Select(_ => random.Next(count + 1)).Order();
    }

    private static int Number(string kind, string key, int otherwise) =>
        Array.Find(kind.Split(' '), w => w.StartsWith(key + "=", StringComparison.Ordinal)) is { } word ? int.Parse(word[(key.Length + 1)..], CultureInfo.InvariantCulture) : otherwise;

    private static Func<long, ulong> Before(string kind) =>
        kind.Contains("backing", StringComparison.Ordinal) ? s => s % 3 == 0 ? (ulong)s + 1 : 0
        : kind.Contains("nearly-full", StringComparison.Ordinal) ? s => s < Sectors * 96 / 100 ? (ulong)s + 1 : 0
        : kind.Contains("snapshot", StringComparison.Ordinal) ? s => s < Sectors / 2 ? (ulong)s + 1 : 0
        : _ => 0;

    private static string FormatOf(string kind) => kind.Split(' ')[0];

    private byte[] Make(string kind)
    {
        var format = FormatOf(kind);
        var hasBacking = kind.Contains("backing", StringComparison.Ordinal);
        if (hasBacking)
            MakeBacking(format == "vhd" ? "vhd" : "raw");
        var path = Path.Combine(_directory, "disk");
        var options = new ImageOptions
        {
            Size = Size,
            ClusterSize = Number(kind, "cluster", 65536),
            RefcountBits = Number(kind, "refcounts", 16),
            BlockSize = 64 << 10,
            Version = kind.Contains("v2", StringComparison.Ordinal) ? 2 : 3,
            LazyRefcounts = kind.Contains("lazy", StringComparison.Ordinal),
            HasBatmap = kind.Contains("batmap", StringComparison.Ordinal),
            BackingFile = hasBacking ? "backing" : null,
        };
        ImageCreate.Run(path, format, options, NullLogger.Instance);
        if (!hasBacking)
            Fill(path, format, kind);
        var bytes = File.ReadAllBytes(path);
        return kind.Contains("snapshot", StringComparison.Ordinal) ? InternalSnapshot.Take(bytes) : bytes;
    }

    private void MakeBacking(string format)
    {
        var path = Path.Combine(_directory, "backing");
        ImageCreate.Run(path, format, new ImageOptions { Size = Size }, NullLogger.Instance);
        Fill(path, format, "backing");
    }

    private static void Fill(string path, string format, string kind)
    {
        using var image = ImageFormat.Open(path, new DriveOptions { Format = format }, NullLogger.Instance);
        var data = new byte[Size];
        for (var sector = 0; sector < Sectors; sector++)
            System.Runtime.InteropServices.MemoryMarshal.Cast<byte, ulong>(data.AsSpan(sector * 512, 512)).Fill(Before(kind)(sector));
        // Zeroes stay away.
        image.Write(0, new BlockBuffers(data.AsMemory(0, data.AsSpan().LastIndexOfAnyExcept((byte)0) + 1)));
        image.FlushAsync().AsTask().GetAwaiter().GetResult();
    }

    private DiskImage Open(SimulatedFile file, string kind, bool isReadOnly = false, string? snapshot = null)
    {
        var options = new DriveOptions { Format = FormatOf(kind), IsReadOnly = isReadOnly, Discard = !kind.Contains("no-discard", StringComparison.Ordinal), Snapshot = snapshot };
        return ImageFormat.Open(file, Path.Combine(_directory, "disk"), options, NullLogger.Instance);
    }

    private ImageCheckResult Check(SimulatedFile file, string kind, ImageRepair repair = ImageRepair.None) =>
        ImageCheck.Run(new ImageFile(Path.Combine(_directory, "disk"), file, new DriveOptions()), FormatOf(kind), repair);

    private Task ExpectAsync(SimulatedFile file, History history, int at) => ExpectAsync(file, [history], at);

    /// <summary>What the file was after a number of operations, if the process or the host ended then, has what was flushed and goes on.</summary>
    private async Task ExpectAsync(SimulatedFile file, History[] histories, int at)
    {
        var kind = histories[0].Kind;
        foreach (var isPowerFailure in new[] { false, true })
        {
            var what = $"{kind}, {(isPowerFailure ? "power failure" : "kill")} after {at} of {file.Count} operations";
            using var left = isPowerFailure ? file.AfterPowerFailure(at, new Random(at)) : file.AfterKill(at);
            var wrong = Check(left, kind).Messages;
            if (kind.Contains("lazy", StringComparison.Ordinal))
                wrong = []; // the next writer counts anew
            else if (kind.StartsWith("qcow2", StringComparison.Ordinal))
                wrong = [.. wrong.Where(m => !IsLeak(m))];
            else if (isPowerFailure)
                wrong = [.. wrong.Where(m => !m.Contains("no VHD footer", StringComparison.Ordinal) && !m.Contains("batmap is damaged", StringComparison.Ordinal))];
            Assert.True(wrong.Count == 0, $"{what}: {string.Join("; ", wrong.Take(5))}");
            await using (var image = Open(left, kind, isReadOnly: true))
            {
                foreach (var history in histories)
                    await history.VerifyAsync(image, at, what);
            }

            // And it can be used on.
            var next = new History(kind, at, Sectors);
            await using (var image = Open(left, kind))
                await next.RunAsync(image, left, steps: 20);
            if (kind.Contains("snapshot", StringComparison.Ordinal))
            {
                await using var image = Open(left, kind, isReadOnly: true, snapshot: "1");
                Assert.Empty(await ScriptedWriter.VerifyAsync(image, [], 0, Before(kind)));
            }

            var after = Check(left, kind);
            Assert.True(after.Corruptions == 0, $"{what}, and written to again: {string.Join("; ", after.Messages.Take(5))}");
            Assert.True(Check(left, kind, ImageRepair.Leaks).IsClean, what);
            Assert.Empty(Check(left, kind).Messages);
        }
    }

    private async Task ExpectAllAsync(SimulatedFile file, History history, string what)
    {
        // What lazy refcounts could not be written is counted anew.
        var isLazy = history.Kind.Contains("lazy", StringComparison.Ordinal);
        var check = Check(file, history.Kind, isLazy ? ImageRepair.All : ImageRepair.None);
        Assert.True(check.Corruptions == check.FixedCorruptions && (isLazy || check.Corruptions == 0), $"{what}: {string.Join("; ", check.Messages.Take(5))}");
        await using var image = Open(file, history.Kind, isReadOnly: true);
        await history.VerifyAsync(image, file.Count, what);
    }

    private static bool IsLeak(string message)
    {
        var numbers = message.Split(' ').Where(w => w.All(char.IsAsciiDigit)).Select(w => long.Parse(w, CultureInfo.InvariantCulture)).ToArray();
        return message.Contains("is counted", StringComparison.Ordinal) && numbers[^2] > numbers[^1];
    }

    /// <summary>What a writer has done, and how many operations of the file that took.</summary>
    private sealed class History(string kind, int seed, int sectors, int first = 0)
    {
        private const int Attempts = 2000;

        private readonly List<(ScriptedWriter.Step Step, int Begun, int Done)> _steps = [];

        public string Kind => kind;

        public int Errors { get; private set; }

        public Action OnError { get; init; } = () => { };

        public async Task RunAsync(DiskImage image, SimulatedFile file, int steps, string what = "")
        {
            var part = new PartImage(image, first * 512L, sectors * 512L);
            // With more room that is given back and used again, but where it shall run out.
            var isFull = kind.EndsWith("nearly-full", StringComparison.Ordinal);
            var all = ScriptedWriter.Steps(seed, sectors, LongestWrite).Take(steps).Select(s => (s.Kind, isFull ? 0 : s.Number % 5) switch
            {
                (ScriptedWriter.Kind.Write, 3) => s with { Kind = ScriptedWriter.Kind.Zero },
                (ScriptedWriter.Kind.Write, 4) when s.Count < 4 => new ScriptedWriter.Step(s.Number, ScriptedWriter.Kind.Flush, 0, 0),
                _ => s,
            });
            foreach (var step in all.Append(new ScriptedWriter.Step(steps + 1, ScriptedWriter.Kind.Flush, 0, 0)))
            {
                var begun = file.Count;
                for (var attempt = 0; ; attempt++)
                {
                    try
                    {
                        await ScriptedWriter.PerformAsync(part, step);
                        break;
                    }
                    catch (BlockException e) when (attempt < Attempts)
                    {
                        Assert.False(e.Message.Contains("damaged", StringComparison.Ordinal), $"{what}: {e.Message}");
                        Errors++;
                        OnError();
                    }
                }

                _steps.Add((step, begun, file.Count));
            }
        }

        public async Task VerifyAsync(DiskImage image, int at, string what)
        {
            var begun = _steps.Where(s => s.Begun < at).Select(s => s.Step);
            var safe = _steps.LastOrDefault(s => s.Step.Kind == ScriptedWriter.Kind.Flush && s.Done <= at).Step.Number;
            var wrong = await ScriptedWriter.VerifyAsync(new PartImage(image, first * 512L, sectors * 512L), begun, safe, s => Before(kind)(s + first));
            Assert.True(wrong.Count == 0, $"{what}, safe up to step {safe}: {string.Join("; ", wrong)}");
        }
    }

    /// <summary>A part of a disk.</summary>
    private sealed class PartImage(DiskImage image, long start, long length) : IBlockImage
    {
        public string Name => image.Name;

        public long Length => length;

        public bool IsReadOnly => image.IsReadOnly;

        public bool CanDiscard => image.CanDiscard;

        public ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default) => image.ReadAsync(start + offset, buffers, cancellation);

        public ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default) => image.WriteAsync(start + offset, buffers, cancellation);

        public ValueTask FlushAsync(CancellationToken cancellation = default) => image.FlushAsync(cancellation);

        public ValueTask DiscardAsync(long offset, long count, CancellationToken cancellation = default) => image.DiscardAsync(start + offset, count, cancellation);

        public ValueTask WriteZeroesAsync(long offset, long count, bool mayDiscard, CancellationToken cancellation = default) => image.WriteZeroesAsync(start + offset, count, mayDiscard, cancellation);

        public ValueTask ResizeAsync(long count, CancellationToken cancellation = default) => throw new BlockException(BlockError.Unsupported, "is a part");

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
