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
        _version += 2;
        PvClock.WriteTime(_memory, address, _version, _clock.NowNs, _tscOffset);
    }

    /// <summary>pvclock_wall_clock: the UTC time at which system time was zero.</summary>
    private void WriteWallClock()
    {
        if (!_memory.IsRam(_wallClock, 12))
            return;
        _version += 2;
        PvClock.WriteWallClock(_memory, _wallClock, _version, _clock.UnixEpochNs);
    }
}
