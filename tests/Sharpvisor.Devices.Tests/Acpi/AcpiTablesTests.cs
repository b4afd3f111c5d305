using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Acpi;

namespace Sharpvisor.Devices.Tests.Acpi;

public class AcpiTablesTests
{
    private const ulong Base = AcpiTables.DefaultAddress;

    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    [InlineData(300)]
    public void EveryTableIsLinkedAndSumsToZero(int processors)
    {
        var image = AcpiTables.Build(new AcpiOptions { ProcessorCount = processors }, Base);
        Assert.Equal("RSD PTR ", Encoding.ASCII.GetString(image, 0, 8));
        AssertSum(image.AsSpan(0, 20));
        AssertSum(image.AsSpan(0, 36));
        var rsdt = Table(image, U32(image, 16), "RSDT");
        var xsdt = Table(image, U64(image, 24), "XSDT");
        string[] names = ["FACP", "APIC", "HPET"];
        Assert.Equal(36 + (4 * names.Length), rsdt.Length);
        for (var i = 0; i < names.Length; i++)
        {
            Table(image, U32(rsdt, 36 + (4 * i)), names[i]);
            Assert.Equal(U32(rsdt, 36 + (4 * i)), U64(xsdt, 36 + (8 * i)));
        }

        var fadt = Fadt(image);
        Assert.Equal(268, fadt.Length);
        Table(image, U32(fadt, 40), "DSDT");
        Assert.Equal(U32(fadt, 40), U64(fadt, 140));
        var facs = (int)(U32(fadt, 36) - Base);
        Assert.Equal("FACS", Encoding.ASCII.GetString(image, facs, 4));
        Assert.Equal(0, facs % 64);
    }

    [Fact]
    public void FadtNamesTheRegistersOfTheDevices()
    {
        var fadt = Fadt(AcpiTables.Build(new AcpiOptions { ProcessorCount = 1 }, Base));
        Assert.Equal(9, U16(fadt, 46));
        Assert.Equal(0xB2u, U32(fadt, 48));
        Assert.Equal((0xF1, 0xF0), (fadt[52], fadt[53]));
        Assert.Equal((0x600u, 0x604u, 0x608u), (U32(fadt, 56), U32(fadt, 64), U32(fadt, 76)));
        Assert.Equal((4, 2, 4), (fadt[88], fadt[89], fadt[91]));
        Assert.Equal(0x32, fadt[108]);
        Assert.Equal(0x0007, U16(fadt, 109)); // legacy devices, 8042, no VGA
        Assert.NotEqual(0u, U32(fadt, 112) & (1 << 10));
        Assert.Equal(1, fadt[116]);
        Assert.Equal(0xCF9UL, U64(fadt, 120));
        Assert.Equal(6, fadt[128]);
        Assert.Equal((0x600UL, 0x604UL, 0x608UL), (U64(fadt, 152), U64(fadt, 176), U64(fadt, 212)));
    }

    [Fact]
    public void BootArchitectureSaysWhatIsThere()
    {
        var fadt = Fadt(AcpiTables.Build(new AcpiOptions { ProcessorCount = 1, HasI8042 = false, HasVga = true }, Base));
        Assert.Equal(0x0001, U16(fadt, 109));
    }

    [Fact]
    public void MadtListsProcessorsIoApicAndOverrides()
    {
        var entries = MadtEntries(300);
        Assert.Equal(255, entries.Count(e => e[0] == 0));
        Assert.All(entries.Where(e => e[0] == 0), (e, i) => Assert.Equal((i, i, 1u), (e[2], e[3], U32(e, 4))));
        Assert.Equal(Enumerable.Range(255, 45).Select(i => ((uint)i, 1u, (uint)i)),
            entries.Where(e => e[0] == 9).Select(e => (U32(e, 4), U32(e, 8), U32(e, 12))));
        var ioApic = Assert.Single(entries, e => e[0] == 1);
        Assert.Equal((0xFEC00000u, 0u), (U32(ioApic, 4), U32(ioApic, 8)));
        Assert.Equal([(0, 2u, 0), (9, 9u, 0xD)],
            entries.Where(e => e[0] == 2).Select(e => ((int)e[3], U32(e, 4), (int)U16(e, 8))));
        Assert.Equal<byte>([4, 6, 0xFF, 0, 0, 1], Assert.Single(entries, e => e[0] == 4));
        Assert.Single(entries, e => e[0] == 10);
        Assert.DoesNotContain(MadtEntries(2), e => e[0] is 9 or 10);
    }

    [Fact]
    public void DsdtHoldsWhatTheMachineHas()
    {
        var full = Dsdt(new AcpiOptions { ProcessorCount = 2, AddDevices = sb => sb.Device("PCI0", d => d.Name("_UID", 77)) });
        foreach (var name in (string[])["_S3_", "_S4_", "_S5_", "C000", "C001", "COM1", "RTC_", "KBD_", "MOU_", "HPET", "PCI0"])
            Assert.Contains(name, full);
        Assert.DoesNotContain("C002", full);
        var bare = Dsdt(new AcpiOptions { ProcessorCount = 1, HasHpet = false, HasI8042 = false, SerialPorts = [], HasSuspendToRam = false, HasSuspendToDisk = false });
        foreach (var name in (string[])["_S3_", "_S4_", "COM1", "KBD_", "HPET"])
            Assert.DoesNotContain(name, bare);
    }

    [Fact]
    public void PlacesThemInMemoryOrSaysWhyNot()
    {
        using var memory = new GuestMemory(2 << 20);
        var options = new AcpiOptions { ProcessorCount = 4 };
        Assert.Equal(0xE0000UL, AcpiTables.Place(memory, options));
        Assert.True(memory.TryRead(0xE0000, out ulong signature));
        Assert.Equal("RSD PTR ", Encoding.ASCII.GetString(BitConverter.GetBytes(signature)));
        Assert.Throws<ConfigurationException>(() => AcpiTables.Place(memory, options, 64 << 20));
        Assert.Throws<ConfigurationException>(() => AcpiTables.Place(memory, new AcpiOptions { ProcessorCount = 4000 }, length: 1000));
    }

    private static byte[] Fadt(byte[] image) => Table(image, U32(Table(image, U32(image, 16), "RSDT"), 36), "FACP");

    private static string Dsdt(AcpiOptions options)
    {
        var image = AcpiTables.Build(options, Base);
        return Encoding.Latin1.GetString(Table(image, U32(Fadt(image), 40), "DSDT"));
    }

    private static List<byte[]> MadtEntries(int processors)
    {
        var image = AcpiTables.Build(new AcpiOptions { ProcessorCount = processors }, Base);
        var madt = Table(image, U32(Table(image, U32(image, 16), "RSDT"), 40), "APIC");
        Assert.Equal((0xFEE00000u, 1u), (U32(madt, 36), U32(madt, 40)));
        var entries = new List<byte[]>();
        for (var at = 44; at < madt.Length; at += madt[at + 1])
            entries.Add(madt[at..(at + madt[at + 1])]);
        return entries;
    }

    private static byte[] Table(byte[] image, ulong address, string signature)
    {
        var at = (int)(address - Base);
        Assert.Equal(signature, Encoding.ASCII.GetString(image, at, 4));
        var table = image[at..(at + (int)U32(image, at + 4))];
        AssertSum(table);
        return table;
    }

    private static void AssertSum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (var value in bytes)
            sum += value;
        Assert.Equal(0, sum);
    }

    private static ushort U16(byte[] bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(at));

    private static uint U32(byte[] bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at));

    private static ulong U64(byte[] bytes, int at) => BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(at));
}
