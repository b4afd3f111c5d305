using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>The reference engine, on every host.</summary>
public sealed class InterpreterEngine : ICpuEngine
{
    private CodeCoherence? _coherence;
    private GuestMemory? _memory;

    public string Name => "interpreter";

    public IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs)
    {
        if (_coherence is null || _memory != environment.Memory)
        {
            _memory = environment.Memory;
            _coherence = new CodeCoherence(_memory);
        }

        return new InterpreterVcpu(index, environment, apic, msrs, _coherence);
    }
}
