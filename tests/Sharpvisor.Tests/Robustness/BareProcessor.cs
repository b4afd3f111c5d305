using Sharpvisor.Boot;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Tests.Robustness;

/// <summary>
/// The first processor of a PC that was never started: a test runs it, on its own thread and as long as it likes,
/// with all the devices of the board around it. Machine time stands still.
/// </summary>
internal sealed class BareProcessor : IAsyncDisposable
{
    private readonly Machine _machine;

    public BareProcessor()
    {
        var engine = new CapturingEngine();
        _machine = Machine.CreateBuilder().WithEngine(engine).WithMemory(64 << 20).WithDebugExit()
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).Build();
        Vcpu = engine.Vcpu!;
        Environment = engine.Environment!;
    }

    public IVcpu Vcpu { get; }

    public CpuEnvironment Environment { get; }

    public GuestMemory Memory => _machine.Memory;

    public ValueTask DisposeAsync() => _machine.DisposeAsync();

    private sealed class CapturingEngine : ICpuEngine
    {
        private readonly InterpreterEngine _engine = new();

        public string Name => _engine.Name;

        public IVcpu? Vcpu { get; private set; }

        public CpuEnvironment? Environment { get; private set; }

        public IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs)
        {
            Environment = environment;
            return Vcpu = _engine.CreateVcpu(index, environment, apic, msrs);
        }
    }
}
