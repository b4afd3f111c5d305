// What a virtual processor has done with its time: it ran, waited for a processor of the host, had nothing to do, or was off.
// Follows: Xen's public header vcpu.h (vcpu_runstate_info, XEN_RUNSTATE_UPDATE), common/sched/core.c's behaviour.
// Waiting for the host (RUNSTATE_runnable, a guest's "steal") is what the host's scheduler says of the thread; it is looked
// at when the processor wakes up and with its timer. A machine that is stopped has no time.
// Differs: Xen counts the time before a processor is first started as off, which Linux takes for stolen; here it does not count.

using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Xen;

/// <summary>RUNSTATE_* of one processor. Used with the machine's gate held.</summary>
public sealed class XenRunstate
{
    /// <summary>Bytes of vcpu_runstate_info for callers of 64 and of 32 bits, whose fields of 64 bits are aligned otherwise.</summary>
    public const int Length = 48, Length32 = 44;

    private const int Running = 0, Runnable = 1, Blocked = 2, Offline = 3;
    private const ulong Update = 1UL << 63;

    /// <summary>How often the host is asked at most: it takes a microsecond.</summary>
    private const long SampleNs = 1_000_000;

    private readonly GuestMemory _memory;
    private readonly Clock _clock;
    private readonly long[] _times = new long[4];
    private int _state = Offline;

    /// <summary>When it came into its state, and up to when the time in it has been counted.</summary>
    private long _entered, _counted;

    private bool _wasStarted;
    private Func<long>? _hostDelay;
    private long _delay, _sampled;
    private ulong _area;
    private bool _is64;

    internal XenRunstate(GuestMemory memory, Clock clock)
    {
        _memory = memory;
        _clock = clock;
    }

    /// <summary>It waits for another processor to start it, or has halted for good.</summary>
    public bool IsOff => _state == Offline;

    /// <summary>The domain has asked for XEN_RUNSTATE_UPDATE to be set while its copy is being written: VMASST_TYPE_runstate_update_flag.</summary>
    public bool MarksUpdates { get; set; }

    /// <summary>How long the host has kept the processor waiting up to now, in ns. Null: it does not tell.</summary>
    public Func<long>? HostDelay
    {
        get => _hostDelay;
        set
        {
            _hostDelay = value;
            _delay = value?.Invoke() ?? 0;
        }
    }

    /// <summary>A new domain: no time has passed.</summary>
    /// <param name="isOff">The processor waits to be started.</param>
    public void Reset(bool isOff)
    {
        Array.Clear(_times);
        _state = isOff ? Offline : Running;
        _wasStarted = !isOff;
        _entered = _counted = _clock.NowNs;
        _delay = _hostDelay?.Invoke() ?? 0;
        Release();
    }

    /// <summary>The domain has no copy of it any more.</summary>
    public void Release()
    {
        _area = 0;
        MarksUpdates = false;
    }

    /// <summary>From now on the processor does something else.</summary>
    public void Change(ProcessorActivity activity)
    {
        var state = activity switch { ProcessorActivity.Running => Running, ProcessorActivity.Halted => Blocked, _ => Offline };
        if (state == _state)
            return;
        if (_state == Blocked)
            MoveDelay();
        else if (_state == Offline)
            _delay = _hostDelay?.Invoke() ?? 0; // nobody waited for it
        Count();
        _state = state;
        _wasStarted |= state == Running;
        _entered = _counted;
        WriteArea();
    }

    /// <summary>Asks the host about a processor that may have been running for long.</summary>
    public void Look()
    {
        if (_state != Running || !MoveDelay())
            return;
        _entered = _counted;
        WriteArea();
    }

    /// <summary>The guest-physical address where the domain wants a copy that is always up to date; 0: nowhere.</summary>
    public void SetArea(ulong address, bool is64)
    {
        _area = address;
        _is64 = is64;
        WriteArea();
    }

    /// <summary>vcpu_runstate_info of this moment.</summary>
    public byte[] Get(bool is64)
    {
        Look();
        Count();
        return Format(is64, 0);
    }

    private void Count()
    {
        var now = _clock.NowNs;
        if (_wasStarted)
            _times[_state] += now - _counted;
        _counted = now;
    }

    /// <summary>Counts up to now, of which the time that the host made the processor wait is another state's.</summary>
    /// <returns>False: it was not asked again so soon, or has kept nobody waiting.</returns>
    private bool MoveDelay()
    {
        var now = _clock.NowNs;
        if (_hostDelay is null || now - _sampled < SampleNs)
            return false;
        _sampled = now;
        var waited = _hostDelay();
        var delay = Math.Min(waited - _delay, now - _counted);
        _delay = waited;
        if (delay <= 0)
            return false;
        _times[_state] += now - _counted - delay;
        _times[Runnable] += delay;
        _counted = now;
        return true;
    }

    private void WriteArea()
    {
        const uint entry64 = 8, entry32 = 4, highHalf = 4;
        if (_area == 0)
            return;
        if (!MarksUpdates)
        {
            _memory.TryWrite(_area, Format(_is64, 0));
            return;
        }

        // Whoever reads it sees that it is changing, or that it has changed.
        var mark = _area + (_is64 ? entry64 : entry32) + highHalf;
        _memory.TryWrite(mark, (uint)((ulong)_entered >> 32) | (uint)(Update >> 32));
        Interlocked.MemoryBarrier();
        _memory.TryWrite(_area, Format(_is64, Update));
        Interlocked.MemoryBarrier();
        _memory.TryWrite(mark, (uint)((ulong)_entered >> 32));
    }

    private byte[] Format(bool is64, ulong mark)
    {
        var info = new byte[is64 ? Length : Length32];
        BinaryPrimitives.WriteInt32LittleEndian(info, _state);
        var fields = info.AsSpan(is64 ? 8 : 4);
        BinaryPrimitives.WriteUInt64LittleEndian(fields, (ulong)_entered | mark);
        for (var i = 0; i < _times.Length; i++)
            BinaryPrimitives.WriteInt64LittleEndian(fields[(8 * (i + 1))..], _times[i]);
        return info;
    }
}
