using Sharpvisor.Devices.Acpi;

namespace Sharpvisor.Devices.Tests.Acpi;

public class AmlWriterTests
{
    [Fact]
    public void AssemblesWhatTheSpecificationEncodes()
    {
        var aml = new AmlWriter();
        aml.Scope(@"\_SB", sb => sb.Device("COM1", d => d.HardwareId("PNP0501")));
        Assert.Equal("10 17 5C 5F 53 42 5F 5B 82 0F 43 4F 4D 31 08 5F 48 49 44 0C 41 D0 05 01", Hex(aml));
    }

    [Fact]
    public void IntegersTakeTheShortestForm()
    {
        var aml = new AmlWriter();
        aml.NamePackage("A", 0, 1, 0x20, 0x300, 0x40000, 0x5_0000_0000);
        Assert.Equal("08 41 5F 5F 5F 12 17 06 00 01 0A 20 0B 00 03 0C 00 00 04 00 0E 00 00 00 00 05 00 00 00", Hex(aml));
    }

    [Fact]
    public void ResourcesEndWithTheirTag()
    {
        var aml = new AmlWriter();
        aml.Resources(AmlResources.Ports(0x3F8, 8), AmlResources.Irq(4));
        Assert.Equal("08 5F 43 52 53 11 10 0A 0D 47 01 F8 03 F8 03 01 08 22 10 00 79 00", Hex(aml));
    }

    [Theory]
    [InlineData(62, 1)]
    [InlineData(63, 2)]
    [InlineData(4093, 2)]
    [InlineData(4094, 3)]
    [InlineData(100_000, 3)]
    public void PackageLengthGrowsWithItsContent(int content, int lengthBytes)
    {
        var aml = new AmlWriter();
        // A string of n characters in a name takes n + 7 bytes; the scope's own name 4.
        aml.Scope("ABCD", s => s.Name("EFGH", new string('x', content - 11)));
        var code = aml.Code;
        Assert.Equal(1 + lengthBytes + content, code.Length);
        var value = lengthBytes == 1 ? code[1] : code[1] & 15;
        for (var i = 1; i < lengthBytes; i++)
            value |= code[1 + i] << ((8 * i) - 4);
        Assert.Equal(code.Length - 1, value);
        Assert.Equal(lengthBytes - 1, code[1] >> 6);
    }

    private static string Hex(AmlWriter aml) => string.Join(' ', aml.Code.ToArray().Select(b => b.ToString("X2")));
}
