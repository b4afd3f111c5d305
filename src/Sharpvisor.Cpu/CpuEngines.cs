using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;

namespace Sharpvisor.Cpu;

/// <summary>The engines by the names that <c>-accel</c> knows.</summary>
public static class CpuEngines
{
    /// <summary>What executes the guest when nobody says what: the fastest that this host can run.</summary>
    public static string Default => TranslatorEngine.IsSupported ? "translator" : "interpreter";

    /// <summary>The fastest engine that this host can run.</summary>
    public static ICpuEngine CreateDefault() => Create(Default);

    /// <summary>Makes an engine by its name; <c>tcg</c> is understood as the translator.</summary>
    /// <param name="perfMap">Gets the names of generated code, if the engine generates any.</param>
    /// <exception cref="ConfigurationException">There is none of that name, or the host can't run it.</exception>
    public static ICpuEngine Create(string name, PerfMap? perfMap = null)
    {
        Check(name);
        return name switch
        {
            "interpreter" => new InterpreterEngine(),
            "lockstep" => new TranslatorEngine { Lockstep = true, Threshold = 0 },
            _ => new TranslatorEngine { PerfMap = perfMap },
        };
    }

    /// <exception cref="ConfigurationException">There is none of that name, or the host can't run it.</exception>
    public static void Check(string name)
    {
        if (name is not ("interpreter" or "translator" or "tcg" or "lockstep"))
            throw new ConfigurationException($"-accel {name}: not in this version; give translator, interpreter or lockstep");
        if (name != "interpreter" && !TranslatorEngine.IsSupported)
            throw new ConfigurationException($"-accel {name}: needs an x86-64 Linux host with AVX2 and BMI2; give interpreter");
    }
}
