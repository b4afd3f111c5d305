using Iced.Intel;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Robustness;

/// <summary>Guests that do one bad thing thoroughly: every port, every MSR, devices where memory belongs, endless faults.</summary>
public sealed class HostileGuestTests : IAsyncLifetime
{
    private const uint Code = 0x10000, Gdt = 0x6000, Idt = 0x7000, Handler = 0x9000, Tables = 0x100000, Stack = 0x18000;

    private readonly BareProcessor _processor = new();

    /// <summary>Where devices are, and where nothing is: just below and above RAM, the hole, and around 4 GiB.</summary>
    public static TheoryData<ulong> Places =>
    [
        0xA0000, 0xBFFF8, 64 << 20, (64 << 20) - 4, 0xC0000000, 0xFEC00000, 0xFEC00FF8, 0xFED00000, 0xFED003F8, 0xFEE00000, 0xFEE00300, 0xFEE00FF8,
        0xFEE00FFC, 0xFFFF_F000, 0xFFFF_FFF8, 0xFFFF_FFFE, 0x1_0000_0000, 0x1_0000_0FFC, 0x7F_FFFF_F000, 0x3F_FFFF_FFFF_F000,
    ];

    private IVcpu Vcpu => _processor.Vcpu;

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _processor.DisposeAsync();

    [Fact]
    public void Every_port_takes_every_size_of_anything()
    {
        var random = new Random(1);
        for (var port = 0; port < 0x10000; port++)
        {
            foreach (var size in (ReadOnlySpan<int>)[1, 2, 4])
            {
                _processor.Environment.Ports.Write((ulong)port, size, (uint)random.Next() << 1);
                _processor.Environment.Ports.Read((ulong)port, size);
            }
        }
    }

    [Fact]
    public void Every_register_of_every_device_takes_every_size_of_anything()
    {
        var random = new Random(2);
        foreach (var mapping in _processor.Environment.Mmio.Mappings)
        {
            for (ulong offset = 0; offset < mapping.Length + 8; offset++)
            {
                foreach (var size in (ReadOnlySpan<int>)[1, 2, 4, 8])
                {
                    _processor.Environment.Mmio.Write(mapping.Start - 4 + offset, size, (ulong)random.NextInt64() << 1);
                    _processor.Environment.Mmio.Read(mapping.Start - 4 + offset, size);
                }
            }
        }
    }

    [Fact]
    public void Every_msr_can_be_read_and_written()
    {
        foreach (var first in (ReadOnlySpan<uint>)[0, 0x400, 0x800, 0x40000000, 0x40000200, 0x4B564D00, 0xC0000000, 0xC0010000, 0xFFFFFC00])
        {
            foreach (var value in (ReadOnlySpan<ulong>)[0, 1, 0xFEE00900, 0xDEADBEEF_CAFEF00D, ulong.MaxValue])
            {
                var state = LongMode(a =>
                {
                    var loop = a.CreateLabel();
                    a.mov(ebx, first);
                    a.Label(ref loop);
                    a.mov(ecx, ebx);
                    a.rdmsr();
                    a.mov(ecx, ebx);
                    a.mov(eax, (uint)value);
                    a.mov(edx, (uint)(value >> 32));
                    a.wrmsr();
                    a.mov(ecx, ebx);
                    a.rdmsr();
                    a.inc(ebx);
                    a.cmp(ebx, first + 0x3FF);
                    a.jb(loop);
                    a.hlt();
                });
                SkipFaults(2); // RDMSR and WRMSR are two bytes
                Vcpu.SetState(state);
                var exit = Vcpu.Run(100_000); // EFER or a segment base may derail it: it may end any way, but it ends
                Assert.NotEqual(VcpuExit.Kicked, exit);
                if (first is not (0 or 0xC0000000 or 0x800))
                    Assert.Equal(VcpuExit.Halted, exit);
            }
        }
    }

