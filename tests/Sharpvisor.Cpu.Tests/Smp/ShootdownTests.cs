using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Smp.SmpMachine;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>TLB shootdown: once all have answered the interrupt, nobody uses the old translation.</summary>
public sealed class ShootdownTests
{
    private const byte Shoot = 0x60;
    private const uint Phase = Data, Acknowledged = Data + 64, End = Data + 128;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_unmapped_page_faults_on_every_processor(bool write)
    {
        const int Others = 3;
        using var machine = new SmpMachine(Others + 1);
        var rounds = Iterations.Of(60);
        machine.MapWindow(0, Data + 0x4000);
        machine.Handle(Shoot, a =>
        {
            a.push(rax);
            a.push(rcx);
            a.push(rdx);
            a.invlpg(__[Windows]);
            EndOfInterrupt(a);
            a.@lock.inc(__dword_ptr[Acknowledged]);
            a.pop(rdx);
            a.pop(rcx);
            a.pop(rax);
            a.iretq();
        });
        machine.Handle(14, a =>
        {
            a.mov(r12d, 1);
            a.mov(__qword_ptr[rsp + 8], r13); // go on where the reader says
            a.add(rsp, 8);
            a.iretq();
        });
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            var wait = a.CreateLabel();
            var waitAgain = a.CreateLabel();
            a.mov(ebx, 1);
            a.xor(ebp, ebp);
            a.Label(ref loop);
            a.mov(__dword_ptr[WindowTable], 0); // not present
            a.invlpg(__[Windows]);
            SendIpiToOthers(a, Shoot);
            a.add(ebp, Others);
            a.Label(ref wait);
            a.pause();
            a.cmp(__dword_ptr[Acknowledged], ebp);
            a.jne(wait);
            a.mov(__dword_ptr[Phase], ebx); // odd: unmapped for all
            a.mov(ecx, 100);
            var idle = a.CreateLabel();
            a.Label(ref idle);
            a.pause();
            a.dec(ecx);
            a.jne(idle);
            a.inc(ebx);
            a.mov(__dword_ptr[Phase], ebx);
            a.mov(__dword_ptr[WindowTable], (Data + 0x4000) | 3);
            a.inc(ebx);
            a.mov(ecx, 100);
            a.Label(ref waitAgain);
            a.pause();
            a.dec(ecx);
            a.jne(waitAgain);
            a.cmp(ebx, rounds * 2);
            a.jb(loop);
            a.mov(__dword_ptr[End], 1);
            a.xor(eax, eax);
            Done(a);
        });
        for (var i = 1; i <= Others; i++)
        {
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var behind = a.CreateLabel();
                var bad = a.CreateLabel();
                var fine = a.CreateLabel();
                a.lea(r13, __[behind]);
                a.sti();
                a.Label(ref loop);
                a.xor(r12d, r12d);
                a.mov(ebx, __dword_ptr[Phase]);
                if (write)
                    a.mov(__dword_ptr[Windows + 8], ebx);
                else
                    a.mov(eax, __dword_ptr[Windows + 8]);
                a.Label(ref behind);
                a.mov(ecx, __dword_ptr[Phase]);
                a.cmp(ecx, ebx);
                a.jne(fine); // the phase changed meanwhile: either is right
                a.test(bl, 1);
                a.je(fine);
                a.test(r12d, r12d); // unmapped before and after: it must have faulted
                a.je(bad);
                a.inc(__dword_ptr[Data + 0x300]);
                a.Label(ref fine);
                a.cmp(__dword_ptr[End], 0);
                a.je(loop);
                a.xor(eax, eax);
                Done(a);
                a.Label(ref bad);
                a.mov(__dword_ptr[End], 1);
                a.mov(eax, 1);
                Done(a);
            });
        }

        machine.Run();
        Assert.Equal([0u, 0u, 0u], machine.Results[1..(Others + 1)]);
        Assert.NotEqual(0u, machine.Read(Data + 0x300));
    }
}
