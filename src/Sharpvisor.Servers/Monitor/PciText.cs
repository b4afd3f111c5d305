// info pci of QEMU's monitor, to the letter.
using System.Globalization;
using System.Text;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>A PCI function as info pci shows it, which is how QEMU does.</summary>
internal static class PciText
{
    public static string Describe(PciFunction function)
    {
        var config = function.Config;
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"  Bus  0, device {function.Devfn >> 3,3}, function {function.Devfn & 7}:\n");
        text.Append(CultureInfo.InvariantCulture, $"    {PciClasses.Describe(config.Get16(PciRegister.ClassCode + 1))}: PCI device {config.Get16(PciRegister.VendorId):x4}:{config.Get16(PciRegister.DeviceId):x4}\n");
        text.Append(CultureInfo.InvariantCulture, $"      PCI subsystem {config.Get16(PciRegister.SubsystemVendorId):x4}:{config.Get16(PciRegister.SubsystemId):x4}\n");
        if (function.InterruptPin != 0)
            text.Append(CultureInfo.InvariantCulture, $"      IRQ {config.Get8(PciRegister.InterruptLine)}, pin {(char)('A' + function.InterruptPin - 1)}\n");
        foreach (var bar in function.Bars)
        {
            var number = bar.Kind == PciBarKind.Rom ? 6 : (bar.Offset - PciRegister.BaseAddress) / 4;
            if (bar.Kind == PciBarKind.Ports)
            {
                // QEMU shows a register that is nowhere at the highest address.
                var port = bar.Address ?? 0xFFFF;
                text.Append(CultureInfo.InvariantCulture, $"      BAR{number}: I/O at 0x{port:x4} [0x{(ushort)(port + bar.Size - 1):x4}].\n");
                continue;
            }

            var address = bar.Address ?? ulong.MaxValue;
            var isPrefetchable = bar.Kind != PciBarKind.Rom && (config.Get32(bar.Offset) & 8) != 0;
            text.Append(CultureInfo.InvariantCulture, $"      BAR{number}: {(bar.Kind == PciBarKind.Memory64 ? 64 : 32)} bit{(isPrefetchable ? " prefetchable" : "")} memory at 0x{address:x8} [0x{unchecked(address + bar.Size - 1):x8}].\n");
        }

        text.Append(CultureInfo.InvariantCulture, $"      id \"{function.Name}\"\n");
        return text.ToString();
    }
}
