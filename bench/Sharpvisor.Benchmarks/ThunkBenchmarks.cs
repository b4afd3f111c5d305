using System.Runtime.InteropServices;
using BenchmarkDotNet.Attributes;
using Iced.Intel;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Benchmarks;

/// <summary>Into a thunk of one guest instruction and out again.</summary>
public unsafe class ThunkBenchmarks
{
    private readonly CpuState* _state = (CpuState*)NativeMemory.AlignedAlloc(8192, 64);
    private HostThunk _register = null!, _memory = null!, _flags = null!, _x87 = null!;
    private ulong _rflags;

    [GlobalSetup]
    public void Setup()
    {
        new Span<byte>(_state, 8192).Clear();
        _state->Mxcsr = 0x1F80;
        *(ushort*)&_state->X87 = 0x37F;
        _register = Create(0x66, 0x0F, 0xFE, 0xC1); // paddd xmm0, xmm1
        _memory = Create(0x66, 0x0F, 0xFE, 0x01); // paddd xmm0, [rcx]
        _flags = Create(0x0F, 0x2E, 0xC1); // ucomiss xmm0, xmm1
        _x87 = Create(0xD9, 0xE0); // fchs
    }

    [GlobalCleanup]
    public void Cleanup() => NativeMemory.AlignedFree(_state);

    [Benchmark]
    public ThunkResult VectorRegister() => _register.Run(_state, null, ref _rflags);

    [Benchmark]
    public ThunkResult VectorMemory() => _memory.Run(_state, (byte*)_state + 4096, ref _rflags);

    [Benchmark]
    public ThunkResult WithFlags() => _flags.Run(_state, null, ref _rflags);

    /// <summary>With the x87 registers brought into the host's FPU and back, as at an exit of the run loop.</summary>
    [Benchmark]
    public ThunkResult X87WithLoadAndSave()
    {
        HostX87.Load(_state);
        var result = _x87.Run(_state, null, ref _rflags);
        HostX87.Save(_state);
        return result;
    }

    private static HostThunk Create(params byte[] code) =>
        HostThunks.TryCreate(Decoder.Create(64, new ByteArrayCodeReader(code)).Decode(), 64)
        ?? throw new InvalidOperationException("thunks need x86-64 Linux");
}
