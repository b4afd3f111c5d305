using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Smp.SmpMachine;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>Interrupts between processors: none is lost, whatever the receiver is doing when it comes.</summary>
public sealed class InterruptTests
{
    private const byte Vector = 0x40;
    private const uint Counters = Data, Mailbox = Data + 0x1000;

    /// <summary>Two processors send each other an interrupt and halt until they get one: a lost wake-up hangs.</summary>
    [Fact]
    public void Halted_processors_wake_each_other()
    {
        using var machine = new SmpMachine(2);
        var rounds = Iterations.Of(20_000);
        LoadPingPong(machine, rounds);
        machine.Run();
        Assert.Equal((uint)rounds, machine.Read(Counters));
    }

    /// <summary>The receiver enables interrupts only now and then, and halts as often as it runs.</summary>
    [Fact]
    public void No_interrupt_is_lost_while_the_receiver_runs_halts_and_masks()
    {
        using var machine = new SmpMachine(3);
        var rounds = Iterations.Of(2_000);
        CountInterrupts(machine);
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            var wait = a.CreateLabel();
            a.mov(r15d, Counters);
            a.Label(ref loop);
            a.cli();
            a.cmp(__dword_ptr[Counters], rounds * 2);
            a.jae(wait);
            a.sti();
            a.hlt();
            a.rdtsc();
            a.test(al, 4);
            a.jne(loop);
            a.nop();
            a.jmp(loop);
            a.Label(ref wait);
            a.xor(eax, eax);
            Done(a);
        });
        for (var i = 1; i < 3; i++)
        {
            // Each sender waits until its own mark has been taken; the handler acknowledges by vector.
            var ack = Mailbox + (uint)(i * 64);
            var vector = (byte)(Vector + i);
            machine.Handle(vector, a =>
            {
                a.push(rax);
                a.push(rcx);
                a.push(rdx);
                a.@lock.inc(__dword_ptr[Counters]);
                a.inc(__dword_ptr[ack]);
                EndOfInterrupt(a);
                a.pop(rdx);
                a.pop(rcx);
                a.pop(rax);
                a.iretq();
            });
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var wait = a.CreateLabel();
                a.xor(ebx, ebx);
                a.Label(ref loop);
                SendIpi(a, 0, vector);
                a.inc(ebx);
                a.Label(ref wait);
                a.pause();
                a.cmp(__dword_ptr[ack], ebx);
                a.jne(wait);
                a.cmp(ebx, rounds);
                a.jne(loop);
                a.xor(eax, eax);
                Done(a);
            });
        }

        machine.Run();
    }

    /// <summary>A start-up IPI right behind INIT, without the pause that the MultiProcessor Specification asks for.</summary>
    [Fact]
    public void A_startup_ipi_right_behind_init_starts_the_processor()
    {
        const uint Counter = 0x9800;
        using var machine = new SmpMachine(2, enders: 1);
        var rounds = Iterations.Of(5_000);
        var realMode = new Assembler(16);
        realMode.xor(ax, ax);
        realMode.mov(ds, ax);
        realMode.@lock.inc(__word_ptr[(int)Counter]);
        realMode.cli();
        realMode.hlt();
        var stream = new MemoryStream();
        realMode.Assemble(new StreamCodeWriter(stream), 0);
        machine.Memory.TryWrite(0x9000, stream.ToArray());
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            var wait = a.CreateLabel();
            a.xor(ebx, ebx);
            a.Label(ref loop);
            a.mov(ecx, 0x830);
            a.mov(eax, 0x4500);
            a.mov(edx, 1);
            a.wrmsr();
            a.mov(eax, 0x4609);
            a.wrmsr();
            a.inc(ebx);
            a.Label(ref wait);
            a.pause();
            a.cmp(__word_ptr[Counter], bx);
            a.jne(wait);
            a.cmp(ebx, rounds);
            a.jne(loop);
            a.xor(eax, eax);
            Done(a);
        });
        machine.Load(1, Done);
        machine.Run();
    }

    /// <summary>Kicks while interrupts fly: each Run returns, and nothing is lost.</summary>
    [Fact]
    public void Kicks_disturb_nothing()
    {
        using var machine = new SmpMachine(2);
        LoadPingPong(machine, Iterations.Of(5_000));
        using var end = new CancellationTokenSource();
        var kicker = new Thread(() =>
        {
            while (!end.IsCancellationRequested)
            {
                foreach (var vcpu in machine.Processors)
                    vcpu.Kick();
                Thread.Sleep(0);
            }
        });
        kicker.Start();
        machine.Run();
        end.Cancel();
        kicker.Join();
    }

    /// <summary>Processor 0 sends, 1 answers, each halts for the other.</summary>
    private static void LoadPingPong(SmpMachine machine, int rounds)
    {
        CountInterrupts(machine);
        for (var i = 0; i < 2; i++)
        {
            var self = i;
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var check = a.CreateLabel();
                var arrived = a.CreateLabel();
                a.mov(r15d, Counters + (uint)(self * 64));
                a.xor(ebx, ebx);
                a.Label(ref loop);
                a.nop();
                if (self == 0)
                    SendIpi(a, 1, Vector);
                a.Label(ref check);
                a.cli();
                a.cmp(__dword_ptr[r15], ebx);
                a.jne(arrived);
                a.sti();
                a.hlt();
                a.jmp(check);
                a.Label(ref arrived);
                a.inc(ebx);
                if (self == 1)
                    SendIpi(a, 0, Vector);
                a.cmp(ebx, rounds);
                a.jne(loop);
                a.xor(eax, eax);
                Done(a);
            });
        }
    }

    /// <summary>The handler counts at [R15], which each processor has for itself.</summary>
    private static void CountInterrupts(SmpMachine machine) => machine.Handle(Vector, a =>
    {
        a.push(rax);
        a.push(rcx);
        a.push(rdx);
        a.inc(__dword_ptr[r15]);
        EndOfInterrupt(a);
        a.pop(rdx);
        a.pop(rcx);
        a.pop(rax);
        a.iretq();
    });
}
