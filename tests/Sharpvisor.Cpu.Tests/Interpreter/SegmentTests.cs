using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Segment loads, limits, types and privileges: SDM vol. 3, chapter 5.</summary>
public class SegmentTests
{
    private const uint Base = 0x60000;

    /// <summary>A data access through DS with the given descriptor; what it raises, or -1.</summary>
    private static int Access(uint attributes, uint limit, uint offset, int size, bool write, int segment = 3)
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(Base, limit, attributes));
        m.State.Segments[segment] = m.Segment(M.Free);
        m.Rbx = m.Rbp = offset;
        if (segment == 2)
            m.Rsp = 0x800;
        m.Program(a =>
        {
            switch (size, write, segment)
            {
                case (1, false, 3): a.mov(al, __byte_ptr[ebx]); break;
                case (2, false, 3): a.mov(ax, __word_ptr[ebx]); break;
                case (4, false, 3): a.mov(eax, __dword_ptr[ebx]); break;
                case (8, false, 3): a.movq(xmm0, __qword_ptr[ebx]); break;
                case (16, false, 3): a.movups(xmm0, __xmmword_ptr[ebx]); break;
                case (1, true, 3): a.mov(__byte_ptr[ebx], al); break;
                case (4, true, 3): a.mov(__dword_ptr[ebx], eax); break;
                case (4, false, 2): a.mov(eax, __dword_ptr[ebp]); break;
                default: throw new ArgumentOutOfRangeException(nameof(size));
            }
        });
        var stop = m.Run();
        if (stop.Vector >= 0)
            Assert.Equal(0u, stop.Error);
        return stop.Vector;
    }

    [Theory]
    [InlineData(0x4093, 0xFFF, 0xFFC, 4, false, -1)]
    [InlineData(0x4093, 0xFFF, 0xFFD, 4, false, 13)]
    [InlineData(0x4093, 0xFFF, 0xFFF, 1, true, -1)]
    [InlineData(0x4093, 0xFFF, 0x1000, 1, true, 13)]
    [InlineData(0x4093, 0xFFF, 0xFFE, 2, false, -1)]
    [InlineData(0x4093, 0xFFF, 0xFFF, 2, false, 13)]
    [InlineData(0x4093, 0xFFF, 0xFF0, 16, false, -1)]
    [InlineData(0x4093, 0xFFF, 0xFF1, 16, false, 13)]
    [InlineData(0x4093, 0xFFF, 0xFF9, 8, false, 13)]
    [InlineData(0xC093, 0, 0xFFC, 4, false, -1)] // granularity: 0 is 4 KiB
    [InlineData(0xC093, 0, 0x1000, 1, false, 13)]
    [InlineData(0x4093, 0xFFF, 0xFFFFFFFE, 4, false, 13)] // wraps
    [InlineData(0x4091, 0xFFF, 0, 4, false, -1)] // read only
    [InlineData(0x4091, 0xFFF, 0, 4, true, 13)]
    [InlineData(0x409B, 0xFFF, 0, 4, false, -1)] // readable code
    [InlineData(0x409B, 0xFFF, 0, 4, true, 13)]
    [InlineData(0x4099, 0xFFF, 0, 4, false, 13)] // execute only
    [InlineData(0x4097, 0xFFF, 0xFFF, 1, false, 13)] // expand down: from 0x1000 up
    [InlineData(0x4097, 0xFFF, 0x1000, 4, true, -1)]
    [InlineData(0x4097, 0xFFF, 0xFFE, 4, true, 13)]
    [InlineData(0x4097, 0xFFF, 0xFFFFFFFC, 4, false, -1)]
    [InlineData(0x4097, 0xFFF, 0xFFFFFFFD, 4, false, 13)]
    [InlineData(0x0097, 0xFFF, 0xFFFC, 4, false, -1)] // 16 bits: to 0xFFFF
    [InlineData(0x0097, 0xFFF, 0xFFFD, 4, false, 13)]
    [InlineData(0x0097, 0xFFF, 0x10000, 1, false, 13)]
    [InlineData(0xC097, 0xFFFFF, 0x1000, 1, false, 13)] // nothing is left
    public void Limits_and_types(uint attributes, uint limit, uint offset, int size, bool write, int expected) =>
        Assert.Equal(expected, Access(attributes, limit, offset, size, write));

    [Fact]
    public void The_stack_segment_raises_its_own_exception() =>
        Assert.Equal(Vectors.SS, Access(0x4093, 0xFFF, 0xFFD, 4, false, segment: 2));

    [Fact]
    public void Segments_have_a_base()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(Base, 0xFFF, 0x4093));
        m.Write(Base + 0x10, 0x1234u);
        m.Write(Base + 0x20, 0x5678u);
        m.Program(a =>
        {
            a.mov(es, ax);
            a.mov(ebx, __dword_ptr.es[0x10]);
            a.mov(gs, ax);
            a.mov(ecx, __dword_ptr.gs[0x20]);
            a.mov(edi, 0x30);
            a.stosd();
        });
        m.Rax = M.Free;
        m.RunToHalt();
        Assert.Equal(0x1234UL, m.Rbx);
        Assert.Equal(0x5678UL, m.Rcx);
        Assert.Equal(M.Free, m.Read32(Base + 0x30));
    }

    [Theory]
    [InlineData(0x2000, 0x4093, 13, 0x2000)] // beyond the table
    [InlineData(0x84, 0x4093, 13, 0x84)] // no LDT
    [InlineData(0x80, 0x4013, 11, 0x80)] // not present
    [InlineData(0x80, 0x4099, 13, 0x80)] // execute only
    [InlineData(0x80, 0x0089, 13, 0x80)] // a system segment
    [InlineData(0x83, 0x4093, 13, 0x80)] // RPL 3, DPL 0
    [InlineData(0x83, 0x409E, -1, 0)] // conforming code
    [InlineData(0x83, 0x40F3, -1, 0)]
    [InlineData(0x80, 0x40F3, -1, 0)]
    public void Loads_of_a_data_segment(int selector, uint attributes, int vector, uint error)
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(Base, 0xFFF, attributes));
        m.Program(a => a.mov(ds, eax));
        m.Rax = (ulong)selector;
        if (vector < 0)
        {
            m.RunToHalt();
            Assert.Equal(selector, m.State.Segments[3].Selector);
            Assert.Equal((ulong)Base, m.State.Segments[3].Base);
            Assert.NotEqual(0UL, m.Read64(M.Gdt + M.Free) & (1UL << 40)); // accessed
        }
        else
        {
            m.Expect(vector, error, M.Code);
            Assert.Equal(M.Data32, m.State.Segments[3].Selector);
            Assert.Equal(attributes & 1, (m.Read64(M.Gdt + M.Free) >> 40) & 1);
        }
    }

    [Theory]
    [InlineData(0, 0x4093, 13, 0)] // null
    [InlineData(3, 0x4093, 13, 0)]
    [InlineData(0x80, 0x4091, 13, 0x80)] // read only
    [InlineData(0x80, 0x409B, 13, 0x80)] // code
    [InlineData(0x83, 0x4093, 13, 0x80)] // RPL
    [InlineData(0x80, 0x40F3, 13, 0x80)] // DPL
    [InlineData(0x80, 0x4013, 12, 0x80)] // not present
    [InlineData(0x80, 0x4093, -1, 0)]
    public void Loads_of_the_stack_segment(int selector, uint attributes, int vector, uint error)
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0xFFFFF, attributes | 0x8000));
        m.Program(a => a.mov(ss, eax));
        m.Rax = (ulong)selector;
        if (vector < 0)
            m.RunToHalt();
        else
            m.Expect(vector, error, M.Code);
    }

    [Fact]
    public void A_null_selector_may_be_loaded_but_not_used()
    {
        using var m = new M(Mode.Protected32);
        m.Program(a =>
        {
            a.mov(fs, eax);
            a.mov(ecx, 1);
            a.mov(ebx, __dword_ptr.fs[0x10]);
        });
        m.Rax = 3;
        m.Expect(Vectors.GP, 0);
        Assert.Equal(1UL, m.Rcx);

        // In 64-bit mode it makes no difference.
        m.Enter(Mode.Long);
        m.Program(a =>
        {
            a.mov(ds, eax);
            a.mov(ss, ecx);
            a.push(rax);
            a.mov(rbx, __qword_ptr[M.Data]);
        });
        m.RunToHalt();
        m.Enter(Mode.Long);
        m.Rcx = 1; // RPL is not CPL
        m.Expect(Vectors.GP, 0);
    }

    [Fact]
    public void The_local_table()
    {
        using var m = new M(Mode.Protected32);
        m.Write(M.Ldt + 8, Descriptors.Segment(Base, 0xFFF, 0x4092));
        m.Program(a =>
        {
            a.lldt(ax);
            a.sldt(ebx);
            a.mov(es, ecx);
            a.mov(edx, __dword_ptr.es[4]);
            a.mov(eax, 0x10C); // beyond its limit
            a.mov(es, eax);
        });
        m.Rax = M.LdtSelector;
        m.Rcx = 0xC;
        m.Write(Base + 4, 99u);
        m.Expect(Vectors.GP, 0x10C);
        Assert.Equal(M.LdtSelector, m.Rbx);
        Assert.Equal(99UL, m.Rdx);

        foreach (var (selector, vector, error) in ((uint, int, uint)[])[(M.TssSelector, 13, M.TssSelector), (0xC, 13, 0xC), (M.Data32, 13, M.Data32), (0x2000, 13, 0x2000)])
        {
            m.Enter(Mode.Protected32);
            m.Rax = selector;
            m.Expect(vector, error, M.Code);
        }

        m.Enter(Mode.Protected32);
        m.SetGdt(M.LdtSelector, Descriptors.Segment((uint)M.Ldt, 0xFF, 0x0002));
        m.Rax = M.LdtSelector;
        m.Expect(Vectors.NP, M.LdtSelector, M.Code);

        m.Enter(Mode.Protected32);
        m.SetPrivilege(3);
        m.Expect(Vectors.GP, 0, M.Code);
        m.Enter(Mode.Real);
        m.Program(a => a.lldt(ax));
        m.Expect(Vectors.UD);
    }

    [Theory]
    [InlineData(Mode.Protected32)]
    [InlineData(Mode.Long)]
    public void The_task_register(Mode mode)
    {
        using var m = new M(mode);
        m.Program(a =>
        {
            a.ltr(ax);
            a.str(ecx);
            a.ltr(ax);
        });
        m.Rax = M.OtherTssSelector;
        if (mode == Mode.Long)
            m.Write(M.Gdt + M.OtherTssSelector + 8, 0xFFFF8000UL);
        m.Expect(Vectors.GP, M.OtherTssSelector); // busy by now
        Assert.Equal(M.OtherTssSelector, m.Rcx);
        Assert.Equal(M.OtherTss | (mode == Mode.Long ? 0xFFFF8000_00000000 : 0), m.State.Tr.Base);
        Assert.Equal(11, m.State.Tr.Type);

        foreach (var (selector, error) in ((uint, uint)[])[(0, 0), (0x2000, 0x2000), (M.Data32, M.Data32), (0xC, 0xC)])
        {
            m.Enter(mode);
            m.Rax = selector;
            m.Expect(Vectors.GP, error, M.Code);
        }

        m.Enter(mode);
        m.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, 0x67, 0x0009), 0);
        m.Rax = M.OtherTssSelector;
        m.Expect(Vectors.NP, M.OtherTssSelector, M.Code);
        if (mode == Mode.Long)
        {
            m.Enter(mode);
            m.SetGdt(M.OtherTssSelector, Descriptors.Segment((uint)M.OtherTss, 0x67, 0x0089), 0x0000_0100_0000_0000);
            m.Rax = M.OtherTssSelector;
            m.Expect(Vectors.GP, M.OtherTssSelector, M.Code);
        }
    }

    [Fact]
    public void Lar_lsl_verr_verw()
    {
        using var m = new M(Mode.Protected32);
        foreach (var (attributes, cpl, lar, lsl, verr, verw) in ((uint, int, bool, bool, bool, bool)[])
        [
            (0x4093, 0, true, true, true, true),
            (0x4091, 0, true, true, true, false),
            (0x409B, 0, true, true, true, false),
            (0x4099, 0, true, true, false, false),
            (0x4093, 3, false, false, false, false),
            (0x40F3, 3, true, true, true, true),
            (0x409F, 3, true, true, true, false), // conforming
            (0x409D, 3, true, true, false, false),
            (0x0089, 0, true, true, false, false), // TSS
            (0x0081, 0, true, true, false, false),
            (0x0082, 0, true, true, false, false), // LDT
            (0x008C, 0, true, false, false, false), // call gate
            (0x0085, 0, true, false, false, false), // task gate
            (0x008E, 0, false, false, false, false), // interrupt gate
            (0x0080, 0, false, false, false, false),
            (0x4013, 0, true, true, true, true), // presence does not matter
        ])
        {
            m.Enter(Mode.Protected32);
            m.SetGdt(M.Free, Descriptors.Segment(0, 0x12345, attributes | 0x8000));
            m.SetPrivilege(cpl);
            m.Program(a =>
            {
                a.lar(ecx, eax);
                a.setz(bl);
                a.lsl(edx, eax);
                a.setz(bh);
                a.verr(ax);
                a.setz(ah);
                a.mov(esi, eax);
                a.and(eax, 0xFF);
                a.verw(ax);
                a.setz(al);
            });
            m.Rax = M.Free + (ulong)cpl;
            m.Run();
            var what = $"attributes {attributes:x} cpl {cpl}";
            Assert.True(((m.Rbx & 0xFF) != 0) == lar, "LAR " + what);
            Assert.True(((m.Rbx & 0xFF00) != 0) == lsl, "LSL " + what);
            Assert.True(((m.Rsi & 0xFF00) != 0) == verr, "VERR " + what);
            Assert.True(((m.Rax & 0xFF) != 0) == verw, "VERW " + what);
            Assert.Equal(lar ? ((attributes | 0x8000) << 8) & 0xF0FF00 : 0UL, m.Rcx & 0xF0FF00);
            Assert.Equal(lsl ? 0x12345FFFUL : 0UL, m.Rdx);
        }
    }

    [Fact]
    public void Lar_and_lsl_in_long_mode_know_fewer_types()
    {
        using var m = new M();
        foreach (var (type, lar, lsl) in ((uint, bool, bool)[])[(1, false, false), (2, true, true), (3, false, false), (4, false, false), (5, false, false), (9, true, true), (11, true, true), (12, true, false)])
        {
            m.Enter(Mode.Long);
            m.SetGdt(M.Free, Descriptors.Segment(0, 0x67, 0x80 | type));
            m.Program(a =>
            {
                a.lar(ecx, eax);
                a.setz(bl);
                a.lsl(edx, eax);
                a.setz(bh);
            });
            m.Rax = M.Free;
            m.RunToHalt();
            Assert.Equal((lar ? 1UL : 0) | (lsl ? 0x100UL : 0), m.Rbx);
        }
    }

    [Fact]
    public void Arpl()
    {
        using var m = new M(Mode.Protected32);
        foreach (var (a0, b, result, zero) in ((ulong, ulong, ulong, bool)[])[(0x10, 3, 0x13, true), (0x13, 1, 0x13, false), (0x11, 1, 0x11, false)])
        {
            m.Enter(Mode.Protected32);
            m.Program(a => a.arpl(ax, bx));
            m.Rax = a0;
            m.Rbx = b;
            m.RunToHalt();
            Assert.Equal(result, m.Rax);
            Assert.Equal(zero, (m.State.Rflags & Rflags.ZF) != 0);
        }

        m.Enter(Mode.Real);
        m.Program(a => a.arpl(ax, bx));
        m.Expect(Vectors.UD);
    }

    // --- modes ---

    [Fact]
    public void Real_mode_offsets_end_at_64k()
    {
        using var m = new M(Mode.Real);
        m.Program(a => a.mov(ax, __word_ptr[bx]));
        m.Rbx = 0xFFFF;
        m.Expect(Vectors.GP, rip: 0);
        m.Enter(Mode.Real);
        m.Program(a => a.push(ax));
        m.Rsp = 1;
        Assert.Equal(VcpuExit.Shutdown, m.Run().Exit); // #SS, whose own frame can't be pushed
        m.Enter(Mode.Real);
        m.Rsp = 0;
        m.RunToHalt();
        Assert.Equal(0xFFFEUL, m.Rsp);
    }

    [Fact]
    public void Real_mode_code_does_not_run_over_the_limit()
    {
        using var m = new M(Mode.Real);
        m.State.Rip = 0xFFFE;
        m.Write(M.Code + 0xFFFE, 0x90, 0x90, 0x90, 0xF4);
        m.Expect(Vectors.GP, rip: 0x0000); // 0x10000, of which 16 bits are pushed
        Assert.Equal(M.SmallStack - 6, m.Rsp);

        m.Enter(Mode.Real);
        m.State.Rip = 0xFFFE;
        m.Write(M.Code + 0xFFFE, 0x90, 0xB8, 0x01, 0x00); // mov ax, 1 across the limit
        m.Expect(Vectors.GP, rip: 0xFFFF);
        Assert.Equal(0UL, m.Rax);
    }

    [Fact]
    public void The_same_offset_in_another_segment_is_other_code()
    {
        using var m = new M(Mode.Real);
        m.Assemble(M.Code, a =>
        {
            a.inc(cx);
            a.db(0xEA, 0, 0, 0x00, 0x50); // jmp 0x5000:0
        });
        m.Assemble(0x50000, a =>
        {
            a.inc(dx);
            a.cmp(dx, 3);
            a.db(0x74, 5);
            a.db(0xEA, 0, 0, 0x00, 0x10);
            a.hlt();
        });
        m.RunToHalt();
        Assert.Equal(3UL, m.Rcx);
        Assert.Equal(3UL, m.Rdx);
    }

    [Fact]
    public void A_smaller_limit_of_the_same_code_segment_is_obeyed()
    {
        using var m = new M(Mode.Protected32);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0x10010, 0x409B));
        m.Assemble(M.Code, a =>
        {
            a.nop();
            a.db(0xEB, 0x1D); // jmp Code + 0x20
        });
        m.Assemble(M.Code + 0x20, a =>
        {
            a.inc(ecx);
            a.db(0xEA, 0, 0, 1, 0, (byte)M.Free, 0); // jmp Free:Code
        });
        m.Expect(Vectors.GP, 0);
        Assert.Equal(1UL, m.Rcx);
    }

    [Fact]
    public void From_real_mode_to_protected_to_long_and_back()
    {
        using var m = new M(Mode.Long); // builds the tables
        m.Write(M.Data, (ushort)M.GdtLimit);
        m.Write(M.Data + 2, (uint)M.Gdt);
        m.Write<ushort>(M.Data + 6, 0x3FF);
        var bytes = m.Read64(M.Gdt + M.Code16);
        Assert.NotEqual(0UL, bytes);
        var root = m.Root;
        var gdt = new byte[0x90];
        m.Memory.TryRead(M.Gdt, gdt);
        m.Enter(Mode.Real);
        m.Memory.TryWrite(M.Gdt, gdt);

        m.Assemble(M.Code, a =>
        {
            a.mov(ax, 0x4000);
            a.mov(ds, ax);
            a.lgdt(__fword_ptr[0]);
            a.mov(eax, cr0);
            a.or(al, 1);
            a.mov(cr0, eax);
            a.db(0x66, 0xEA, 0, 0, 5, 0, (byte)M.Code32, 0); // jmp 8:0x50000
        }, 16);
        m.Assemble(0x50000, a =>
        {
            a.mov(eax, M.Data32);
            a.mov(ds, eax);
            a.mov(ss, eax);
            a.mov(esp, (uint)M.Stack);
            a.mov(eax, (uint)ControlRegisters.PAE);
            a.mov(cr4, eax);
            a.mov(eax, (uint)root);
            a.mov(cr3, eax);
            a.mov(ecx, 0xC0000080);
            a.rdmsr();
            a.or(eax, 0x100);
            a.wrmsr();
            a.mov(eax, cr0);
            a.or(eax, 0x80000000);
            a.mov(cr0, eax);
            a.rdmsr();
            a.mov(esi, eax); // LME and LMA, still 32-bit code
            a.db(0xEA, 0, 0x80, 5, 0, (byte)M.Code64, 0); // jmp 0x18:0x58000
        }, 32);
        m.Assemble(0x58000, a =>
        {
            a.mov(rdi, 0x1234567890ABCDEF);
            a.push(rdi);
            a.mov(rax, cr0);
            a.btr(rax, 31);
            a.mov(r15, rax);
            a.db(0xFF, 0x2C, 0x25); // jmp far [Data + 0x10]
            a.dd((uint)M.Data + 0x10);
        }, 64);
        m.Write(M.Data + 0x10, 0x59000u);
        m.Write(M.Data + 0x14, M.Code32);
        m.Assemble(0x59000, a =>
        {
            a.mov(eax, cr0);
            a.and(eax, 0x7FFFFFFF);
            a.mov(cr0, eax);
            a.mov(ecx, 0xC0000080);
            a.rdmsr();
            a.mov(ebx, eax); // LMA is gone
            a.db(0xEA, 0, 0, 0, 0, (byte)M.Code16, 0); // jmp 0x20:0, 16 bits, based at Code; overwritten below
        }, 32);
        m.SetGdt(M.Code16, Descriptors.Segment(0x5A000, 0xFFFF, 0x009B));
        m.Assemble(0x5A000, a =>
        {
            a.mov(eax, cr0);
            a.and(al, 0xFE);
            a.mov(cr0, eax);
            a.db(0xEA, 0, 0, 0x00, 0x5B); // jmp 0x5B00:0
        }, 16);
        m.Assemble(0x5B000, a =>
        {
            a.mov(bp, cs);
            a.hlt();
        }, 16);
        m.RunToHalt();
        Assert.Equal(0x500UL, m.Rsi);
        Assert.Equal(0x100UL, m.Rbx);
        Assert.Equal(0x1234567890ABCDEFUL, m.Read64(M.Stack - 8));
        Assert.Equal(0x5B00UL, m.Rbp);
        Assert.Equal(0UL, m.State.Cr0 & 1);
    }

    [Fact]
    public void Unreal_mode_keeps_the_limit()
    {
        using var m = new M(Mode.Protected16);
        m.Assemble(M.Code, a =>
        {
            a.mov(ax, M.Data32);
            a.mov(fs, ax);
            a.mov(eax, cr0);
            a.and(al, 0xFE);
            a.mov(cr0, eax);
            a.db(0xEA, 0x20, 0, 0x00, 0x10); // jmp 0x1000:0x20
        });
        m.Assemble(M.Code + 0x20, a =>
        {
            a.xor(ax, ax);
            a.mov(fs, ax);
            a.mov(ebx, 0x600000);
            a.mov(eax, 0x11223344);
            a.mov(__dword_ptr.fs[ebx], eax);
            a.hlt();
        });
        m.RunToHalt();
        Assert.Equal(0x11223344u, m.Read32(0x600000));
    }

    [Fact]
    public void Real_mode_makes_a_read_only_segment_writable_when_it_is_loaded()
    {
        using var m = new M(Mode.Protected16);
        m.SetGdt(M.Free, Descriptors.Segment(0, 0xFFFF, 0x0091));
        m.Assemble(M.Code, a =>
        {
            a.mov(ax, M.Free);
            a.mov(es, ax);
            a.mov(eax, cr0);
            a.and(al, 0xFE);
            a.mov(cr0, eax);
            a.db(0xEA, 0x20, 0, 0x00, 0x10);
        });
        m.Assemble(M.Code + 0x20, a =>
        {
            a.mov(ax, 0x4000);
            a.mov(es, ax);
            a.mov(__word_ptr.es[0], ax);
            a.hlt();
        });
        m.RunToHalt();
        Assert.Equal(0x4000, m.Read<ushort>(M.Data));
    }
}
