using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Translation, rights, accessed and dirty bits: SDM vol. 3, chapter 4.</summary>
public class PagingTests
{
    /// <summary>A linear address with no mapping of its own yet, and the page behind it.</summary>
    private const ulong At = 0xC00000, Page = 0x600000;

    private const ulong RW = Pte.Present | Pte.Write, RWU = RW | Pte.User;

    private static void Load(M m) => m.Program(a => a.mov(eax, __dword_ptr[ebx]));

    private static void Store(M m) => m.Program(a => a.mov(__dword_ptr[ebx], eax));

    [Theory]
    [InlineData(Mode.Paged32)]
    [InlineData(Mode.Pae)]
    [InlineData(Mode.Long)]
    public void Rights(Mode mode)
    {
        using var m = new M(mode);
        foreach (var flags in (ulong[])[0, Pte.Write, Pte.Present, RW, Pte.Present | Pte.User, RWU])
        {
            foreach (var write in (bool[])[false, true])
            {
                foreach (var (cpl, wp) in ((int, bool)[])[(0, true), (0, false), (3, true), (3, false)])
                {
                    m.Enter(mode);
                    m.SetPrivilege(cpl);
                    if (!wp)
                        m.State.Cr0 &= ~ControlRegisters.WP;
                    var entry = m.Map(At, Page, flags);
                    if (write)
                        Store(m);
                    else
                        Load(m);
                    if (cpl == 3)
                        m.Assemble(M.Code + (m.IsLong ? 3UL : 2UL), a => a.@int(0x33)); // HLT is privileged
                    m.SetGate(0x33, M.Handlers + 0x330, m.IsLong ? M.Code64 : M.Code32, dpl: 3);
                    m.Rbx = At + 0x123 * 4;
                    var allowed = (flags & Pte.Present) != 0 && (cpl == 0 || (flags & Pte.User) != 0)
                        && (!write || (flags & Pte.Write) != 0 || (cpl == 0 && !wp));
                    var stop = m.Run();
                    var what = $"{mode} flags {flags:x} write {write} cpl {cpl} wp {wp}: {stop}";
                    var after = m.ReadEntry(entry) & (Pte.Accessed | Pte.Dirty);
                    if (allowed)
                    {
                        Assert.True(stop.Vector is -1 or 0x33 && stop.Exit == VcpuExit.Halted, what);
                        Assert.True(after == (Pte.Accessed | (write ? Pte.Dirty : 0)), what);
                    }
                    else
                    {
                        var error = (uint)((flags & Pte.Present) | (write ? 2u : 0) | (cpl == 3 ? 4u : 0));
                        Assert.True(stop.Vector == Vectors.PF && stop.Error == error && m.State.Cr2 == m.Rbx, what);
                        Assert.True(after == 0, what);
                    }
                }
            }
        }
    }

    [Theory]
    [InlineData(2, Pte.User)]
    [InlineData(2, Pte.Write)]
    [InlineData(3, Pte.User)]
    [InlineData(3, Pte.Write)]
    [InlineData(4, Pte.User)]
    [InlineData(4, Pte.Write)]
    public void Rights_are_those_of_all_levels_together(int level, ulong missing)
    {
        using var m = new M();
        const ulong Far = 0x0000_4000_0000_0000; // an upper-level entry of its own
        m.Map(Far, Page);
        m.Map(Far + 0x200000, Page); // keeps the code's tables apart
        var entry = m.EntryOf(Far, level);
        m.WriteEntry(entry, m.ReadEntry(entry) & ~missing);
        m.SetPrivilege(3);
        m.Rbx = Far;
        m.Program(a => a.mov(__dword_ptr[rbx], eax));
        m.Expect(Vectors.PF, 7, M.Code);
        for (var l = 4; l >= 1; l--)
            Assert.Equal(0UL, m.ReadEntry(m.EntryOf(Far, l)) & Pte.Dirty);
        Assert.Equal(0UL, m.ReadEntry(m.EntryOf(Far, 1)) & Pte.Accessed);

        m.Program(a => a.mov(eax, __dword_ptr[rbx]));
        m.Enter(Mode.Long);
        m.Map(Far, Page);
        m.WriteEntry(m.EntryOf(Far, level), m.ReadEntry(m.EntryOf(Far, level)) & ~missing);
        m.Rbx = Far;
        m.RunToHalt();
        for (var l = 4; l >= 1; l--)
            Assert.Equal(Pte.Accessed, m.ReadEntry(m.EntryOf(Far, l)) & (Pte.Accessed | Pte.Dirty));
    }

