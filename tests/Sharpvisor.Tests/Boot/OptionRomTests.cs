using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Tests.Boot;

public sealed class OptionRomTests
{
    [Theory]
    [InlineData(1024, 0x55, 0xAA, 2, true)]
    [InlineData(2048, 0x55, 0xAA, 2, true)] // padded
    [InlineData(1024, 0x55, 0xAA, 3, false)] // cut
    [InlineData(1024, 0x55, 0xAB, 2, false)]
    [InlineData(256, 0x55, 0xAA, 0, false)]
    [InlineData(0, 0, 0, 0, false)]
    [InlineData(256 << 10, 0x55, 0xAA, 1, false)]
    public void A_VGA_BIOS_is_an_option_ROM(int length, byte first, byte second, byte units, bool isGood)
    {
        var bytes = new byte[length];
        byte[] header = [first, second, units];
        header.AsSpan(0, Math.Min(3, length)).CopyTo(bytes);
        using var source = BootSource.FromBytes(bytes, "vga.rom");
        var error = Record.Exception(() => FirmwareFiles.CheckOptionRom(source));
        if (isGood)
            Assert.Null(error);
        else
            Assert.StartsWith("vga.rom: is no option ROM", Assert.IsType<ConfigurationException>(error).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_machine_refuses_another_file()
    {
        var builder = Machine.CreateBuilder().WithKernel(BootSource.FromBytes(SyntheticKernel.BzImage(), "kernel")).WithVga(BootSource.FromBytes(new byte[4096], "zeroes"));
        var error = await Assert.ThrowsAsync<ConfigurationException>(() => builder.StartAsync());
        Assert.StartsWith("zeroes: is no option ROM", error.Message, StringComparison.Ordinal);
    }
}
