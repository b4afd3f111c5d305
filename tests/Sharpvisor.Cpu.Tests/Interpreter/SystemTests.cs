using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Control registers, MSRs, privileged instructions, ports, and the saved state of the extensions.</summary>
public class SystemTests
{
    private const ulong PE = ControlRegisters.PE, PG = ControlRegisters.PG, CD = ControlRegisters.CD, NW = ControlRegisters.NW;

    /// <summary>Executes one instruction and expects #GP(0), or that it passes.</summary>
    private static void Try(M m, Action<Assembler> code, bool fails, string what = "")
    {
        m.Program(code);
        var stop = m.Run();
        var failed = stop.Vector == Vectors.GP && stop.Error == 0 && stop.Rip == M.Code;
        Assert.True(failed == fails && (fails || (stop.Exit == VcpuExit.Halted && stop.Vector < 0)), $"{what}: {stop}");
    }

    [Theory]
    [InlineData(Mode.Protected32, PE | 0x20, false)]
    [InlineData(Mode.Protected32, PG, true)] // paging without protection
    [InlineData(Mode.Protected32, PE | NW, true)]
    [InlineData(Mode.Protected32, PE | NW | CD, false)]
    [InlineData(Mode.Protected32, PE | 0x1000_0000, false)] // a reserved bit that is ignored
    [InlineData(Mode.Paged32, PG, true)]
    [InlineData(Mode.Long, PE, true)] // paging off in 64-bit mode
    [InlineData(Mode.Long, PE | PG | 0x1_0000_0000, true)]
    [InlineData(Mode.Long, PE | PG, false)]
    public void Cr0(Mode mode, ulong value, bool fails)
    {
        using var m = new M(mode);
        m.Rax = value;
        Try(m, a =>
        {
            if (mode == Mode.Long)
                a.mov(cr0, rax);
            else
                a.mov(cr0, eax);
        }, fails);
        if (!fails)
            Assert.Equal((value & 0xE005003F) | 0x10, m.State.Cr0);
    }

    [Fact]
    public void Long_mode_needs_pae_and_32_bit_code_to_be_entered()
    {
        using var m = new M(Mode.Protected32);
        m.State.Efer = ControlRegisters.LME;
        m.Rax = PE | PG;
        Try(m, a => a.mov(cr0, eax), fails: true); // no PAE
        m.Enter(Mode.Protected32);
        m.State.Efer = ControlRegisters.LME;
        m.State.Cr4 |= ControlRegisters.PAE;
        m.State.Segments[1].Attributes |= 0x2000; // CS.L
        m.Rax = PE | PG;
        Try(m, a => a.mov(cr0, eax), fails: true);
    }

    [Fact]
    public void Cr4()
    {
        using var m = new M();
        foreach (var (value, fails) in ((ulong, bool)[])
        [
            (ControlRegisters.PAE, false),
            (0, true), // PAE off in long mode
            (ControlRegisters.PAE | 1, true), // VME, which is not offered
            (ControlRegisters.PAE | 0x2000, true), // VMXE
            (ControlRegisters.PAE | 0x8000, true), // reserved
            (ControlRegisters.PAE | 0x1000, true), // LA57
            (ControlRegisters.PAE | (1UL << 40), true),
            (ControlRegisters.PAE | ControlRegisters.SMEP | ControlRegisters.SMAP | ControlRegisters.UMIP | ControlRegisters.FSGSBASE | ControlRegisters.OSXSAVE, false),
        ])
        {
            m.Enter(Mode.Long);
            for (ulong page = 0; page < 0x60000; page += 0x1000)
                m.Map(page, page, Pte.Present | Pte.Write); // SMEP and SMAP
            m.Rax = value;
            Try(m, a => a.mov(cr4, rax), fails, $"CR4 = {value:x}");
            Assert.Equal(fails, m.State.Cr4 != value);
        }
    }

    [Fact]
    public void Osxsave_shows_in_cpuid()
    {
        using var m = new M();
        m.Program(a =>
        {
            a.mov(eax, 1);
            a.cpuid();
            a.mov(esi, ecx);
            a.mov(rax, cr4);
            a.bts(rax, 18);
            a.mov(cr4, rax);
            a.mov(eax, 1);
            a.cpuid();
        });
        m.RunToHalt();
        Assert.Equal(0UL, m.Rsi & (1 << 27));
        Assert.NotEqual(0UL, m.Rcx & (1 << 27));
    }

