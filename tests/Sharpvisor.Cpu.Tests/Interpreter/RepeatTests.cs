using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Repeated string instructions over many pages, in both directions.</summary>
public class RepeatTests
{
    private const int Area = 0x200000, Size = 0x8000;

    public static TheoryData<Mode, int, int, int, int> Copies
    {
        get
        {
            var copies = new TheoryData<Mode, int, int, int, int>();
            foreach (var mode in (ReadOnlySpan<Mode>)[Mode.Protected32, Mode.Long])
            {
                foreach (var step in (ReadOnlySpan<int>)[1, 2, 4, -1, -2, -4])
                {
                    copies.Add(mode, step, 0x1003, 0x4FF9, 3001); // apart
                    copies.Add(mode, step, 0x2003, 0x2FF9, 1501); // the target above the source
                    copies.Add(mode, step, 0x2FF9, 0x2003, 1501); // and below it
                    copies.Add(mode, step, 0x3001, 0x3002, 900); // nearer than an element may be wide
                    copies.Add(mode, step, 0x3002, 0x3001, 900);
                }
            }

            return copies;
        }
    }

    /// <summary>Each element is read after all those before it were written, whatever is done at once.</summary>
    [Theory]
    [MemberData(nameof(Copies))]
    public void Elements_are_moved_one_after_the_other(Mode mode, int step, int from, int to, int count)
    {
        var memory = new byte[Size];
        new Random(step).NextBytes(memory);
        using var m = new M(mode);
        m.Write(Area, memory);
        m.Program(a =>
        {
            if (step < 0)
                a.std();
            switch (Math.Abs(step))
            {
                case 1: a.rep.movsb(); break;
                case 2: a.rep.movsw(); break;
                default: a.rep.movsd(); break;
            }
        });
        var last = step < 0 ? (count - 1) * -step : 0; // where the first element is that is moved
        m.Rsi = (ulong)(Area + from + last);
        m.Rdi = (ulong)(Area + to + last);
        m.Rcx = (ulong)count;
        m.RunToHalt();

        for (var i = 0; i < count; i++)
            memory.AsSpan(from + last + (i * step), Math.Abs(step)).CopyTo(memory.AsSpan(to + last + (i * step)));
        var actual = new byte[Size];
        Assert.True(m.Memory.TryRead(Area, actual));
        Assert.Equal(memory, actual);
        Assert.Equal((0UL, (ulong)(Area + from + last + (count * step)), (ulong)(Area + to + last + (count * step))), (m.Rcx, m.Rsi, m.Rdi));
    }

    [Theory]
    [InlineData(Mode.Paged32)]
    [InlineData(Mode.Long)]
    public void Downwards_it_may_end_in_a_fault(Mode mode)
    {
        using var m = new M(mode);
        m.Map(Area, 0, 0); // the page below
        m.Program(a =>
        {
            a.std();
            a.rep.stosd();
        });
        m.Rdi = Area + 0x1000 + 401;
        m.Rcx = 5000;
        var stop = m.Run();
        Assert.Equal(Vectors.PF, stop.Vector);
        Assert.Equal((ulong)Area + 0x1000 - 3, m.Rdi);
        Assert.Equal(5000 - 101UL, m.Rcx);
        Assert.Equal((ulong)Area + 0x1000 - 3, m.State.Cr2);
    }

    /// <summary>Firmware copies with interrupts barred, and one is always waiting: that must not stop it at each element.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_barred_interrupt_does_not_slow_it_down(bool down)
    {
        const int count = 5001;
        using var m = new M(Mode.Protected32);
        m.Program(a =>
        {
            if (down)
                a.std();
            a.rep.movsw();
        });
        m.Rsi = Area + (down ? count * 2UL : 1);
        m.Rdi = Area + 0x10000 + (down ? count * 2UL : 0);
        m.Rcx = count;
        m.Apic.Request(m.Cpu, 0x40);
        var before = m.Cpu.InstructionCount;
        m.RunToHalt();
        Assert.Equal(0UL, m.Rcx);
        Assert.InRange(m.Cpu.InstructionCount - before, 2, 10);
    }
}
