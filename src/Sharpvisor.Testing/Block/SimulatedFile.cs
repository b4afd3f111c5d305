// A file of the host in memory that remembers what was done to it, in order: so a test can have what would be there if the
// process or the host had ended at any point, and fail any operation.
// Leaves out: what a host does worse than to lose or tear writes that were not synced: to return other bytes.
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Testing.Block;

/// <summary>What a <see cref="SimulatedFile"/> is asked to do.</summary>
public enum FileOperation
{
    Write,

    /// <summary>Of zeroes that take room.</summary>
    Zero,
    Punch,
    SetLength,
    Sync,
}

/// <summary>A file that a test can look at in every state it has been in.</summary>
public sealed class SimulatedFile : IHostFile
{
    private const int PageSize = 4096, SectorSize = IBlockImage.SectorSize;

    private readonly object _lock = new();
    private readonly Contents _start;
    private readonly Contents _now;
    private readonly List<Step> _log = [];

    // What was made of the beginning of the log last time.
    private Contents _replayed;
    private int _replayedSteps;

    public SimulatedFile(ReadOnlySpan<byte> bytes) : this(Contents.Of(bytes))
    {
    }

    private SimulatedFile(Contents contents)
    {
        _start = contents;
        (_now, _replayed) = (contents.Clone(), contents.Clone());
    }

    public bool IsBlockDevice => false;

    public int Alignment { get; init; } = 1;

    /// <summary>What the host has room for, in bytes. Writes that need more fail, with as much written as there is room for.</summary>
    public long Room { get; set; } = long.MaxValue;

    /// <summary>Asked before each operation, with how many there were; what it returns is thrown.</summary>
    public Func<FileOperation, int, BlockException?>? Fails { get; set; }

    /// <summary>Called by each read.</summary>
    public Action<long>? Reading { get; set; }

