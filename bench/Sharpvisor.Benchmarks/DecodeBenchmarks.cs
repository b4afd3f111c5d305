using BenchmarkDotNet.Attributes;
using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Benchmarks;

/// <summary>A block of <see cref="Programs.BlockLength"/> instructions, from bytes to operations.</summary>
public unsafe class DecodeBenchmarks
{
    private readonly BlockCache _cache = new(64 << 20);
    private byte[] _bytes = [];
    private BareMachine _machine = null!;
    private BlockDecoder _decoder = null!;

    [ParamsAllValues]
    public BlockKind Block { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _machine = new BareMachine(new InterpreterEngine());
        _bytes = _machine.Load(Programs.Endless(Programs.Body(Block)));
        _decoder = new BlockDecoder(_machine.Environment.Model);
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _decoder.Dispose();
        _machine.Dispose();
    }

    /// <summary>What of it is Iced's decoder.</summary>
    [Benchmark(Baseline = true)]
    public int Iced()
    {
        var decoder = Decoder.Create(64, _bytes);
        decoder.IP = BareMachine.Code;
        var count = 0;
        for (; decoder.IP < BareMachine.Code + (ulong)_bytes.Length; count++)
            decoder.Decode(out _);
        return count;
    }

    [Benchmark]
    public int DecodeBlock()
    {
        var mark = _cache.Used;
        var block = _decoder.Decode((InterpreterVcpu)_machine.Cpu, _cache, BareMachine.Code, BareMachine.Code, BareMachine.Code, (uint)BlockMode.Code64);
        _cache.Release(mark);
        return block->Count;
    }
}