    [Theory]
    [InlineData(Mode.Pae)]
    [InlineData(Mode.Long)]
    public void No_execute(Mode mode)
    {
        using var m = new M(mode);
        m.State.Efer |= ControlRegisters.NXE;
        m.Map(At, Page, RW | Pte.NoExecute);
        m.Write<byte>(Page, 0xF4);
        m.State.Rip = At;
        m.Expect(Vectors.PF, 0x11, At);
        Assert.Equal(At, m.State.Cr2);

        // Data may be read; the fetch bit is for fetches only.
        m.Enter(mode);
        m.State.Efer |= ControlRegisters.NXE;
        m.Map(At, Page, RW | Pte.NoExecute);
        m.Rbx = At;
        Load(m);
        m.RunToHalt();

        // Without NXE the bit is reserved, and fetches are not told apart.
        m.Enter(mode);
        m.State.Efer &= ~ControlRegisters.NXE;
        m.Map(At, Page, RW | Pte.NoExecute);
        m.State.Rip = At;
        m.Expect(Vectors.PF, 9, At);
        m.Enter(mode);
        m.State.Efer &= ~ControlRegisters.NXE;
        m.Map(At, Page, 0);
        m.State.Rip = At;
        m.Expect(Vectors.PF, 0, At);
    }

    [Theory]
    [InlineData(Mode.Paged32)]
    [InlineData(Mode.Long)]
    public void Smep(Mode mode)
    {
        using var m = new M(mode);
        m.State.Cr4 |= ControlRegisters.SMEP;
        foreach (var at in (ulong[])[M.Code, M.Handlers, M.Handlers + 0xE0])
            m.Map(at & ~0xFFFUL, at & ~0xFFFUL, RW); // the kernel's own code
        m.Map(At, Page, RWU);
        m.State.Rip = At;
        m.Expect(Vectors.PF, 0x11, At);

        m.Enter(mode);
        m.State.Cr4 |= ControlRegisters.SMEP;
        m.Map(M.Code, M.Code, RW);
        m.Map(At, Page, RWU);
        m.Rbx = At;
        Load(m);
        m.RunToHalt();
    }

    [Fact]
    public void Smap()
    {
        using var m = new M();
        void Prepare(bool ac)
        {
            m.Enter(Mode.Long);
            m.State.Cr4 |= ControlRegisters.SMAP;
            for (ulong page = 0; page < 0x60000; page += 0x1000)
                m.Map(page, page, RW);
            m.Map(At, Page, RWU);
            m.Rbx = At;
            m.State.Rflags |= ac ? Rflags.AC : 0;
        }

        Prepare(ac: false);
        Load(m);
        m.Expect(Vectors.PF, 1, M.Code);
        Prepare(ac: true);
        m.RunToHalt();
        Prepare(ac: false);
        Store(m);
        m.Expect(Vectors.PF, 3, M.Code);

        // STAC and CLAC at work, with the page in the TLB.
        Prepare(ac: false);
        m.Program(a =>
        {
            a.stac();
            a.mov(eax, __dword_ptr[rbx]);
            a.clac();
            a.mov(eax, __dword_ptr[rbx]);
        });
        m.Expect(Vectors.PF, 1, M.Code + 8);

        // What the processor does for itself is not let off by AC: the descriptor table in a user page.
        Prepare(ac: true);
        m.Map(At, M.Gdt & ~0xFFFUL, RWU);
        m.State.Gdtr.Base = At;
        m.Program(a => a.mov(fs, ax));
        m.Rax = M.Data32;
        m.SetGate(Vectors.PF, M.Handlers + 0xE0, M.Code64);
        var stop = m.Run(); // delivery needs the table as well
        Assert.Equal(VcpuExit.Shutdown, stop.Exit);
        Assert.Contains("#PF(0x1)", m.Cpu.DescribeFault(), StringComparison.Ordinal);
    }

