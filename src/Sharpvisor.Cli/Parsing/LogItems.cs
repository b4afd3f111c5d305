using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What is logged: the items of -d, and of the monitor's log.</summary>
internal sealed class LogItems
{
    private const string Known = "int, exec, in_asm, cpu_reset, jit, guest_errors, unimp, trace:EVENT";

    public TraceKinds Kinds { get; private set; }

    public bool HasGuestErrors { get; private set; }

    public List<TraceFilter> Events { get; } = [];

    /// <param name="what">Flag or command with its value, for messages.</param>
    /// <exception cref="ConfigurationException">There is no such item.</exception>
    public void Add(string item, string what)
    {
        switch (item)
        {
            case "int":
                Kinds |= TraceKinds.Int;
                break;
            case "exec":
                Kinds |= TraceKinds.Exec;
                break;
            case "in_asm":
                Kinds |= TraceKinds.InAsm;
                break;
            case "jit":
                Kinds |= TraceKinds.Jit;
                break;
            case "cpu_reset":
                Kinds |= TraceKinds.CpuReset;
                break;
            case "guest_errors" or "unimp":
                HasGuestErrors = true;
                break;
            case ['t', 'r', 'a', 'c', 'e', ':', .. var filter]:
                Events.Add(TraceFilter.Parse(filter));
                break;
            default:
                throw new ConfigurationException($"{what}: unknown item \"{item}\"; there are {Known}");
        }
    }

    /// <summary>-d int,exec,…</summary>
    public void AddAll(string value)
    {
        foreach (var item in value.Split(','))
            Add(item, $"-d {value}");
    }
}
