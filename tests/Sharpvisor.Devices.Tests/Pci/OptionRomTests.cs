using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Tests.Pci;

public sealed class OptionRomTests
{
    [Fact]
    public void The_ids_change_and_the_sum_does_not()
    {
        var rom = Rom();
        var sum = rom.Sum(b => b) & 0xFF;
        OptionRom.SetIdentity(rom, 0x1AF4, 0x1000);
        Assert.Equal([0xF4, 0x1A, 0x00, 0x10], rom[0x24..0x28]);
        Assert.Equal(sum, rom.Sum(b => b) & 0xFF);
    }

    [Theory]
    [InlineData(0, 0)] // no ROM
    [InlineData(0x18, 0xFF)] // its data lie behind its end
    [InlineData(0x20, 'X')] // are none
    public void What_is_no_ROM_of_PCI_stays_as_it_is(int at, byte value)
    {
        var rom = Rom();
        rom[at] = value;
        rom[0x19] = value == 0xFF ? value : (byte)0;
        var before = (byte[])rom.Clone();
        OptionRom.SetIdentity(rom, 0x1AF4, 0x1000);
        Assert.Equal(before, rom);
        OptionRom.SetIdentity([], 1, 2);
        OptionRom.SetIdentity(rom.AsSpan(0, 0x25), 1, 2);
    }

    private static byte[] Rom()
    {
        var rom = new byte[512];
        (rom[0], rom[1], rom[2], rom[6], rom[0x18]) = (0x55, 0xAA, 1, 0x77, 0x20);
        "PCIR"u8.CopyTo(rom.AsSpan(0x20));
        (rom[0x24], rom[0x25], rom[0x26], rom[0x27]) = (0xF4, 0x1A, 0x41, 0x10);
        return rom;
    }
}
