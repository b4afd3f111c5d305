using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Tests.Char;
using Sharpvisor.Core;
using Sharpvisor.Core.Block;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Guests;

namespace Sharpvisor.Backends.Tests.Block;

public sealed class BlockDriveTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    private readonly MachineGate _gate = new();
    private readonly RecordingMachine _machine = new();
    private readonly ListLogger _log = new();
    private readonly FaultyImage _image = new();
    private int _tester;

    [Fact]
    public async Task A_request_completes_under_the_gate_and_not_before_its_submitter_has_left_it()
    {
        await using var drive = Make(new DriveOptions());
        var data = new byte[] { 1, 2, 3 };
        using var held = new ManualResetEventSlim();
        bool? underGate = null;
        var request = new BlockRequest(r =>
        {
            underGate = _gate.IsHeld;
            held.Set();
        });
        using (_gate.Enter())
        {
            drive.Submit(request.Write(10, new BlockBuffers(data)));
            Assert.True(request.IsPending);
            Assert.False(held.Wait(20));
        }

        Assert.True(held.Wait(Limit));
        Assert.True(underGate);
        Assert.Equal(data, _image.Bytes.AsSpan(10, 3).ToArray());
    }

    [Theory]
    [InlineData(CacheMode.Writeback, 0, 1)]
    [InlineData(CacheMode.None, 0, 1)]
    [InlineData(CacheMode.Writethrough, 1, 2)]
    [InlineData(CacheMode.DirectSync, 1, 2)]
    [InlineData(CacheMode.Unsafe, 0, 0)]
    public async Task The_cache_mode_says_when_writes_are_safe(CacheMode cache, int afterWrite, int afterFlush)
    {
        await using var drive = Make(new DriveOptions { Cache = cache });
        await Run(drive, r => r.Write(0, new BlockBuffers(new byte[1])));
        Assert.Equal(afterWrite, _image.Flushes);
        await Run(drive, r => r.Flush());
        Assert.Equal(afterFlush, _image.Flushes);
        await Run(drive, r => r.Write(0, new BlockBuffers(new byte[1]), isSafe: true));
        Assert.Equal(cache == CacheMode.Unsafe ? 0 : afterFlush + 1, _image.Flushes);
    }

    [Fact]
    public async Task A_guest_can_switch_the_write_cache_off()
    {
        await using var drive = Make(new DriveOptions());
        Assert.True(drive.WriteCache);
        drive.WriteCache = false;
        await Run(drive, r => r.Write(0, new BlockBuffers(new byte[1])));
        Assert.Equal(1, _image.Flushes);
    }

    [Fact]
    public async Task The_end_of_the_machine_flushes_and_closes()
    {
        var drive = Make(new DriveOptions());
        await Run(drive, r => r.Write(0, new BlockBuffers(new byte[1])));
        await drive.DisposeAsync();
        Assert.Equal((1, 1), (_image.Flushes, _image.Disposals));
    }

    [Theory]
    [InlineData(BlockError.Io, ErrorPolicy.StopWhenFull, BlockError.Io)]
    [InlineData(BlockError.NoSpace, ErrorPolicy.Report, BlockError.NoSpace)]
    [InlineData(BlockError.NoSpace, ErrorPolicy.Ignore, BlockError.None)]
    public async Task An_error_goes_where_the_policy_says(BlockError error, ErrorPolicy policy, BlockError seen)
    {
        await using var drive = Make(new DriveOptions { WriteErrors = policy });
        _image.Error = error;
        Assert.Equal(seen, await Run(drive, r => r.Write(0, new BlockBuffers(new byte[1]))));
        Assert.Empty(_machine.Pauses);
        Assert.Contains(_log.Lines, l => l.Contains("drive0: memory: Write of 1 bytes at 0: it fails", StringComparison.Ordinal));
        _image.Error = BlockError.None;
    }

    [Theory]
    [InlineData(BlockError.NoSpace, ErrorPolicy.StopWhenFull)]
    [InlineData(BlockError.Io, ErrorPolicy.Stop)]
    public async Task A_stopped_write_is_tried_again_and_nothing_is_lost(BlockError error, ErrorPolicy policy)
    {
        await using var drive = Make(new DriveOptions { WriteErrors = policy });
        _image.Error = error;
        var first = Begin(drive, r => r.Write(0, new BlockBuffers(new byte[] { 1 })));
        var second = Begin(drive, r => r.Flush());
        await Until(() => drive.WaitingRequests == 2);
        Assert.Equal(2, _machine.Pauses.Count);
        Assert.Equal("drive0: it fails", _machine.Pauses[0]);
        await drive.DrainAsync(cancelWaiting: false).WaitAsync(Limit); // what waits is not under way
        Assert.False(first.IsCompleted || second.IsCompleted);

        _image.Error = BlockError.None;
        using (_gate.Enter())
            drive.Retry();
        Assert.Equal(BlockError.None, await first.WaitAsync(Limit));
        Assert.Equal(BlockError.None, await second.WaitAsync(Limit));
        Assert.Equal(1, _image.Bytes[0]);
    }

    [Fact]
    public async Task A_read_error_stops_only_when_asked_to()
    {
        await using var drive = Make(new DriveOptions { ReadErrors = ErrorPolicy.Stop });
        _image.Error = BlockError.Io;
        var read = Begin(drive, r => r.Read(0, new BlockBuffers(new byte[1])));
        await Until(() => drive.WaitingRequests == 1);
        await drive.DrainAsync(cancelWaiting: true).WaitAsync(Limit);
        Assert.Equal(BlockError.Canceled, await read.WaitAsync(Limit));
        _image.Error = BlockError.None;
    }

    [Fact]
    public async Task A_drain_waits_for_all_that_is_under_way()
    {
        await using var drive = Make(new DriveOptions());
        _image.Block();
        var reads = Enumerable.Range(0, 20).Select(i => Begin(drive, r => r.Read(i, new BlockBuffers(new byte[1])))).ToArray();
        var drained = drive.DrainAsync(cancelWaiting: false);
        Assert.False(drained.IsCompleted);
        _image.Unblock();
        await drained.WaitAsync(Limit);
        Assert.All(reads, r => Assert.Equal(BlockError.None, r.Result));
    }

    /// <summary>A command of several parts, each begun when the one before has completed.</summary>
    [Fact]
    public async Task A_drain_waits_for_what_a_completion_begins()
    {
        await using var drive = Make(new DriveOptions());
        var completed = 0;
        BlockRequest? request = null;
        request = new BlockRequest(_ =>
        {
            if (++completed > 1)
                return;
            _image.Block();
            drive.Submit(request!.Read(0, new BlockBuffers(new byte[1])));
        });
        _image.Block();
        using (_gate.Enter())
            drive.Submit(request.Read(0, new BlockBuffers(new byte[1])));
        var drained = drive.DrainAsync(cancelWaiting: false);
        _image.Unblock();
        await Until(() => _image.Callers == 2);
        var hasDrained = drained.IsCompleted;
        _image.Unblock();
        Assert.False(hasDrained);
        await drained.WaitAsync(Limit);
        using (_gate.Enter())
            Assert.Equal(2, completed);
    }

    [Fact]
    public async Task A_medium_can_be_changed_while_it_is_read()
    {
        await using var drive = Make(new DriveOptions { IsReadOnly = true });
        var changes = 0;
        drive.MediumChanged += () =>
        {
            Assert.True(_gate.IsHeld);
            changes++;
        };
        _image.Block();
        var read = Begin(drive, r => r.Read(0, new BlockBuffers(new byte[1])));
        await Until(() => _image.Callers == 1);
        var other = new MemoryFile(8192);
        var change = drive.ChangeMediumAsync(new MemoryImage(other, isReadOnly: true));
        Assert.False(drive.HasMedium);
        Assert.Equal(BlockError.NoMedium, await Run(drive, r => r.Read(0, new BlockBuffers(new byte[1]))));
        _image.Unblock();
        await change.WaitAsync(Limit);
        Assert.Equal(BlockError.None, await read.WaitAsync(Limit));
        Assert.Equal((2, 1, 16L), (changes, _image.Disposals, drive.SectorCount));
    }

    [Fact]
    public async Task A_mistake_of_an_image_is_an_error_and_is_told()
    {
        await using var drive = Make(new DriveOptions());
        Exception? told = null;
        drive.Faulted += e => told = e;
        _image.Mistake = new InvalidOperationException("a mistake");
        Assert.Equal(BlockError.Io, await Run(drive, r => r.Read(0, new BlockBuffers(new byte[1]))));
        Assert.Same(_image.Mistake, told);
        _image.Mistake = null;
    }

    private BlockDrive Make(DriveOptions options)
    {
        var drive = new BlockDrive("drive0", _image, options, _log);
        drive.Connect(_gate, _machine);
        return drive;
    }

    private Task<BlockError> Run(BlockDrive drive, Func<BlockRequest, BlockRequest> set) => Begin(drive, set).WaitAsync(Limit);

    private Task<BlockError> Begin(BlockDrive drive, Func<BlockRequest, BlockRequest> set)
    {
        var done = new TaskCompletionSource<BlockError>(TaskCreationOptions.RunContinuationsAsynchronously);
        using (_gate.Enter())
            drive.Submit(set(new BlockRequest(r => done.SetResult(r.Error))));
        return done.Task;
    }

    private static async Task Until(Func<bool> condition)
    {
        for (var i = 0; !condition(); i++)
        {
            Assert.True(i < 3000, "it did not happen in time");
            await Task.Delay(10);
        }
    }

    [Fact]
    public async Task A_read_of_what_is_in_memory_is_done_by_the_thread_that_asked()
    {
        _image.IsCached = true;
        await using var drive = Make(new DriveOptions());
        var thread = 0;
        bool? underGate = null;
        var request = new BlockRequest(_ => (thread, underGate) = (Environment.CurrentManagedThreadId, _gate.IsHeld));
        var data = new byte[512];
        using (_gate.Enter())
        {
            drive.Submit(request.Read(512, new BlockBuffers(data)));
            Assert.True(request.IsPending); // not before the gate is left
        }

        Assert.False(request.IsPending);
        Assert.Equal((Environment.CurrentManagedThreadId, true), (thread, underGate));
        Assert.Equal(_image.Bytes.AsSpan(512, 512).ToArray(), data);
        Assert.Equal(0, _image.Callers); // ReadAsync was not asked
    }

    [Theory]
    [InlineData(false, 512, 1)] // not in memory
    [InlineData(true, (64 << 10) + 512, 1)] // too long
    [InlineData(true, 512, 12)] // many at a time: the first ones only
    public async Task Other_reads_go_to_other_threads(bool isCached, int length, int count)
    {
        _image.IsCached = isCached;
        await using var drive = Make(new DriveOptions());
        using var done = new CountdownEvent(count);
        var here = 0;
        var requests = Enumerable.Range(0, count).Select(_ => new BlockRequest(r =>
        {
            Assert.Equal(BlockError.None, r.Error);
            here += Environment.CurrentManagedThreadId == _tester ? 1 : 0;
            done.Signal();
        })).ToArray();
        _tester = Environment.CurrentManagedThreadId;
        using (_gate.Enter())
        {
            foreach (var request in requests)
                drive.Submit(request.Read(0, new BlockBuffers(new byte[length])));
        }

        Assert.True(done.Wait(Limit));
        Assert.Equal(count == 1 ? 0 : 8, here);
        Assert.Equal(count == 1 ? 1 : 4, _image.Callers);
    }

    [Fact]
    public async Task A_drain_holds_its_thread_until_nothing_moves()
    {
        await using var drive = Make(new DriveOptions());
        _image.Block();
        var request = new BlockRequest(_ => { });
        using (_gate.Enter())
            drive.Submit(request.Read(0, new BlockBuffers(new byte[512])));
        using var began = new ManualResetEventSlim();
        var drained = Task.Factory.StartNew(
            () =>
            {
                using (_gate.Enter())
                {
                    drive.Drain();
                    began.Set();
                }
            },
            CancellationToken.None,
            TaskCreationOptions.LongRunning,
            TaskScheduler.Default);
        Assert.True(began.Wait(Limit));
        await Task.Delay(30);
        Assert.False(drained.IsCompleted);
        _image.Unblock();
        await drained.WaitAsync(Limit);
        Assert.False(request.IsPending);
        using (_gate.Enter())
            drive.Drain(); // with nothing there is nothing to wait for
    }

    [Fact]
    public async Task A_drain_ends_what_waits_for_room()
    {
        await using var drive = Make(new DriveOptions());
        _image.Error = BlockError.NoSpace;
        BlockError? error = null;
        using (_gate.Enter())
            drive.Submit(new BlockRequest(r => error = r.Error).Write(0, new BlockBuffers(new byte[512])));
        Assert.True(SpinWait.SpinUntil(() => drive.WaitingRequests > 0, Limit));
        using (_gate.Enter())
            drive.Drain();
        Assert.Equal(BlockError.Canceled, error);
        // Nor does that end the ones of afterwards.
        using (_gate.Enter())
            drive.Submit(new BlockRequest(r => error = r.Error).Write(0, new BlockBuffers(new byte[512])));
        Assert.True(SpinWait.SpinUntil(() => drive.WaitingRequests > 0, Limit));
    }

    private sealed class FaultyImage() : MemoryImage(new MemoryFile(128 << 10))
    {
        private readonly ManualResetEventSlim _free = new(true);
        private int _callers;

        public bool IsCached { get; set; }

        public BlockError Error { get; set; }

        public Exception? Mistake { get; set; }

        public int Flushes { get; private set; }

        public int Disposals { get; private set; }

        public int Callers => Volatile.Read(ref _callers);

        public byte[] Bytes => File.Bytes;

        public void Block() => _free.Reset();

        public void Unblock() => _free.Set();

        public override bool TryReadAtOnce(long offset, BlockBuffers buffers)
        {
            if (IsCached)
                buffers.CopyFrom(Bytes.AsSpan((int)offset, buffers.Length));
            return IsCached;
        }

        public override ValueTask ReadAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
        {
            Interlocked.Increment(ref _callers);
            _free.Wait(cancellation);
            Fail();
            return base.ReadAsync(offset, buffers, cancellation);
        }

        public override ValueTask WriteAsync(long offset, BlockBuffers buffers, CancellationToken cancellation = default)
        {
            Fail();
            return base.WriteAsync(offset, buffers, cancellation);
        }

        public override ValueTask FlushAsync(CancellationToken cancellation = default)
        {
            Fail();
            Flushes++;
            return base.FlushAsync(cancellation);
        }

        public override ValueTask DisposeAsync()
        {
            Disposals++;
            return base.DisposeAsync();
        }

        private void Fail()
        {
            if (Mistake is not null)
                throw Mistake;
            if (Error != BlockError.None)
                throw new BlockException(Error, "it fails");
        }
    }
}
