using System.Diagnostics.Tracing;

namespace Sharpvisor.Core.Tracing;

/// <summary>
/// The events of all machines of this process for EventListener and dotnet-trace: provider "Sharpvisor", keywords as
/// <see cref="TraceKind"/> (dotnet-trace collect --providers Sharpvisor:4 has the system calls).
/// </summary>
[EventSource(Name = "Sharpvisor")]
public sealed class GuestEventSource : EventSource
{
    private GuestEventSource()
    {
    }

    public static GuestEventSource Log { get; } = new();

    /// <summary>Makes the source known, which takes 20 ms of processor time, when a guest has had time to start.</summary>
    public static async Task PublishLaterAsync()
    {
        await Task.Delay(TimeSpan.FromSeconds(3)).ConfigureAwait(false);
        _ = Log;
    }

    [Event(1, Keywords = (EventKeywords)TraceKind.Interrupt, Level = EventLevel.Informational)]
    public void Interrupt(int processor, int vector, ulong rip) => WriteEvent(1, processor, vector, rip);

    [Event(2, Keywords = (EventKeywords)TraceKind.Exception, Level = EventLevel.Informational)]
    public void Exception(int processor, int vector, long error, ulong rip, ulong cr2) => WriteEvent(2, processor, vector, error, rip, cr2);

    [Event(3, Keywords = (EventKeywords)TraceKind.SystemCall, Level = EventLevel.Informational)]
    public void SystemCall(int processor, ulong number, ulong rdi, ulong rsi, ulong rdx) => WriteEvent(3, processor, number, rdi, rsi, rdx);

    [Event(4, Keywords = (EventKeywords)TraceKind.Port, Level = EventLevel.Informational)]
    public void Port(bool isWrite, int port, int size, ulong value, string device) => WriteEvent(4, isWrite, port, size, value, device);

    [Event(5, Keywords = (EventKeywords)TraceKind.Mmio, Level = EventLevel.Informational)]
    public void Mmio(bool isWrite, ulong address, int size, ulong value, string device) => WriteEvent(5, isWrite, address, size, value, device);

    [Event(6, Keywords = (EventKeywords)TraceKind.Virtio, Level = EventLevel.Informational)]
    public void Virtio(bool isDone, string device, int queue, ulong bytes) => WriteEvent(6, isDone, device, queue, bytes);

    protected override void OnEventCommand(EventCommandEventArgs command)
    {
        var kinds = TraceKind.None;
        for (var kind = TraceKind.Interrupt; kind <= TraceKind.Virtio; kind = (TraceKind)((int)kind << 1))
        {
            if (IsEnabled(EventLevel.Informational, (EventKeywords)kind))
                kinds |= kind;
        }

        EventListeners.Wanted = kinds;
    }

    [NonEvent]
    internal void Write(in TraceEvent e)
    {
        switch (e.Kind)
        {
            case TraceKind.Interrupt:
                Interrupt(e.Processor, (int)e.Number, e.Detail);
                break;
            case TraceKind.Exception:
                Exception(e.Processor, (int)e.Number, (long)e.Value, e.Detail, e.Extra);
                break;
            case TraceKind.SystemCall:
                SystemCall(e.Processor, e.Number, e.Value, e.Detail, e.Extra);
                break;
            case TraceKind.Port:
                Port(e.IsWrite, (int)e.Number, (int)e.Detail, e.Value, e.Device);
                break;
            case TraceKind.Mmio:
                Mmio(e.IsWrite, e.Number, (int)e.Detail, e.Value, e.Device);
                break;
            case TraceKind.Virtio:
                Virtio(e.Detail != 0, e.Device, (int)e.Number, e.Value);
                break;
        }
    }
}
