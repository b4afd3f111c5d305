using System.Runtime.Intrinsics.X86;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Translates guest code to host code; on x86-64 Linux with AVX2 and BMI2.</summary>
public sealed class TranslatorEngine : ICpuEngine
{
    private CodeCoherence? _coherence;
    private GuestMemory? _memory;

    /// <summary>Whether this host can run it.</summary>
    public static bool IsSupported => OperatingSystem.IsLinux() && Avx2.X64.IsSupported && Bmi2.X64.IsSupported && HostMemory.AllowsExecutable();

    public string Name => Lockstep ? "lockstep" : "translator";

    /// <summary>Every translation is executed by the interpreter too, and the first difference stops the machine.</summary>
    public bool Lockstep { get; init; }

    /// <summary>Executions after which a block is translated; before, the interpreter has it. 0: at once.</summary>
    public int Threshold { get; init; } = 16;

    /// <summary>Bytes of generated code that each processor keeps, from 1 MiB on; 0: as many as suits their number.</summary>
    public ulong CodeCacheSize { get; init; }

    /// <summary>Gets a line for each block, for perf.</summary>
    public PerfMap? PerfMap { get; init; }

    public IVcpu CreateVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs)
    {
        if (_coherence is null || _memory != environment.Memory)
        {
            _memory = environment.Memory;
            _coherence = new CodeCoherence(_memory);
        }

        if (Lockstep && environment.ProcessorCount > 1)
            throw new ConfigurationException("lockstep: the processors of a machine would have to take turns; give -smp 1");
        if (Lockstep)
            return new LockstepVcpu(index, environment, apic, msrs, _coherence, Threshold, SizeFor(environment.ProcessorCount));
        return new TranslatorVcpu(index, environment, apic, msrs, _coherence, Threshold, SizeFor(environment.ProcessorCount), PerfMap);
    }

    /// <summary>All of it has to lie below 2 GiB.</summary>
    private ulong SizeFor(int processors) => CodeCacheSize != 0 ? Math.Max(CodeCacheSize, 1UL << 20) : processors switch { 1 => 128UL << 20, <= 4 => 64UL << 20, _ => 32UL << 20 };
}