    [Fact]
    public void Smap_and_the_stack_of_an_exception()
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.SMAP;
        for (ulong page = 0; page < 0x60000; page += 0x1000)
            m.Map(page, page, RW);
        m.Map(At, Page, RWU);
        m.Program(a => a.ud2());
        m.Rsp = At + 0x800;
        m.State.Rflags |= Rflags.AC;
        m.SetGate(Vectors.PF, M.Handlers + 0xE0, M.Code64, ist: 1);
        m.Expect(Vectors.PF, 3, M.Code);
        Assert.Equal(At + 0x7F8, m.State.Cr2);
    }

    [Theory]
    [InlineData(Mode.Paged32, 2)]
    [InlineData(Mode.Pae, 2)]
    [InlineData(Mode.Long, 2)]
    [InlineData(Mode.Long, 3)]
    public void Large_pages(Mode mode, int level)
    {
        using var m = new M(mode, memory: 64 << 20);
        if (mode == Mode.Paged32)
            m.State.Cr4 |= ControlRegisters.PSE;
        var size = mode == Mode.Paged32 ? 4UL << 20 : level == 2 ? 2UL << 20 : 1UL << 30;
        var entry = m.Map(0x4000_0000, level == 3 ? 0 : size * 3, RW, level);
        m.Rbx = 0x4000_0000 + (level == 3 ? 0xC00008UL : 0x100008);
        var physical = level == 3 ? 0xC00008 : (size * 3) + 0x100008;
        m.Write(physical, 0xCAFEF00Du);
        Load(m);
        m.RunToHalt();
        Assert.Equal(0xCAFEF00DUL, m.Rax);
        Assert.Equal(Pte.Accessed, m.ReadEntry(entry) & (Pte.Accessed | Pte.Dirty));

        m.State.Rip = M.Code;
        m.State.Activity = ActivityState.Active;
        m.Rax = 5;
        Store(m);
        m.RunToHalt();
        Assert.Equal(5u, m.Read32(physical));
        Assert.Equal(Pte.Accessed | Pte.Dirty, m.ReadEntry(entry) & (Pte.Accessed | Pte.Dirty));

        // A low address bit of a large page is reserved (in 32-bit entries bit 21, the others are PSE-36).
        m.WriteEntry(entry, m.ReadEntry(entry) | (mode == Mode.Paged32 ? 1UL << 21 : 1UL << 13));
        m.State.Rip = M.Code;
        m.State.Activity = ActivityState.Active;
        m.Expect(Vectors.PF, 0xB, M.Code);
    }

    [Fact]
    public void Without_pse_the_large_bit_means_nothing()
    {
        using var m = new M(Mode.Paged32);
        m.Map(At, Page);
        var pde = m.EntryOf(At, 2);
        m.WriteEntry(pde, m.ReadEntry(pde) | Pte.Large);
        m.Rbx = At;
        m.Write(Page, 77u);
        Load(m);
        m.RunToHalt();
        Assert.Equal(77UL, m.Rax);
    }

    [Fact]
    public void Pse36_reaches_above_4_gib()
    {
        using var m = new M(Mode.Paged32, memory: 64 << 20, maxBelow4G: 32 << 20);
        m.State.Cr4 |= ControlRegisters.PSE;
        m.WriteEntry(m.EntryOf(0x4000_0000, 2), (1UL << 13) | 0x40_0000 | RW | Pte.Large); // 4 GiB + 4 MiB
        m.Write((4UL << 30) + 0x40_0010, 0x12345u);
        m.Rbx = 0x4000_0010;
        Load(m);
        m.RunToHalt();
        Assert.Equal(0x12345UL, m.Rax);
    }

    [Theory]
    [InlineData(Mode.Pae, 1, 45)]
    [InlineData(Mode.Pae, 1, 55)]
    [InlineData(Mode.Pae, 2, 41)]
    [InlineData(Mode.Pae, 3, 5)]
    [InlineData(Mode.Pae, 3, 1)]
    [InlineData(Mode.Long, 1, 45)]
    [InlineData(Mode.Long, 2, 51)]
    [InlineData(Mode.Long, 3, 40)]
    [InlineData(Mode.Long, 4, 7)]
    [InlineData(Mode.Long, 4, 47)]
    public void Reserved_bits(Mode mode, int level, int bit)
    {
        using var m = new M(mode);
        var at = mode == Mode.Long ? 0x0000_4000_0000_0000UL : 0x8000_0000;
        m.Map(at, Page);
        var entry = m.EntryOf(at, level);
        m.WriteEntry(entry, m.ReadEntry(entry) | (1UL << bit));
        m.Rbx = at;
        m.Program(a =>
        {
            if (mode == Mode.Long)
                a.mov(eax, __dword_ptr[rbx]);
            else
                a.mov(eax, __dword_ptr[ebx]);
        });
        m.SetPrivilege(3);
        m.Expect(Vectors.PF, 0xD, M.Code);
    }

    [Fact]
    public void Bits_that_software_may_use()
    {
        using var m = new M();
        m.Map(At, Page, RW | (0x7FFUL << 52) | (7UL << 9));
        m.Rbx = At;
        Load(m);
        m.RunToHalt();
    }

    // --- translations that are kept ---

    [Fact]
    public void A_changed_entry_is_seen_after_invlpg()
    {
        using var m = new M();
        var entry = m.Map(At, Page);
        m.Write(Page, 1u);
        m.Write(Page + 0x1000, 2u);
        m.Program(a =>
        {
            a.mov(ecx, __dword_ptr[rbx]);
            a.mov(__qword_ptr[rsi], rdi);
            a.invlpg(__byte_ptr[rbx]);
            a.mov(edx, __dword_ptr[rbx]);
        });
        m.Rbx = At;
        m.Rsi = entry;
        m.Rdi = (Page + 0x1000) | RWU;
        m.RunToHalt();
        Assert.Equal(1UL, m.Rcx);
        Assert.Equal(2UL, m.Rdx);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Cr3_writes_keep_global_pages_only(bool global)
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.PGE;
        var entry = m.Map(At, Page, RWU | (global ? Pte.Global : 0));
        m.Write(Page, 1u);
        m.Write(Page + 0x1000, 2u);
        m.Program(a =>
        {
            a.mov(ecx, __dword_ptr[rbx]);
            a.mov(__qword_ptr[rsi], rdi);
            a.mov(rax, cr3);
            a.mov(cr3, rax);
            a.mov(edx, __dword_ptr[rbx]);
            a.mov(rax, cr4);
            a.xor(rax, (int)ControlRegisters.PGE);
            a.mov(cr4, rax);
            a.mov(ebp, __dword_ptr[rbx]);
        });
        m.Rbx = At;
        m.Rsi = entry;
        m.Rdi = (Page + 0x1000) | RWU;
        m.RunToHalt();
        Assert.Equal(1UL, m.Rcx);
        Assert.Equal(global ? 1UL : 2UL, m.Rdx);
        Assert.Equal(2UL, m.Rbp);
    }

    [Fact]
    public void Invlpg_of_a_large_page_drops_all_of_it_and_spares_global_no_more_than_others()
    {
        using var m = new M(memory: 32 << 20);
        m.State.Cr4 |= ControlRegisters.PGE;
        var entry = m.Map(0x4000_0000, 0x800000, RW | Pte.Global, 2);
        m.Write(0x800000, 1u);
        m.Write(0x9FF000, 1u);
        m.Write(0xA00000, 2u);
        m.Write(0xBFF000, 2u);
        m.Program(a =>
        {
            a.mov(ecx, __dword_ptr[rbx]);
            a.mov(ecx, __dword_ptr[rbx + 0x1FF000]);
            a.mov(__qword_ptr[rsi], rdi);
            a.invlpg(__byte_ptr[rbx + 0x100000]);
            a.mov(edx, __dword_ptr[rbx]);
            a.add(edx, __dword_ptr[rbx + 0x1FF000]);
        });
        m.Rbx = 0x4000_0000;
        m.Rsi = entry;
        m.Rdi = 0xA00000 | RW | Pte.Large;
        m.RunToHalt();
        Assert.Equal(4UL, m.Rdx);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, false)]
    public void Invpcid(int type, bool dropsGlobal)
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.PGE | ControlRegisters.PCIDE;
        var local = m.Map(At, Page);
        var global = m.Map(At + 0x1000, Page, RW | Pte.Global);
        m.Write(Page, 1u);
        m.Write(Page + 0x1000, 2u);
        m.Program(a =>
        {
            a.mov(ecx, __dword_ptr[rbx]);
            a.mov(ecx, __dword_ptr[rbx + 0x1000]);
            a.mov(__qword_ptr[rsi], rdi);
            a.mov(__qword_ptr[rsi + 8], rdi);
            a.invpcid(rax, __xmmword_ptr[rbp]);
            if (type == 0)
                a.invpcid(rax, __xmmword_ptr[rbp + 16]);
            a.mov(edx, __dword_ptr[rbx]);
            a.mov(ebx, __dword_ptr[rbx + 0x1000]);
        });
        m.Rax = (ulong)type;
        m.Rbx = At;
        m.Rbp = M.Data;
        m.Write(M.Data + 8, At);
        m.Write(M.Data + 24, At + 0x1000);
        m.Rsi = local;
        Assert.Equal(local + 8, global);
        m.Rdi = (Page + 0x1000) | RW;
        m.RunToHalt();
        Assert.Equal(2UL, m.Rdx);
        Assert.Equal(dropsGlobal ? 2UL : 1UL, m.Rbx);
    }

    [Theory]
    [InlineData(4, 0UL, 0UL, true)]
    [InlineData(0, 0x1000UL, 0UL, true)]
    [InlineData(2, 0x1000UL, 0UL, true)]
    [InlineData(0, 0UL, 0x0000_8000_0000_0000UL, true)]
    [InlineData(1, 0UL, 0x0000_8000_0000_0000UL, false)]
    [InlineData(1, 1UL, 0UL, true)] // PCIDE is clear
    [InlineData(2, 1UL, 0UL, false)]
    public void Invpcid_checks_its_descriptor(int type, ulong low, ulong high, bool fails)
    {
        using var m = new M();
        m.Program(a => a.invpcid(rax, __xmmword_ptr[rbp]));
        m.Rax = (ulong)type;
        m.Rbp = M.Data;
        m.Write(M.Data, low);
        m.Write(M.Data + 8, high);
        if (fails)
            m.Expect(Vectors.GP, 0, M.Code);
        else
            m.RunToHalt();
    }

    [Fact]
    public void Cr3_with_a_pcid()
    {
        using var m = new M();
        m.State.Cr4 |= ControlRegisters.PCIDE;
        m.Program(a =>
        {
            a.mov(cr3, rax);
            a.mov(rcx, cr3);
            a.mov(cr3, rbx); // bit 63: keep what is cached, and not part of the register
            a.mov(rdx, cr3);
            a.mov(rax, cr4);
            a.mov(cr4, rax);
        });
        m.Rax = m.Root | 0x123;
        m.Rbx = m.Root | 0x456 | (1UL << 63);
        m.RunToHalt();
        Assert.Equal(m.Root | 0x123, m.Rcx);
        Assert.Equal(m.Root | 0x456, m.Rdx);

        // Without PCIDE bit 63 is reserved; PCIDE can't be set with a PCID in CR3.
        m.Enter(Mode.Long);
        m.Program(a => a.mov(cr3, rax));
        m.Rax = m.Root | (1UL << 63);
        m.Expect(Vectors.GP, 0, M.Code);
        m.Enter(Mode.Long);
        m.Program(a => a.mov(cr4, rax));
        m.State.Cr3 |= 8;
        m.Rax = m.State.Cr4 | ControlRegisters.PCIDE;
        m.Expect(Vectors.GP, 0, M.Code);
    }

    [Fact]
    public void A_page_becomes_dirty_at_the_first_store_after_loads()
    {
        using var m = new M();
        var entry = m.Map(At, Page);
        m.Program(a =>
        {
            a.mov(eax, __dword_ptr[rbx]);
            a.mov(rcx, __qword_ptr[rsi]);
            a.mov(__dword_ptr[rbx], eax);
            a.mov(rdx, __qword_ptr[rsi]);
        });
        m.Rbx = At;
        m.Rsi = entry;
        m.RunToHalt();
        Assert.Equal(Pte.Accessed, m.Rcx & (Pte.Accessed | Pte.Dirty));
        Assert.Equal(Pte.Accessed | Pte.Dirty, m.Rdx & (Pte.Accessed | Pte.Dirty));
    }

    [Fact]
    public void Rights_in_the_tlb_are_per_privilege()
    {
        // The kernel touches a page of its own; user code must not find it in the TLB.
        using var m = new M();
        m.Map(At, Page, RW);
        m.Assemble(M.Code, a =>
        {
            a.mov(eax, __dword_ptr[rbx]);
            a.mov(__dword_ptr[rbx], eax);
            a.mov(rcx, M.UserCode);
            a.mov(r11d, 2);
            a.sysretq();
        });
        m.Assemble(M.UserCode, a => a.mov(eax, __dword_ptr[rbx]));
        m.State.Star = 0x30UL << 48;
        m.Rbx = At;
        m.Expect(Vectors.PF, 5, M.UserCode);
    }

    [Fact]
    public void Cr0_wp_takes_effect_at_once()
    {
        using var m = new M();
        m.Map(At, Page, Pte.Present);
        m.State.Cr0 &= ~ControlRegisters.WP;
        m.Program(a =>
        {
            a.mov(__dword_ptr[rbx], eax);
            a.mov(rax, cr0);
            a.or(rax, (int)ControlRegisters.WP);
            a.mov(cr0, rax);
            a.mov(__dword_ptr[rbx], eax);
        });
        m.Rbx = At;
        var stop = m.Expect(Vectors.PF, 3);
        Assert.True(stop.Rip > M.Code + 2);
    }

    // --- tables in odd places ---

    [Fact]
    public void Tables_and_pages_above_4_gib()
    {
        using var m = new M(memory: 64 << 20, maxBelow4G: 32 << 20);
        const ulong High = 1UL << 32;
        m.Map(0x4000_0000, 0); // makes the tables of this gigabyte
        m.WriteEntry(m.EntryOf(0x4000_0000, 2), (High + 0x1000) | RW);
        m.Write(High + 0x1000, (High + 0x5000) | RW);
        m.Write(High + 0x5008, 0xABCDu);
        m.Rbx = 0x4000_0008;
        m.Program(a => a.mov(eax, __dword_ptr[rbx]));
        m.RunToHalt();
        Assert.Equal(0xABCDUL, m.Rax);
        Assert.Equal(Pte.Accessed, m.Read64(High + 0x1000) & Pte.Accessed);
    }

    [Theory]
    [InlineData(Mode.Long)]
    [InlineData(Mode.Pae)]
    [InlineData(Mode.Paged32)]
    public void Tables_outside_of_ram_read_as_ones(Mode mode)
    {
        using var m = new M(mode);
        m.WriteEntry(m.EntryOf(0x4000_0000, 2), 0xE000_0000 | RW);
        m.Rbx = 0x4000_0008;
        Load(m);
        var stop = m.Run();
        if (mode == Mode.Paged32)
            Assert.True(stop.Exit == VcpuExit.Halted && stop.Vector < 0, stop.ToString()); // maps to 0xFFFFF000, where nothing is
        else
            stop.Is(Vectors.PF, 9, M.Code);
        m.Enter(mode);
        m.State.Cr3 = 0xE000_0000;
        Assert.NotEqual(VcpuExit.Kicked, m.Run().Exit);
    }

    [Fact]
    public void Pages_outside_of_ram_are_the_bus()
    {
        using var m = new M();
        m.Map(At, 0xFEB0_0000);
        m.Rbx = At;
        m.Program(a =>
        {
            a.mov(rax, __qword_ptr[rbx]);
            a.mov(__dword_ptr[rbx], ecx);
            a.add(__dword_ptr[rbx + 4], 1);
            a.movups(xmm0, __xmmword_ptr[rbx]);
            a.rep.movsb();
        });
        m.Rcx = 4;
        m.Rsi = At;
        m.Rdi = M.Data;
        m.RunToHalt();
        Assert.Equal(ulong.MaxValue, m.Rax);
        Assert.Equal(0xFFFFFFFFu, m.Read32(M.Data));
        Assert.True(m.Mmio.UnassignedAccesses > 5);
    }

    [Fact]
    public void Code_outside_of_ram_does_not_run()
    {
        using var m = new M();
        m.Map(At, 0xFEB0_0000);
        m.State.Rip = At;
        m.Expect(Vectors.GP, 0, At);
    }

    [Fact]
    public void Accessed_bits_of_table_entries_that_are_code()
    {
        // The processor writes to a line from which instructions were decoded: the page table is in the code's page.
        using var m = new M();
        var table = 0x7F000UL;
        m.Map(0x4000_0000, Page);
        m.WriteEntry(m.EntryOf(0x4000_0000, 2), table | RW);
        m.Write(table, Page | RW);
        m.State.Rip = table + 8;
        m.Assemble(table + 8, a =>
        {
            a.mov(eax, __dword_ptr[rbx]);
            a.mov(rcx, __qword_ptr[table]);
            a.hlt();
        });
        m.Rbx = 0x4000_0000;
        m.RunToHalt();
        Assert.Equal(Page | RW | Pte.Accessed, m.Rcx);
    }
}
