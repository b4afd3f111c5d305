using Sharpvisor.Core;
using Sharpvisor.Core.Char;

namespace Sharpvisor.Testing.Char;

/// <summary>A character backend that takes only as much as a test allows, and holds input until the device has room.</summary>
public sealed class LimitedCharBackend : ICharBackend
{
    private readonly Queue<byte> _input = new();
    private ICharFrontend? _frontend;

    public string Name => "limited";

    /// <summary>How many more bytes <see cref="Write"/> takes.</summary>
    public int Room { get; set; } = int.MaxValue;

    /// <summary>What the guest has sent.</summary>
    public List<byte> Output { get; } = [];

    public string OutputText => System.Text.Encoding.Latin1.GetString([.. Output]);

    /// <summary>How much input waits for the device.</summary>
    public int InputWaiting => _input.Count;

    public void Attach(ICharFrontend frontend, MachineGate gate) => _frontend = frontend;

    public int Write(ReadOnlySpan<byte> data)
    {
        var taken = Math.Min(data.Length, Room);
        Output.AddRange(data[..taken]);
        Room -= taken;
        return taken;
    }

    /// <summary>The host takes bytes again.</summary>
    public void MakeRoom(int bytes)
    {
        Room = bytes;
        _frontend?.OnWritable();
    }

    /// <summary>Bytes arrive from the host.</summary>
    public void Type(params ReadOnlySpan<byte> data)
    {
        foreach (var value in data)
            _input.Enqueue(value);
        OnReceiveReady();
    }

    public void SendBreak() => _frontend?.OnBreak();

    public void OnReceiveReady()
    {
        while (_frontend is { ReceiveCapacity: > 0 } frontend && _input.TryDequeue(out var value))
            frontend.Receive([value]);
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
