using Sharpvisor.Devices.Ps2;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Ps2;

public class I8042Tests
{
    private readonly RecordingLine _irq1 = new(), _irq12 = new();
    private readonly RecordingMachine _machine = new();
    private readonly I8042 _controller;

    public I8042Tests() => _controller = new I8042(_irq1, _irq12, _machine, new ManualClock());

    [Theory]
    [InlineData(0xAA, 0x55)]
    [InlineData(0xAB, 0x00)]
    [InlineData(0xA9, 0x00)]
    [InlineData(0x20, 0x47)]
    [InlineData(0xC0, 0xA0)]
    [InlineData(0xD0, 0x03)]
    public void AnswersItsCommands(byte command, byte answer)
    {
        Command(command);
        Assert.Equal(1, Status & 1);
        Assert.Equal(answer, Data());
        Assert.Equal(0, Status & 1);
    }

    [Fact]
    public void ConfigurationIsKeptAndGovernsInterrupts()
    {
        Command(0x60);
        Send(0x44);
        Command(0x20);
        Assert.False(_irq1.IsAsserted);
        Assert.Equal(0x44, Data());
        Command(0xA7);
        Command(0xAD);
        Command(0x20);
        Assert.Equal(0x74, Data());
        Command(0xA8);
        Command(0xAE);
        Command(0x60);
        Send(0x45);
        Command(0xD2);
        Send(0x1C);
        Assert.True(_irq1.IsAsserted);
        Assert.Equal(0x1C, Data());
        Assert.False(_irq1.IsAsserted);
    }

    [Fact]
    public void MissingDevicesTimeOut()
    {
        Send(0xF2); // identify
        Assert.Equal(0x41, Status & 0x61);
        Assert.True(_irq1.IsAsserted);
        Assert.Equal(0xFE, Data());
        Command(0xD4);
        Send(0xF2);
        Assert.Equal(0x61, Status & 0x61);
        Assert.True(_irq12.IsAsserted);
        Assert.False(_irq1.IsAsserted);
        Assert.Equal(0xFE, Data());
        Assert.Equal(0, Status & 0x61);
    }

    [Fact]
    public void AuxiliaryLoopWorksAsLinuxTestsIt()
    {
        Command(0xD3);
        Send(0x5A);
        Assert.Equal(0x21, Status & 0x61);
        Assert.Equal(0x5A, Data());
    }

    [Fact]
    public void PulseAndOutputPortResetTheMachine()
    {
        Command(0xFF); // pulses nothing
        Assert.Empty(_machine.Resets);
        Command(0xFE);
        Command(0xD1);
        Send(0xDF);
        Assert.Single(_machine.Resets);
        Command(0xD1);
        Send(0xDE);
        Assert.Equal(["i8042", "i8042"], _machine.Resets);
    }

    [Fact]
    public void A20IsABitOnly()
    {
        Command(0xD1);
        Send(0x01);
        Command(0xD0);
        Assert.Equal(0x01, Data());
        Command(0xDF);
        Command(0xD0);
        Assert.Equal(0x03, Data());
    }

    private int Status => (int)_controller.CommandPort.Read(0, 1);

    private int Data() => (int)_controller.DataPort.Read(0, 1);

    private void Command(byte value) => _controller.CommandPort.Write(0, 1, value);

    private void Send(byte value) => _controller.DataPort.Write(0, 1, value);
}
