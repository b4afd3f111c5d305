using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>SYSCALL and SYSRET in generated code, and what makes them leave it.</summary>
public class PrivilegeTests
{
    private const ulong Entry = 0x58000, Shared = 0x300000, Space = 0x200000;

    /// <summary>User code at <see cref="M.Code"/>, the kernel at <see cref="Entry"/>.</summary>
    private static void Prepare(M m, Action<Assembler> user, Action<Assembler> kernel)
    {
        m.Enter(Mode.Long);
        m.State.Star = (0x33UL << 48) | (0x08UL << 32);
        m.State.Lstar = Entry;
        m.State.Fmask = Rflags.AC | Rflags.IF | Rflags.TF | Rflags.DF;
        m.SetPrivilege(3);
        m.Assemble(M.Code, a =>
        {
            user(a);
            a.int3();
        });
        m.Assemble(Entry, kernel);
    }

    /// <summary>The kernel's pages are its own.</summary>
    private static void Protect(M m)
    {
        foreach (var page in (ulong[])[Entry, M.Gdt, M.Idt, M.Tss, M.Handlers, M.Stack0 - 0x1000, M.IstStack - 0x1000, M.Data])
            m.Map(page, page, Pte.Present | Pte.Write);
        m.SetGate(Vectors.PF, M.Handlers + (Vectors.PF * 16), M.Code64, ist: 1); // the kernel has the user's stack
        m.State.Cr4 |= ControlRegisters.SMEP | ControlRegisters.SMAP;
    }

    [Theory]
    [InlineData(Rflags.AC | Rflags.IF | Rflags.TF | Rflags.DF, Rflags.IF | Rflags.CF | Rflags.ZF | Rflags.OF)]
    [InlineData(0x257FD5, Rflags.IF | Rflags.CF | Rflags.SF | Rflags.PF | Rflags.DF | Rflags.ID)]
    [InlineData(Rflags.AC | Rflags.CF, Rflags.AF | Rflags.CF | Rflags.OF | Rflags.NT | Rflags.IOPL)]
    public void A_system_call_and_back(ulong mask, ulong flags)
    {
        using var pair = new PairOfMachines();
        foreach (var smap in (bool[])[false, true])
        {
            var stop = pair.Run(m =>
            {
                Prepare(
                    m,
                    a =>
                    {
                        a.syscall();
                        a.pushfq();
                        a.pop(r12);
                        a.mov(r13d, cs);
                        a.mov(r14d, ss);
                        a.mov(r8, r11);
                    },
                    a =>
                    {
                        a.pushfq();
                        a.pop(rbx);
                        a.mov(edi, cs);
                        a.mov(rsi, ss);
                        a.mov(rdx, rcx);
                        a.mov(r10, r11);
                        a.sysretq();
                    });
                m.State.Fmask = mask;
                m.State.Rflags |= flags;
                if (smap)
                {
                    Protect(m);
                    m.Map(M.UserStack - 0x1000, M.UserStack - 0x1000, Pte.Present | Pte.Write); // the kernel pushes there, the user does not
                    m.Rsp = M.UserStack;
                    m.Assemble(M.Code + 2, a =>
                    {
                        a.mov(r13d, cs);
                        a.mov(r14d, ss);
                        a.int3();
                    });
                }
            });
            stop.Is(Vectors.BP);
            Assert.Equal(M.Code + 2, pair.Translated.Rdx);
            Assert.Equal(8UL, pair.Translated.Rdi);
            Assert.Equal(M.UserCode64, (ushort)pair.Translated.State.Gpr[13]);
            Assert.Equal(flags | 2, pair.Translated.State.Gpr[10]);
            Assert.Equal(M.UserCode64, stop.Cs);
        }

        Assert.Equal(0, pair.Left(Mnemonic.Syscall));
        Assert.Equal(0, pair.Left(Mnemonic.Sysretq));
    }

