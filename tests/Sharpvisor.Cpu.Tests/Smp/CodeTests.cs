using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Smp.SmpMachine;

namespace Sharpvisor.Cpu.Tests.Smp;

/// <summary>Cross-modifying code: after an interrupt has been answered, the old code is not executed any more (SDM vol. 3, 8.1.3).</summary>
public sealed class CodeTests
{
    private const byte Sync = 0x50;
    private const uint Function = Data + 0x10000, Expected = Data, Acknowledged = Data + 64, End = Data + 128;

    /// <summary>How the patching processor writes.</summary>
    public enum Patch
    {
        Store,
        ReadModifyWrite,
        LockedAdd,
        Exchange,
        StringMove,
        Vector,
        ByteByByte,
    }

    public static TheoryData<Patch, uint> Patches
    {
        get
        {
            TheoryData<Patch, uint> data = [];
            foreach (var patch in Enum.GetValues<Patch>())
            {
                data.Add(patch, 0x100);
                data.Add(patch, 0x13D); // the immediate lies across two lines
                data.Add(patch, 0xFFD); // and across two pages
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Patches))]
    public void A_patched_immediate_is_seen_after_an_interrupt(Patch patch, uint offset)
    {
        using var machine = new SmpMachine(2);
        var rounds = Iterations.Of(1_500);
        var function = Function + offset;
        var immediate = function + 1;
        Acknowledge(machine);
        machine.Place(function, a =>
        {
            a.mov(eax, 0);
            a.ret();
        });
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            var wait = a.CreateLabel();
            a.mov(ebx, 1);
            a.cld();
            a.Label(ref loop);
            Write(a, patch, immediate);
            SendIpi(a, 1, Sync);
            a.Label(ref wait);
            a.pause();
            a.cmp(__dword_ptr[Acknowledged], ebx);
            a.jne(wait);
            a.mov(__dword_ptr[Expected], ebx);
            a.inc(ebx);
            a.cmp(ebx, rounds);
            a.jbe(loop);
            a.mov(__dword_ptr[End], 1);
            a.xor(eax, eax);
            Done(a);
        });
        LoadReader(machine, 1, function);
        machine.Run();
        Assert.True(machine.Results[1] == 0, $"executed {machine.Results[1]:x} after it had been replaced");
    }

    /// <summary>As Linux patches: a breakpoint over the first byte, the rest, the first byte, with an interrupt after each.</summary>
    [Fact]
    public void Text_poke_by_breakpoint()
    {
        using var machine = new SmpMachine(3);
        var rounds = Iterations.Of(150);
        var function = Function + 0x3C;
        Acknowledge(machine);
        machine.Handle(3, a =>
        {
            // Emulates "mov eax, imm32" by a value that is always new enough.
            a.mov(eax, -1);
            a.add(__qword_ptr[rsp], 4);
            a.iretq();
        });
        machine.Place(function, a =>
        {
            a.mov(eax, 0);
            a.ret();
        });
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            a.mov(ebx, 1);
            a.xor(ebp, ebp);
            a.Label(ref loop);
            a.mov(__byte_ptr[function], 0xCC);
            SyncOthers(a);
            a.mov(__dword_ptr[function + 1], ebx);
            SyncOthers(a);
            a.mov(__byte_ptr[function], 0xB8);
            SyncOthers(a);
            a.mov(__dword_ptr[Expected], ebx);
            a.inc(ebx);
            a.cmp(ebx, rounds);
            a.jbe(loop);
            a.mov(__dword_ptr[End], 1);
            a.xor(eax, eax);
            Done(a);
        });
        LoadReader(machine, 1, function);
        LoadReader(machine, 2, function);
        machine.Run();
        Assert.Equal((0u, 0u), (machine.Results[1], machine.Results[2]));

        static void SyncOthers(Assembler a)
        {
            SendIpiToOthers(a, Sync);
            var wait = a.CreateLabel();
            a.add(ebp, 2);
            a.Label(ref wait);
            a.pause();
            a.cmp(__dword_ptr[Acknowledged], ebp);
            a.jne(wait);
        }
    }

    /// <summary>Code is replaced while the other processor is halted, at more places than it is sent requests for.</summary>
    [Fact]
    public void A_halted_processor_executes_nothing_old()
    {
        const uint Functions = 1000, Stride = 64;
        using var machine = new SmpMachine(2);
        var rounds = Iterations.Of(30);
        Acknowledge(machine);
        machine.Place(Function, a =>
        {
            a.mov(eax, 0);
            a.ret();
        });
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            var each = a.CreateLabel();
            var wait = a.CreateLabel();
            a.mov(ebx, 1);
            a.Label(ref loop);
            a.mov(edi, Function);
            a.mov(ecx, Functions);
            a.Label(ref each);
            a.mov(__dword_ptr[rdi + 1], ebx);
            a.mov(__byte_ptr[rdi], 0xB8);
            a.mov(__byte_ptr[rdi + 5], 0xC3);
            a.add(edi, Stride);
            a.dec(ecx);
            a.jne(each);
            SendIpi(a, 1, Sync);
            a.Label(ref wait);
            a.pause();
            a.cmp(__dword_ptr[Expected], ebx);
            a.jne(wait);
            a.inc(ebx);
            a.cmp(ebx, rounds);
            a.jbe(loop);
            a.xor(eax, eax);
            Done(a);
        });
        machine.Load(1, a =>
        {
            var loop = a.CreateLabel();
            var each = a.CreateLabel();
            var bad = a.CreateLabel();
            var check = a.CreateLabel();
            var go = a.CreateLabel();
            a.mov(ebx, 1);
            a.Label(ref loop);
            a.nop();
            a.Label(ref check);
            a.cli();
            a.cmp(__dword_ptr[Acknowledged], ebx);
            a.jae(go);
            a.sti();
            a.hlt();
            a.jmp(check);
            a.Label(ref go);
            a.mov(edi, Function);
            a.mov(ebp, Functions);
            a.Label(ref each);
            a.call(rdi);
            a.cmp(eax, ebx);
            a.jne(bad);
            a.add(edi, Stride);
            a.dec(ebp);
            a.jne(each);
            a.mov(__dword_ptr[Expected], ebx);
            a.inc(ebx);
            a.cmp(ebx, rounds);
            a.jbe(loop);
            a.xor(eax, eax);
            Done(a);
            a.Label(ref bad);
            a.inc(eax);
            Done(a);
        });
        machine.Run();
        Assert.True(machine.Results[1] == 0, $"executed {machine.Results[1] - 1:x}, which had been replaced");
    }

    /// <summary>One processor rewrites an instruction without end, two execute it: all react to a kick, nothing breaks.</summary>
    [Fact]
    public void Code_that_is_rewritten_without_end_keeps_nobody_from_a_kick()
    {
        using var machine = new SmpMachine(3);
        machine.Place(Function + 0x3D, a =>
        {
            a.mov(rax, 0x1122334455667788);
            a.mov(rcx, 0x1122334455667788);
            a.ret();
        });
        machine.Load(0, a =>
        {
            var loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(__qword_ptr[Function + 0x3F]);
            a.mov(__dword_ptr[Function + 0x49], ebx);
            a.inc(ebx);
            a.jmp(loop);
        });
        for (var i = 1; i < 3; i++)
        {
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                a.Label(ref loop);
                a.call(Function + 0x3D);
                a.jmp(loop);
            });
        }

        machine.Begin();
        Thread.Sleep(Iterations.Of(300));
        var before = Environment.TickCount64;
        Assert.Equal("", machine.Stop());
        Assert.True(Environment.TickCount64 - before < 5000);
    }

    /// <summary>
    /// Two processors take turns: each finds the immediate that the other one wrote, after a serialising instruction,
    /// and the one that it writes itself at once.
    /// </summary>
    [Theory]
    [InlineData(0x100u)]
    [InlineData(0x13Du)]
    [InlineData(0xFFDu)]
    public void Processors_patch_the_same_code_in_turns(uint offset)
    {
        using var machine = new SmpMachine(2);
        var rounds = Iterations.Of(400) & ~1;
        var function = Function + offset;
        machine.Place(function, a =>
        {
            a.mov(eax, 0);
            a.ret();
        });
        for (var i = 0; i < 2; i++)
        {
            var own = i;
            machine.Load(i, a =>
            {
                var loop = a.CreateLabel();
                var bad = a.CreateLabel();
                a.mov(esi, own); // the value that is there when this processor's turn comes
                a.Label(ref loop);
                a.pause();
                a.cmp(__dword_ptr[Expected], esi);
                a.jb(loop);
                a.xor(eax, eax);
                a.cpuid();
                a.call(function);
                a.cmp(eax, esi);
                a.jne(bad);
                a.inc(esi);
                a.mov(__dword_ptr[function + 1], esi);
                a.call(function);
                a.cmp(eax, esi);
                a.jne(bad);
                a.mov(__dword_ptr[Expected], esi);
                a.inc(esi);
                a.cmp(esi, rounds);
                a.jb(loop);
                a.xor(eax, eax);
                Done(a);
                a.Label(ref bad);
                a.mov(__dword_ptr[Expected], -1); // the other one finds that it is not what it waits for, too
                a.lea(eax, __[rsi + 1]);
                Done(a);
            });
        }

        machine.Run();
        Assert.Equal((0u, 0u), (machine.Results[0], machine.Results[1]));
    }

    /// <summary>The handler adds one to the count of acknowledgements.</summary>
    private static void Acknowledge(SmpMachine machine) => machine.Handle(Sync, a =>
    {
        a.push(rax);
        a.push(rcx);
        a.push(rdx);
        EndOfInterrupt(a);
        a.@lock.inc(__dword_ptr[Acknowledged]);
        a.pop(rdx);
        a.pop(rcx);
        a.pop(rax);
        a.iretq();
    });

    /// <summary>Calls the function until the end; what it gives must not be older than what was expected before the call.</summary>
    private static void LoadReader(SmpMachine machine, int processor, uint function) => machine.Load(processor, a =>
    {
        var loop = a.CreateLabel();
        var bad = a.CreateLabel();
        a.sti();
        a.Label(ref loop);
        a.mov(ebx, __dword_ptr[Expected]);
        a.call(function);
        a.cmp(eax, ebx);
        a.jb(bad);
        a.cmp(__dword_ptr[End], 0);
        a.je(loop);
        a.xor(eax, eax);
        Done(a);
        a.Label(ref bad);
        a.mov(__dword_ptr[End], 1);
        a.inc(eax);
        Done(a);
    });

    private static void Write(Assembler a, Patch patch, uint immediate)
    {
        switch (patch)
        {
            case Patch.Store:
                a.mov(__dword_ptr[immediate], ebx);
                break;
            case Patch.ReadModifyWrite:
                a.inc(__dword_ptr[immediate]);
                break;
            case Patch.LockedAdd:
                a.@lock.add(__dword_ptr[immediate], 1);
                break;
            case Patch.Exchange:
                a.mov(eax, ebx);
                a.xchg(__dword_ptr[immediate], eax);
                break;
            case Patch.StringMove:
                // Downwards: between two bytes nobody may see a value that is less than the last one.
                a.mov(__dword_ptr[Data + 0x200], ebx);
                a.mov(esi, Data + 0x203);
                a.mov(edi, immediate + 3);
                a.mov(ecx, 4);
                a.std();
                a.rep.movsb();
                a.cld();
                break;
            case Patch.Vector:
                a.movd(xmm0, ebx);
                a.movd(__dword_ptr[immediate], xmm0);
                break;
            case Patch.ByteByByte:
                a.mov(eax, ebx);
                for (var i = 3; i >= 0; i--)
                {
                    a.mov(ecx, ebx);
                    a.shr(ecx, (byte)(8 * i));
                    a.mov(__byte_ptr[immediate + (uint)i], cl);
                }

                break;
        }
    }
}
