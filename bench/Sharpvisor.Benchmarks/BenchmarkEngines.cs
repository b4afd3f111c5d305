using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Benchmarks;

/// <summary>The engines that <see cref="VcpuBenchmarks"/> measures.</summary>
internal static class BenchmarkEngines
{
    public static string[] Names => ["interpreter"];

    public static ICpuEngine Create(string name) => name switch
    {
        "interpreter" => new InterpreterEngine(),
        _ => throw new ArgumentException($"no engine {name}", nameof(name)),
    };
}
