// LOCK CMPXCHG16B on the host: .NET has no 128-bit compare and exchange.
// Specification: Intel SDM vol. 2, CMPXCHG16B. Left out: hosts other than x86-64, where it is not atomic.

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>Atomic operations that .NET does not offer.</summary>
internal static unsafe class HostAtomics
{
    private static readonly Lock s_lock = new();

    /// <summary>push rbx; mov rbx, [rsi+16]; mov rcx, [rsi+24]; mov rax, [rsi]; mov rdx, [rsi+8]; lock cmpxchg16b [rdi]; mov [rsi], rax; mov [rsi+8], rdx; setz al; movzx eax, al; pop rbx; ret.</summary>
    private static readonly delegate* unmanaged[SuppressGCTransition]<byte*, ulong*, int> s_exchange = HostThunks.IsSupported
        ? (delegate* unmanaged[SuppressGCTransition]<byte*, ulong*, int>)HostThunks.AddForever(
        [
            0x53, 0x48, 0x8B, 0x5E, 0x10, 0x48, 0x8B, 0x4E, 0x18, 0x48, 0x8B, 0x06, 0x48, 0x8B, 0x56, 0x08,
            0xF0, 0x48, 0x0F, 0xC7, 0x0F, 0x48, 0x89, 0x06, 0x48, 0x89, 0x56, 0x08, 0x0F, 0x94, 0xC0, 0x0F, 0xB6, 0xC0, 0x5B, 0xC3,
        ])
        : null;

    /// <summary>Compares 16 aligned bytes with low and high and, if equal, replaces them; else low and high become what is there.</summary>
    public static bool CompareExchange16(byte* p, ref ulong low, ref ulong high, ulong newLow, ulong newHigh)
    {
        var values = stackalloc ulong[4] { low, high, newLow, newHigh };
        if (s_exchange != null)
        {
            var equal = s_exchange(p, values) != 0;
            low = values[0];
            high = values[1];
            return equal;
        }

        lock (s_lock)
        {
            var q = (ulong*)p;
            var same = q[0] == low && q[1] == high;
            (low, high) = (q[0], q[1]);
            if (same)
                (q[0], q[1]) = (newLow, newHigh);
            return same;
        }
    }
}
