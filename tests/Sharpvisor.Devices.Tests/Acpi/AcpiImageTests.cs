using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Devices.Acpi;

namespace Sharpvisor.Devices.Tests.Acpi;

public class AcpiImageTests
{
    /// <summary>Firmware that follows the script makes what we make without it.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(40)]
    public void TheLoaderScriptLinksAsWeDo(int processors)
    {
        const uint rsdpAt = 0xE0000;
        var image = AcpiTables.Build(new AcpiOptions { ProcessorCount = processors, HasPci = true, HasFwCfg = true, PciHoleStart = 0x8000_0000 });
        var files = new Dictionary<string, (byte[] Data, uint Address)>();
        var script = image.LoaderScript();
        Assert.Equal(0, script.Length % 128);
        for (var command = script.AsSpan(); !command.IsEmpty; command = command[128..])
        {
            var file = Name(command[4..]);
            switch (BinaryPrimitives.ReadInt32LittleEndian(command))
            {
                case 1:
                    var isRsdp = file == "etc/acpi/rsdp";
                    Assert.Equal(isRsdp ? (16, 2) : (64, 1), (BinaryPrimitives.ReadInt32LittleEndian(command[60..]), command[64]));
                    files.Add(file, isRsdp ? (image.Rsdp, rsdpAt) : (image.Tables, rsdpAt + 64));
                    break;
                case 2:
                    var field = files[file].Data.AsSpan(BinaryPrimitives.ReadInt32LittleEndian(command[116..]));
                    var target = files[Name(command[60..])].Address;
                    if (command[120] == 8)
                        BinaryPrimitives.WriteUInt64LittleEndian(field, BinaryPrimitives.ReadUInt64LittleEndian(field) + target);
                    else
                        BinaryPrimitives.WriteUInt32LittleEndian(field, BinaryPrimitives.ReadUInt32LittleEndian(field) + target);
                    break;
                case 3:
                    var data = files[file].Data;
                    var (offset, start, length) = (BinaryPrimitives.ReadInt32LittleEndian(command[60..]), BinaryPrimitives.ReadInt32LittleEndian(command[64..]), BinaryPrimitives.ReadInt32LittleEndian(command[68..]));
                    data[offset] -= (byte)data.AsSpan(start, length).ToArray().Sum(b => b);
                    break;
            }
        }

        byte[] linked = [.. files["etc/acpi/rsdp"].Data, .. new byte[64 - 36], .. files["etc/acpi/tables"].Data];
        Assert.Equal(AcpiTables.Build(new AcpiOptions { ProcessorCount = processors, HasPci = true, HasFwCfg = true, PciHoleStart = 0x8000_0000 }, rsdpAt), linked);
    }

    [Fact]
    public void PciInterruptsAreLevelsInTheMadt()
    {
        var image = AcpiTables.Build(new AcpiOptions { ProcessorCount = 1, HasPci = true }).Tables;
        var at = image.AsSpan().IndexOf("APIC"u8);
        List<(int Irq, int Flags)> overrides = [];
        for (var entry = at + 44; entry < at + BinaryPrimitives.ReadInt32LittleEndian(image.AsSpan(at + 4)); entry += image[entry + 1])
        {
            if (image[entry] == 2)
                overrides.Add((image[entry + 3], image[entry + 8]));
        }

        Assert.Equal([(0, 0), (5, 0xD), (9, 0xD), (10, 0xD), (11, 0xD)], overrides);
    }

    private static string Name(ReadOnlySpan<byte> file) => Encoding.ASCII.GetString(file[..56]).TrimEnd('\0');
}
