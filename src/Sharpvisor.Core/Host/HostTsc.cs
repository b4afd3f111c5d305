// The time-stamp counter of the host's processors (Intel SDM vol. 3, 18.17; RDTSC in vol. 2). .NET has no intrinsic for
// it: it is read by a few bytes of code of our own.
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Host;

/// <summary>The host's TSC, where the host's own kernel tells time by it.</summary>
public static unsafe class HostTsc
{
    private static readonly delegate* unmanaged[SuppressGCTransition]<ulong> s_read = MakeReader();

    /// <summary>
    /// It counts at one rate in all states of the processor (CPUID 80000007h:EDX[8]), and Linux uses it as its clock,
    /// which says that it is the same on all processors.
    /// </summary>
    public static bool IsClock => s_read != null;

    /// <summary>Only where <see cref="IsClock"/>. In order with the instructions around it.</summary>
    public static ulong Read() => s_read();

    private static delegate* unmanaged[SuppressGCTransition]<ulong> MakeReader()
    {
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64 || !IsInvariant() || !IsClockSource())
            return null;
        try
        {
            HostMemory.ReserveCode(4096, out var writable, out var executable);
            ReadOnlySpan<byte> code = [0x0F, 0xAE, 0xE8, 0x0F, 0x31, 0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0, 0x0F, 0xAE, 0xE8, 0xC3]; // lfence; rdtsc; shl rdx, 32; or rax, rdx; lfence; ret
            code.CopyTo(new Span<byte>(writable, code.Length));
            HostMemory.Release(writable, 4096);
            return (delegate* unmanaged[SuppressGCTransition]<ulong>)executable;
        }
        catch (ConfigurationException)
        {
            return null; // no generated code in this process
        }
    }

    private static bool IsInvariant() =>
        X86Base.IsSupported && (uint)X86Base.CpuId(unchecked((int)0x8000_0000), 0).Eax >= 0x8000_0007
        && (X86Base.CpuId(unchecked((int)0x8000_0007), 0).Edx & 0x100) != 0;

    private static bool IsClockSource()
    {
        try
        {
            return File.ReadAllText("/sys/devices/system/clocksource/clocksource0/current_clocksource").Trim() == "tsc";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }
}
