using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Conformance.Fuzzing;

namespace Conformance.Native;

/// <summary>The <c>gregs</c> of Linux's x86-64 <c>mcontext_t</c>.</summary>
[InlineArray(Count)]
internal struct SignalRegisters
{
    public const int Count = 23;
    public const int Rip = 16, Efl = 17, Selectors = 18, Err = 19, Trapno = 20, Cr2 = 22;

    /// <summary>Where a general register, in encoding order, is found.</summary>
    public static ReadOnlySpan<byte> OfGpr => [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];

    private ulong _r8;
}

/// <summary>What the generated code loads from and stores to. It lies below 2 GiB: addressed absolutely.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct NativeContext
{
    public CpuImage Cpu;
    public ulong HostRsp;
    public uint HostMxcsr;
    public uint HostFcw;

    /// <summary>Segments of code that is not of 64 bits, and where it starts: offset and selector.</summary>
    public ushort Es, Ss, Ds, Gs;
    public uint FarOffset;
    public ushort FarSelector;
    private readonly ushort _padding;

    /// <summary>Set by the signal handler.</summary>
    public ulong Faulted;
    public SignalRegisters Signal;

    /// <summary>The handlers that were there before, by signal number.</summary>
    public PreviousHandlers Previous;

    [InlineArray(32)]
    internal struct PreviousHandlers
    {
        private nint _first;
    }
}
