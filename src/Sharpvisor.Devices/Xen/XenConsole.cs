// The console of a Xen domain (hvc0): two rings of bytes in a page, and an event channel.
// Follows: Xen's public header io/console.h, struct xencons_interface.
// Leaves out: the connection state and error words that only a reconnecting console needs.

using Sharpvisor.Core;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen;

/// <summary>The back end of the console. Used with the machine's gate held.</summary>
public sealed class XenConsole : ICharFrontend
{
    private const int InputSize = 1024, OutputSize = 2048;
    private const uint Input = 0, Output = 1024, InputConsumer = 3072, InputProducer = 3076, OutputConsumer = 3080, OutputProducer = 3084;

    private readonly GuestMemory _memory;
    private readonly ulong _page;
    private readonly ICharBackend _backend;
    private readonly GuestErrorLog _errors;
    private readonly Action _notify;
    private bool _wasFull;

    /// <param name="page">Guest-physical address of the shared page.</param>
    /// <param name="notify">Raises the event channel.</param>
    public XenConsole(GuestMemory memory, ulong page, ICharBackend backend, MachineGate gate, GuestErrorLog errors, Action notify)
    {
        _memory = memory;
        _page = page;
        _backend = backend;
        _errors = errors;
        _notify = notify;
        backend.Attach(this, gate);
    }

    public int ReceiveCapacity
    {
        get
        {
            var capacity = TryIndices(InputConsumer, InputProducer, InputSize, out _, out _, out var used) ? InputSize - used : 0;
            _wasFull = capacity == 0;
            return capacity;
        }
    }

    public void Receive(ReadOnlySpan<byte> data)
    {
        if (!TryIndices(InputConsumer, InputProducer, InputSize, out _, out var producer, out var used))
            return;
        var count = Math.Min(data.Length, InputSize - used);
        for (var i = 0; i < count; i++)
            _memory.TryWrite(_page + Input + ((producer + (uint)i) % InputSize), data[i]);
        Interlocked.MemoryBarrier(); // the bytes come before the index
        _memory.TryWrite(_page + InputProducer, producer + (uint)count);
        _notify();
    }

    public void OnWritable() => Serve();

    public void OnBreak()
    {
        // There is no such thing on this console.
    }

    /// <summary>The domain has raised the event channel: it has written, or read.</summary>
    public void Serve()
    {
        if (_wasFull && ReceiveCapacity > 0)
            _backend.OnReceiveReady();
        if (!TryIndices(OutputConsumer, OutputProducer, OutputSize, out var consumer, out _, out var used) || used == 0)
            return;
        Span<byte> data = stackalloc byte[OutputSize];
        for (var i = 0; i < used; i++)
        {
            if (!_memory.TryRead(_page + Output + ((consumer + (uint)i) % OutputSize), out data[i]))
                return;
        }

        var taken = Math.Clamp(_backend.Write(data[..used]), 0, used);
        if (taken == 0)
            return;
        _memory.TryWrite(_page + OutputConsumer, consumer + (uint)taken);
        _notify();
    }

    private bool TryIndices(uint consumerAt, uint producerAt, int size, out uint consumer, out uint producer, out int used)
    {
        (producer, used) = (0, 0);
        if (!_memory.TryRead(_page + consumerAt, out consumer) || !_memory.TryRead(_page + producerAt, out producer))
            return false;
        if (producer - consumer > size)
        {
            _errors.Report("xen console", "ring indices that can't be");
            return false;
        }

        used = (int)(producer - consumer);
        return true;
    }
}