    [Fact]
    public void Lmsw_sets_the_low_bits_and_never_clears_pe()
    {
        using var m = new M(Mode.Protected32);
        m.State.Cr0 |= ControlRegisters.TS;
        m.Program(a =>
        {
            a.lmsw(ax);
            a.smsw(ebx);
        });
        m.Rax = 0xFFF6;
        m.RunToHalt();
        Assert.Equal(0x37UL, m.State.Cr0);
        Assert.Equal(0x37UL, m.Rbx);
        m.Enter(Mode.Protected32);
        m.Rax = 0;
        m.RunToHalt();
        Assert.Equal(0x31UL, m.State.Cr0);
        m.Enter(Mode.Real);
        m.Program(a =>
        {
            a.mov(ax, 1);
            a.lmsw(ax);
        });
        m.RunToHalt();
        Assert.Equal(1UL, m.State.Cr0 & 1);
    }

    [Theory]
    [InlineData(0xC0000080u, 0x500UL | 0x801, false)] // EFER as it is
    [InlineData(0xC0000080u, 0x100UL | 0x801, false)] // LMA is not written
    [InlineData(0xC0000080u, 0x400UL, true)] // LME off while paging
    [InlineData(0xC0000080u, 0x1500UL, true)] // SVME
    [InlineData(0xC0000080u, 0x502UL, true)]
    [InlineData(0xC0000082u, 0x0000_8000_0000_0000UL, true)] // LSTAR
    [InlineData(0xC0000082u, 0xFFFF_8000_0000_0000UL, false)]
    [InlineData(0xC0000083u, 0x1234_0000_0000_0000UL, true)] // CSTAR
    [InlineData(0xC0000100u, 0x0000_8000_0000_0000UL, true)] // FS base
    [InlineData(0xC0000101u, 0x0000_8000_0000_0000UL, true)]
    [InlineData(0xC0000102u, 0x0000_8000_0000_0000UL, true)]
    [InlineData(0x175u, 0x0000_8000_0000_0000UL, true)] // SYSENTER_ESP
    [InlineData(0x176u, 0x0000_8000_0000_0000UL, true)]
    [InlineData(0x277u, 0x0007040600070406UL, false)] // PAT
    [InlineData(0x277u, 0x0007040600070402UL, true)] // a reserved memory type
    [InlineData(0x277u, 0x0807040600070406UL, true)]
    [InlineData(0xC0000103u, 0x1_0000_0000UL, true)] // TSC_AUX
    [InlineData(0x1234u, 0UL, true)]
    [InlineData(0xFEu, 0UL, true)] // MTRRcap is read only
    public void Writes_of_msrs(uint msr, ulong value, bool fails)
    {
        using var m = new M();
        m.Rax = (uint)value;
        m.Rdx = value >> 32;
        m.Rcx = msr;
        Try(m, a => a.wrmsr(), fails);
    }

    [Fact]
    public void Msrs_are_for_privilege_0_and_known_ones()
    {
        using var m = new M();
        m.Rcx = 0x1234;
        Try(m, a => a.rdmsr(), fails: true);
        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.Rcx = 0xC0000080;
        Try(m, a => a.rdmsr(), fails: true);
        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        Try(m, a => a.wrmsr(), fails: true);
        m.Enter(Mode.Long);
        m.Rcx = 0xC0000080;
        m.Rax = m.Rdx = ulong.MaxValue;
        Try(m, a => a.rdmsr(), fails: false);
        Assert.Equal(0xD01UL, m.Rax);
        Assert.Equal(0UL, m.Rdx);
    }

