using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;
using Sharpvisor.Servers.Gdb;

namespace Sharpvisor.Servers.Tests.Gdb;

/// <summary>
/// A machine without processors: memory from 0 on with a hole, no paging, and a record of what was asked for. The test
/// decides when it stops.
/// </summary>
internal sealed class FakeTarget(int processors = 2) : IGdbTarget
{
    public const int MemorySize = 1 << 20, HoleStart = 0x3000, HoleEnd = 0x4000;

    private readonly Lock _lock = new();
    private readonly TaskCompletionSource<int> _exit = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<string> _log = [];
    private bool _isStopped;

    public event Action<DebugStop>? Stopped;

    public byte[] Memory { get; } = new byte[MemorySize];

    public CpuState[] States { get; } = MakeStates(processors);

    public Task Started { get; init; } = Task.CompletedTask;

    public Task<int> Exit => _exit.Task;

    public int ProcessorCount => processors;

    public Lock Turn { get; } = new();

    public bool IsStopped
    {
        get
        {
            lock (_lock)
                return _isStopped;
        }
    }

    public DebugStop LastStop { get; private set; }

    /// <summary>The guest has powered off: only a reset lets it go on.</summary>
    public bool IsShutDown { get; set; }

    /// <summary>Called, without a lock, whenever the processors go on.</summary>
    public Action<FakeTarget>? OnResumed { get; set; }

    public string[] Log
    {
        get
        {
            lock (_lock)
                return [.. _log];
        }
    }

    public int ResumeCount { get; private set; }

    public Task StopAsync()
    {
        Halt(new DebugStop(DebugStopKind.Paused, 0));
        return Task.CompletedTask;
    }

    public Task ContinueAsync(IReadOnlyDictionary<int, Resumption> resumptions)
    {
        if (IsShutDown)
            return Task.FromException(new InvalidOperationException("the guest has powered off"));
        lock (_lock)
        {
            _isStopped = false;
            ResumeCount++;
            _log.Add("continue " + string.Join(' ', resumptions.OrderBy(r => r.Key).Select(r => $"{r.Key}:{r.Value.Mode}" + (r.Value.RangeEnd != 0 ? $"({r.Value.RangeStart:x}-{r.Value.RangeEnd:x})" : ""))));
        }

        OnResumed?.Invoke(this);
        return Task.CompletedTask;
    }

    public Task ResetAsync()
    {
        Note("reset");
        return Task.CompletedTask;
    }

    public void Kill()
    {
        Note("kill");
        End(0);
    }

    public void End(int code) => _exit.TrySetResult(code);

    /// <summary>What the machine itself stops for.</summary>
    public void Halt(DebugStop stop)
    {
        lock (_lock)
        {
            if (_isStopped)
                return;
            _isStopped = true;
            LastStop = stop;
        }

        Stopped?.Invoke(stop);
    }

    public CpuState GetState(int processor) => IsStopped ? States[processor] : throw new InvalidOperationException("it runs");

    public void SetState(int processor, in CpuState state) => States[processor] = IsStopped ? state : throw new InvalidOperationException("it runs");

    public int ReadPhysical(ulong physical, Span<byte> destination)
    {
        var count = Reach(physical, destination.Length);
        Memory.AsSpan((int)Math.Min(physical, MemorySize), count).CopyTo(destination);
        return count;
    }

    public int WritePhysical(ulong physical, ReadOnlySpan<byte> source)
    {
        var count = Reach(physical, source.Length);
        source[..count].CopyTo(Memory.AsSpan((int)Math.Min(physical, MemorySize)));
        return count;
    }

    public int WriteLinear(int processor, ulong linear, ReadOnlySpan<byte> source) => WritePhysical(linear, source);

    public void InsertBreakpoint(ulong linear) => Note($"+{linear:x}");

    public bool RemoveBreakpoint(ulong linear)
    {
        Note($"-{linear:x}");
        return true;
    }

    public void InsertWatchpoint(WatchKind kind, ulong linear, ulong length) => Note($"+{kind} {linear:x},{length}");

    public bool RemoveWatchpoint(WatchKind kind, ulong linear, ulong length)
    {
        Note($"-{kind} {linear:x},{length}");
        return true;
    }

    private static CpuState[] MakeStates(int count)
    {
        var states = new CpuState[count];
        for (var i = 0; i < count; i++)
        {
            states[i].Efer = 0x500;
            states[i].Rip = 0x1000 + (ulong)i;
            states[i].Rflags = 2;
            states[i].Segments[1] = new SegmentRegister { Selector = 8, Attributes = 0xA09B };
            for (var r = 0; r < 16; r++)
                states[i].Gpr[r] = 0x0101_0101_0101_0101 * (ulong)r;
        }

        return states;
    }

    private static int Reach(ulong physical, int length)
    {
        if (physical >= MemorySize || physical is >= HoleStart and < HoleEnd)
            return 0;
        var end = physical < HoleStart ? HoleStart : MemorySize;
        return (int)Math.Min((ulong)length, (ulong)end - physical);
    }

    private void Note(string text)
    {
        lock (_lock)
            _log.Add(text);
    }
}
