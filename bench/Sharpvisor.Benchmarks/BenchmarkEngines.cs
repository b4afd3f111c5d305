using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;

namespace Sharpvisor.Benchmarks;

/// <summary>The engines that are measured side by side.</summary>
internal static class BenchmarkEngines
{
    public static string[] Names => ["interpreter", "translator"];

    /// <param name="name">One of <see cref="Names"/>.</param>
    /// <param name="eager">Code is translated before its first execution.</param>
    public static ICpuEngine Create(string name, bool eager = false) => name switch
    {
        "interpreter" => new InterpreterEngine(),
        "translator" => eager ? new TranslatorEngine { Threshold = 0 } : new TranslatorEngine(),
        _ => throw new ArgumentException($"no engine {name}", nameof(name)),
    };
}
