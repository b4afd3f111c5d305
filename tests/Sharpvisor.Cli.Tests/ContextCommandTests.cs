namespace Sharpvisor.Cli.Tests;

/// <summary>sharpvisor ctx and profile: what is wrong with their arguments.</summary>
public sealed class ContextCommandTests
{
    [Theory]
    [InlineData("ctx", "ctx needs a machine or a core file")]
    [InlineData("ctx --cpu 1", "ctx needs a machine or a core file")]
    [InlineData("ctx no-such-machine", "no machine no-such-machine")]
    [InlineData("ctx /no/such/core", "/no/such/core: the core file cannot be read")]
    [InlineData("ctx /dev/null", "/dev/null: is not a core file")]
    [InlineData("ctx name --cpu", "ctx --cpu: give a number from 0 to 63")]
    [InlineData("ctx name --cpu 64", "ctx --cpu: \"64\" is not a number from 0 to 63")]
    [InlineData("ctx name --registers", "ctx: unknown argument --registers; there are [-k file]")]
    [InlineData("ctx name -k", "ctx -k: give a System.map, vmlinux or bzImage")]
    [InlineData("profile", "profile needs a machine")]
    [InlineData("profile -F", "profile -F: an argument is missing")]
    [InlineData("profile -F 0 name", "profile -F: \"0\" is not a number from 1 to 1000")]
    [InlineData("profile -t x name", "profile -t: \"x\" is not a number from 1 to 86400")]
    [InlineData("profile one two", "profile: unknown argument two")]
    [InlineData("profile no-such-machine", "no machine no-such-machine")]
    [InlineData("profile name -- -m 1", "profile: give a machine (name) or flags behind --, not both")]
    public async Task Mistakes_are_one_line(string line, string message)
    {
        using var output = new StringWriter();
        using var errors = new StringWriter();
        Assert.Equal(2, await CommandLineTool.RunAsync(line.Split(' '), output, errors));
        Assert.StartsWith("sharpvisor: " + message, errors.ToString(), StringComparison.Ordinal);
        Assert.Single(errors.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal("", output.ToString());
    }
}
