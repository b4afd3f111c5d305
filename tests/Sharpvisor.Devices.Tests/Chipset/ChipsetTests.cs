using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Testing.Char;
using Sharpvisor.Testing.Guests;

namespace Sharpvisor.Devices.Tests.Chipset;

public class ChipsetTests
{
    private readonly RecordingMachine _machine = new();

    [Fact]
    public void Port92ResetsOnceWhenItsBitRises()
    {
        var port = new Port92(_machine);
        Assert.Equal(2UL, port.Read(0, 1));
        port.Write(0, 1, 0);
        Assert.Equal(0UL, port.Read(0, 1));
        Assert.Empty(_machine.Resets);
        port.Write(0, 1, 1);
        port.Write(0, 1, 3);
        Assert.Equal(["port 92h"], _machine.Resets);
    }

    [Fact]
    public void ResetControlNeedsTheRiseOfRcpu()
    {
        var port = new ResetControl(_machine);
        port.Write(0, 1, 0x02);
        Assert.Empty(_machine.Resets);
        Assert.Equal(2UL, port.Read(0, 1));
        port.Write(0, 1, 0x06);
        Assert.Equal(["port CF9h"], _machine.Resets);
    }

    [Theory]
    [InlineData(1, 0, 1)]
    [InlineData(1, 0x10, 0x21)]
    [InlineData(4, 0x10, 0x21)]
    public void DebugExitGivesTheCodeAsQemuDoes(int size, ulong value, int code)
    {
        var port = new DebugExit(_machine);
        Assert.Equal(0UL, port.Read(0, size));
        port.Write(0, size, value);
        Assert.Equal([code], _machine.Exits);
    }

    [Fact]
    public void DebugConsoleCanBeFoundAndWaitsForASlowHost()
    {
        var backend = new LimitedCharBackend { Room = 2 };
        var errors = new GuestErrorLog(NullLogger.Instance);
        var console = new DebugConsole(backend, new MachineGate(), errors);
        Assert.Equal(0xE9UL, console.Read(0, 1));
        foreach (var c in "hello"u8)
            console.Write(0, 1, c);
        Assert.Equal("he", backend.OutputText);
        backend.MakeRoom(1);
        console.Write(0, 1, '!');
        backend.MakeRoom(1_000_000);
        Assert.Equal("hello!", backend.OutputText);

        backend.Room = 0;
        for (var i = 0; i < 100_000; i++)
            console.Write(0, 1, 'x');
        Assert.Equal(100_000 - 65_536, Assert.Single(errors.Counts).Value);
    }

    [Fact]
    public void PostCodeIsKept()
    {
        var port = new PostCodePort();
        port.Write(0, 1, 0x5A);
        Assert.Equal(0x5A, port.LastCode);
        Assert.Equal(0x5AUL, port.Read(0, 1));
    }
}
