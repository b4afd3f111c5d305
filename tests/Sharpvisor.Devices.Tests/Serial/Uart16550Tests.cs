using Sharpvisor.Core;
using Sharpvisor.Devices.Serial;
using Sharpvisor.Testing.Char;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Serial;

public class Uart16550Tests
{
    private const uint Data = 0, Ier = 1, Iir = 2, Fcr = 2, Lcr = 3, Mcr = 4, Lsr = 5, Msr = 6, Scr = 7;

    private readonly ManualClock _clock = new();
    private readonly RecordingLine _irq = new();
    private readonly LimitedCharBackend _backend = new();
    private readonly Uart16550 _uart;

    public Uart16550Tests() => _uart = new Uart16550(_clock, _irq, _backend, new MachineGate());

    [Fact]
    public void PowersOnAsTheDataSheetSays()
    {
        Assert.Equal(0, Read(Ier));
        Assert.Equal(1, Read(Iir));
        Assert.Equal(0, Read(Lcr));
        Assert.Equal(0x60, Read(Lsr));
        Assert.Equal(0xB0, Read(Msr));
        Write(Scr, 0x5A);
        Assert.Equal(0x5A, Read(Scr));
        Write(Fcr, 1);
        Assert.Equal(0xC1, Read(Iir));
    }

    [Fact]
    public void DivisorLatchHidesBehindDlab()
    {
        Write(Lcr, 0x83);
        Write(0, 0x34);
        Write(1, 0x12);
        Assert.Equal((0x34, 0x12), (Read(0), Read(1)));
        Write(Lcr, 0x03);
        Assert.Equal(0, Read(Ier));
        Assert.Empty(_backend.Output);
    }

    [Fact]
    public void TransmitsAtOnceAndInterruptsForEachByte()
    {
        Write(Mcr, 8);
        Write(Ier, 2);
        Assert.True(_irq.IsAsserted);
        Assert.Equal(2, Read(Iir));
        Assert.False(_irq.IsAsserted);
        Assert.Equal(1, Read(Iir));
        foreach (var c in "hello"u8)
            Write(Data, c);
        Assert.Equal("hello", _backend.OutputText);
        Assert.Equal(6, _irq.Rises);
        Assert.Equal(0x60, Read(Lsr));
    }

    [Fact]
    public void NothingIsLostWhileTheHostIsSlow()
    {
        Write(Fcr, 1);
        Write(Mcr, 8);
        Write(Ier, 2);
        Read(Iir);
        _backend.Room = 3;
        Send("0123456789abcdef");
        Assert.Equal("012", _backend.OutputText);
        Assert.Equal(0, Read(Lsr) & 0x60);
        Assert.False(_irq.IsAsserted);
        _backend.MakeRoom(5);
        Assert.Equal(0, Read(Lsr) & 0x60);
        Write(Fcr, 7); // clearing the FIFOs drops nothing that was sent
        _backend.MakeRoom(1000);
        Assert.Equal("0123456789abcdef", _backend.OutputText);
        Assert.Equal(0x60, Read(Lsr));
        Assert.True(_irq.IsAsserted);
        Assert.Equal(0xC2, Read(Iir));
        Send("ok");
        Assert.EndsWith("efok", _backend.OutputText);
    }

    [Fact]
    public void ReceiverInterruptsAtItsTriggerLevel()
    {
        Write(Fcr, 0x81); // 8 bytes
        Write(Mcr, 8);
        Write(Ier, 1);
        _backend.Type("1234567"u8);
        Assert.False(_irq.IsAsserted);
        Assert.Equal(0x61, Read(Lsr));
        _backend.Type("8"u8);
        Assert.True(_irq.IsAsserted);
        Assert.Equal(0xC4, Read(Iir));
        Assert.Equal('1', Read(Data));
        Assert.False(_irq.IsAsserted);
    }

