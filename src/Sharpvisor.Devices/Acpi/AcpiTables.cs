// The ACPI tables of a PC: placed by ourselves for a boot without firmware, else by firmware (AcpiImage).
// Follows: ACPI 6.4, 5.2 (RSDP revision 2, RSDT, XSDT, FADT revision 5, FACS, MADT revision 3, DSDT revision 2);
// IA-PC HPET Specification 1.0a, 3.2.4 (HPET table); iapc_boot_arch of 5.2.9.3.
// Leaves out: NUMA tables; general-purpose events have their registers, but no method that handles one.

using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Timers;

namespace Sharpvisor.Devices.Acpi;

/// <summary>Builds the tables and links them at their address.</summary>
public static class AcpiTables
{
    /// <summary>Where a PC's tables lie by default: in the area that an operating system scans for the RSDP.</summary>
    public const ulong DefaultAddress = 0xE0000;

    /// <summary>Length of the area at <see cref="DefaultAddress"/>, in bytes.</summary>
    public const int DefaultLength = 0x20000;

    /// <summary>IRQ of the system control interrupt.</summary>
    public const int SciIrq = 9;

    /// <summary>The id of the IOAPIC in the MADT.</summary>
    public const byte IoApicId = 0;

    private const ulong LocalApicAddress = 0xFEE0_0000;

    /// <summary>Puts the tables in guest memory and returns the address of the RSDP.</summary>
    /// <param name="address">A multiple of 64 below 4 GiB; the area must be told to the guest as reserved.</param>
    /// <param name="length">Bytes that may be used from there on.</param>
    /// <exception cref="ConfigurationException">They don't fit, or there is no RAM.</exception>
    public static ulong Place(GuestMemory memory, AcpiOptions options, ulong address = DefaultAddress, int length = DefaultLength)
    {
        var image = Build(options, address);
        if (image.Length > length)
        {
            throw new ConfigurationException(
                $"the ACPI tables of {options.ProcessorCount} processors need {image.Length} bytes but there are {length}: use fewer processors (-smp)");
        }

        if (!memory.TryWrite(address, image))
            throw new ConfigurationException($"no guest memory for the ACPI tables at 0x{address:x}: give the guest more with -m");
        return address;
    }

    /// <summary>All tables in one piece, linked for <paramref name="address"/>, the RSDP first.</summary>
    public static byte[] Build(AcpiOptions options, ulong address)
    {
        if (address % 64 != 0 || address > uint.MaxValue - (1 << 24))
            throw new ArgumentOutOfRangeException(nameof(address), address, "must be a multiple of 64 well below 4 GiB");
        return Build(options).LinkAt(address);
    }

    /// <summary>All tables, for whoever places them.</summary>
    public static AcpiImage Build(AcpiOptions options)
    {
        var image = new AcpiImage();
        var facs = image.Add(Facs(), checksumAt: -1); // first, where WakingVector finds it
        var dsdt = image.Add(Dsdt.Build(options));
        var fadt = image.Add(options.IsHardwareReduced ? ReducedFadt() : Fadt(options));
        image.Point(fadt, 36, 4, facs);
        image.Point(fadt, 40, 4, dsdt);
        image.Point(fadt, 140, 8, dsdt); // X_DSDT; of the FACS the 32-bit address serves
        List<int> tables = [fadt, image.Add(Madt(options))];
        if (options.HasHpet)
            tables.Add(image.Add(HpetTable(options)));
        image.SetRoot(AddRoot(image, "RSDT", 4, tables), AddRoot(image, "XSDT", 8, tables));
        return image;
    }

    /// <summary>Where the guest wants to go on after a sleep: Firmware_Waking_Vector of the FACS that <see cref="Place"/> has put there.</summary>
    /// <returns>The address of real-mode code; 0: it has said nothing.</returns>
    public static uint WakingVector(GuestMemory memory, ulong address = DefaultAddress)
    {
        const int wakingVector = 12;
        Span<byte> vector = stackalloc byte[4];
        return memory.TryRead(address + AcpiImage.TablesOffset + wakingVector, vector) ? BinaryPrimitives.ReadUInt32LittleEndian(vector) : 0;
    }

