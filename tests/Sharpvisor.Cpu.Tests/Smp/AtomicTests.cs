using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Smp.SmpMachine;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>Locked instructions are atomic between processors, wherever their operand lies.</summary>
public sealed class AtomicTests
{
    private const int Processors = 4;

    /// <summary>Addresses to count at: aligned, across 64-byte lines, across pages that follow each other in memory, and across pages that do not.</summary>
    public static TheoryData<uint> Places => [Data, Data + 61, Windows + 0xFFE, Windows + 0x1FFD];

    [Theory]
    [MemberData(nameof(Places))]
    public void Add_inc_xadd_and_cmpxchg_count_exactly(uint address)
    {
        using var machine = Windowed();
        var rounds = Iterations.Of(3_000);
        for (var i = 0; i < Processors; i++)
        {
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var again = a.CreateLabel();
                a.mov(esi, address);
                a.mov(ebx, rounds);
                a.Label(ref loop);
                a.@lock.inc(__dword_ptr[rsi]);
                a.@lock.add(__dword_ptr[rsi], 3);
                a.mov(eax, 5);
                a.@lock.xadd(__dword_ptr[rsi], eax);
                a.mov(eax, __dword_ptr[rsi]);
                a.Label(ref again);
                a.lea(ecx, __dword_ptr[rax + 7]);
                a.@lock.cmpxchg(__dword_ptr[rsi], ecx);
                a.jne(again);
                a.@lock.sub(__dword_ptr[rsi], -1);
                a.dec(ebx);
                a.jne(loop);
                a.xor(eax, eax);
                Done(a);
            });
        }

        machine.Run();
        Assert.Equal((uint)(Processors * rounds * 17), ReadBack(machine, address));
    }

    [Theory]
    [MemberData(nameof(Places))]
    public void Bts_and_xchg_make_locks(uint address)
    {
        using var machine = Windowed();
        var rounds = Iterations.Of(1_000);
        const uint Counter = Data + 0x8000;
        for (var i = 0; i < Processors; i++)
        {
            var exchange = (i & 1) != 0;
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var spin = a.CreateLabel();
                var acquire = a.CreateLabel();
                var have = a.CreateLabel();
                a.mov(esi, address);
                a.mov(ebx, rounds);
                a.Label(ref loop);
                a.jmp(acquire);
                a.Label(ref spin);
                a.pause();
                a.cmp(__dword_ptr[rsi], 0);
                a.jne(spin);
                a.Label(ref acquire);
                a.mov(eax, 1);
                if (exchange)
                {
                    a.xchg(__dword_ptr[rsi], eax);
                    a.test(eax, eax);
                    a.jne(spin);
                }
                else
                {
                    a.xor(edx, edx);
                    a.@lock.bts(__dword_ptr[rsi], edx);
                    a.jc(spin);
                }

                a.Label(ref have);
                a.inc(__qword_ptr[Counter]); // not atomic: the lock has to make it so
                a.mov(__dword_ptr[rsi], 0);
                a.dec(ebx);
                a.jne(loop);
                a.xor(eax, eax);
                Done(a);
            });
        }

        machine.Run();
        Assert.Equal((uint)(Processors * rounds), machine.Read(Counter));
    }

    [Fact]
    public void Cmpxchg16b_and_cmpxchg8b_count_exactly()
    {
        using var machine = Windowed();
        var rounds = Iterations.Of(3_000);
        for (var i = 0; i < Processors; i++)
        {
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var again = a.CreateLabel();
                var again8 = a.CreateLabel();
                a.mov(ebp, rounds);
                a.Label(ref loop);
                a.xor(eax, eax);
                a.xor(edx, edx);
                a.Label(ref again);
                a.lea(rbx, __qword_ptr[rax + 1]);
                a.lea(rcx, __qword_ptr[rdx - 1]);
                a.@lock.cmpxchg16b(__[Data]);
                a.jne(again);
                a.xor(eax, eax);
                a.Label(ref again8);
                a.lea(ebx, __dword_ptr[rax + 1]);
                a.lea(ecx, __dword_ptr[rdx + 2]);
                a.@lock.cmpxchg8b(__[Data + 0x7C]);
                a.jne(again8);
                a.dec(ebp);
                a.jne(loop);
                a.xor(eax, eax);
                Done(a);
            });
        }

        machine.Run();
        machine.Memory.TryRead(Data, out long low);
        machine.Memory.TryRead(Data + 8, out long high);
        Assert.Equal((Processors * rounds, -Processors * rounds), (low, high));
        Assert.Equal(((uint)(Processors * rounds), (uint)(2 * Processors * rounds)), (machine.Read(Data + 0x7C), machine.Read(Data + 0x80)));
    }

    /// <summary>Pages 0 and 1 of the window follow each other in memory, page 2 lies elsewhere.</summary>
    private static SmpMachine Windowed()
    {
        var machine = new SmpMachine(Processors);
        machine.MapWindow(0, Data + 0x2000);
        machine.MapWindow(1, Data + 0x3000);
        machine.MapWindow(2, Data + 0x7000);
        return machine;
    }

    private static uint ReadBack(SmpMachine machine, uint address)
    {
        uint value = 0;
        for (var i = 0u; i < 4; i++)
        {
            var at = address + i;
            if (at >= Windows)
                at = at - Windows < 0x2000 ? at - Windows + Data + 0x2000 : at - Windows - 0x2000 + Data + 0x7000;
            machine.Memory.TryRead(at, out byte b);
            value |= (uint)b << (int)(8 * i);
        }

        return value;
    }
}
