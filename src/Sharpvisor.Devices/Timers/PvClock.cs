// The structures by which hypervisors tell a guest the time: pvclock_vcpu_time_info and pvclock_wall_clock.
// Follows: Linux Documentation/virt/kvm/x86/msr.rst; Xen's public header xen.h (vcpu_time_info), which has the same layout.

using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Timers;

/// <summary>Writes them. While a version is odd the guest does not use what it reads.</summary>
internal static class PvClock
{
    /// <summary>Bytes of pvclock_vcpu_time_info.</summary>
    public const int TimeLength = 32;

    private const byte TscStable = 1;

    // ns = (tsc << shift) * multiplier >> 32: for a TSC of 1 GHz a factor of one, which needs a shift to fit.
    private const uint TscToSystemMultiplier = 1u << 31;
    private const sbyte TscShift = 1;

    /// <summary>System time as a function of a processor's TSC.</summary>
    /// <param name="version">Even; another one than before.</param>
    /// <param name="tscOffset">Guest TSC less machine time.</param>
    public static void WriteTime(GuestMemory memory, ulong address, uint version, long nowNs, long tscOffset)
    {
        BeginUpdate(memory, address, version);
        memory.TryWrite(address + 8, (ulong)(nowNs + tscOffset));
        memory.TryWrite(address + 16, (ulong)nowNs);
        memory.TryWrite(address + 24, TscToSystemMultiplier);
        memory.TryWrite(address + 28, (uint)(byte)TscShift | (TscStable << 8));
        EndUpdate(memory, address, version);
    }

    /// <summary>The UTC time at which system time was zero.</summary>
    /// <param name="epochNs">In nanoseconds since 1970.</param>
    public static void WriteWallClock(GuestMemory memory, ulong address, uint version, long epochNs)
    {
        var (seconds, ns) = Math.DivRem(epochNs, 1_000_000_000);
        BeginUpdate(memory, address, version);
        memory.TryWrite(address + 4, (uint)seconds);
        memory.TryWrite(address + 8, (uint)ns);
        EndUpdate(memory, address, version);
    }

    private static void BeginUpdate(GuestMemory memory, ulong address, uint version)
    {
        memory.TryWrite(address, version - 1);
        Interlocked.MemoryBarrier();
    }

    private static void EndUpdate(GuestMemory memory, ulong address, uint version)
    {
        Interlocked.MemoryBarrier();
        memory.TryWrite(address, version);
    }
}
