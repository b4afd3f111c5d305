using System.Diagnostics;
using Sharpvisor.Boot;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Cli.Tests;

/// <summary>The tool as a process of its own: exit codes, pipes, and a terminal that is itself again afterwards.</summary>
public sealed class ProcessTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("sharpvisor-process-").FullName;

    private string Kernel => Path.Combine(_directory, "tiny");

    [Fact]
    public async Task Debug_exit_is_the_exit_code()
    {
        TinyGuest.WriteDebugExit(Kernel, 0x10);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool("-device", "isa-debug-exit,iobase=0xf4,iosize=4")]);
        Assert.Equal(0x21, await ToolProcess.ExitCodeAsync(tool));
    }

    [Fact]
    public async Task A_machine_that_starts_paused_waits_for_SIGCONT()
    {
        TinyGuest.WriteDebugExit(Kernel, 0x10);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool("-S", "-device", "isa-debug-exit,iobase=0xf4,iosize=4")]);
        await Task.Delay(TimeSpan.FromSeconds(1.5));
        Assert.False(tool.HasExited);
        while (!tool.HasExited)
        {
            await ToolProcess.SignalAsync(tool.Id, "CONT"); // one that comes before the machine exists is nobody's
            await Task.Delay(100);
        }

        Assert.Equal(0x21, await ToolProcess.ExitCodeAsync(tool));
    }

    [Fact]
    public async Task A_multiboot_kernel_takes_a_list_of_modules()
    {
        File.WriteAllBytes(Kernel, MultibootKernel.Elf());
        var module = Path.Combine(_directory, "a,b");
        File.WriteAllText(module, "its text");
        var list = module.Replace(",", ",,", StringComparison.Ordinal);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool("-append", "x=y", "-initrd", $"{list} one,{list}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4")]);
        var output = await tool.StandardOutput.ReadToEndAsync();
        Assert.Equal(0x21, await ToolProcess.ExitCodeAsync(tool));
        Assert.Contains($"\n{Kernel} x=y\nsharpvisor\n{module} one\nits text\n{module}\nits text\n", output.ReplaceLineEndings("\n"), StringComparison.Ordinal);
    }

    /// <summary>As Xen's builder does it for test suites: in place of hvmloader.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task An_ELF_image_for_a_BIOS_starts_an_HVM_domain(bool isXl)
    {
        File.WriteAllBytes(Kernel, XenKernel.Elf(reason: 0));
        var file = Path.Combine(_directory, "test.cfg");
        File.WriteAllText(file, $"name = \"test\"\nbuilder = \"hvm\"\nmemory = 128\nfirmware_override = \"{Kernel}\"\non_reboot = \"preserve\"\n");
        string[] machine = isXl ? ["--xl", file] : ["-machine", "xenfv", "-m", "128", "-bios", Kernel];
        var (code, output, errors) = await ToolProcess.RunAsync(["run", .. machine, "-chardev", "stdio,id=c", "-device", "xen-console,chardev=c"]);
        Assert.Equal((0, XenKernel.ConsoleText.TrimEnd()), (code, output.Trim()));
        Assert.Contains($"guest: {XenKernel.LogText}", errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_triple_fault_tells_why_and_exits_with_3()
    {
        TinyGuest.WriteTripleFault(Kernel);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool("-no-reboot")]);
        var errors = await tool.StandardError.ReadToEndAsync();
        Assert.Equal(3, await ToolProcess.ExitCodeAsync(tool));
        Assert.StartsWith("sharpvisor: triple fault on processor 0\n", errors, StringComparison.Ordinal);
        Assert.Contains("ud2", errors, StringComparison.OrdinalIgnoreCase);
        Assert.EndsWith("sharpvisor: triple fault on processor 0\n", errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task From_a_pipe_every_byte_goes_to_the_guest_and_its_end_is_not_the_end()
    {
        TinyGuest.WriteEcho(Kernel);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool()]);
        await ToolProcess.ReadUntilAsync(tool.StandardOutput, "Hi");
        await tool.StandardInput.WriteAsync("a\u0001x");
        tool.StandardInput.Close();
        await ToolProcess.ReadUntilAsync(tool.StandardOutput, "a\u0001x");
        await Task.Delay(100);
        Assert.False(tool.HasExited);
        await ToolProcess.SignalAsync(tool.Id, "TERM");
        Assert.Equal(128 + 15, await ToolProcess.ExitCodeAsync(tool));
    }

    [Fact]
    public async Task Ctrl_A_x_ends_the_machine_and_restores_the_terminal()
    {
        var (terminal, _) = await StartOnTerminal();
        using (terminal)
        {
            await terminal.StandardInput.WriteAsync("abc\u0003");
            await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "abc\u0003");
            await terminal.StandardInput.WriteAsync("\u0001x");
            await terminal.StandardInput.FlushAsync();
            await Restored(terminal, 0);
        }
    }

    [Theory]
    [InlineData("TERM", 128 + 15)]
    [InlineData("INT", 128 + 2)]
    [InlineData("HUP", 128 + 1)]
    [InlineData("KILL", 128 + 9)]
    public async Task A_signal_ends_the_machine_and_the_terminal_is_restored(string signal, int code)
    {
        var (terminal, pid) = await StartOnTerminal();
        using (terminal)
        {
            await ToolProcess.SignalAsync(pid, signal);
            await Restored(terminal, code);
        }
    }

    [Theory]
    [InlineData(null, 0)]
    [InlineData("TERM", 128 + 15)]
    public async Task Curses_shows_the_screen_and_gives_the_terminal_back(string? signal, int code)
    {
        if (FirmwareFiles.Find(FirmwareFiles.SeaBios) is null)
            return;
        var tool = $"'{typeof(CommandLineTool).Assembly.Location}' run -m 64 -display curses -d unimp";
        var script = $"echo before=$(stty -g); sh -c 'echo pid=$$; exec dotnet \"$@\"' - {tool}; c=$?; echo; echo after=$(stty -g) code=$c";
        using var terminal = ToolProcess.StartProgram("script", ["-qec", script, "/dev/null"]);
        _before = (await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "pid=")).Split("before=")[1].Split('\r')[0];
        var pid = int.Parse((await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "\n")).Trim());
        await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "\e[?1049h");
        var shown = await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "S");
        shown += await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "\e[9;1H"); // the cursor, below "No bootable device."
        if (signal is null)
        {
            await terminal.StandardInput.WriteAsync("\e[A\u0001x");
            await terminal.StandardInput.FlushAsync();
        }
        else
        {
            await ToolProcess.SignalAsync(pid, signal);
        }

        shown += await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "\e[?1049l");
        Assert.DoesNotContain('\n', shown); // lines of the host wait, and do not scroll the screen
        await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "io: unassigned");
        await Restored(terminal, code);
    }

    [Fact]
    public async Task Gdb_attaches_before_the_first_instruction()
    {
        TinyGuest.WriteEcho(Kernel);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool("-S", "-gdb", "tcp:0.0.0.0:0")]);
        Assert.Contains("not on loopback only", await ToolProcess.ReadUntilAsync(tool.StandardError, "whoever reaches it has this machine and can use files of this user"), StringComparison.Ordinal);
        await ToolProcess.SignalAsync(tool.Id, "TERM");
        Assert.Equal(128 + 15, await ToolProcess.ExitCodeAsync(tool));

        using var local = ToolProcess.StartProgram("dotnet", [.. Tool("-S", "-gdb", "tcp::0")]);
        await ToolProcess.ReadUntilAsync(local.StandardError, "gdb: listens on 127.0.0.1:");
        var port = int.Parse((await ToolProcess.ReadUntilAsync(local.StandardError, "\n")).Trim());
        using var taken = ToolProcess.StartProgram("dotnet", [.. Tool("-gdb", $"tcp::{port}")]);
        Assert.Contains($"port {port} is in use; give another", await taken.StandardError.ReadToEndAsync(), StringComparison.Ordinal);
        Assert.Equal(2, await ToolProcess.ExitCodeAsync(taken));

        using var socket = new System.Net.Sockets.TcpClient("127.0.0.1", port);
        using var reader = new StreamReader(socket.GetStream());
        await socket.GetStream().WriteAsync("$?#3f"u8.ToArray());
        await ToolProcess.ReadUntilAsync(reader, "+$T05thread:1;");
        await socket.GetStream().WriteAsync("+$D#44"u8.ToArray());
        await ToolProcess.ReadUntilAsync(local.StandardOutput, "Hi");
        await ToolProcess.SignalAsync(local.Id, "TERM");
        Assert.Equal(128 + 15, await ToolProcess.ExitCodeAsync(local));
    }

    [Fact]
    public async Task Gdb_may_be_at_the_other_end_of_a_pipe()
    {
        TinyGuest.WriteEcho(Kernel);
        using var tool = ToolProcess.StartProgram("dotnet", [.. Tool("-S", "-gdb", "stdio")]);
        await tool.StandardInput.WriteAsync("$?#3f");
        await tool.StandardInput.FlushAsync();
        await ToolProcess.ReadUntilAsync(tool.StandardOutput, "+$T05thread:1;");
        // Ctrl-C in the terminal of both: gdb says what it means.
        await ToolProcess.SignalAsync(tool.Id, "INT");
        await tool.StandardInput.WriteAsync("+$qC#b4");
        await tool.StandardInput.FlushAsync();
        await ToolProcess.ReadUntilAsync(tool.StandardOutput, "+$QC1#");
        await tool.StandardInput.WriteAsync("+$k#6b");
        await tool.StandardInput.FlushAsync();
        Assert.Equal(0, await ToolProcess.ExitCodeAsync(tool));
    }

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    /// <summary>Runs the tool on a pseudo terminal of script(1), between two reports of the terminal's mode.</summary>
    private async Task<(Process Terminal, int Pid)> StartOnTerminal()
    {
        TinyGuest.WriteEcho(Kernel);
        var tool = string.Join(' ', Tool().Select(a => $"'{a}'"));
        // The guard of a killed process needs a moment to restore the mode.
        var script = $"echo before=$(stty -g); sh -c 'echo pid=$$; exec dotnet \"$@\"' - {tool}; c=$?; sleep 0.5; echo; echo after=$(stty -g) code=$c";
        var terminal = ToolProcess.StartProgram("script", ["-qec", script, "/dev/null"]);
        _before = (await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "pid=")).Split("before=")[1].Split('\r')[0];
        var pid = int.Parse((await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "\n")).Trim());
        await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "Hi");
        return (terminal, pid);
    }

    private string _before = "";

    private async Task Restored(Process terminal, int code)
    {
        await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "after=");
        Assert.Equal($"{_before} code={code}", (await ToolProcess.ReadUntilAsync(terminal.StandardOutput, "\n")).Trim());
    }

    private string[] Tool(params string[] more) => [ToolProcess.Assembly, "run", "-m", "64", "-kernel", Kernel, "-nographic", .. more];
}
