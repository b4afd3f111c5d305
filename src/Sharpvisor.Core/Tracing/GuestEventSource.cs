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

    [Event(1, Keywords = Keywords.Interrupt, Level = EventLevel.Informational)]
    public void Interrupt(int processor, int vector, ulong rip) => WriteEvent(1, processor, vector, rip);

    [Event(2, Keywords = Keywords.Exception, Level = EventLevel.Informational)]
    public void Exception(int processor, int vector, long error, ulong rip, ulong cr2) => WriteEvent(2, processor, vector, error, rip, cr2);

    [Event(3, Keywords = Keywords.SystemCall, Level = EventLevel.Informational)]
    public void SystemCall(int processor, ulong number, ulong rdi, ulong rsi, ulong rdx) => WriteEvent(3, processor, number, rdi, rsi, rdx);

    [Event(4, Keywords = Keywords.Port, Level = EventLevel.Informational)]
    public void Port(bool isWrite, int port, int size, ulong value, string device) => WriteEvent(4, isWrite, port, size, value, device);

    [Event(5, Keywords = Keywords.Mmio, Level = EventLevel.Informational)]
    public void Mmio(bool isWrite, ulong address, int size, ulong value, string device) => WriteEvent(5, isWrite, address, size, value, device);

    [Event(6, Keywords = Keywords.Virtio, Level = EventLevel.Informational)]
    public void Virtio(bool isDone, string device, int queue, ulong bytes) => WriteEvent(6, isDone, device, queue, bytes);

    [Event(7, Keywords = Keywords.Hypercall, Level = EventLevel.Informational)]
    public void Hypercall(int processor, ulong number, ulong first, ulong second, long result) => WriteEvent(7, processor, number, first, second, result);

    protected override void OnEventCommand(EventCommandEventArgs command)
    {
        var kinds = TraceKind.None;
        for (var kind = TraceKind.Interrupt; kind <= TraceKind.Hypercall; kind = (TraceKind)((int)kind << 1))
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
            case TraceKind.Hypercall:
                Hypercall(e.Processor, e.Number, e.Value, e.Detail, (long)e.Extra);
                break;
        }
    }

    /// <summary>Their names for tools, which look for a class of this name; the values are <see cref="TraceKind"/>'s.</summary>
    public static class Keywords
    {
        public const EventKeywords Interrupt = (EventKeywords)TraceKind.Interrupt;
        public const EventKeywords Exception = (EventKeywords)TraceKind.Exception;
        public const EventKeywords SystemCall = (EventKeywords)TraceKind.SystemCall;
        public const EventKeywords Port = (EventKeywords)TraceKind.Port;
        public const EventKeywords Mmio = (EventKeywords)TraceKind.Mmio;
        public const EventKeywords Virtio = (EventKeywords)TraceKind.Virtio;
        public const EventKeywords Hypercall = (EventKeywords)TraceKind.Hypercall;
    }
}
