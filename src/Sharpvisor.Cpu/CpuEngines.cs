using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;

namespace Sharpvisor.Cpu;

/// <summary>The engines by the names that <c>-accel</c> knows.</summary>
public static class CpuEngines
{
    /// <summary>The names, the fastest first.</summary>
    public static IReadOnlyList<string> Names { get; } = ["translator", "interpreter", "lockstep"];

    /// <summary>The fastest engine that this host can run.</summary>
    public static ICpuEngine CreateDefault() => TranslatorEngine.IsSupported ? new TranslatorEngine() : new InterpreterEngine();

    /// <summary>Makes an engine by its name; <c>tcg</c> is understood as the translator.</summary>
    /// <exception cref="ConfigurationException">There is none of that name, or the host can't run it.</exception>
    public static ICpuEngine Create(string name)
    {
        switch (name)
        {
            case "interpreter":
                return new InterpreterEngine();
            case "translator" or "tcg":
                if (!TranslatorEngine.IsSupported)
                    throw new ConfigurationException($"-accel {name}: needs an x86-64 Linux host with AVX2 and BMI2; give interpreter");
                return new TranslatorEngine();
            case "lockstep":
                if (!TranslatorEngine.IsSupported)
                    throw new ConfigurationException($"-accel {name}: needs an x86-64 Linux host with AVX2 and BMI2; give interpreter");
                return new TranslatorEngine { Lockstep = true, Threshold = 0 };
            default:
                throw new ConfigurationException($"-accel {name}: not in this version; give {string.Join(", ", Names)}");
        }
    }
}
