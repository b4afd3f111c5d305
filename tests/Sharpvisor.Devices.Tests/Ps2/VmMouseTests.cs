using Sharpvisor.Core.Input;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Ps2;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Ps2;

/// <summary>VMware's mouse, by the commands of its port.</summary>
public sealed class VmMouseTests
{
    private const uint Magic = 0x564D5868, Failed = 0xFFFF0000;
    private const uint GetVersion = 10, GetRamSize = 20, Data = 39, Status = 40, Command = 41;
    private const uint Enable = 0x45414552, Disable = 0xF5, Relative = 0x4C455252, Absolute = 0x53424152;

    private readonly ManualClock _clock = new();
    private readonly Ps2Mouse _ps2;
    private readonly VmMouse _mouse;
    private readonly VmwarePort _port;
    private readonly I8042 _controller;

    public VmMouseTests()
    {
        _ps2 = new Ps2Mouse(_clock);
        _mouse = new VmMouse(_ps2);
        _port = new VmwarePort(_mouse, 512 << 20);
        _controller = new I8042(new RecordingLine(), new RecordingLine(), new RecordingMachine(), _clock, mouse: _ps2);
    }

    [Fact]
    public void The_port_tells_who_it_is()
    {
        var registers = Call(GetVersion, 0);
        Assert.Equal((6u, Magic), (registers[0], registers[3]));
        Assert.Equal(512u << 20, Call(GetRamSize, 0)[0]);
        Assert.Equal(uint.MaxValue, Call(86, 0)[0]); // a command that is not there
        uint[] stranger = [1, GetVersion, 0x5658, 7, 0, 0, 0, 0];
        _port.Read(stranger);
        Assert.Equal([uint.MaxValue, GetVersion, 0x5658, 7, 0, 0, 0, 0], stranger);
    }

    [Fact]
    public void Until_it_is_asked_for_it_is_a_PS2_mouse()
    {
        Assert.Equal(Failed, Call(Status, 0)[0]);
        Assert.False(_mouse.IsAbsolute);
        Assert.False(_mouse.IsListening);
        SwitchOn();
        Assert.True(_mouse.IsListening);
        Drain();
        _mouse.OnMoveTo(1, 1, 0, PointerButtons.Left);
        Assert.False(_ps2.HasOutput);
        _mouse.OnMove(3, 0, 0, PointerButtons.Left);
        Assert.Equal([0x09, 3, 0], Drain());
    }

    [Fact]
    public void Positions_wait_in_the_queue_and_the_mouse_interrupts()
    {
        SwitchOn();
        Drain();
        Call(Command, Enable);
        Assert.Equal(1u, Call(Status, 0)[0]);
        Assert.Equal(0x3442554Au, Call(Data, 1)[0]);
        Call(Command, Absolute);
        Assert.True(_mouse.IsAbsolute);
        _mouse.OnMoveTo(0x1234, 0xFFFF, 0, PointerButtons.None);
        _mouse.OnMoveTo(0x1235, 0xFFFE, 0, PointerButtons.None); // instead of the one before
        _mouse.OnMoveTo(0x1235, 0xFFFE, 0, PointerButtons.Left | PointerButtons.Middle);
        _mouse.OnMoveTo(0x1235, 0xFFFE, -1, PointerButtons.Right);
        Assert.NotEmpty(Drain());
        Assert.Equal(12u, Call(Status, 0)[0]);
        Assert.Equal([0u, 0x1235, 0xFFFE, 0], Event());
        Assert.Equal([0x28u, 0x1235, 0xFFFE, 0], Event());
        Assert.Equal([0x10u, 0x1235, 0xFFFE, uint.MaxValue], Event());
        Assert.Equal(0u, Call(Status, 0)[0]);
    }

    [Fact]
    public void Motion_comes_by_the_queue_as_well()
    {
        Call(Command, Enable);
        Call(Data, 1);
        Call(Command, Absolute);
        Call(Command, Relative);
        _mouse.OnMove(5, 3, 1, PointerButtons.Left);
        Assert.Equal([0x10020u, 5, unchecked((uint)-3), 1], Event());
    }

    [Fact]
    public void A_driver_that_asks_for_what_is_not_there_loses_the_device()
    {
        foreach (var count in new uint[] { 0, 2, 7, uint.MaxValue })
        {
            Call(Command, Enable);
            Call(Data, count);
            Assert.Equal(Failed, Call(Status, 0)[0]);
        }

        Call(Command, Absolute); // without Enable
        Assert.False(_mouse.IsAbsolute);
        Call(Command, Enable);
        Call(Command, Absolute);
        Call(Command, Disable);
        Assert.Equal(Failed, Call(Status, 0)[0]);
        Call(Command, Enable);
        Call(Command, Absolute);
        _mouse.Reset();
        Assert.False(_mouse.IsAbsolute);
    }

    [Fact]
    public void A_guest_that_does_not_look_fills_no_memory()
    {
        Call(Command, Enable);
        Call(Data, 1);
        Call(Command, Absolute);
        for (var i = 0; i < 10_000; i++)
            _mouse.OnMoveTo(i & 0xFFFF, 0, 0, PointerButtons.None);
        Assert.Equal(4u, Call(Status, 0)[0]);
        for (var i = 0; i < 10_000; i++)
            _mouse.OnMoveTo(0, 0, 0, (i & 1) == 0 ? PointerButtons.Left : PointerButtons.None);
        Assert.Equal(1024u, Call(Status, 0)[0]);
        for (var i = 0; i < 256; i++)
            Event();
        Assert.Equal(0u, Call(Status, 0)[0]);
    }

    [Fact]
    public void Whatever_a_guest_asks_it_survives()
    {
        var random = new Random(1);
        uint[] commands = [GetVersion, GetRamSize, Data, Status, Command, 86], arguments = [Enable, Disable, Relative, Absolute, 0, 1, 4, 6, 7];
        for (var i = 0; i < 100_000; i++)
        {
            switch (random.Next(4))
            {
                case 0:
                    _mouse.OnMoveTo(random.Next(0x10000), random.Next(0x10000), random.Next(-1, 2), (PointerButtons)random.Next(32));
                    break;
                case 1:
                    _mouse.OnMove(random.Next(-300, 300), random.Next(-300, 300), random.Next(-9, 9), (PointerButtons)random.Next(32), random.Next(-9, 9));
                    break;
                default:
                    Call(commands[random.Next(commands.Length)], random.Next(5) == 0 ? (uint)random.Next() : arguments[random.Next(arguments.Length)]);
                    break;
            }

            Assert.True(Call(Status, 0)[0] is <= 1024 or Failed);
        }
    }

    private uint[] Call(uint command, uint argument)
    {
        uint[] registers = [Magic, command, 0x5658, argument, 0, 0, 0, 0];
        _port.Read(registers);
        return registers;
    }

    private uint[] Event()
    {
        var r = Call(Data, 4);
        return [r[0], r[3], r[1], r[2]];
    }

    /// <summary>What the PS/2 mouse sends.</summary>
    private List<byte> Drain()
    {
        List<byte> bytes = [];
        for (var i = 0; i < 40; i++)
        {
            _clock.Advance(2_000_000);
            if ((_controller.CommandPort.Read(0, 1) & 1) != 0)
                bytes.Add((byte)_controller.DataPort.Read(0, 1));
        }

        return bytes;
    }

    private void SwitchOn()
    {
        _controller.CommandPort.Write(0, 1, 0xD4);
        _controller.DataPort.Write(0, 1, 0xF4);
    }
}
