using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;

namespace Sharpvisor.Cpu.Tests;

/// <summary>
/// The engine that the tests of this project run on: the interpreter, or what SHARPVISOR_TEST_ENGINE names. The
/// translator translates everything at once then, so that each test meets translated code.
/// </summary>
internal static class TestEngine
{
    public static string Name { get; } = Environment.GetEnvironmentVariable("SHARPVISOR_TEST_ENGINE") ?? "interpreter";

    /// <param name="threshold">Where processors wait for each other, translating what runs once would make a loaded machine slow.</param>
    public static ICpuEngine Create(int threshold = 0) => Name switch
    {
        "interpreter" => new InterpreterEngine(),
        "translator" => new TranslatorEngine { Threshold = threshold, CodeCacheSize = 32 << 20 }, // several machines at a time have to fit below 2 GiB
        _ => throw new ArgumentException($"no engine {Name}: give interpreter or translator in SHARPVISOR_TEST_ENGINE"),
    };
}
