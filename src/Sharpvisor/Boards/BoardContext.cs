using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Boards;

/// <summary>What a board plugs its devices into.</summary>
/// <param name="ProcessorId">CPUID leaf 1: EAX in the low half, EDX in the high one.</param>
internal sealed record BoardContext(
    GuestMemory Memory,
    AddressSpace Ports,
    AddressSpace Mmio,
    MachineGate Gate,
    Clock Clock,
    GuestErrorLog Errors,
    IMachineControl Control,
    ulong ProcessorId,
    ILogger Logger);
