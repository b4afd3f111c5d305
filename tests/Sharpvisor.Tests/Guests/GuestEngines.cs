using System.Reflection;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Translator;
using Xunit.Sdk;

namespace Sharpvisor.Tests.Guests;

/// <summary>The engines that guest tests run on; SHARPVISOR_TEST_ENGINES=NAME,NAME takes a part of them.</summary>
internal static class GuestEngines
{
    private static readonly Dictionary<string, Func<ICpuEngine>> All = new()
    {
        ["interpreter"] = () => new InterpreterEngine(),
        ["translator"] = () => new TranslatorEngine(),
        ["small-cache"] = () => new TranslatorEngine { CodeCacheSize = 2 << 20, Threshold = 4 },
        ["lockstep"] = () => new TranslatorEngine { Lockstep = true, Threshold = 0 }, // one processor only
    };

    public static IEnumerable<string> Names { get; } =
        Environment.GetEnvironmentVariable("SHARPVISOR_TEST_ENGINES") is { Length: > 0 } names ? names.Split(',') : All.Keys.Where(name => name is not ("small-cache" or "lockstep"));

    public static ICpuEngine Create(string name) => All.TryGetValue(name, out var create)
        ? create()
        : throw new ArgumentException($"no engine {name}: give {string.Join(" or ", All.Keys)} in SHARPVISOR_TEST_ENGINES");
}

/// <summary>One case of a theory for each engine: its name, then <paramref name="arguments"/>.</summary>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
internal sealed class EngineDataAttribute(params object[] arguments) : DataAttribute
{
    public IReadOnlyList<object> Arguments => arguments;

    public override IEnumerable<object[]> GetData(MethodInfo testMethod) => GuestEngines.Names.Select(name => (object[])[name, .. arguments]);
}
