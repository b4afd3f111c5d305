using BenchmarkDotNet.Attributes;
using Sharpvisor.Cpu;

namespace Sharpvisor.Benchmarks;

/// <summary>
/// A block of <see cref="Programs.BlockLength"/> instructions whose code was just written: the old one is dropped, the
/// new one decoded or translated, and executed once.
/// </summary>
public class FreshCodeBenchmarks
{
    private byte[] _code = [];
    private BareMachine _machine = null!;

    [ParamsSource(nameof(Engines))]
    public string Engine { get; set; } = "";

    [ParamsAllValues]
    public BlockKind Block { get; set; }

    public static IEnumerable<string> Engines => BenchmarkEngines.Names;

    [GlobalSetup]
    public void Setup()
    {
        _machine = new BareMachine(BenchmarkEngines.Create(Engine, eager: true));
        _code = _machine.Load(Programs.Endless(Programs.Body(Block)));
    }

    [GlobalCleanup]
    public void Cleanup() => _machine.Dispose();

    [Benchmark]
    public void WriteAndRun()
    {
        _machine.Memory.TryWrite(BareMachine.Code, _code);
        if (_machine.Cpu.Run(Programs.BlockLength) is var exit and not VcpuExit.Budget)
            throw new InvalidOperationException($"{exit}: {_machine.Cpu.DescribeFault()}");
    }
}