    /// <summary>SCE, an RFLAGS.AC that stays, TF, a RIP that is not canonical: the interpreter's.</summary>
    [Theory]
    [InlineData("sce", Vectors.UD)]
    [InlineData("sce kernel", Vectors.UD)]
    [InlineData("mask", Vectors.BP)]
    [InlineData("trap", Vectors.DB)]
    [InlineData("alignment", Vectors.BP)]
    [InlineData("canonical", Vectors.GP)]
    [InlineData("user", Vectors.GP)]
    public void The_unusual_is_left_to_the_interpreter(string what, int vector)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            Prepare(
                m,
                a =>
                {
                    if (what == "user")
                        a.sysretq();
                    a.syscall();
                    a.nop();
                },
                a =>
                {
                    if (what == "sce kernel")
                    {
                        a.mov(ecx, 0xC0000080);
                        a.rdmsr();
                        a.and(eax, ~1);
                        a.wrmsr();
                    }

                    if (what == "canonical")
                        a.bts(rcx, 47);
                    if (what is "trap" or "alignment")
                        a.bts(r11, (byte)(what == "trap" ? 8 : 18));
                    a.sysretq();
                });
            if (what == "sce")
                m.State.Efer &= ~ControlRegisters.SCE;
            if (what == "mask")
                m.State.Fmask = 0;
        });
        stop.Is(vector);
        if (what is "sce kernel" or "canonical")
            Assert.Equal(M.Code32, stop.Cs); // it happened in the kernel
        Assert.Equal(what is "sce" or "mask" ? 1 : 0, pair.Left(Mnemonic.Syscall));
        Assert.Equal(what is "sce" or "mask" ? 0 : 1, pair.Left(Mnemonic.Sysretq));
    }

    /// <summary>An interrupt that waits comes as soon as SYSRET has set RFLAGS.IF, before the user's next instruction.</summary>
    [Fact]
    public void A_waiting_interrupt_comes_behind_sysret()
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            Prepare(
                m,
                a =>
                {
                    a.syscall();
                    a.inc(rbx);
                },
                a =>
                {
                    a.inc(rdx);
                    a.sysretq();
                });
            m.State.Rflags |= Rflags.IF;
            m.Cpu.SetState(m.State);
            m.State.Segments[1] = m.Segment(M.Code64);
            m.State.Segments[2] = m.Segment(M.Data32);
            m.State.Rip = Entry;
            m.Rcx = M.Code + 2;
            m.State.Gpr[11] = Rflags.IF | 2;
            m.State.Rflags = 2;
            m.Apic.Request((Sharpvisor.Core.Interrupts.IProcessorSignals)m.Cpu, 0x40);
        });
        stop.Is(0x40, rip: M.Code + 2);
        Assert.Equal(M.UserCode64, stop.Cs);
        Assert.Equal(0UL, pair.Translated.Rbx);
        Assert.Equal(1UL, pair.Translated.Rdx);
    }

    /// <summary>What privilege allows is looked at anew on both sides, also where the same page and code were used before.</summary>
    [Theory]
    [InlineData("read")]
    [InlineData("fetch")]
    [InlineData("kernel read")]
    [InlineData("kernel fetch")]
    [InlineData("cli")]
    public void Each_side_has_its_own_rights(string what)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            Prepare(
                m,
                a =>
                {
                    var loop = a.CreateLabel();
                    a.Label(ref loop);
                    a.syscall();
                    if (what == "cli")
                        a.nop();
                    a.mov(rdx, __qword_ptr[Shared]);
                    a.dec(rbx);
                    a.jne(loop);
                    if (what == "read")
                        a.mov(rax, __qword_ptr[M.Data]);
                    if (what == "fetch")
                        a.jmp(rdi);
                    if (what == "cli")
                        a.cli();
                    a.mov(r12d, 1);
                    a.syscall();
                },
                a =>
                {
                    var end = a.CreateLabel();
                    var usual = a.CreateLabel();
                    a.mov(rdx, __qword_ptr[M.Data]);
                    a.test(r12d, r12d);
                    a.je(usual);
                    if (what == "kernel read")
                        a.mov(rax, __qword_ptr[Shared]);
                    if (what == "kernel fetch")
                        a.jmp(rcx);
                    a.Label(ref usual);
                    a.nop();
                    a.Label(ref end);
                    a.sysretq();
                });
            Protect(m);
            m.Rdi = Entry;
            m.Rbx = 20;
        });
        stop.Is(what == "cli" ? Vectors.GP : Vectors.PF);
        Assert.Equal(what.StartsWith("kernel", StringComparison.Ordinal) ? M.Code32 : M.UserCode64, stop.Cs);
        Assert.Equal(0, pair.Left(Mnemonic.Syscall));
        Assert.Equal(0, pair.Left(Mnemonic.Sysretq));
    }

    /// <summary>The kernel gives each call another address space, where the same user addresses are other code.</summary>
    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void The_kernel_changes_the_address_space(bool global, bool pcid)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            Prepare(
                m,
                a => a.jmp(M.UserCode),
                a =>
                {
                    var end = a.CreateLabel();
                    a.dec(r12);
                    a.je(end);
                    a.xchg(rdi, rsi);
                    a.mov(cr3, rdi);
                    a.sysretq();
                    a.Label(ref end);
                    a.hlt();
                });
            m.Assemble(M.UserCode, a =>
            {
                var loop = a.CreateLabel();
                a.Label(ref loop);
                a.add(rbx, 1);
                a.syscall();
                a.jmp(loop);
            });
            m.Assemble(M.UserCode + 0x1000, a =>
            {
                var loop = a.CreateLabel();
                a.Label(ref loop);
                a.add(r9, 3);
                a.syscall();
                a.jmp(loop);
            });

            // The second space: its own tables for the first 2 MiB, with the next page at the user's code.
            ulong[] tables = [0x600000, 0x601000, 0x602000, 0x603000];
            for (var i = 0; i < 3; i++)
                m.Write(tables[i], tables[i + 1] | 7);
            for (ulong page = 0; page < 512; page++)
                m.Write(tables[3] + (page * 8), (page << 12) | 7 | (global && page << 12 == Entry ? Pte.Global : 0));
            m.Write(tables[3] + (M.UserCode >> 9), (M.UserCode + 0x1000) | 7);
            if (global)
            {
                m.Map(Entry, Entry, Pte.Present | Pte.Write | Pte.Global);
                m.State.Cr4 |= ControlRegisters.PGE;
            }

            m.Rdi = m.Root;
            m.Rsi = tables[0];
            if (pcid)
            {
                m.State.Cr4 |= ControlRegisters.PCIDE;
                m.Rdi |= (1UL << 63) | 1;
                m.Rsi |= (1UL << 63) | 2;
                m.State.Cr3 |= 1;
            }

            m.State.Gpr[12] = 101;
        });
        Assert.True(stop.Exit == VcpuExit.Halted && stop.Vector < 0, stop.ToString());
        Assert.Equal(51UL, pair.Translated.Rbx);
        Assert.Equal(150UL, pair.Translated.State.Gpr[9]);
        Assert.Equal(0, pair.Left(Mnemonic.Syscall));
        Assert.Equal(0, pair.Left(Mnemonic.Sysretq));
    }

    /// <summary>IRETQ from a frame on the kernel's stack to code that ends with INT3.</summary>
    private static void PrepareReturn(M m, ulong code, ulong stack, ulong flags, ulong rip = M.UserCode)
    {
        m.Enter(Mode.Long);
        foreach (var i in (int[])[0, 3, 4, 5])
            m.State.Segments[i] = new SegmentRegister();
        m.Rsp = M.Stack - 40;
        ulong[] frame = [rip, code | 0xABCD_0000, flags, M.UserStack, stack];
        for (var i = 0; i < frame.Length; i++)
            m.Write(m.Rsp + (ulong)(i * 8), frame[i]);
        m.State.Rflags |= Rflags.CF;
        m.Rax = 0x1111;
        m.Rcx = 0x2222;
        m.Rdx = M.Gdt;
        m.Assemble(M.Code, a =>
        {
            a.mov(rbx, __qword_ptr[rdx]); // the descriptors are in the TLB
            a.iretq();
        });
        m.Assemble(M.UserCode, a =>
        {
            a.mov(r8d, cs);
            a.mov(r9w, ss);
            a.mov(r15w, ss);
            a.pushfq();
            a.pop(r10);
            a.mov(rsi, __qword_ptr[Shared]);
            a.int3();
        });
        m.Segment((ushort)code);
        if ((stack & ~3UL) != 0)
            m.Segment((ushort)stack);
    }

    [Theory]
    [InlineData(M.UserCode64, M.UserData, Rflags.IF | Rflags.ZF | Rflags.PF, false)]
    [InlineData(M.UserCode64, M.UserData, Rflags.RF | Rflags.IOPL | Rflags.ID | Rflags.OF, true)]
    [InlineData(M.Code64, M.Data32, Rflags.IF | Rflags.CF | Rflags.DF, true)]
    [InlineData(M.Code64, 0, Rflags.SF | Rflags.AF, false)]
    [InlineData(M.Code64, 0, Rflags.AC | Rflags.NT, true)]
    [InlineData(M.Code64, M.Data32, 0, true)]
    public void An_interrupt_return(ushort cs, ushort ss, ulong flags, bool smap)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            PrepareReturn(m, cs, ss, flags);
            if (smap)
                m.State.Cr4 |= ControlRegisters.SMAP;
            if ((cs & 3) == 0)
                m.Map(M.UserCode, M.UserCode, Pte.Present | Pte.Write);
            foreach (var page in (ulong[])[M.Gdt, M.Idt, M.Tss, M.Code, M.Stack - 0x1000, M.Handlers, M.Stack0 - 0x1000])
                m.Map(page, page, Pte.Present | Pte.Write);
            if ((cs & 3) == 0)
                m.Map(M.UserStack - 0x1000, M.UserStack - 0x1000, Pte.Present | Pte.Write);
        });

        // Only with RFLAGS.AC may the kernel read the user's page under SMAP.
        stop.Is((cs & 3) == 0 && smap && (flags & Rflags.AC) == 0 ? Vectors.PF : Vectors.BP);
        Assert.Equal(cs, stop.Cs);
        Assert.Equal(ss, stop.Ss);
        Assert.Equal(M.UserStack, stop.Rsp);
        Assert.Equal((flags & ~Rflags.RF) | 2, pair.Translated.State.Gpr[10]);
        Assert.Equal(0, pair.Left(Mnemonic.Iretq));
    }

    [Theory]
    [InlineData("not in the TLB", Vectors.BP)]
    [InlineData("nested", Vectors.GP)]
    [InlineData("trap", Vectors.DB)]
    [InlineData("alignment", Vectors.BP)]
    [InlineData("canonical", Vectors.GP)]
    [InlineData("limit", Vectors.GP)]
    [InlineData("null", Vectors.GP)]
    [InlineData("table", Vectors.GP)]
    [InlineData("rpl", Vectors.GP)]
    [InlineData("stack rpl", Vectors.GP)]
    [InlineData("user null stack", Vectors.GP)]
    [InlineData("not present", Vectors.NP)]
    [InlineData("compatibility", Vectors.GP)] // its data segments are null
    [InlineData("not accessed", Vectors.BP)]
    [InlineData("data segment", Vectors.BP)]
    [InlineData("interrupt", 0x40)]
    [InlineData("nmi", Vectors.BP)]
    public void Unusual_interrupt_returns_are_left_to_the_interpreter(string what, int vector)
    {
        using var pair = new PairOfMachines();
        var stop = pair.Run(m =>
        {
            var cs = what switch { "null" => 3UL, "table" => M.UserCode64 | 4UL, "rpl" => M.UserCode64 & ~3UL, "compatibility" => M.UserCode32, "limit" => 0x1003UL, _ => (ulong)M.UserCode64 };
            var ss = what switch { "stack rpl" => M.UserData & ~3UL, "user null stack" => 3UL, _ => (ulong)M.UserData };
            var flags = what switch { "trap" => Rflags.TF, "alignment" => Rflags.AC, "interrupt" => Rflags.IF, _ => 0UL };
            PrepareReturn(m, cs, ss, flags, what == "canonical" ? 1UL << 47 : M.UserCode);
            m.SetGate(Vectors.DB, M.Handlers + 16, M.Code64);
            if (what == "not in the TLB")
                m.Rdx = M.Data;
            if (what == "nested")
                m.State.Rflags |= Rflags.NT;
            if (what == "alignment")
                m.State.Cr0 |= ControlRegisters.AM;
            if (what == "not present")
                m.SetGdt(M.UserCode64, m.Read64(M.Gdt + (M.UserCode64 & ~7UL)) & ~(1UL << 47));
            if (what == "not accessed")
                m.SetGdt(M.UserCode64, m.Read64(M.Gdt + (M.UserCode64 & ~7UL)) & ~(1UL << 40));
            if (what == "data segment")
                m.State.Segments[3] = m.Segment(M.Data32);
            if (what == "interrupt")
                m.Apic.Request((Sharpvisor.Core.Interrupts.IProcessorSignals)m.Cpu, 0x40);
            m.State.NmiBlocked = what == "nmi";
        });
        stop.Is(vector);
        Assert.Equal(1, pair.Left(Mnemonic.Iretq));
        Assert.Equal(what is "not in the TLB" or "not accessed" or "alignment" or "trap" or "data segment" or "interrupt" or "nmi" ? M.UserCode64 : what == "compatibility" ? M.UserCode32 : M.Code64, stop.Cs);
    }
}
