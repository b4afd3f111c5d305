// VMware's backdoor port as QEMU's pc machine has it: commands in ECX, answers in the registers. It is there for the mouse.
// Follows: VMware's open-vm-tools (lib/include/backdoor_def.h) for the numbers; QEMU's vmport, which reports version 6 and
// answers a command that it does not know with all ones.
// Leaves out: everything but the version, the size of memory, and the pointer: clipboard, time, messages, enhanced backdoor.

using Sharpvisor.Core.Buses;
using Sharpvisor.Devices.Ps2;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Port 5658h.</summary>
/// <param name="memorySize">Of RAM, in bytes.</param>
public sealed class VmwarePort(VmMouse mouse, ulong memorySize) : IRegisterPort
{
    public const uint Magic = 0x564D5868; // "VMXh"

    private const int Eax = 0, Ecx = 1, Ebx = 3;
    private const uint Version = 6;
    private const byte GetVersion = 10, GetRamSize = 20, PointerData = 39, PointerStatus = 40, PointerCommand = 41;

    public ushort Port => 0x5658;

    public void Read(Span<uint> registers)
    {
        if (registers[Eax] != Magic)
        {
            registers[Eax] = uint.MaxValue;
            return;
        }

        switch ((byte)registers[Ecx])
        {
            case GetVersion:
                registers[Eax] = Version;
                registers[Ebx] = Magic;
                break;
            case GetRamSize:
                registers[Eax] = (uint)Math.Min(memorySize, uint.MaxValue);
                break;
            case PointerData:
                mouse.ReadData(registers);
                break;
            case PointerStatus:
                registers[Eax] = mouse.Status;
                break;
            case PointerCommand:
                mouse.Command(registers[Ebx]);
                break;
            default:
                registers[Eax] = uint.MaxValue;
                break;
        }
    }
}
