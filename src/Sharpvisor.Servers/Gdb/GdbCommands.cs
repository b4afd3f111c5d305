using System.Globalization;
using System.Text;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

/// <summary>gdb's <c>monitor</c> commands: the one that is about the protocol itself, and those of the machine's monitor.</summary>
/// <param name="monitor">The machine's; null: there are a few here instead.</param>
internal sealed class GdbCommands(IGdbTarget target, Func<string, Task<string>>? monitor)
{
    private const string Own = """
        view [amd64|i386|i8086]   which registers gdb sees, once it reads them anew by: unset tdesc filename

        """;

    private const string Instead = """
        info registers            of all processors
        reset                     as the reset button does

        """;

    private RegisterView _next = RegisterView.Amd64;

    /// <summary>By what the debugger has read last.</summary>
    public RegisterView View { get; private set; } = RegisterView.Amd64;

    /// <summary>The debugger reads the description anew.</summary>
    public void TakeView() => View = _next;

    /// <returns>What is shown, with the ends of lines.</returns>
    public async Task<string> RunAsync(string command)
    {
        var words = command.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        switch (words)
        {
            case ["view"]:
                return $"{NameOf(View)}\n";
            case ["view", var name]:
                return Choose(name);
            case ["help"] when monitor is null:
                return Own + Instead;
            case ["help"]:
                return Own + await monitor(command).ConfigureAwait(false);
        }

        if (monitor is not null)
            return await monitor(command).ConfigureAwait(false);
        switch (words)
        {
            case ["info", "registers"]:
                lock (target.Turn)
                    return target.IsStopped ? DescribeRegisters() : "the machine runs\n";
            case ["reset" or "system_reset"]:
                await target.ResetAsync().ConfigureAwait(false);
                return "";
            default:
                return $"unknown command: \"{command}\"; help lists them\n";
        }
    }

    private static string NameOf(RegisterView view) => view == RegisterView.Amd64 ? "amd64" : view.Architecture;

    private string Choose(string name)
    {
        RegisterView[] views = [RegisterView.Amd64, RegisterView.I386, RegisterView.I8086];
        if (Array.Find(views, v => NameOf(v) == name) is not { } view)
            return "give amd64, i386 or i8086\n";
        _next = view;
        return view == View ? "" : "now: unset tdesc filename\n";
    }

    private string DescribeRegisters()
    {
        var text = new StringBuilder();
        Span<byte> value = stackalloc byte[16];
        for (var i = 0; i < target.ProcessorCount; i++)
        {
            var state = target.GetState(i);
            text.Append(CultureInfo.InvariantCulture, $"CPU#{i}\n");
            var column = 0;
            foreach (var register in View.Registers.Where(r => r.Size <= 8))
            {
                register.Read(in state, value);
                var number = 0UL;
                for (var b = register.Size - 1; b >= 0; b--)
                    number = (number << 8) | value[b];
                text.Append(CultureInfo.InvariantCulture, $"{register.Name}={number.ToString("x" + (register.Size * 2), CultureInfo.InvariantCulture)}").Append(++column % 4 == 0 ? '\n' : ' ');
            }

            if (column % 4 != 0)
                text.Append('\n');
        }

        return text.ToString();
    }
}
