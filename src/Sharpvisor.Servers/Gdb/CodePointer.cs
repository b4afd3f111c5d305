// Program counters of code with a segment base: gdb's registers have RIP, its breakpoints linear addresses.
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Servers.Gdb;

/// <summary>
/// Where a processor executes, as a linear address: CS base + RIP. gdb knows one kind of address: it compares the program
/// counter with its breakpoints and reads memory there, so that it must get this one. In 64-bit and flat code it is RIP.
/// </summary>
internal static class CodePointer
{
    public const int Es = 0, Cs = 1, Ss = 2, Ds = 3, Fs = 4, Gs = 5;

    private const ulong LongModeActive = 1 << 10;

    public static ulong Get(in CpuState state)
    {
        if (Is64(in state))
            return state.Rip;
        return (uint)(state.Segments[Cs].Base + state.Rip);
    }

    public static void Set(ref CpuState state, ulong linear) =>
        state.Rip = Is64(in state) ? linear : (uint)(linear - state.Segments[Cs].Base);

    /// <summary>Where the stack ends, as a linear address.</summary>
    public static ulong GetStack(in CpuState state)
    {
        if (Is64(in state))
            return state.Gpr[4];
        var ss = state.Segments[Ss];
        return (uint)(ss.Base + (ss.Big ? (uint)state.Gpr[4] : (ushort)state.Gpr[4]));
    }

    private static bool Is64(in CpuState state) => (state.Efer & LongModeActive) != 0 && state.Segments[Cs].Long;
}
