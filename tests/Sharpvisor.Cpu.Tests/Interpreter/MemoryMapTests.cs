using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Memory that comes, goes and changes under running code: ROM, shadow RAM, video memory.</summary>
public class MemoryMapTests
{
    private const ushort Port = 0xCFC;
    private const ulong Shadow = 0xF0000, Bar = 0xE000_0000;

    [Fact]
    public void A_rom_is_read_and_executed_and_its_writes_go_to_the_bus()
    {
        using var m = new M(Mode.Protected32);
        var rom = m.Memory.AddRegion("rom", 0x1000);
        m.Memory.Map(Bar, rom, isRom: true);
        new byte[] { 0xFF, 0x07, 0xFF, 0xC1, 0x01, 0x0F, 0x8B, 0x17, 0xF4 }.CopyTo(rom.Bytes(0, 16)); // inc [edi]; inc ecx; add [edi],ecx; mov edx,[edi]; hlt
        for (var i = 0; i < 3; i++)
        {
            m.Enter(Mode.Protected32);
            m.State.Rip = Bar;
            m.Rdi = Bar + 2;
            m.RunToHalt();
            Assert.Equal(0x0F01C1FFu, (uint)m.Rdx);
            Assert.Equal(1u, (uint)m.Rcx);
        }

        Assert.Equal(6, m.Mmio.UnassignedAccesses);
    }

    [Fact]
    public void Shadowing_by_copying_a_place_onto_itself()
    {
        using var m = new M(Mode.Protected32);
        var rom = m.Memory.AddRegion("rom", 0x4000);
        for (var i = 0; i < 0x4000; i++)
            rom.Bytes((ulong)i, 1)[0] = (byte)(i * 7);
        m.Memory.Map(Shadow, 0x4000, rom, 0, m.Memory.Ram, Shadow);
        m.Program(a =>
        {
            a.mov(esi, (int)Shadow);
            a.mov(edi, esi);
            a.mov(ecx, 0x800);
            a.rep.movsd();
            a.mov(ecx, 0x2000);
            var again = a.CreateLabel();
            a.Label(ref again);
            a.mov(al, __byte_ptr[esi]);
            a.mov(__byte_ptr[esi], al);
            a.inc(esi);
            a.dec(ecx);
            a.jnz(again);
            a.add(__dword_ptr[(uint)Shadow], 5); // reads the ROM
        });
        m.RunToHalt(budget: 1_000_000);
        var expected = rom.Bytes(0, 0x4000).ToArray();
        expected[0] += 5;
        Assert.Equal(expected, m.Memory.Ram.Bytes(Shadow, 0x4000).ToArray());
    }

    [Fact]
    public void Code_calls_what_is_there_now()
    {
        using var m = new M(Mode.Protected32);
        var rom = m.Memory.AddRegion("rom", 0x1000);
        new byte[] { 0xFF, 0xC1, 0xC3 }.CopyTo(rom.Bytes(0, 3)); // inc ecx; ret
        m.Write(Shadow, 0xFF, 0xC2, 0xC3); // inc edx; ret
        MemoryMapping? mapping = null;
        m.Ports.Map(Port, 1, new Switch(value =>
        {
            if (mapping is not null)
                m.Memory.Unmap(mapping);
            mapping = value == 0 ? null : m.Memory.Map(Shadow, 0x1000, rom, 0, null, 0);
        }), "pam");
        m.Program(a =>
        {
            var again = a.CreateLabel();
            a.mov(dx, Port);
            a.mov(esi, 100);
            a.mov(dword_ptr(Shadow + 0x800), 1);
            a.Label(ref again);
            a.mov(edx, ebx);
            a.call(Shadow);
            a.mov(ebx, edx);
            a.mov(dx, Port);
            a.mov(eax, esi);
            a.and(al, 1);
            a.@out(dx, al);
            a.add(edi, dword_ptr(Shadow + 0x800)); // RAM has 1 there, the ROM 0
            a.dec(esi);
            a.jnz(again);
        });
        m.RunToHalt();
        Assert.Equal((49u, 51u, 50u), ((uint)m.Rcx, (uint)m.Rbx, (uint)m.Rdi));
    }

    [Fact]
    public void Video_memory_is_memory_and_gone_it_is_a_bus_where_nobody_answers()
    {
        using var m = new M(Mode.Protected32);
        var region = m.Memory.AddRegion("video", 0x10000);
        var mapping = m.Memory.Map(Bar, region);
        m.Ports.Map(Port, 1, new Switch(_ => m.Memory.Unmap(mapping)), "bar");
        m.Program(a =>
        {
            a.mov(edi, unchecked((int)Bar));
            a.mov(eax, 0x01020304);
            a.mov(ecx, 0x4000);
            a.rep.stosd();
            a.mov(ebx, dword_ptr(Bar + 0x8000));
            a.mov(dx, Port);
            a.@out(dx, al);
            a.mov(ecx, dword_ptr(Bar + 0x8000));
            a.mov(dword_ptr(Bar), 7);
        });
        m.RunToHalt();
        Assert.Equal((0x01020304u, uint.MaxValue), ((uint)m.Rbx, (uint)m.Rcx));
        Assert.Equal(0x04, region.Bytes(0, 1)[0]);
        Assert.Equal(0x01, region.Bytes(0xFFFF, 1)[0]);
    }

    [Fact]
    public void Code_that_takes_itself_away_finds_nothing_to_execute()
    {
        using var m = new M(Mode.Protected32);
        var region = m.Memory.AddRegion("video", 0x1000);
        var mapping = m.Memory.Map(Bar, region);
        m.Ports.Map(Port, 1, new Switch(_ => m.Memory.Unmap(mapping)), "bar");
        new byte[] { 0xEE, 0xEB, 0x00, 0xFF, 0xC1, 0xF4 }.CopyTo(region.Bytes(0, 6)); // out dx,al; jmp +0; inc ecx; hlt
        m.State.Rip = Bar;
        m.Rdx = Port;
        m.Expect(Vectors.UD); // FFh bytes
        Assert.Equal(0u, (uint)m.Rcx);
    }

    private static Iced.Intel.AssemblerMemoryOperand dword_ptr(ulong address) => __dword_ptr[(uint)address];

    private sealed class Switch(Action<byte> onWrite) : IBusDevice
    {
        public ulong Read(uint offset, int size) => 0;

        public void Write(uint offset, int size, ulong value) => onWrite((byte)value);
    }
}
