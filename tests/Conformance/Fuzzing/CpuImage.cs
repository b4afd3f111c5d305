using System.Runtime.InteropServices;
using Sharpvisor.Cpu.State;

namespace Conformance.Fuzzing;

/// <summary>The registers that user code can see, as both processors are loaded with and give back.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct CpuImage
{
    /// <summary>FXSAVE layout: x87, MXCSR; its XMM part is not used.</summary>
    public FxArea Fx;
    public VectorRegisters Ymm;
    public GeneralRegisters Gpr;
    public ulong Rflags;

    public const int FxMxcsr = 24;
    public const int FxSt0 = 32;

    public uint Mxcsr
    {
        readonly get => MemoryMarshal.Read<uint>(((ReadOnlySpan<byte>)Fx)[FxMxcsr..]);
        set => MemoryMarshal.Write(((Span<byte>)Fx)[FxMxcsr..], in value);
    }
}

/// <summary>What a sequence of instructions left behind on one of the two processors.</summary>
public sealed class Outcome
{
    /// <summary>The <see cref="Vector"/> of a sequence that ran to its end.</summary>
    public const int End = -1;

    /// <summary>The <see cref="Vector"/> of a machine that neither ended nor faulted.</summary>
    public const int Lost = -2;

    private CpuImage _cpu;

    public ref CpuImage Cpu => ref _cpu;

    public ulong Rip { get; set; }

    /// <summary>The exception that ended the run, or <see cref="End"/>.</summary>
    public int Vector { get; set; }

    public uint ErrorCode { get; set; }

    public ulong Cr2 { get; set; }

    /// <summary>Anything to tell when the run was <see cref="Lost"/>.</summary>
    public string? Trouble { get; set; }

    public byte[] Scratch { get; } = new byte[Arena.ScratchSize];
}