    [Fact]
    public void CharacterTimeoutComesAfterFourCharacters()
    {
        Write(Lcr, 0x83);
        Write(0, 1); // 115200 baud
        Write(Lcr, 0x03);
        Write(Fcr, 0xC1);
        Write(Mcr, 8);
        Write(Ier, 1);
        _backend.Type("ab"u8);
        _clock.Advance(340_000);
        Assert.False(_irq.IsAsserted);
        _clock.Advance(10_000);
        Assert.Equal(0xCC, Read(Iir));
        Assert.Equal('a', Read(Data));
        Assert.False(_irq.IsAsserted);
        _clock.Advance(350_000);
        Assert.True(_irq.IsAsserted);
        Assert.Equal('b', Read(Data));
        _clock.Advance(10_000_000);
        Assert.False(_irq.IsAsserted);
    }

    [Theory]
    [InlineData(0, 1)]
    [InlineData(1, 16)]
    public void InputWaitsOutsideOfAFullFifo(byte fcr, int capacity)
    {
        Write(Fcr, fcr);
        var sent = Enumerable.Range(0, 100).Select(i => (byte)i).ToArray();
        _backend.Type(sent);
        Assert.Equal(100 - capacity, _backend.InputWaiting);
        var received = new List<byte>();
        while ((Read(Lsr) & 1) != 0)
            received.Add((byte)Read(Data));
        Assert.Equal(sent, received);
        Assert.Equal(0, Read(Lsr) & 2);
    }

    [Fact]
    public void BreakShowsWhenItsCharacterIsNext()
    {
        Write(Fcr, 1);
        Write(Mcr, 8);
        Write(Ier, 4);
        _backend.Type("x"u8);
        _backend.SendBreak();
        Assert.Equal(0xE1, Read(Lsr)); // somewhere in the FIFO
        Assert.False(_irq.IsAsserted);
        Assert.Equal('x', Read(Data));
        Assert.True(_irq.IsAsserted);
        Assert.Equal(0xC6, Read(Iir));
        Assert.Equal(0xF1, Read(Lsr));
        Assert.False(_irq.IsAsserted);
        Assert.Equal(0, Read(Data));
        Assert.Equal(0x60, Read(Lsr));
    }

    [Fact]
    public void LoopbackFeedsTheReceiverAndTheModemLines()
    {
        Write(Mcr, 0x10);
        Assert.Equal(0x0B, Read(Msr)); // all lines fell
        Write(Mcr, 0x1F);
        Assert.Equal(0xFB, Read(Msr));
        Assert.Equal(0xF0, Read(Msr));
        Write(Mcr, 0x1B);
        Assert.Equal(0xB4, Read(Msr)); // trailing edge of RI
        Write(Data, 0x77);
        Assert.Empty(_backend.Output);
        Assert.Equal(0x61, Read(Lsr));
        Write(Data, 0x78);
        Assert.Equal(0x63, Read(Lsr)); // overrun without a FIFO
        Assert.Equal(0x77, Read(Data));

        _backend.Type("z"u8);
        Assert.Equal(1, _backend.InputWaiting);
        Write(Mcr, 0);
        Assert.Equal('z', Read(Data));
    }

    [Fact]
    public void InterruptsPassOnlyWithOut2()
    {
        Write(Ier, 2);
        Assert.False(_irq.IsAsserted);
        Write(Mcr, 8);
        Assert.True(_irq.IsAsserted);
    }

    [Fact]
    public void PrioritiesOfInterruptSources()
    {
        Write(Mcr, 0x18);
        Write(Ier, 0x0F);
        _backend.Type("q"u8);
        Write(Data, 1);
        Write(Data, 2);
        Assert.Equal(6, Read(Iir));
        Read(Lsr);
        Assert.Equal(4, Read(Iir));
        Read(Data);
        Assert.Equal(2, Read(Iir));
        Assert.Equal(0, Read(Iir));
        Read(Msr);
        Assert.Equal(1, Read(Iir));
    }

    [Fact]
    public void ResetMakesRoomForWaitingInput()
    {
        _backend.Type("ab"u8);
        _uart.Reset();
        Assert.Equal('b', Read(Data));
    }

    private int Read(uint offset) => (int)_uart.Read(offset, 1);

    private void Write(uint offset, byte value) => _uart.Write(offset, 1, value);

    private void Send(string text)
    {
        foreach (var c in text)
            Write(Data, (byte)c);
    }
}