    /// <summary>What a device can be taken for.</summary>
    [Theory]
    [MemberData(nameof(Places))]
    public void Devices_and_nothing_serve_as_any_kind_of_memory(ulong place)
    {
        var start = LongMode(a =>
        {
            a.mov(rbx, place);
            a.mov(rsi, rbx);
            a.mov(rdi, rbx);
            a.mov(ecx, 64);
            a.rep.movsb();
            a.mov(ecx, 64);
            a.mov(esi, 0x20000);
            a.mov(rdi, rbx);
            a.rep.movsq();
            a.mov(ecx, 64);
            a.mov(edi, 0x20000);
            a.mov(rsi, rbx);
            a.rep.movsd();
            a.mov(ecx, 16);
            a.repe.scasw();
            a.mov(rsi, rbx);
            a.mov(rdi, rbx);
            a.mov(ecx, 16);
            a.repne.cmpsb();
            a.mov(eax, __dword_ptr[rbx]);
            a.@lock.add(__qword_ptr[rbx], rax);
            a.@lock.xadd(__word_ptr[rbx], ax);
            a.@lock.bts(__dword_ptr[rbx], 77);
            a.@lock.cmpxchg8b(__[rbx]);
            a.and(bl, 0xF0);
            a.@lock.cmpxchg16b(__[rbx]);
            a.movups(xmm0, __[rbx]);
            a.movups(__[rbx], xmm0);
            a.movaps(__[rbx], xmm1);
            a.paddd(xmm0, __[rbx]);
            a.fld(__tword_ptr[rbx]);
            a.fstp(__tword_ptr[rbx]);
            a.fnstenv(__[rbx]);
            a.fldenv(__[rbx]);
            a.fnsave(__[rbx]);
            a.frstor(__[rbx]);
            a.fxsave(__[rbx]);
            a.fxrstor(__[rbx]);
            a.and(bl, 0xC0);
            a.mov(eax, 7);
            a.xor(edx, edx);
            a.xsave(__[rbx]);
            a.xsavec(__[rbx]);
            a.xrstor(__[rbx]);
            a.vmovups(ymm1, __[rbx]);
            a.vmaskmovps(__[rbx], ymm1, ymm1);
            a.maskmovdqu(xmm0, xmm1);
            a.push(__qword_ptr[rbx]);
            a.pop(__qword_ptr[rbx]);
            a.sgdt(__[rbx]);
            a.clflush(__[rbx]);
            a.invlpg(__[rbx]);
            a.mov(rdi, rbx);
            a.mov(dx, 0x80);
            a.mov(ecx, 8);
            a.rep.insd();
            a.mov(rsi, rbx);
            a.mov(ecx, 8);
            a.rep.outsb();
            a.lgdt(__[rbx]);
            a.mov(rsp, rbx);
            a.push(rax);
            a.@int(0x80);
            a.hlt();
        });
        Try(start); // plain
        SkipFaults(4);
        Try(start); // on over faults

        Try(With(start, (ref CpuState s) => s.Cr3 = place & ~0xFFFUL));
        Try(With(start, (ref CpuState s) => s.Idtr.Base = place));
        Try(With(start, (ref CpuState s) => s.Gdtr.Base = place));
        Try(With(start, (ref CpuState s) => s.Gpr[4] = place));
        Try(With(start, (ref CpuState s) => s.Tr.Base = place));
        Try(With(start, (ref CpuState s) => s.Rip = place));
        for (var back = 1ul; back < 16; back++)
            Try(With(start, (ref CpuState s) => s.Rip = place - back)); // an instruction that runs over into it

        // As a page table of each level.
        foreach (var table in (ReadOnlySpan<uint>)[Tables, Tables + 0x1000, Tables + 0x2000])
        {
            _processor.Memory.TryRead(table, out ulong entry);
            _processor.Memory.TryWrite(table, (place & 0xF_FFFF_FFFF_F000) | 7);
            Try(start);
            _processor.Memory.TryWrite(table, entry);
        }

        // Real mode and 32-bit mode reach what is below 4 GiB.
        if (place >> 32 != 0)
            return;
        var real = start;
        real.Cr0 = 0x10;
        real.Efer = real.Cr4 = 0;
        for (var i = 0; i < 6; i++)
            real.Segments[i] = new SegmentRegister { Base = place, Limit = 0xFFFF, Attributes = 0x93 };
        real.Rip = 0;
        Try(real);
        real.Rip = 0xFFFF;
        Try(real);
        real.Cr0 |= 1;
        Try(real);
    }

