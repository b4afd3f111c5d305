// What is plugged into the PC's PCI bus: its place, its ROM, its turn at boot.
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Boards;

internal sealed class PcSlots(BoardContext context, PciBus pci, BootOrder bootOrder)
{
    private int _roms;

    /// <exception cref="ConfigurationException">Its place is taken, there is none left, or its ROM is none.</exception>
    public void Add(PciDevice described, PciFunction function)
    {
        if (described.Rom is { } rom)
            AddRom(function, rom);
        try
        {
            if (described.Slot is { } slot)
                pci.Add(function, slot);
            else
                pci.AddToFreeSlot(function, PcBoard.FirstFreeSlot);
        }
        catch (InvalidOperationException e)
        {
            throw new ConfigurationException($"{e.Message}; give it another place by addr=", e);
        }

        if (described.BootIndex is not { } index)
            return;
        if (described.BootPath is not { } path)
            throw new ConfigurationException($"{described.Kind}: nothing can be started from it; leave bootindex= out");
        bootOrder.Add(index, $"/pci@i0cf8/{path.Kind}@{function.Devfn >> 3:x}/{path.Unit}");
    }

    private void AddRom(PciFunction function, BootSource rom)
    {
        FirmwareFiles.CheckOptionRom(rom);
        var bytes = rom.Read(0, (int)rom.Length);
        OptionRom.SetIdentity(bytes, function.Config.Get16(PciRegister.VendorId), function.Config.Get16(PciRegister.DeviceId));
        var region = context.Memory.AddRegion($"{function.Name}{_roms++}.rom", (ulong)bytes.Length);
        bytes.CopyTo(region.Bytes(0, bytes.Length));
        function.AddRom(region);
    }
}