    /// <summary>Operations that have changed something, or were a sync.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
                return _log.Count;
        }
    }

    public long Length
    {
        get
        {
            lock (_lock)
                return _now.Length;
        }
    }

    public long AllocatedBytes
    {
        get
        {
            lock (_lock)
                return _now.Pages.Count * (long)PageSize;
        }
    }

    public byte[] ToArray()
    {
        lock (_lock)
        {
            var bytes = new byte[_now.Length];
            _now.Read(0, bytes);
            return bytes;
        }
    }

    /// <summary>The file when the process is killed after a number of operations.</summary>
    public SimulatedFile AfterKill(int count)
    {
        lock (_lock)
            return new SimulatedFile(Replay(count).Clone());
    }

    /// <summary>The file when the host loses power after a number of operations: of those since the last sync some are there, some not, some in part.</summary>
    public SimulatedFile AfterPowerFailure(int count, Random random)
    {
        lock (_lock)
        {
            var synced = count;
            while (synced > 0 && _log[synced - 1].Operation != FileOperation.Sync)
                synced--;
            var contents = Replay(synced).Clone();
            // Many are there or few; or one is lost; or one alone is there, such as the last.
            var (kept, one) = (random.Next(101), random.Next(2) == 0 ? count - 1 : synced + random.Next(Math.Max(1, count - synced)));
            var isKept = random.Next(3) switch
            {
                0 => i => i == one,
                1 => i => i != one,
                _ => (Func<int, bool>)(_ => random.Next(100) < kept),
            };
            for (var i = synced; i < count; i++)
            {
                var step = _log[i];
                if (isKept(i))
                    step.Apply(contents);
                else if (step.Data is { Length: > SectorSize } data && random.Next(2) == 0)
                    Tear(contents, step.Offset, data, random);
            }

            return new SimulatedFile(contents);
        }
    }

    public bool IsData(long offset, out long end)
    {
        lock (_lock)
        {
            var isData = offset < _now.Length && _now.Pages.ContainsKey(offset / PageSize);
            for (end = offset; end < _now.Length && _now.Pages.ContainsKey(end / PageSize) == isData;)
                end = (end / PageSize * PageSize) + PageSize;
            end = Math.Max(offset, Math.Min(end, _now.Length));
            return isData;
        }
    }

    public bool IsAligned(long offset, BlockBuffers buffers) => ((offset | (long)buffers.Length) & (Alignment - 1)) == 0;

    public int Read(long offset, BlockBuffers buffers)
    {
        Reading?.Invoke(offset);
        var done = 0;
        lock (_lock)
        {
            RequireAligned(offset, buffers);
            foreach (var piece in buffers)
            {
                var count = (int)Math.Clamp(_now.Length - offset - done, 0, piece.Length);
                _now.Read(offset + done, piece.Span[..count]);
                done += count;
            }
        }

        return done;
    }

    public bool TryReadCached(long offset, BlockBuffers buffers) => Read(offset, buffers) == buffers.Length;

    public void Write(long offset, BlockBuffers buffers)
    {
        var data = new byte[buffers.Length];
        buffers.CopyTo(data);
        lock (_lock)
        {
            RequireAligned(offset, buffers);
            Begin(FileOperation.Write);
            var fits = Fitting(offset, data.Length);
            if (fits > 0)
                Do(new Step(FileOperation.Write, offset, fits, data[..fits]));
            if (fits < data.Length)
                throw new BlockException(BlockError.NoSpace, "no space left on device");
        }
    }

    public void Sync()
    {
        lock (_lock)
        {
            Begin(FileOperation.Sync);
            Do(new Step(FileOperation.Sync, 0, 0, null));
        }
    }

    public bool TryPunchHole(long offset, long length)
    {
        lock (_lock)
        {
            Begin(FileOperation.Punch);
            Do(new Step(FileOperation.Punch, offset, Math.Clamp(_now.Length - offset, 0, length), null));
            return true;
        }
    }

    public bool TryZeroRange(long offset, long length)
    {
        lock (_lock)
        {
            Begin(FileOperation.Zero);
            if (Fitting(offset, length) < length)
                throw new BlockException(BlockError.NoSpace, "no space left on device");
            Do(new Step(FileOperation.Zero, offset, length, null));
            return true;
        }
    }

    public void SetLength(long length)
    {
        lock (_lock)
        {
            Begin(FileOperation.SetLength);
            Do(new Step(FileOperation.SetLength, 0, length, null));
        }
    }

    public void Dispose()
    {
    }

    private static void Tear(Contents contents, long offset, byte[] data, Random random)
    {
        // By sectors of the disk below, of which each is written or not.
        for (var at = 0; at < data.Length;)
        {
            var next = (int)Math.Min(data.Length, ((offset + at) / SectorSize * SectorSize) + SectorSize - offset);
            if (random.Next(2) == 0)
                contents.Write(offset + at, data.AsSpan(at, next - at));
            at = next;
        }
    }

    private void Begin(FileOperation operation)
    {
        if (Fails?.Invoke(operation, _log.Count) is { } error)
            throw error;
    }

    private void Do(Step step)
    {
        step.Apply(_now);
        _log.Add(step);
    }

    /// <summary>As many bytes as there is room for.</summary>
    private int Fitting(long offset, long length)
    {
        var room = (Room / PageSize) - _now.Pages.Count;
        for (var at = offset; at < offset + length; at = (at / PageSize * PageSize) + PageSize)
        {
            if (!_now.Pages.ContainsKey(at / PageSize) && --room < 0)
                return (int)(at - offset);
        }

        return (int)length;
    }

    private Contents Replay(int count)
    {
        if (count < _replayedSteps)
            (_replayed, _replayedSteps) = (_start.Clone(), 0);
        for (; _replayedSteps < count; _replayedSteps++)
            _log[_replayedSteps].Apply(_replayed);
        return _replayed;
    }

    private void RequireAligned(long offset, BlockBuffers buffers)
    {
        if (!IsAligned(offset, buffers))
            throw new BlockException("invalid argument");
    }

    private sealed record Step(FileOperation Operation, long Offset, long Length, byte[]? Data)
    {
        public void Apply(Contents contents)
        {
            switch (Operation)
            {
                case FileOperation.Write:
                    contents.Write(Offset, Data);
                    break;
                case FileOperation.Zero:
                    contents.Zero(Offset, Length, takesRoom: true);
                    break;
                case FileOperation.Punch:
                    contents.Zero(Offset, Length, takesRoom: false);
                    break;
                case FileOperation.SetLength:
                    contents.SetLength(Length);
                    break;
            }
        }
    }

    /// <summary>Pages, which never change: copies share them.</summary>
    private sealed class Contents
    {
        public Dictionary<long, byte[]> Pages { get; private init; } = [];

        public long Length { get; private set; }

        public static Contents Of(ReadOnlySpan<byte> bytes)
        {
            var contents = new Contents();
            for (var at = 0; at < bytes.Length; at += PageSize)
            {
                var page = bytes[at..Math.Min(at + PageSize, bytes.Length)];
                if (page.ContainsAnyExcept((byte)0))
                    contents.Write(at, page);
            }

            contents.SetLength(bytes.Length);
            return contents;
        }

        public Contents Clone() => new() { Pages = new Dictionary<long, byte[]>(Pages), Length = Length };

        public void Read(long offset, Span<byte> destination)
        {
            while (destination.Length > 0)
            {
                var inPage = (int)(offset % PageSize);
                var count = Math.Min(PageSize - inPage, destination.Length);
                if (Pages.TryGetValue(offset / PageSize, out var page))
                    page.AsSpan(inPage, count).CopyTo(destination);
                else
                    destination[..count].Clear();
                offset += count;
                destination = destination[count..];
            }
        }

        public void Write(long offset, ReadOnlySpan<byte> data)
        {
            Length = Math.Max(Length, offset + data.Length);
            while (data.Length > 0)
            {
                var inPage = (int)(offset % PageSize);
                var count = Math.Min(PageSize - inPage, data.Length);
                data[..count].CopyTo(Change(offset / PageSize).AsSpan(inPage));
                offset += count;
                data = data[count..];
            }
        }

        public void Zero(long offset, long length, bool takesRoom)
        {
            if (takesRoom)
                Length = Math.Max(Length, offset + length);
            while (length > 0)
            {
                var inPage = (int)(offset % PageSize);
                var count = (int)Math.Min(PageSize - inPage, length);
                if (!takesRoom && count == PageSize)
                    Pages.Remove(offset / PageSize);
                else if (takesRoom || Pages.ContainsKey(offset / PageSize))
                    Change(offset / PageSize).AsSpan(inPage, count).Clear();
                (offset, length) = (offset + count, length - count);
            }
        }

        public void SetLength(long length)
        {
            if (length < Length)
            {
                foreach (var page in Pages.Keys.Where(p => p * PageSize >= length).ToArray())
                    Pages.Remove(page);
                var last = length / PageSize;
                if (Pages.ContainsKey(last))
                    Change(last).AsSpan((int)(length % PageSize)).Clear();
            }

            Length = length;
        }

        private byte[] Change(long page) => Pages[page] = Pages.TryGetValue(page, out var old) ? (byte[])old.Clone() : new byte[PageSize];
    }
}
