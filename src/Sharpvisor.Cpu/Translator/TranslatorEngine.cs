using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Translates guest code to host code; on x86-64 Linux with AVX2 and BMI2.</summary>
public sealed class TranslatorEngine : ICpuEngine
{
    private CodeCoherence? _coherence;
    private GuestMemory? _memory;

    public string Name => "translator";

    /// <summary>Executions after which a block is translated; before, the interpreter has it. 0: at once.</summary>
    public int Threshold { get; init; } = 16;

    public IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs)
    {
        if (_coherence is null || _memory != environment.Memory)
        {
            _memory = environment.Memory;
            _coherence = new CodeCoherence(_memory);
        }

        return new TranslatorVcpu(index, environment, apic, msrs, _coherence, Threshold);
    }
}
