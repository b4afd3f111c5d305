using BenchmarkDotNet.Attributes;
using Sharpvisor.Cpu;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Benchmarks;

/// <summary>What an engine costs for one of each: a block, an entry, and the ways out of plain code.</summary>
public class VcpuBenchmarks
{
    private const int Count = 1000;

    private BareMachine _machine = null!;

    [ParamsSource(nameof(Engines))]
    public string Engine { get; set; } = "";

    public static IEnumerable<string> Engines => BenchmarkEngines.Names;

    [GlobalSetup(Target = nameof(AluBlock))]
    public void SetupAlu() => Start(Programs.Block(BlockKind.Alu));

    /// <summary>A block of 16 instructions that jumps to itself.</summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void AluBlock() => Run(Programs.BlockLength);

    [GlobalSetup(Target = nameof(MemoryBlock))]
    public void SetupMemory() => Start(Programs.Block(BlockKind.Memory));

    [Benchmark(OperationsPerInvoke = Count)]
    public void MemoryBlock() => Run(Programs.BlockLength);

    [GlobalSetup(Target = nameof(VectorBlock))]
    public void SetupVector() => Start(Programs.Block(BlockKind.Vector));

    [Benchmark(OperationsPerInvoke = Count)]
    public void VectorBlock() => Run(Programs.BlockLength);

    [GlobalSetup(Target = nameof(EnterAndLeave))]
    public void SetupEnter() => Start(Programs.Loop(a => a.nop()));

    /// <summary><see cref="IVcpu.Run"/> for one block of two instructions.</summary>
    [Benchmark]
    public void EnterAndLeave() => _machine.Cpu.Run(1);

    [GlobalSetup(Target = nameof(TlbMiss))]
    public void SetupTlbMiss() => Start(Programs.Loop(a =>
    {
        a.invlpg(__byte_ptr[rbx]);
        a.mov(eax, __dword_ptr[rbx]);
    }));

    /// <summary>INVLPG and a read of that page: the way out, the walk of four levels, the fill.</summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void TlbMiss() => Run(3);

    [GlobalSetup(Target = nameof(PortWrite))]
    public void SetupPort() => Start(Programs.Loop(a => a.@out((byte)BareMachine.Port, al)));

    /// <summary>OUT to a device that does nothing.</summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void PortWrite() => Run(2);

    [GlobalSetup(Target = nameof(GuestException))]
    public void SetupException() => Start(Programs.Loop(a => a.ud2()));

    /// <summary>UD2, its handler, which skips it, and IRETQ.</summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void GuestException() => Run(4);

    [GlobalSetup(Target = nameof(PatchedCode))]
    public void SetupPatched() => Start(Programs.Loop(a =>
    {
        var next = a.CreateLabel();
        var immediate = a.CreateLabel();
        a.inc(eax);
        a.mov(__dword_ptr[immediate], eax);
        a.jmp(next);
        for (var i = 0; i < 64; i++)
            a.nop(); // another cache line
        a.Label(ref next);
        a.db(0xB9); // mov ecx, imm32
        a.Label(ref immediate);
        a.dd(0);
    }));

    /// <summary>A store into code that is executed next: drop, decode, go on.</summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void PatchedCode() => Run(5);

    [GlobalCleanup]
    public void Cleanup() => _machine.Dispose();

    private void Start(Action<Iced.Intel.Assembler> program)
    {
        _machine = new BareMachine(BenchmarkEngines.Create(Engine));
        _machine.Load(program);
    }

    /// <summary>Anything but a used-up budget would mean that the program did something else than what is measured.</summary>
    private void Run(int instructions)
    {
        if (_machine.Cpu.Run(Count * instructions) is var exit and not VcpuExit.Budget)
            throw new InvalidOperationException($"{exit}: {_machine.Cpu.DescribeFault()}");
    }
}
