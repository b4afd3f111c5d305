using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Interpreter.PvMachine;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>Processors of a paravirtual domain beside each other: their start, and tables that change under them.</summary>
public sealed class PvProcessorTests : IDisposable
{
    private const ulong SecondText = 0x28000, SecondStack = 0x36000, Window = High + 0x7F_0000, Phase = Data, Rounds = Data + 64;

    private readonly PvMachine _machine = new(processors: 2);
    private int _starts;

    public void Dispose() => _machine.Dispose();

    [Fact]
    public void A_processor_begins_as_it_was_told_and_goes_on_where_it_went_down()
    {
        _machine.Starter = p => Start(p, KernelCode);
        _machine.Assemble(SecondText, a =>
        {
            a.mov(eax, End + 1);
            a.syscall(); // down
            a.mov(eax, End + 2);
            a.syscall();
        });
        var cpu = _machine.Cpus[1];
        cpu.Run(100);
        Assert.Null(_machine.Ended);
        foreach (var expected in (int[])[1, 2])
        {
            cpu.RaiseStartup(0);
            cpu.Run(100);
            Assert.Equal(expected, _machine.Ended);
        }

        Assert.Equal((1, SecondStack, 0x77UL), (_starts, cpu.GetState().Gpr[4], cpu.GetState().Gpr[7]));
        Assert.Equal((ulong)FlatCode, cpu.GetState().Segments[1].Selector);
        Assert.Equal(IParavirtualDomain.DescriptorTables + 0x10000, cpu.GetState().Gdtr.Base);
    }

    [Fact]
    public void Selectors_that_lead_nowhere_start_nothing()
    {
        _machine.Starter = p => Start(p, 0x88);
        var cpu = _machine.Cpus[1];
        cpu.RaiseStartup(0);
        cpu.Run(100);
        Assert.Equal((1, ActivityState.WaitForSipi), (_starts, cpu.GetState().Activity));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void No_processor_goes_by_an_old_translation_once_the_call_is_over(bool onlyPage)
    {
        const ulong pages = 0x90000;
        var rounds = Iterations.Of(500);
        _machine.Write(pages, 0UL);
        _machine.Write(pages + 0x1000, 1UL);
        _machine.Map(KernelRoot, Window, pages);
        _machine.Starter = p => Start(p, KernelCode);
        _machine.OnCall = (call, p) =>
        {
            _machine.Map(KernelRoot, Window, pages + ((call.Arg1 & 1) << 12));
            p.FlushTlbOf(ulong.MaxValue, onlyPage ? Window : null);
            return 0;
        };

        // Phase is the round while its page is the only one that may be seen, else 0.
        _machine.Program(a =>
        {
            var (loop, wait) = (a.CreateLabel(), a.CreateLabel());
            a.mov(ebx, 1);
            a.Label(ref loop);
            a.mov(__qword_ptr[Phase], 0);
            a.mov(edi, ebx);
            a.mov(eax, 1);
            a.syscall();
            a.mov(__[Phase], rbx);
            a.mov(ecx, 200);
            a.Label(ref wait);
            a.pause();
            a.dec(ecx);
            a.jne(wait);
            a.inc(ebx);
            a.cmp(ebx, rounds);
            a.jbe(loop);
            a.mov(__qword_ptr[Phase], -1);
        });
        _machine.Assemble(SecondText, a =>
        {
            var (loop, end) = (a.CreateLabel(), a.CreateLabel());
            a.mov(r12, Window);
            a.Label(ref loop);
            a.mov(rbx, __[Phase]);
            a.cmp(rbx, -1);
            a.je(end);
            a.test(rbx, rbx);
            a.je(loop);
            a.mov(rsi, __[r12]);
            a.cmp(rbx, __[Phase]);
            a.jne(loop);
            a.inc(__qword_ptr[Rounds]);
            a.xor(esi, ebx);
            a.test(esi, 1);
            a.je(loop);
            a.inc(__qword_ptr[Rounds + 8]);
            a.jmp(loop);
            a.Label(ref end);
            a.mov(eax, End + 1);
            a.syscall();
        });
        var second = new Thread(() => _machine.Cpus[1].Run(long.MaxValue)) { IsBackground = true };
        _machine.Cpus[1].RaiseStartup(0);
        second.Start();
        _machine.Cpus[0].SetState(_machine.State);
        _machine.Cpus[0].Run(long.MaxValue);
        Assert.True(second.Join(TimeSpan.FromMinutes(1)), "the second processor does not end");
        Assert.NotEqual(0UL, _machine.Read<ulong>(Rounds));
        Assert.Equal(0UL, _machine.Read<ulong>(Rounds + 8));
    }

    private bool Start(IParavirtualProcessor processor, ushort cs)
    {
        _starts++;
        processor.KernelRoot = KernelRoot;
        var general = new ulong[16];
        (general[4], general[7]) = (SecondStack, 0x77);
        return processor.SetRegisters(new ParavirtualRegisters(true, general, SecondText, 0x202, cs, Data32, 0, 0, 0, 0));
    }
}
