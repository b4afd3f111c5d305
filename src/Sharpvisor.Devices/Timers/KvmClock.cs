// kvmclock: the paravirtual clock of one processor.
// Follows: Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW and the old
// numbers), cpuid.rst; the layouts of pvclock_wall_clock and pvclock_vcpu_time_info.
// Leaves out: asynchronous page faults, steal time, PV EOI, the poll and migration MSRs, which CPUID must not offer.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Timers;

/// <summary>The kvmclock MSRs of one processor. The guest's structure holds system time as a function of its TSC.</summary>
public sealed class KvmClock : IMsrDevice, ITscFollower, IResettable
{
    private const uint MsrWallClockOld = 0x11, MsrSystemTimeOld = 0x12;
    private const uint MsrWallClock = 0x4B56_4D00, MsrSystemTime = 0x4B56_4D01;
    private const byte TscStable = 1;

    // ns = (tsc << shift) * multiplier >> 32: for a TSC of 1 GHz a factor of one, which needs a shift to fit.
    private const uint TscToSystemMultiplier = 1u << 31;
    private const sbyte TscShift = 1;

    private readonly Clock _clock;
    private readonly GuestMemory _memory;
    private ulong _wallClock, _systemTime;
    private uint _version;
    private long _tscOffset;

    public KvmClock(Clock clock, GuestMemory memory)
    {
        _clock = clock;
        _memory = memory;
    }

    public long TscOffset
    {
        get => _tscOffset;
        set
        {
            _tscOffset = value;
            UpdateSystemTime();
        }
    }

    public void Reset() => _wallClock = _systemTime = 0;

    public bool TryReadMsr(uint msr, out ulong value)
    {
        switch (msr)
        {
            case MsrWallClock or MsrWallClockOld:
                value = _wallClock;
                return true;
            case MsrSystemTime or MsrSystemTimeOld:
                value = _systemTime;
                return true;
            default:
                value = 0;
                return false;
        }
    }

    public bool TryWriteMsr(uint msr, ulong value)
    {
        switch (msr)
        {
            case MsrWallClock or MsrWallClockOld:
                _wallClock = value;
                WriteWallClock();
                return true;
            case MsrSystemTime or MsrSystemTimeOld:
                _systemTime = value;
                UpdateSystemTime();
                return true;
            default:
                return false;
        }
    }

    /// <summary>
    /// Writes the processor's time anew: after time has stood still or the TSC has changed. While the version is odd
    /// the guest does not use what it reads. An address that is not RAM is ignored, as KVM does.
    /// </summary>
    public void UpdateSystemTime()
    {
        if ((_systemTime & 1) == 0)
            return;
        var address = _systemTime & ~1UL;
        if (!_memory.IsRam(address, 32))
            return;
        var now = _clock.NowNs;
        _version += 2;
        BeginUpdate(address);
        _memory.TryWrite(address + 8, (ulong)(now + _tscOffset));
        _memory.TryWrite(address + 16, (ulong)now);
        _memory.TryWrite(address + 24, TscToSystemMultiplier);
        _memory.TryWrite(address + 28, (uint)(byte)TscShift | (TscStable << 8));
        EndUpdate(address);
    }

    /// <summary>pvclock_wall_clock: the UTC time at which system time was zero.</summary>
    private void WriteWallClock()
    {
        if (!_memory.IsRam(_wallClock, 12))
            return;
        var (seconds, ns) = Math.DivRem(_clock.UnixEpochNs, 1_000_000_000);
        _version += 2;
        BeginUpdate(_wallClock);
        _memory.TryWrite(_wallClock + 4, (uint)seconds);
        _memory.TryWrite(_wallClock + 8, (uint)ns);
        EndUpdate(_wallClock);
    }

    private void BeginUpdate(ulong address)
    {
        _memory.TryWrite(address, _version - 1);
        Interlocked.MemoryBarrier();
    }

    private void EndUpdate(ulong address)
    {
        Interlocked.MemoryBarrier();
        _memory.TryWrite(address, _version);
    }
}