    /// <summary>INT, faults and interrupts with tables that lead nowhere: a triple fault, or a loop that ends with its budget.</summary>
    [Theory]
    [InlineData(0x0UL, 0xFFFF)] // zeroes
    [InlineData(0x7000UL, 0)]
    [InlineData(0x7000UL, 0x10F)]
    [InlineData(0xFEE00000UL, 0xFFF)]
    [InlineData(0x7FFF_FFFF_F000UL, 0xFFF)]
    [InlineData(0xFFFF_FFFF_FFFF_FFF8UL, 0xFFF)]
    public void A_bad_idt_ends_in_a_triple_fault(ulong table, int limit)
    {
        var state = LongMode(a => a.@int(0x21));
        state.Idtr = new TableRegister { Base = table, Limit = (uint)limit };
        Vcpu.SetState(state);
        Assert.Equal(VcpuExit.Shutdown, Vcpu.Run(1000));
        Assert.Contains("triple fault. The exceptions that led to it, oldest first:\n  #", Vcpu.DescribeFault(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_handler_that_faults_at_its_first_byte_uses_up_its_budget()
    {
        var state = LongMode(a => a.ud2());
        Gate(6, 0x4000_0000_0000); // not mapped, but canonical
        Gate(14, 0x4000_0000_0000);
        Vcpu.SetState(state);
        Assert.NotEqual(VcpuExit.Kicked, Vcpu.Run(100_000));
    }

    /// <summary>Whatever keeps a processor busy, a kick gets it out.</summary>
    [Theory]
    [InlineData("stosb")]
    [InlineData("movsb overlapping")]
    [InlineData("lodsb of a device")]
    [InlineData("stosq to nothing")]
    [InlineData("scasb")]
    [InlineData("outsb")]
    [InlineData("insd")]
    [InlineData("fault")]
    [InlineData("fetch fault")]
    [InlineData("self-modifying")]
    [InlineData("single step")]
    [InlineData("jump")]
    public async Task A_kick_gets_through(string what)
    {
        var state = LongMode(a =>
        {
            var here = a.CreateLabel();
            a.Label(ref here);
            a.mov(rcx, -1);
            a.mov(edi, 0x300000);
            a.mov(esi, 0x300000);
            a.mov(dx, 0x80);
            switch (what)
            {
                case "stosb":
                    a.rep.stosb();
                    break;
                case "movsb overlapping":
                    a.inc(edi);
                    a.rep.movsb();
                    break;
                case "lodsb of a device":
                    a.mov(esi, 0xFED00000);
                    a.rep.lodsb();
                    break;
                case "stosq to nothing":
                    a.mov(edi, 0xC0000000);
                    a.rep.stosq();
                    break;
                case "scasb":
                    a.mov(al, 0xA5);
                    a.repne.scasb();
                    break;
                case "outsb":
                    a.rep.outsb();
                    break;
                case "insd":
                    a.rep.insd();
                    break;
                case "fault":
                    a.ud2();
                    break;
                case "fetch fault":
                    a.mov(rax, 0x4000_0000_0000);
                    a.jmp(rax);
                    break;
                case "self-modifying":
                    a.mov(__dword_ptr[Code], 0xFFC1C748);
                    break;
            }

            a.jmp(here);
        });
        SkipFaults(0);
        if (what == "single step")
            state.Rflags |= 0x100;
        Vcpu.SetState(state);
        var run = Task.Factory.StartNew(() => Vcpu.Run(long.MaxValue), TaskCreationOptions.LongRunning);
        for (var i = 0; i < 3; i++)
        {
            await Task.Delay(20);
            var before = Environment.TickCount64;
            Vcpu.Kick();
            Assert.Equal(VcpuExit.Kicked, await run.WaitAsync(TimeSpan.FromSeconds(10)));
            Assert.True(Environment.TickCount64 - before < 1000, "the kick took longer than a second");
            run = Task.Factory.StartNew(() => Vcpu.Run(long.MaxValue), TaskCreationOptions.LongRunning);
        }

        Vcpu.Kick();
        await run.WaitAsync(TimeSpan.FromSeconds(10));
    }

    /// <summary>More code than the cache of blocks holds, of the instructions that take most room in it.</summary>
    [Fact]
    public void Endless_new_code_does_not_exhaust_the_block_cache()
    {
        const uint Start = 0x400000, End = 0x580000;
        var code = new byte[End - Start];
        for (var i = 0; i + 64 <= code.Length; i += 64)
        {
            for (var j = 0; j < 60; j += 4)
                ((ReadOnlySpan<byte>)[0xDB, 0xE3, 0xF9, 0xF8]).CopyTo(code.AsSpan(i + j)); // FNINIT, STC, CLC
        }

        code.AsSpan().Replace((byte)0, (byte)0x90);
        code[^1] = 0xF4;
        _processor.Memory.TryWrite(Start, code);
        var state = LongMode(a => a.jmp(Start));
        for (var round = 0; round < 2; round++)
        {
            Vcpu.SetState(state);
            Assert.Equal(VcpuExit.Halted, Vcpu.Run(long.MaxValue));
            Assert.Equal(End, Vcpu.GetState().Rip);
        }
    }

    private static CpuState With(CpuState state, Change change)
    {
        change(ref state);
        return state;
    }

    private void Try(CpuState state)
    {
        Vcpu.SetState(state);
        var exit = Vcpu.Run(2000);
        Assert.NotEqual(VcpuExit.Kicked, exit);
        Vcpu.DescribeFault();
    }

    /// <summary>Faults go on behind the instruction, which is taken to be of this length.</summary>
    private void SkipFaults(int length)
    {
        var assembler = new Assembler(64);
        assembler.add(__qword_ptr[rsp], length);
        assembler.iretq();
        WriteCode(Handler, assembler);
        var withError = new Assembler(64);
        withError.add(rsp, 8);
        withError.add(__qword_ptr[rsp], length);
        withError.iretq();
        WriteCode(Handler + 0x40, withError);
        for (var vector = 0; vector < 32; vector++)
            Gate(vector, Handler + (vector is 8 or (>= 10 and <= 14) or 17 ? 0x40u : 0));
    }

    private void Gate(int vector, ulong handler)
    {
        _processor.Memory.TryWrite(Idt + (ulong)(vector * 16), (handler & 0xFFFF) | (8 << 16) | (0x8EUL << 40) | (((handler >> 16) & 0xFFFF) << 48));
        _processor.Memory.TryWrite(Idt + (ulong)(vector * 16) + 8, handler >> 32);
    }

    private void WriteCode(uint address, Assembler assembler)
    {
        var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), address);
        _processor.Memory.TryWrite(address, stream.ToArray());
    }

    /// <summary>64-bit mode at CPL 0 with 1 GiB pages at their own addresses and no handlers.</summary>
    private CpuState LongMode(Action<Assembler> code)
    {
        var memory = _processor.Memory;
        var assembler = new Assembler(64);
        code(assembler);
        WriteCode(Code, assembler);
        memory.TryWrite(Idt, new byte[0x1000]);
        memory.TryWrite(Tables, Tables + 0x1000 | 7UL);
        for (var i = 1u; i < 512; i++)
            memory.TryWrite(Tables + (i * 8), 0UL);
        for (var i = 0u; i < 512; i++)
            memory.TryWrite(Tables + 0x1000 + (i * 8), ((ulong)i << 30) | 0x87);
        memory.TryWrite(Tables + 0x1000, Tables + 0x2000 | 7UL);
        for (var i = 0u; i < 512; i++)
            memory.TryWrite(Tables + 0x2000 + (i * 8), ((ulong)i << 21) | 0x87);
        memory.TryWrite(Gdt + 8, 0x00AF9B000000FFFFUL);
        memory.TryWrite(Gdt + 16, 0x00CF93000000FFFFUL);
        Vcpu.Reset();
        var state = Vcpu.GetState();
        state.Activity = ActivityState.Active;
        state.Rip = Code;
        state.Gpr[4] = Stack;
        state.Cr0 = 0x80050033;
        state.Cr3 = Tables;
        state.Cr4 = 0x406A0;
        state.Xcr0 = 7;
        state.Efer = 0xD00;
        state.Gdtr = new TableRegister { Base = Gdt, Limit = 0x17 };
        state.Idtr = new TableRegister { Base = Idt, Limit = 0xFFF };
        for (var i = 0; i < 6; i++)
            state.Segments[i] = new SegmentRegister { Selector = 16, Limit = uint.MaxValue, Attributes = 0xC093 };
        state.Segments[1] = new SegmentRegister { Selector = 8, Limit = uint.MaxValue, Attributes = 0xA09B };
        return state;
    }

    private delegate void Change(ref CpuState state);
}