    private static int AddRoot(AcpiImage image, string signature, int pointerSize, List<int> tables)
    {
        var root = new AcpiTable(signature, 1);
        root.Zeros(pointerSize * tables.Count);
        var at = image.Add(root.Finish());
        for (var i = 0; i < tables.Count; i++)
            image.Point(at, AcpiTable.HeaderLength + (pointerSize * i), pointerSize, tables[i]);
        return at;
    }

    private static byte[] Facs()
    {
        var facs = new byte[64];
        "FACS"u8.CopyTo(facs);
        facs[4] = 64;
        facs[32] = 2; // version
        return facs;
    }

    private static byte[] Fadt(AcpiOptions options)
    {
        const ushort pm1Event = AcpiPm.DefaultPort + AcpiPm.Pm1Event;
        const ushort pm1Control = AcpiPm.DefaultPort + AcpiPm.Pm1Control;
        const ushort pmTimer = AcpiPm.DefaultPort + AcpiPm.PmTimer;
        const uint wbinvd = 1 << 0, procC1 = 1 << 2, noFixedSleepButton = 1 << 5, resetRegister = 1 << 10;
        const ushort legacyDevices = 1 << 0, has8042 = 1 << 1, vgaNotPresent = 1 << 2;

        var t = new AcpiTable("FACP", 5);
        t.Zeros(4 + 4); // FIRMWARE_CTRL and DSDT: linked later
        t.U8(0);
        t.U8(0); // preferred power management profile: unspecified
        t.U16(SciIrq);
        t.U32(AcpiPm.SmiCommandPort);
        t.U8(AcpiPm.AcpiEnable);
        t.U8(AcpiPm.AcpiDisable);
        t.Zeros(2); // S4BIOS_REQ, PSTATE_CNT
        t.U32(pm1Event);
        t.U32(0);
        t.U32(pm1Control);
        t.U32(0);
        t.U32(0); // PM2_CNT
        t.U32(pmTimer);
        t.U32(AcpiPm.GpePort);
        t.U32(0); // GPE1
        t.U8(4); // PM1_EVT_LEN
        t.U8(2); // PM1_CNT_LEN
        t.U8(0);
        t.U8(4); // PM_TMR_LEN
        t.U8(AcpiPm.GpeLength);
        t.Zeros(3); // GPE1's length and base, CST_CNT
        t.U16(0xFFF); // P_LVL2_LAT, P_LVL3_LAT: no C2, no C3
        t.U16(0xFFF);
        t.Zeros(2 + 2 + 1 + 1); // flush size and stride, duty cycle
        t.Zeros(2); // no day and month alarm
        t.U8(0x32); // century in CMOS
        t.U16((ushort)(legacyDevices | (options.HasI8042 ? has8042 : 0) | (options.HasVga ? 0 : vgaNotPresent)));
        t.U8(0);
        t.U32(wbinvd | procC1 | noFixedSleepButton | resetRegister);
        t.Address(AddressSpaceId.SystemIo, 0xCF9, 8, 1);
        t.U8(0x06); // SYS_RST and RCPU
        t.Zeros(3);
        t.Zeros(8 + 8); // X_FIRMWARE_CTRL and X_DSDT
        t.Address(AddressSpaceId.SystemIo, pm1Event, 32, 2);
        t.Zeros(12);
        t.Address(AddressSpaceId.SystemIo, pm1Control, 16, 2);
        t.Zeros(12);
        t.Zeros(12); // PM2_CNT
        t.Address(AddressSpaceId.SystemIo, pmTimer, 32, 3);
        t.Address(AddressSpaceId.SystemIo, AcpiPm.GpePort, 8 * AcpiPm.GpeLength, 1);
        t.Zeros(12); // GPE1
        t.Zeros(2 * 12); // sleep control and status
        return t.Finish();
    }

