using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Benchmarks;

/// <summary>The engines that are measured side by side.</summary>
internal static class BenchmarkEngines
{
    public static string[] Names => ["interpreter"];

    /// <param name="name">One of <see cref="Names"/>.</param>
    /// <param name="eager">Code is compiled, where the engine does, at its first execution.</param>
    public static ICpuEngine Create(string name, bool eager = false) => name switch
    {
        "interpreter" => new InterpreterEngine(),
        _ => throw new ArgumentException($"no engine {name}", nameof(name)),
    };
}
