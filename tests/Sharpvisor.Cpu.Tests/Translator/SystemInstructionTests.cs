using Iced.Intel;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Time;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>Other system instructions that generated code executes, and what makes them leave it.</summary>
public class SystemInstructionTests
{
    private const ulong UserPage = 0x300000;

    /// <summary>A clock whose line stands at one time for as long as it is good.</summary>
    private sealed unsafe class FlatClock : Clock
    {
        private readonly TscLineData* _line = (TscLineData*)HostMemory.ReserveLow(4096);

        public FlatClock(ulong span, long ns) => *_line = new TscLineData { Version = 6, Span = span, Ns = ns };

        public override long NowNs => 0x1111_2222_3333;

        public override TscLineData* TscLine => _line;

        public override long UnixEpochNs => 0;

        public override ClockTimer CreateTimer(string name, Action expired) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            HostMemory.Release(_line, 4096);
            base.Dispose(disposing);
        }
    }

    [Theory]
    [InlineData(ulong.MaxValue, 0x5_1234_5678UL, 0)]
    [InlineData(0UL, 0x1111_2222_3333UL, 1)]
    public void The_time_stamp_is_the_clocks(ulong span, ulong ns, int left)
    {
        if (!HostTsc.IsClock)
            return;
        using var clock = new FlatClock(span, 0x5_1234_5678);
        using var pair = new PairOfMachines(engine => new M(engine: engine, clock: clock));
        var m = pair.Translated;
        void Enter(int cpl)
        {
            m.Enter(Mode.Long);
            m.SetPrivilege(cpl);
        }

        foreach (var cpl in (int[])[0, 3])
        {
            Enter(cpl);
            m.State.TscOffset = 0x10_0000_0000;
            m.State.TscAux = 0x77;
            m.State.Rflags |= Rflags.CF | Rflags.ZF;
            m.Assemble(M.Code, a =>
            {
                a.rdtsc();
                a.mov(r8, rax);
                a.mov(r15, rdx);
                a.rdtscp();
                a.rdpid(r10);
                a.int3();
            });
            var stop = m.Expect(Vectors.BP);
            var expected = ns + 0x10_0000_0000;
            Assert.Equal((uint)expected, m.Rax);
            Assert.Equal((uint)expected, m.State.Gpr[8]);
            Assert.Equal(expected >> 32, m.Rdx);
            Assert.Equal(expected >> 32, m.State.Gpr[15]);
            Assert.Equal(0x77UL, m.Rcx);
            Assert.Equal(0x77UL, m.State.Gpr[10]);
            Assert.Equal(Rflags.CF | Rflags.ZF | 2, stop.Flags);
        }

        Assert.Equal(2 * left, pair.Left(Mnemonic.Rdtsc));
        Assert.Equal(2 * left, pair.Left(Mnemonic.Rdtscp));
        Enter(3);
        m.State.Cr4 |= ControlRegisters.TSD;
        m.Rax = m.Rdx = 5;
        m.Expect(Vectors.GP, 0, M.Code);
        Assert.Equal(5UL, m.Rax);
        Enter(0);
        m.State.Cr4 |= ControlRegisters.TSD;
        m.Expect(Vectors.BP);
    }

    /// <summary>The user's page can be touched between STAC and CLAC only, also by one register in one block, and in loops.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Access_to_the_users_pages_is_allowed_for_a_while(bool loop)
    {
        using var pair = new PairOfMachines();
        void Prepare(M m, bool smap, Action<Assembler> code)
        {
            m.Enter(Mode.Long);
            for (ulong page = 0; page < 0x200000; page += 0x1000)
                m.Map(page, page, Pte.Present | Pte.Write);
            if (smap)
                m.State.Cr4 |= ControlRegisters.SMAP;
            m.Rbx = UserPage;
            m.Rcx = 20;
            m.Rbp = M.Data;
            m.Program(a =>
            {
                var again = a.CreateLabel();
                a.Label(ref again);
                code(a);
                if (loop)
                {
                    a.dec(ecx);
                    a.jne(again);
                }
            });
        }

        void Copy(Assembler a)
        {
            a.mov(rdx, __qword_ptr[rbp]);
            a.add(rdx, rcx);
            a.stac();
            a.mov(__qword_ptr[rbx], rdx);
            a.mov(rax, __qword_ptr[rbx + 8]);
            a.adc(rsi, rax);
            a.clac();
            a.mov(__qword_ptr[rbp], rdx);
        }

        foreach (var smap in (bool[])[true, false])
        {
            var stop = pair.Run(m => Prepare(m, smap, Copy));
            Assert.Equal(-1, stop.Vector);
            stop = pair.Run(m => Prepare(m, smap, a =>
            {
                Copy(a);
                a.mov(rax, __qword_ptr[rbx]);
                a.inc(rdi);
            }));
            Assert.Equal(smap ? Vectors.PF : -1, stop.Vector);
            stop = pair.Run(m => Prepare(m, smap, a =>
            {
                a.stac();
                a.stac();
                a.inc(__qword_ptr[rbx]);
                a.pushfq();
                a.pop(rdx);
                a.push(__qword_ptr[rbx]);
                a.pop(rsi);
            }));
            Assert.Equal(-1, stop.Vector);
            Assert.Equal(Rflags.AC, pair.Translated.Rdx & Rflags.AC);
        }

        // Without SMAP the kernel's rights stay as they are: CLAC is the interpreter's then.
        Assert.Equal(0, pair.Left(Mnemonic.Stac));
        Assert.InRange(pair.Left(Mnemonic.Clac), 1, 100);
        pair.Run(m =>
        {
            Prepare(m, true, Copy);
            m.Map(M.Code, M.Code);
            m.SetPrivilege(3);
        }).Is(Vectors.PF); // M.Data is the kernel's
        pair.Run(m =>
        {
            Prepare(m, true, a => a.stac());
            m.Map(M.Code, M.Code);
            m.SetPrivilege(3);
        }).Is(Vectors.UD, rip: M.Code);
    }

    [Fact]
    public void Bases_of_fs_and_gs_are_read_and_written()
    {
        using var pair = new PairOfMachines();
        void Prepare(M m, Action<Assembler> code, ulong cr4 = ControlRegisters.FSGSBASE)
        {
            m.Enter(Mode.Long);
            m.State.Cr4 |= cr4;
            m.SetPrivilege(3);
            m.Rbx = M.Data;
            m.State.Gpr[15] = M.Data + 0x100;
            m.State.Rflags |= Rflags.CF | Rflags.OF;
            m.Assemble(M.Code, a =>
            {
                code(a);
                a.int3();
            });
        }

        pair.Run(m => Prepare(m, a =>
        {
            a.wrfsbase(rbx);
            a.mov(__qword_ptr.fs[8], rbx);
            a.wrfsbase(r15);
            a.mov(__qword_ptr.fs[8], r15);
            a.wrgsbase(rbx);
            a.mov(rdx, __qword_ptr.gs[8]);
            a.wrgsbase(r15d);
            a.adc(rdx, __qword_ptr.gs[8]);
            a.rdfsbase(rsi);
            a.rdgsbase(r10);
            a.mov(r8, -1);
            a.rdfsbase(r8d);
            a.rdgsbase(r15);
        })).Is(Vectors.BP);
        Assert.Equal((2 * M.Data) + 0x101, pair.Translated.Rdx);
        pair.Run(m => Prepare(m, a =>
        {
            a.wrfsbase(rbx);
            a.bts(rbx, 63);
            a.wrgsbase(rbx);
        })).Is(Vectors.GP, 0);
        foreach (var mnemonic in (Mnemonic[])[Mnemonic.Wrfsbase, Mnemonic.Rdfsbase, Mnemonic.Rdgsbase])
            Assert.Equal(0, pair.Left(mnemonic));
        Assert.Equal(1, pair.Left(Mnemonic.Wrgsbase));
        pair.Run(m => Prepare(m, a => a.rdfsbase(rbx), 0)).Is(Vectors.UD, rip: M.Code);
        pair.Run(m => Prepare(m, a => a.wrgsbase(rbx), 0)).Is(Vectors.UD, rip: M.Code);
    }

    [Fact]
    public void Control_registers_are_read()
    {
        using var pair = new PairOfMachines();
        void Prepare(M m)
        {
            m.Enter(Mode.Long);
            m.State.Cr2 = 0x8765_4321_1234;
            m.State.Rflags |= Rflags.CF | Rflags.PF;
            m.Program(a =>
            {
                a.mov(rax, cr0);
                a.mov(r15, cr2);
                a.mov(r9, cr3);
                a.mov(r11, cr4);
                a.adc(rax, 0);
            });
        }

        pair.Run(Prepare);
        Assert.Equal(0x8765_4321_1234UL, pair.Translated.State.Gpr[15]);
        Assert.Equal(0, pair.Left(Mnemonic.Mov));
        pair.Run(m =>
        {
            Prepare(m);
            m.SetPrivilege(3);
        }).Is(Vectors.GP, 0, M.Code);
    }

    [Theory]
    [InlineData(Mode.Long)]
    [InlineData(Mode.Protected32)]
    public void Selectors_are_read(Mode mode)
    {
        using var pair = new PairOfMachines(engine => new M(mode, engine: engine));
        pair.Run(m =>
        {
            m.Enter(mode);
            m.Rax = m.Rdx = m.Rsi = ulong.MaxValue;
            m.State.Rflags |= Rflags.CF;
            m.State.Segments[5].Selector = 0xFFF8;
            m.Program(a =>
            {
                a.mov(eax, cs);
                a.mov(edx, ss);
                a.mov(esi, gs);
                a.mov(di, ds);
                if (mode == Mode.Long)
                {
                    a.mov(r10, gs);
                    a.mov(r15d, es);
                    a.mov(r8, fs);
                }

                a.adc(esi, 0);
            });
        });
        Assert.Equal(0xFFF9UL, pair.Translated.Rsi);
        Assert.Equal(0, pair.Left(Mnemonic.Mov));
    }
}
