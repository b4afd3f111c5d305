using Iced.Intel;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Tests.HostCpu;

/// <summary>A guest state with power-on x87 and MXCSR, and the shortest way to execute an instruction on it.</summary>
internal sealed unsafe class Guest : IDisposable
{
    private readonly byte* _allocation = (byte*)System.Runtime.InteropServices.NativeMemory.AlignedAlloc(8192, 64);

    public Guest()
    {
        new Span<byte>(_allocation, 8192).Clear();
        State->Mxcsr = 0x1F80;
        ControlWord = 0x37F;
    }

    public CpuState* State => (CpuState*)_allocation;

    /// <summary>128 bytes, 64-byte aligned.</summary>
    public byte* Memory => _allocation + 8192 - 128;

    public ulong Flags { get; set; }

    public ref ushort ControlWord => ref ((ushort*)&State->X87)[0];

    public ref ushort StatusWord => ref ((ushort*)&State->X87)[1];

    public ref byte Tags => ref ((byte*)&State->X87)[4];

    public Span<double> Doubles(int register) => new((double*)&State->Ymm + (4 * register), 4);

    public Span<float> Singles(int register) => new((float*)&State->Ymm + (8 * register), 8);

    public Span<ulong> Quads(int register) => new((ulong*)&State->Ymm + (4 * register), 4);

    /// <summary>The value that a register of the x87 stack has in the image.</summary>
    public UInt128 Stack(int index)
    {
        var register = (byte*)&State->X87 + 32 + (16 * index);
        return new UInt128(*(ushort*)(register + 8), *(ulong*)register);
    }

    public static Instruction Decode(int bitness, params byte[] code)
    {
        var instruction = Decoder.Create(bitness, new ByteArrayCodeReader(code)).Decode();
        Assert.False(instruction.IsInvalid);
        return instruction;
    }

    public static HostThunk Thunk(params byte[] code)
    {
        var thunk = HostThunks.TryCreate(Decode(64, code), 64);
        Assert.NotNull(thunk);
        return thunk;
    }

    public ThunkResult Run(params byte[] code)
    {
        var flags = Flags;
        var instruction = Decode(64, code);
        var thunk = Thunk(code);
        var result = thunk.IsSpecial ? HostX87.ExecuteSpecial(instruction, State, Memory) : thunk.Run(State, Memory, ref flags);
        Flags = flags;
        return result;
    }

    /// <summary>Executes x87 instructions with the state loaded around each, as far as the first exception.</summary>
    public ThunkResult RunX87(params byte[][] codes)
    {
        foreach (var code in codes)
        {
            HostX87.Load(State);
            var result = Run(code);
            HostX87.Save(State);
            if (result != ThunkResult.Done)
                return result;
        }

        return ThunkResult.Done;
    }

    public void Dispose() => System.Runtime.InteropServices.NativeMemory.AlignedFree(_allocation);
}