    public static TheoryData<string, string> Privileged => new()
    {
        { "hlt", "F4" }, { "clts", "0F06" }, { "invd", "0F08" }, { "wbinvd", "0F09" }, { "lgdt", "0F0113" }, { "lidt", "0F011B" }, { "lldt", "0F00D0" },
        { "ltr", "0F00D8" }, { "lmsw", "0F01F0" }, { "invlpg", "0F013B" }, { "mov rax, cr0", "0F20C0" }, { "mov cr0, rax", "0F22C0" }, { "mov rax, cr2", "0F20D0" },
        { "mov rax, cr3", "0F20D8" }, { "mov cr4, rax", "0F22E0" }, { "mov rax, cr8", "440F20C0" }, { "mov rax, dr7", "0F21F8" }, { "mov dr0, rax", "0F23C0" },
        { "cli", "FA" }, { "sti", "FB" }, { "in al, 0x80", "E480" }, { "out dx, al", "EE" }, { "insb", "6C" }, { "outsb", "6E" }, { "rdpmc", "0F33" },
        { "invpcid", "660F388203" }, { "xsetbv", "0F01D1" }, { "swapgs", "0F01F8" },
    };

    [Theory]
    [MemberData(nameof(Privileged))]
    public void Privileged_instructions_in_user_mode(string name, string code)
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.OSXSAVE;
        m.SetIoMap(0x2000); // no I/O map
        m.SetPrivilege(3);
        m.Rbx = m.Rsi = m.Rdi = M.Data;
        m.Write(M.Code, Convert.FromHexString(code));
        var stop = m.Run();
        Assert.True(stop.Vector == Vectors.GP && stop.Error == 0 && stop.Rip == M.Code, $"{name}: {stop}");
    }

    [Theory]
    [InlineData("0F0103")] // sgdt
    [InlineData("0F010B")] // sidt
    [InlineData("0F0003")] // sldt
    [InlineData("0F00C8")] // str
    [InlineData("0F01E0")] // smsw
    public void Umip(string code)
    {
        using var m = new M();
        m.Write(M.Code, Convert.FromHexString(code + "CC"));
        m.SetPrivilege(3);
        m.Rbx = M.Data;
        m.Expect(Vectors.BP);
        m.Enter(Mode.Long);
        m.SetPrivilege(3);
        m.Rbx = M.Data;
        m.State.Cr4 |= ControlRegisters.UMIP;
        m.Expect(Vectors.GP, 0, M.Code);
        m.Enter(Mode.Long);
        m.Rbx = M.Data;
        m.State.Cr4 |= ControlRegisters.UMIP;
        m.Expect(Vectors.BP);
    }

    [Fact]
    public void Descriptor_table_registers()
    {
        using var m = new M();
        m.Write<ushort>(M.Data, 0x123);
        m.Write(M.Data + 2, 0xFFFF_8000_1234_5678);
        m.Program(a =>
        {
            a.lidt(__[rbx]);
            a.sidt(__[rbx + 16]);
        });
        m.Rbx = M.Data;
        m.RunToHalt();
        Assert.Equal(0x123u, m.State.Idtr.Limit);
        Assert.Equal(0xFFFF_8000_1234_5678, m.State.Idtr.Base);
        Assert.Equal(0x123, m.Read<ushort>(M.Data + 16));
        Assert.Equal(0xFFFF_8000_1234_5678, m.Read64(M.Data + 18));

        m.Enter(Mode.Long);
        m.Write(M.Data + 2, 0x0000_8000_0000_0000UL);
        m.Rbx = M.Data;
        m.Expect(Vectors.GP, 0, M.Code);

        // With 16 bits only 24 bits of the base are loaded.
        m.Enter(Mode.Real);
        m.Write(0x502, 0xAB123456u);
        m.Write(M.Code, 0x0F, 0x01, 0x1E, 0x00, 0x05, 0x66, 0x0F, 0x01, 0x16, 0x00, 0x05, 0xF4);
        m.Write<ushort>(0x500, 0x3FF);
        m.RunToHalt();
        Assert.Equal(0x123456UL, m.State.Idtr.Base);
        Assert.Equal(0xAB123456UL, m.State.Gdtr.Base);
    }

    // --- time ---

    [Fact]
    public void The_time_stamp_counter()
    {
        using var m = new M();
        m.Clock.Advance(5000);
        m.Program(a =>
        {
            a.rdtsc();
            a.mov(esi, eax);
            a.mov(ecx, 0x10);
            a.mov(eax, 100_000);
            a.xor(edx, edx);
            a.wrmsr(); // TSC = 100000, so TSC_ADJUST = 95000
            a.mov(ecx, 0x3B);
            a.rdmsr();
            a.mov(edi, eax);
            a.add(eax, 7);
            a.wrmsr();
            a.rdtscp();
        });
        m.State.TscAux = 3;
        m.RunToHalt();
        Assert.Equal(5000UL, m.Rsi);
        Assert.Equal(95_000UL, m.Rdi);
        Assert.Equal(100_007UL, m.Rax);
        Assert.Equal(3UL, m.Rcx);
        m.Clock.Advance(1);
        Assert.Equal(95_007, m.State.TscOffset);
    }

    [Fact]
    public void Tsd_forbids_rdtsc_in_user_mode()
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.TSD;
        Try(m, a => a.rdtsc(), fails: false);
        foreach (var code in (Action<Assembler>[])[a => a.rdtsc(), a => a.rdtscp()])
        {
            m.Enter(Mode.Long);
            m.State.Cr4 |= ControlRegisters.TSD;
            m.SetPrivilege(3);
            Try(m, code, fails: true);
        }
    }

    // --- ports and IOPL ---

    [Fact]
    public void The_io_permission_map()
    {
        using var m = new M();
        foreach (var (mapAt, limit, port, size, fails) in ((int, uint, int, int, bool)[])
        [
            (0x68, 0x200, 0x60, 1, false),
            (0x68, 0x200, 0x61, 1, true),
            (0x68, 0x200, 0x60, 2, true), // one of both ports
            (0x68, 0x200, 0x5D, 4, false),
            (0x68, 0x200, 0x5E, 4, true),
            (0x68, 0x68 + 0xC, 0x60, 1, true), // the byte behind must be there
            (0x68, 0x68 + 0xD, 0x60, 1, false),
            (0x68, 0x68 + 0xD, 0x68, 1, true), // beyond the limit
            (0x2000, 0x200, 0x60, 1, true),
            (0x68, 0x60, 0x60, 1, true), // no room for the base of the map
        ])
        {
            m.Enter(Mode.Long);
            m.SetIoMap(mapAt);
            m.Memory.TryWrite(M.Tss + 0x68, new byte[0x100]);
            m.Write<byte>(M.Tss + 0x68 + 12, 2); // port 0x61
            m.State.Tr.Limit = limit;
            m.SetPrivilege(3);
            m.Rdx = (ulong)port;
            m.Program(a =>
            {
                if (size == 1)
                    a.@in(al, dx);
                else if (size == 2)
                    a.@in(ax, dx);
                else
                    a.@in(eax, dx);
                a.int3();
            });
            var stop = m.Run();
            Assert.True(stop.Vector == (fails ? Vectors.GP : Vectors.BP), $"map {mapAt:x} limit {limit:x} port {port:x} size {size}: {stop}");
        }
    }

    [Fact]
    public void Iopl_opens_ports_and_the_interrupt_flag()
    {
        foreach (var (iopl, allowed) in ((ulong, bool)[])[(0, false), (2, false), (3, true)])
        {
            foreach (var code in (Action<Assembler>[])[a => a.cli(), a => a.sti(), a => a.@in(al, 0x60), a => a.@out(0x60, al)])
            {
                using var m = new M();
                m.SetIoMap(0x2000);
                m.SetPrivilege(3);
                m.State.Rflags |= iopl << 12;
                m.Program(a =>
                {
                    code(a);
                    a.int3();
                });
                var stop = m.Run();
                stop.Is(allowed ? Vectors.BP : Vectors.GP);
            }
        }
    }

    [Fact]
    public void Popf_by_privilege()
    {
        const ulong All = 0x247ED5; // all but TF, RF, VM, VIF and VIP
        foreach (var (cpl, iopl, expected) in ((int, ulong, ulong)[])
        [
            (0, 0, All),
            (3, 0, All & ~(Rflags.IF | Rflags.IOPL)),
            (3, 0x3000, All),
        ])
        {
            using var m = new M();
            m.SetPrivilege(cpl);
            m.State.Rflags |= iopl;
            m.Rsp -= 8;
            m.Write(m.Rsp, All | Rflags.VM | 0x8028);
            m.Program(a =>
            {
                a.popfq();
                a.int3();
            });
            var stop = m.Expect(Vectors.BP);
            Assert.Equal(expected | 2, stop.Flags);
        }

        // 16 bits leave the upper flags.
        using var n = new M();
        n.State.Rflags |= Rflags.AC | Rflags.ID;
        n.Rsp -= 2;
        n.Write<ushort>(n.Rsp, 1);
        n.Program(a => a.popf());
        n.RunToHalt();
        Assert.Equal(Rflags.AC | Rflags.ID | 3, n.State.Rflags);
    }

    // --- extended state ---

    [Theory]
    [InlineData(0u, 3UL, false)]
    [InlineData(0u, 7UL, false)]
    [InlineData(0u, 2UL, true)] // without x87
    [InlineData(0u, 5UL, true)] // AVX without SSE
    [InlineData(0u, 0x10007UL, true)]
    [InlineData(1u, 7UL, true)]
    public void Xsetbv(uint index, ulong value, bool fails)
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.OSXSAVE;
        m.Rcx = index;
        m.Rax = value;
        Try(m, a => a.xsetbv(), fails);
        if (!fails)
            Assert.Equal(value, m.State.Xcr0);
    }

    private static M WithAvx()
    {
        var m = new M();
        m.State.Cr4 |= ControlRegisters.OSXSAVE;
        m.State.Xcr0 = 7;
        for (var i = 0; i < 16; i++)
            m.State.Ymm[i] = new YmmValue { Q0 = 0x100UL + (ulong)i, Q1 = 0x200UL + (ulong)i, Q2 = 0x300UL + (ulong)i, Q3 = 0x400UL + (ulong)i };
        m.State.Mxcsr = 0x1FA0;
        m.Memory.TryWrite(M.Data, Enumerable.Repeat((byte)0xEE, 0x400).ToArray());
        m.Memory.TryWrite(M.Data + 512, new byte[64]);
        m.Rbx = M.Data;
        m.Rax = 7;
        return m;
    }

    [Fact]
    public void Xsave_and_xrstor()
    {
        using var m = WithAvx();
        m.Write(M.Data + 512, 0x4UL | (1UL << 40)); // a bit of a component that is not asked for stays
        m.Write(M.Data + 512 + 8, 0UL);
        m.Write(M.Data + 520, 0xDEADUL);
        m.Program(a => a.xsave64(__[rbx]));
        m.RunToHalt();
        Assert.Equal(7UL | (1UL << 40), m.Read64(M.Data + 512));
        Assert.Equal(0xDEADUL, m.Read64(M.Data + 520)); // not written
        Assert.Equal(0x1FA0u, m.Read32(M.Data + 24));
        Assert.Equal(0xFFFFu, m.Read32(M.Data + 28));
        Assert.Equal(0x105UL, m.Read64(M.Data + 160 + (5 * 16)));
        Assert.Equal(0x405UL, m.Read64(M.Data + 576 + (5 * 16) + 8));
        Assert.Equal(0xEEEEEEEEEEEEEEEE, m.Read64(M.Data + 416)); // reserved
        Assert.Equal(0xEEEEEEEEEEEEEEEE, m.Read64(M.Data + 832));

        m.Write(M.Data + 512, 7UL);
        m.Write(M.Data + 520, 0UL);
        m.Program(a => a.xrstor64(__[rbx]));
        m.State.Rip = M.Code;
        m.State.Activity = ActivityState.Active;
        m.State.Ymm = default;
        m.State.Mxcsr = 0x1F80;
        m.RunToHalt();
        Assert.Equal(0x20FUL, m.State.Ymm[15].Q1);
        Assert.Equal(0x30FUL, m.State.Ymm[15].Q2);
        Assert.Equal(0x1FA0u, m.State.Mxcsr);
    }

    [Fact]
    public void Xrstor_initialises_what_the_image_has_not()
    {
        using var m = WithAvx();
        m.Write(M.Data, new byte[512]);
        m.Write(M.Data + 24, 0x1F80u);
        m.Write(M.Data + 512, 2UL); // SSE only
        m.Program(a => a.xrstor64(__[rbx]));
        m.RunToHalt();
        Assert.Equal(0UL, m.State.Ymm[3].Q2);
        Assert.Equal(0UL, m.State.Ymm[3].Q0);
        Assert.Equal(0x37F, m.State.X87[0] | (m.State.X87[1] << 8));

        // And leaves what is not asked for.
        using var n = WithAvx();
        n.Write(M.Data, new byte[512]);
        n.Rax = 4;
        n.Write(M.Data + 24, 0x1F80u);
        n.Program(a => a.xrstor64(__[rbx]));
        n.RunToHalt();
        Assert.Equal(0x103UL, n.State.Ymm[3].Q0);
        Assert.Equal(0UL, n.State.Ymm[3].Q2);
    }

    [Fact]
    public void Xsavec_and_xsaveopt_leave_out_what_is_initial()
    {
        using var m = WithAvx();
        for (var i = 0; i < 16; i++)
            m.State.Ymm[i].Q2 = m.State.Ymm[i].Q3 = 0;
        m.Program(a =>
        {
            a.xsavec64(__[rbx]);
            a.xsaveopt64(__[rbx + 0x400]);
        });
        m.RunToHalt();
        Assert.Equal(2UL, m.Read64(M.Data + 512) & 6);
        Assert.Equal(7UL | (1UL << 63), m.Read64(M.Data + 520));
        Assert.Equal(0xEEEEEEEEEEEEEEEE, m.Read64(M.Data + 576)); // AVX was not written
        Assert.Equal(2UL, m.Read64(M.Data + 0x400 + 512) & 6);
        Assert.Equal(0UL, m.Read64(M.Data + 0x400 + 520)); // standard form
    }

    [Theory]
    [InlineData(512, 8UL)] // XSTATE_BV beyond XCR0
    [InlineData(520, 1UL)] // XCOMP_BV without bit 63
    [InlineData(528, 1UL)]
    [InlineData(520, (1UL << 63) | 8)] // compacted: a component beyond XCR0
    [InlineData(24, 0x10000UL)] // MXCSR
    public void Xrstor_of_a_bad_image(int offset, ulong value)
    {
        using var m = WithAvx();
        m.Write(M.Data, new byte[576]);
        m.Write(M.Data + (ulong)offset, value);
        if (value >> 63 != 0)
            m.Write(M.Data + 512, 0UL);
        Try(m, a => a.xrstor64(__[rbx]), fails: true);
        Assert.Equal(0x103UL, m.State.Ymm[3].Q0);
    }

    [Fact]
    public void Xsave_faults()
    {
        foreach (var (setUp, vector) in ((Action<M>, int)[])
        [
            (m => m.Rbx += 32, Vectors.GP),
            (m => m.State.Cr0 |= ControlRegisters.TS, Vectors.NM),
            (m => m.State.Cr4 &= ~ControlRegisters.OSXSAVE, Vectors.UD),
        ])
        {
            using var m = WithAvx();
            setUp(m);
            m.Program(a => a.xsave64(__[rbx]));
            m.Expect(vector, rip: M.Code);
        }
    }

    [Fact]
    public void Fxsave_and_fxrstor()
    {
        using var m = WithAvx();
        m.Program(a =>
        {
            a.fninit();
            a.fldpi();
            a.fxsave64(__[rbx]);
            a.fninit();
            a.xorps(xmm5, xmm5);
            a.fxrstor64(__[rbx]);
            a.fstp(__tbyte_ptr[rbx + 0x200]);
        });
        m.RunToHalt();
        Assert.Equal(0x37Fu, m.Read<ushort>(M.Data));
        Assert.Equal(0x80, m.Read<byte>(M.Data + 4)); // one register is in use
        Assert.Equal(0xC90FDAA22168C235, m.Read64(M.Data + 32));
        Assert.Equal(0x105UL, m.State.Ymm[5].Q0);
        Assert.Equal(0xC90FDAA22168C235, m.Read64(M.Data + 0x200));
        Assert.Equal(0x405UL, m.State.Ymm[5].Q3); // not part of it

        // 32-bit code has eight registers, and nothing of SSE without OSFXSR.
        using var n = new M(Mode.Protected32);
        n.Memory.TryWrite(M.Data, Enumerable.Repeat((byte)0xEE, 512).ToArray());
        n.Program(a => a.fxsave(__[M.Data]));
        n.RunToHalt();
        Assert.Equal(0UL, n.Read64(M.Data + 160 + (7 * 16)));
        Assert.Equal(0xEEEEEEEEEEEEEEEE, n.Read64(M.Data + 160 + (8 * 16)));
    }
}
