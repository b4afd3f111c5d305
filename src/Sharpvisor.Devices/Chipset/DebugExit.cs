// isa-debug-exit: a guest ends the machine with an exit code. For tests.
// Follows: QEMU's isa-debug-exit device: writing v ends the process with (v << 1) | 1.
// Leaves out: nothing.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Chipset;

/// <summary>A few ports, at 501h or F4h by custom; reads give 0.</summary>
public sealed class DebugExit(IMachineControl machine) : IBusDevice
{
    public ulong Read(uint offset, int size) => 0;

    public void Write(uint offset, int size, ulong value) =>
        machine.RequestExit((int)(uint)((value << 1) | 1), "isa-debug-exit");
}
