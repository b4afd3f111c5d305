using BenchmarkDotNet.Attributes;
using Iced.Intel;
using Sharpvisor.Cpu;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Benchmarks;

/// <summary>
/// What an engine costs for one of each: a block, an entry, and the ways out of plain code; with DEC and JNE to count
/// the rounds.
/// </summary>
public class VcpuBenchmarks
{
    private BareMachine _machine = null!;

    [ParamsSource(nameof(Engines))]
    public string Engine { get; set; } = "";

    public static IEnumerable<string> Engines => BenchmarkEngines.Names;

    [GlobalSetup(Target = nameof(AluBlock))]
    public void SetupAlu() => Start(Programs.Body(BlockKind.Alu));

    /// <summary>15 instructions and those that count.</summary>
    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void AluBlock() => Run();

    [GlobalSetup(Target = nameof(MemoryBlock))]
    public void SetupMemory() => Start(Programs.Body(BlockKind.Memory));

    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void MemoryBlock() => Run();

    [GlobalSetup(Target = nameof(VectorBlock))]
    public void SetupVector() => Start(Programs.Body(BlockKind.Vector));

    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void VectorBlock() => Run();

    [GlobalSetup(Target = nameof(TlbMiss))]
    public void SetupTlbMiss() => Start(a =>
    {
        a.invlpg(__byte_ptr[rbx]);
        a.mov(eax, __dword_ptr[rbx]);
    });

    /// <summary>INVLPG and a read of that page: the way out, the walk of four levels, the fill.</summary>
    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void TlbMiss() => Run();

    [GlobalSetup(Target = nameof(PortWrite))]
    public void SetupPort() => Start(a => a.@out((byte)BareMachine.Port, al));

    /// <summary>OUT to a device that does nothing.</summary>
    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void PortWrite() => Run();

    [GlobalSetup(Target = nameof(GuestException))]
    public void SetupException() => Start(a => a.ud2());

    /// <summary>UD2, its handler, which skips it, and IRETQ.</summary>
    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void GuestException() => Run();

    [GlobalSetup(Target = nameof(PatchedCode))]
    public void SetupPatched() => Start(Programs.Patch);

    /// <summary>A store into code that is executed next: drop, decode or translate, go on.</summary>
    [Benchmark(OperationsPerInvoke = Programs.Rounds)]
    public void PatchedCode() => Run();

    [GlobalSetup(Target = nameof(EnterAndLeave))]
    public void SetupEnter()
    {
        _machine = new BareMachine(BenchmarkEngines.Create(Engine));
        _machine.Load(Programs.Endless(a => a.nop()));
    }

    /// <summary><see cref="IVcpu.Run"/> for one block of two instructions.</summary>
    [Benchmark]
    public VcpuExit EnterAndLeave() => _machine.Cpu.Run(1);

    [GlobalCleanup]
    public void Cleanup() => _machine.Dispose();

    private void Start(Action<Assembler> body)
    {
        _machine = new BareMachine(BenchmarkEngines.Create(Engine));
        _machine.Load(Programs.Counted(body));
    }

    /// <summary>Any other exit would mean that the guest did something else than what is measured.</summary>
    private void Run()
    {
        if (_machine.Cpu.Run(long.MaxValue) is var exit and not VcpuExit.Kicked)
            throw new InvalidOperationException($"{exit}: {_machine.Cpu.DescribeFault()}");
    }
}
