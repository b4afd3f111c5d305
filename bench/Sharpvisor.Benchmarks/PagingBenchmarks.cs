using BenchmarkDotNet.Attributes;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Benchmarks;

/// <summary>Page walks, and the TLB by itself: what a miss costs is in <see cref="VcpuBenchmarks.TlbMiss"/>.</summary>
public unsafe class PagingBenchmarks
{
    private const int Fills = 64;

    private readonly Tlb _tlb = new();
    private BareMachine _machine = null!;
    private CpuState _state;

    [GlobalSetup]
    public void Setup()
    {
        _machine = new BareMachine(new InterpreterEngine());
        _state = _machine.Cpu.GetState();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        _tlb.Dispose();
        _machine.Dispose();
    }

    [Benchmark]
    public ulong WalkSmallPage() => Walk(BareMachine.SmallPages + 0x5123);

    [Benchmark]
    public ulong WalkLargePage() => Walk(BareMachine.LargePages + 0x5123);

    [Benchmark]
    public void FillTlb() => Fill(BareMachine.SmallPages);

    /// <summary>A CR3 write after a process has touched 64 pages.</summary>
    [Benchmark]
    public void Fill64AndFlush()
    {
        for (ulong page = 0; page < Fills; page++)
            Fill(BareMachine.SmallPages + (page << 12));
        _tlb.FlushNonGlobal();
    }

    /// <summary>Before the first instruction is decoded from a page, and again after all code in it was dropped.</summary>
    [Benchmark]
    public void ProtectPage() => _tlb.ProtectPhysicalPage(BareMachine.SmallPages);

    private ulong Walk(ulong linear) =>
        PageWalker.Walk(in _state, _machine.Memory, _machine.Environment.Model.PhysicalAddressBits, linear, AccessKind.Write, out var walk)
            ? walk.Physical
            : throw new InvalidOperationException("the page is not mapped");

    private void Fill(ulong linear) =>
        _tlb.Fill(1, linear, _machine.Memory.HostBase + linear, linear, global: false, readable: true, writable: true, holdsCode: false);
}
