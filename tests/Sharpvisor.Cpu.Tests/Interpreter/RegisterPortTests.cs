using Sharpvisor.Core.Buses;
using Sharpvisor.Cpu.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>A port whose device sees and changes the general registers.</summary>
public sealed class RegisterPortTests
{
    private const ulong High = 0xAAAA_AAAA_0000_0000;

    [Fact]
    public void In_of_32_bits_gives_the_device_all_registers_and_takes_what_it_changes()
    {
        var device = new Device();
        using var m = new M(registerPort: device);
        for (var i = 0; i < 8; i++)
        {
            if (i != 4)
                m.State.Gpr[i] = High + 0x100 + (ulong)i;
        }

        m.Rdx = High | device.Port;
        m.Rbp = 0; // counts in a loop, so that the translator translates
        m.Program(a =>
        {
            var again = a.CreateLabel();
            a.Label(ref again);
            a.@in(eax, dx);
            a.inc(ebp);
            a.cmp(ebp, 40);
            a.jne(again);
        });
        m.Run();
        Assert.Equal(40, device.Seen.Count);
        Assert.Equal([0x100, 0x101, device.Port, 0x103, (uint)M.Stack, 0, 0x106, 0x107], device.Seen[0]);
        Assert.Equal([1, 0x101, device.Port, 0x104, (uint)M.Stack, 1, 0x106, 0x107], device.Seen[1]);
        Assert.Equal(40UL, m.Rax); // zero-extended, as by any IN
        Assert.Equal(0x103UL + 40, m.Rbx);
        Assert.Equal(High | 0x101, m.Rcx); // untouched
        Assert.Equal(High | 0x107, m.Rdi);
    }

    [Fact]
    public void Other_sizes_ports_and_directions_are_the_buss()
    {
        var device = new Device();
        using var m = new M(registerPort: device);
        m.Rdx = device.Port;
        m.Program(a =>
        {
            a.@in(al, dx);
            a.@in(ax, dx);
            a.@out(dx, eax);
            a.dec(edx);
            a.@in(eax, dx);
        });
        m.Run();
        Assert.Empty(device.Seen);
        Assert.Equal(0xFFFF_FFFFUL, m.Rax);
    }

    [Fact]
    public void Ports_that_are_barred_are_barred()
    {
        var device = new Device();
        using var m = new M(registerPort: device);
        m.SetIoMap(0x2000);
        m.SetPrivilege(3);
        m.Rdx = device.Port;
        m.Program(a => a.@in(eax, dx));
        Assert.Equal(Vectors.GP, m.Run().Vector);
        Assert.Empty(device.Seen);
    }

    private sealed class Device : IRegisterPort
    {
        public ushort Port => 0x5658;

        public List<uint[]> Seen { get; } = [];

        public void Read(Span<uint> registers)
        {
            Seen.Add(registers.ToArray());
            registers[0] = (uint)Seen.Count;
            registers[3]++;
        }
    }
}