    /// <summary>The fixed registers are reserved here (ACPI 6.4, 5.2.9, HW_REDUCED_ACPI).</summary>
    private static byte[] ReducedFadt()
    {
        const uint wbinvd = 1 << 0, procC1 = 1 << 2, noFixedPowerButton = 1 << 4, noFixedSleepButton = 1 << 5, resetRegister = 1 << 10, headless = 1 << 12, hardwareReduced = 1 << 20;
        const ushort vgaNotPresent = 1 << 2, rtcNotPresent = 1 << 5;
        const int preferredProfile = 45, bootArchitecture = 109;

        var t = new AcpiTable("FACP", 5);
        t.Zeros(preferredProfile - AcpiTable.HeaderLength);
        t.U8(4); // an enterprise server
        t.Zeros(bootArchitecture - preferredProfile - 1);
        t.U16(vgaNotPresent | rtcNotPresent);
        t.U8(0);
        t.U32(wbinvd | procC1 | noFixedPowerButton | noFixedSleepButton | resetRegister | headless | hardwareReduced);
        t.Address(AddressSpaceId.SystemIo, AcpiReducedPower.Port + AcpiReducedPower.Reset, 8, 1);
        t.U8(AcpiReducedPower.ResetValue);
        t.Zeros(3);
        t.Zeros(8 + 8); // X_FIRMWARE_CTRL and X_DSDT
        t.Zeros(8 * 12); // PM1 to GPE1
        t.Address(AddressSpaceId.SystemIo, AcpiReducedPower.Port + AcpiReducedPower.SleepControl, 8, 1);
        t.Address(AddressSpaceId.SystemIo, AcpiReducedPower.Port + AcpiReducedPower.SleepStatus, 8, 1);
        return t.Finish();
    }

    private static byte[] Madt(AcpiOptions options)
    {
        const uint pcAtCompatible = 1, enabled = 1;
        const ushort activeHigh = 1, level = 3 << 2, conforms = 0;
        const int largestXApicId = 254;

        var t = new AcpiTable("APIC", 3);
        t.U32((uint)LocalApicAddress);
        t.U32(options.IsHardwareReduced ? 0 : pcAtCompatible);
        for (var i = 0; i < options.ProcessorCount; i++)
        {
            if (i <= largestXApicId)
            {
                t.Bytes([0, 8, (byte)i, (byte)i]);
                t.U32(enabled);
            }
            else
            {
                t.Bytes([9, 16, 0, 0]);
                t.U32((uint)i);
                t.U32(enabled);
                t.U32((uint)i);
            }
        }

        if (!options.IsHardwareReduced)
        {
            t.Bytes([1, 12, IoApicId, 0]);
            t.U32((uint)IoApic.DefaultAddress);
            t.U32(0);
            SourceOverride(t, 0, conforms);
            foreach (var irq in options.HasPci ? [5, 9, 10, 11] : (ReadOnlySpan<byte>)[SciIrq])
                SourceOverride(t, irq, activeHigh | level);
        }

        // NMI on LINT1 of all processors.
        t.Bytes([4, 6, 0xFF, 0, 0, 1]);
        if (options.ProcessorCount > largestXApicId + 1)
        {
            t.Bytes([0xA, 12, 0, 0]);
            t.U32(uint.MaxValue);
            t.Bytes([1, 0, 0, 0]);
        }

        return t.Finish();
    }

    private static void SourceOverride(AcpiTable t, byte irq, ushort flags)
    {
        t.Bytes([2, 10, 0, irq]);
        t.U32((uint)IsaInterrupts.Gsi(irq));
        t.U16(flags);
    }

    private static byte[] HpetTable(AcpiOptions options)
    {
        var t = new AcpiTable("HPET", 1);
        t.U32(0x8086_A001 | ((uint)(options.HpetTimers - 1) << 8)); // as the low half of GCAP_ID
        t.Address(AddressSpaceId.SystemMemory, Hpet.DefaultAddress, 64, 0);
        t.U8(0);
        t.U16(128); // minimum ticks of a periodic timer: 1.28 us
        t.U8(0);
        return t.Finish();
    }
}
