using System.Text.Json;
using Sharpvisor.Cli.Output;

namespace Sharpvisor.Cli.Tests;

public sealed class OutputTests
{
    public static TheoryData<string> Texts => [HelpText.Overview, HelpText.Run, HelpText.Image, HelpText.Demo, HelpText.Doctor, HelpText.Control, HelpText.Context, HelpText.Profile, HelpText.XenStore];

    [Theory]
    [MemberData(nameof(Texts))]
    public void Help_fits_a_terminal_of_80_columns_and_but_for_run_24_lines(string text)
    {
        var lines = text.Split('\n');
        Assert.True(lines.Length <= 23 || text == HelpText.Run, $"{lines.Length} lines");
        Assert.All(lines, l => Assert.True(l.Length < 80, l));
    }

    [Fact]
    public void Help_of_run_names_every_flag() =>
        Assert.All(Cli.Parsing.RunFlags.Names.Except(["M", "no-kvm", "global"]), f => Assert.Contains($"-{f}", HelpText.Run, StringComparison.Ordinal));

    [Theory]
    [InlineData("--help", "sharpvisor: a PC")]
    [InlineData("run --help", "sharpvisor run FLAGS")]
    [InlineData("demo --help", "sharpvisor demo")]
    [InlineData("image --help", "sharpvisor image")]
    [InlineData("doctor --help", "sharpvisor doctor")]
    [InlineData("ctx --help", "sharpvisor ctx")]
    [InlineData("profile --help", "sharpvisor profile")]
    [InlineData("xenstore --help", "sharpvisor xenstore")]
    [InlineData("--version", "sharpvisor 0.")]
    public async Task Each_verb_has_help(string commandLine, string start)
    {
        using StringWriter output = new(), errors = new();
        Assert.Equal(0, await CommandLineTool.RunAsync(commandLine.Split(' '), output, errors));
        Assert.StartsWith(start, output.ToString(), StringComparison.Ordinal);
        Assert.Equal("", errors.ToString());
    }

    [Fact]
    public async Task Doctor_speaks_json()
    {
        using StringWriter output = new(), errors = new();
        var code = await CommandLineTool.RunAsync(["doctor", "--json"], output, errors);
        using var json = JsonDocument.Parse(output.ToString());
        var checks = json.RootElement.EnumerateArray().ToDictionary(c => c.GetProperty("name").GetString()!, c => c.GetProperty("status").GetString());
        Assert.Equal(["/dev/kvm", "Debian tools", "executable memory", "firmware", "guest cache", "memory", "processor", "terminal"], checks.Keys.Order(StringComparer.Ordinal));
        Assert.All(checks.Values, s => Assert.Contains(s, new[] { "ok", "warn", "fail" }));
        Assert.Equal(checks.ContainsValue("fail") ? 1 : 0, code);
    }
}
