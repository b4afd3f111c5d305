using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Cpu;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Monitor;
using Sharpvisor.Servers.Qmp;
using Sharpvisor.Tests;
using Sharpvisor.Tests.Boot;

namespace Sharpvisor.Servers.Tests.Control;

/// <summary>A machine whose guest is a step of C#, with a monitor and a QMP server on sockets in a folder of its own.</summary>
internal sealed class ControlledMachine : IAsyncDisposable
{
    private readonly List<ControlServer> _servers = [];

    private ControlledMachine(Machine machine, string folder)
    {
        Machine = machine;
        Folder = folder;
        Context = new ControlContext(machine, NullLogger.Instance) { Version = "1.2.3" };
        Monitor = new HumanMonitor(Context);
        Qmp = new QmpServer(Context, Monitor.ExecuteAsync);
    }

    public Machine Machine { get; }

    public string Folder { get; }

    public ControlContext Context { get; }

    public HumanMonitor Monitor { get; }

    public QmpServer Qmp { get; }

    public string QmpPath => Path.Combine(Folder, "qmp");

    public string MonitorPath => Path.Combine(Folder, "monitor");

    /// <param name="step">What the guest does; it halts after null.</param>
    public static Task<ControlledMachine> StartAsync(Func<ScriptedVcpu, VcpuExit?>? step = null, Func<MachineBuilder, MachineBuilder>? configure = null)
    {
        var builder = Machine.CreateBuilder()
            .WithEngine(new ScriptedEngine(step ?? (_ => VcpuExit.Halted)))
            .WithMemory(64 << 20)
            .WithName("scripted")
            .WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel"));
        return StartAsync(configure is null ? builder : configure(builder));
    }

    public static async Task<ControlledMachine> StartAsync(MachineBuilder builder)
    {
        var machine = new ControlledMachine(builder.Build(), Directory.CreateTempSubdirectory("sharpvisor-control-").FullName);
        machine.Serve(machine.QmpPath, ControlProtocol.Qmp);
        machine.Serve(machine.MonitorPath, ControlProtocol.Monitor);
        await machine.Machine.StartAsync();
        return machine;
    }

    public async ValueTask DisposeAsync()
    {
        foreach (var server in _servers)
            await server.DisposeAsync();
        await Machine.DisposeAsync();
        Directory.Delete(Folder, recursive: true);
    }

    private void Serve(string path, ControlProtocol protocol) => _servers.Add(ControlServer.Start(
        $"-test {path}", new CharSpec.Unix(path, Server: true, Wait: false), protocol, Monitor, Qmp, NullLogger.Instance, () => { })!);
}

/// <summary>A client that writes what it likes.</summary>
internal sealed class RawClient : IDisposable
{
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly StreamReader _reader;

    public RawClient(string path)
    {
        _socket.Connect(new UnixDomainSocketEndPoint(path));
        Stream = new NetworkStream(_socket, ownsSocket: false);
        _reader = new StreamReader(Stream, Encoding.UTF8, false, 1024, leaveOpen: true);
    }

    public NetworkStream Stream { get; }

    /// <summary>A QMP client that has got through the handshake.</summary>
    public static async Task<RawClient> ConnectAsync(ControlledMachine machine)
    {
        var client = new RawClient(machine.QmpPath);
        Assert.Contains("\"QMP\"", await client.ReadLineAsync(), StringComparison.Ordinal);
        Assert.Equal("{\"return\":{}}", await client.AskAsync("{\"execute\":\"qmp_capabilities\"}"));
        return client;
    }

    public ValueTask WriteAsync(string text) => Stream.WriteAsync(Encoding.UTF8.GetBytes(text));

    public async Task<string> ReadLineAsync() => await _reader.ReadLineAsync().WaitAsync(Limit) ?? throw new EndOfStreamException();

    /// <summary>The answer to a line, without the events before it.</summary>
    public async Task<string> AskAsync(string line)
    {
        await WriteAsync(line + "\n");
        while (true)
        {
            var answer = await ReadLineAsync();
            if (!answer.Contains("\"event\":", StringComparison.Ordinal))
                return answer;
            Events.Add(answer);
        }
    }

    public List<string> Events { get; } = [];

    /// <summary>What a command returns, or null and the class and text of its error.</summary>
    public async Task<(JsonElement? Result, string Class, string Text)> ExecuteAsync(string command, string? arguments = null)
    {
        using var answer = JsonDocument.Parse(await AskAsync($"{{\"execute\":\"{command}\"{(arguments is null ? "" : $",\"arguments\":{arguments}")}}}"));
        if (answer.RootElement.TryGetProperty("return", out var result))
            return (result.Clone(), "", "");
        var error = answer.RootElement.GetProperty("error");
        return (null, error.GetProperty("class").GetString()!, error.GetProperty("desc").GetString()!);
    }

    /// <summary>Reads until an event of that name has come.</summary>
    public async Task<JsonElement> WaitForAsync(string name)
    {
        while (true)
        {
            var seen = Events.FindIndex(e => e.Contains($"\"event\":\"{name}\"", StringComparison.Ordinal));
            if (seen >= 0)
            {
                using var document = JsonDocument.Parse(Events[seen]);
                Events.RemoveRange(0, seen + 1);
                return document.RootElement.Clone();
            }

            Events.Add(await ReadLineAsync());
        }
    }

    /// <summary>Reads until a text has come.</summary>
    public async Task<string> ReadUntilAsync(string text)
    {
        var read = new StringBuilder();
        var buffer = new char[1];
        while (!read.ToString().EndsWith(text, StringComparison.Ordinal))
        {
            if (await _reader.ReadAsync(buffer).AsTask().WaitAsync(Limit) == 0)
                throw new EndOfStreamException(read.ToString());
            read.Append(buffer[0]);
        }

        return read.ToString();
    }

    public void Dispose()
    {
        _reader.Dispose();
        Stream.Dispose();
        _socket.Dispose();
    }
}
