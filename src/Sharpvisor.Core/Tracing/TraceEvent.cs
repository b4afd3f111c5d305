namespace Sharpvisor.Core.Tracing;

/// <summary>Kinds of events that can be watched from outside; as keywords of the event source, too.</summary>
[Flags]
public enum TraceKind
{
    None = 0,

    /// <summary>A hardware interrupt, NMIs among them, is delivered.</summary>
    Interrupt = 1,

    /// <summary>An exception is delivered.</summary>
    Exception = 2,

    /// <summary>SYSCALL.</summary>
    SystemCall = 4,

    /// <summary>An access to the port space.</summary>
    Port = 8,

    /// <summary>An access to a device's memory.</summary>
    Mmio = 16,

    /// <summary>A request of a virtio driver comes, or goes back done.</summary>
    Virtio = 32,

    /// <summary>A call of the hypervisor, with its result.</summary>
    Hypercall = 64,
    All = Interrupt | Exception | SystemCall | Port | Mmio | Virtio | Hypercall,
}

/// <summary>One event. What the numbers mean depends on the kind.</summary>
/// <param name="Processor">Its index; -1: not known.</param>
/// <param name="Number">Vector; system call or hypercall (RAX); address of port or MMIO; virtio queue.</param>
/// <param name="Value">Error code, or -1; first argument; what was read or written; bytes of the request.</param>
/// <param name="Detail">RIP of exceptions and interrupts; second argument; size of the access in bytes; of a virtio request 0, or 1 when it goes back.</param>
/// <param name="Extra">CR2 of a page fault; third argument of a system call; result of a hypercall.</param>
/// <param name="IsWrite">Of ports and MMIO.</param>
/// <param name="Device">Of ports, MMIO and virtio.</param>
public readonly record struct TraceEvent(TraceKind Kind, int Processor, ulong Number, ulong Value, ulong Detail, ulong Extra = 0, bool IsWrite = false, string Device = "")
{
    /// <summary>As a line, without time.</summary>
    public override string ToString() => Kind switch
    {
        TraceKind.Interrupt => FormattableString.Invariant($"interrupt cpu {Processor} vector 0x{Number:x2} rip 0x{Detail:x}"),
        TraceKind.Exception => FormattableString.Invariant($"exception cpu {Processor} vector 0x{Number:x2}{((long)Value < 0 ? "" : FormattableString.Invariant($" error 0x{Value:x}"))} rip 0x{Detail:x}{(Number == 14 ? FormattableString.Invariant($" cr2 0x{Extra:x}") : "")}"),
        TraceKind.SystemCall => FormattableString.Invariant($"syscall cpu {Processor} nr {Number} args 0x{Value:x} 0x{Detail:x} 0x{Extra:x}"),
        TraceKind.Port or TraceKind.Mmio => FormattableString.Invariant($"{(Kind == TraceKind.Port ? "port" : "mmio")} {(IsWrite ? "write" : "read")} 0x{Number:x} size {Detail} value 0x{Value:x} device {Device}"),
        TraceKind.Hypercall => FormattableString.Invariant($"hypercall cpu {Processor} nr {Number} args 0x{Value:x} 0x{Detail:x} result {(long)Extra}"),
        _ => FormattableString.Invariant($"virtio {(Detail == 0 ? "request" : "done")} device {Device} queue {Number} bytes {Value}"),
    };
}
