using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Testing.Interrupts;

namespace Sharpvisor.Devices.Tests.Interrupts;

public class PicTests
{
    private readonly RecordingLine _intr = new();
    private readonly Pic _pic;

    public PicTests()
    {
        _pic = new Pic(_intr);
        Initialize(icw4: 1);
    }

    [Fact]
    public void GivesTheHighestPriorityFirst()
    {
        _pic.Input(5).Set(true);
        _pic.Input(1).Set(true);
        Assert.True(_intr.IsAsserted);
        Assert.Equal(0x21, _pic.Acknowledge());
        Assert.False(_intr.IsAsserted); // 5 is below what is in service
        _pic.Input(0).Set(true);
        Assert.True(_intr.IsAsserted);
        Assert.Equal(0x20, _pic.Acknowledge());
        Assert.Equal(0x03, Read(Isr));
        Eoi();
        Eoi();
        Assert.Equal(0x25, _pic.Acknowledge());
    }

    [Fact]
    public void SlaveCascadesThroughTwo()
    {
        _pic.Input(12).Set(true);
        Assert.Equal(0x2C, _pic.Acknowledge());
        Assert.Equal(4, Read(Isr));
        _pic.Input(8).Set(true); // higher on the slave but the master is busy with it
        Assert.False(_intr.IsAsserted);
        SlaveEoi();
        Eoi();
        Assert.True(_intr.IsAsserted);
        Assert.Equal(0x28, _pic.Acknowledge());
    }

    [Fact]
    public void SpeciallyFullyNestedModeLetsTheSlaveNest()
    {
        Initialize(icw4: 0x11);
        _pic.Input(12).Set(true);
        Assert.Equal(0x2C, _pic.Acknowledge());
        _pic.Input(8).Set(true);
        Assert.True(_intr.IsAsserted);
        Assert.Equal(0x28, _pic.Acknowledge());
    }

    [Fact]
    public void RequestThatVanishesIsSpurious()
    {
        _pic.Input(3).Set(true);
        _pic.Input(3).Set(false);
        Assert.False(_intr.IsAsserted);
        Assert.Equal(0x27, _pic.Acknowledge());
        Assert.Equal(0, Read(Isr));

        // A slave that withdraws its request takes the cascade with it: the master's spurious interrupt again.
        _pic.Input(11).Set(true);
        _pic.SlavePorts.Write(1, 1, 0xFF);
        Assert.Equal(0x27, _pic.Acknowledge());
        Assert.Equal(0, Read(Isr));
    }

    [Fact]
    public void EdgeNeedsANewRiseAndLevelDoesNot()
    {
        _pic.Input(5).Set(true);
        _pic.Acknowledge();
        Eoi();
        Assert.False(_intr.IsAsserted);
        _pic.Input(5).Set(false);

        _pic.ElcrPorts.Write(0, 1, 0xFF);
        _pic.ElcrPorts.Write(1, 1, 0xFF);
        Assert.Equal(0xDEF8UL, _pic.ElcrPorts.Read(0, 2));
        _pic.Input(5).Set(true);
        Assert.Equal(0x25, _pic.Acknowledge());
        Eoi();
        Assert.True(_intr.IsAsserted);
        _pic.Input(5).Set(false);
        Assert.False(_intr.IsAsserted);
    }

    [Fact]
    public void MaskHoldsARequestBack()
    {
        _pic.MasterPorts.Write(1, 1, 0x10);
        _pic.Input(4).Set(true);
        Assert.False(_intr.IsAsserted);
        Assert.Equal(0x10, Read(Irr));
        _pic.MasterPorts.Write(1, 1, 0);
        Assert.True(_intr.IsAsserted);
    }

    [Fact]
    public void SpecialMaskModeLetsLowerOnesIn()
    {
        _pic.Input(1).Set(true);
        _pic.Acknowledge();
        _pic.Input(6).Set(true);
        _pic.MasterPorts.Write(1, 1, 0x02);
        Assert.False(_intr.IsAsserted);
        Command(0x68);
        Assert.True(_intr.IsAsserted);
        Assert.Equal(0x26, _pic.Acknowledge());
        Eoi(); // spares the masked 1
        Assert.Equal(0x02, Read(Isr));
        Command(0x61); // specific
        Assert.Equal(0, Read(Isr));
    }

    [Fact]
    public void RotationMakesTheServedOneLowest()
    {
        _pic.Input(0).Set(true);
        _pic.Acknowledge();
        Command(0xA0);
        _pic.Input(0).Set(false);
        _pic.Input(0).Set(true);
        _pic.Input(7).Set(true);
        Assert.Equal(0x27, _pic.Acknowledge());
        Command(0xE7); // rotate on specific EOI: 0 is highest again
        Assert.Equal(0x20, _pic.Acknowledge());
        Eoi();
        Command(0xC4); // set priority: 5 is highest
        _pic.Input(1).Set(true);
        _pic.Input(6).Set(true);
        Assert.Equal(0x26, _pic.Acknowledge());
    }

    [Fact]
    public void AutomaticEoiLeavesNothingInService()
    {
        Initialize(icw4: 3);
        _pic.Input(3).Set(true);
        Assert.Equal(0x23, _pic.Acknowledge());
        Assert.Equal(0, Read(Isr));
        Command(0x80); // rotate
        _pic.Input(4).Set(true);
        Assert.Equal(0x24, _pic.Acknowledge());
        foreach (var irq in new[] { 4, 5 })
        {
            _pic.Input(irq).Set(false);
            _pic.Input(irq).Set(true);
        }

        Assert.Equal(0x25, _pic.Acknowledge());
    }

    [Fact]
    public void PollAcknowledges()
    {
        Command(0x0C);
        Assert.Equal(0UL, _pic.MasterPorts.Read(0, 1));
        _pic.Input(6).Set(true);
        Command(0x0C);
        Assert.Equal(0x86UL, _pic.MasterPorts.Read(0, 1));
        Assert.Equal(0x40, Read(Isr));
    }

    [Fact]
    public void InitializationForgetsEdgesAndTheMask()
    {
        _pic.Input(3).Set(true);
        _pic.MasterPorts.Write(1, 1, 0xFF);
        Initialize(icw4: 1);
        Assert.Equal(0, Read(Irr));
        Assert.Equal(0UL, _pic.MasterPorts.Read(1, 1));
        Assert.False(_intr.IsAsserted);
    }

    private const byte Irr = 0x0A, Isr = 0x0B;

    private int Read(byte select)
    {
        Command(select);
        return (int)_pic.MasterPorts.Read(0, 1);
    }

    private void Command(byte value) => _pic.MasterPorts.Write(0, 1, value);

    private void Eoi() => Command(0x20);

    private void SlaveEoi() => _pic.SlavePorts.Write(0, 1, 0x20);

    private void Initialize(byte icw4)
    {
        foreach (var (offset, value) in new (uint, byte)[] { (0, 0x11), (1, 0x20), (1, 4), (1, icw4), (1, 0) })
            _pic.MasterPorts.Write(offset, 1, value);
        foreach (var (offset, value) in new (uint, byte)[] { (0, 0x11), (1, 0x28), (1, 2), (1, 1), (1, 0) })
            _pic.SlavePorts.Write(offset, 1, value);
    }
}
