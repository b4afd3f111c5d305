// A line with nothing at its other end: takes all output, gives no input.
using Sharpvisor.Core;
using Sharpvisor.Core.Char;

namespace Sharpvisor.Backends.Char;

public sealed class NullCharBackend : ICharBackend
{
    public string Name => "null";

    public void Attach(ICharFrontend frontend, MachineGate gate)
    {
    }

    public int Write(ReadOnlySpan<byte> data) => data.Length;

    public void OnReceiveReady()
    {
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
