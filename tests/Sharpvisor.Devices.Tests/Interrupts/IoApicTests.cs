using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Interrupts;

public class IoApicTests
{
    private readonly ApicBus _bus = new();
    private readonly IoApic _ioApic;
    private readonly LocalApic _apic;
    private readonly RecordingProcessor _cpu = new();

    public IoApicTests()
    {
        _apic = new LocalApic(0, new ManualClock(), _bus);
        _apic.Connect(_cpu);
        _apic.Write(0xF0, 4, 0x1FF);
        _ioApic = new IoApic(_bus);
    }

    [Fact]
    public void IdentifiesItselfWithTwentyFourMaskedPins()
    {
        Assert.Equal(0x00170020UL, Read(1));
        for (var pin = 0u; pin < 24; pin++)
            Assert.Equal(0x10000UL, Entry(pin));
        Write(0, uint.MaxValue);
        Assert.Equal(0x0F000000UL, Read(0));
        Write(0x10 + 48, 1); // behind the last pin
        Assert.Equal(0UL, Read(0x10 + 48));
    }

    [Fact]
    public void EdgeInterruptsOncePerRiseAndIsLostWhileMasked()
    {
        SetEntry(4, 0x10040);
        _ioApic.Input(4).Set(true);
        SetEntry(4, 0x40);
        Assert.False(_cpu.InterruptRequest);
        _ioApic.Input(4).Set(false);
        _ioApic.Input(4).Set(true);
        Assert.Equal(0x40, _apic.AcknowledgeInterrupt());
        _apic.Write(0xB0, 4, 0);
        Assert.False(_cpu.InterruptRequest);
        Assert.Equal(0x40UL, Entry(4));
    }

    [Fact]
    public void LevelInterruptsAgainAfterItsEoiWhileAsserted()
    {
        SetEntry(9, 0x8049);
        _ioApic.Input(9).Set(true);
        Assert.Equal(0xC049UL, Entry(9));
        Assert.Equal(0x49, _apic.AcknowledgeInterrupt());
        _apic.Write(0xB0, 4, 0);
        Assert.Equal(0x49, _apic.AcknowledgeInterrupt());
        _ioApic.Input(9).Set(false);
        _apic.Write(0xB0, 4, 0);
        Assert.Equal(0x8049UL, Entry(9));
        Assert.False(_cpu.InterruptRequest);
    }

    [Fact]
    public void LevelThatWasAssertedWhileMaskedComesWithTheUnmask()
    {
        SetEntry(9, 0x18049);
        _ioApic.Input(9).Set(true);
        Assert.False(_cpu.InterruptRequest);
        SetEntry(9, 0x8049);
        Assert.True(_cpu.InterruptRequest);
    }

    [Fact]
    public void EoiRegisterAndASwitchToEdgeFreeThePin()
    {
        SetEntry(9, 0x8049);
        _ioApic.Input(9).Set(true);
        _ioApic.Input(9).Set(false);
        _ioApic.Write(0x40, 4, 0x48); // another vector
        Assert.Equal(0xC049UL, Entry(9));
        _ioApic.Write(0x40, 4, 0x49);
        Assert.Equal(0x8049UL, Entry(9));

        _ioApic.Input(9).Set(true);
        Assert.Equal(0xC049UL, Entry(9));
        SetEntry(9, 0x10049);
        SetEntry(9, 0x18049);
        Assert.Equal(0x18049UL, Entry(9));
    }

    [Fact]
    public void LevelIntoNowhereKeepsThePinFree()
    {
        SetEntry(9, 0x8049, destination: 7);
        _ioApic.Input(9).Set(true);
        Assert.Equal(0x8049UL, Entry(9) & 0xFFFFFF);
        SetEntry(9, 0x8049);
        Assert.True(_cpu.InterruptRequest);
    }

    [Fact]
    public void DeliversNmiAndExtInt()
    {
        var pic = new Pic(new RecordingLine());
        _bus.Pic = pic;
        foreach (var (offset, value) in new (uint, byte)[] { (0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0) })
            pic.MasterPorts.Write(offset, 1, value);
        pic.Input(1).Set(true);
        SetEntry(0, 0x700);
        SetEntry(5, 0x400);
        _ioApic.Input(5).Set(true);
        Assert.Equal(1, _cpu.Nmis);
        _ioApic.Input(0).Set(true);
        Assert.True(_cpu.InterruptRequest);
        Assert.Equal(0x21, _apic.AcknowledgeInterrupt());
        Assert.False(_cpu.InterruptRequest);
    }

    [Fact]
    public void IsaTimerIsPinTwoAndOthersTheirOwn()
    {
        var pic = new Pic(new RecordingLine());
        var isa = new IsaInterrupts(pic, _ioApic);
        SetEntry(2, 0x42);
        SetEntry(4, 0x44);
        isa[0].Set(true);
        Assert.Equal(0x42, _apic.AcknowledgeInterrupt());
        _apic.Write(0xB0, 4, 0);
        isa[4].Set(true);
        Assert.Equal(0x44, _apic.AcknowledgeInterrupt());
        Assert.Equal(0x11UL, pic.MasterPorts.Read(0, 1));
    }

    private ulong Read(uint register)
    {
        _ioApic.Write(0, 4, register);
        return _ioApic.Read(0x10, 4);
    }

    private void Write(uint register, uint value)
    {
        _ioApic.Write(0, 4, register);
        _ioApic.Write(0x10, 4, value);
    }

    private ulong Entry(uint pin) => Read(0x10 + (2 * pin)) | (Read(0x11 + (2 * pin)) << 32);

    private void SetEntry(uint pin, uint low, uint destination = 0)
    {
        Write(0x11 + (2 * pin), destination << 24);
        Write(0x10 + (2 * pin), low);
    }
}
