using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Interpreter.PvMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>Instructions of ring 0 and of ports in a paravirtual kernel, and in its programs.</summary>
public sealed class PvInstructionTests : IDisposable
{
    private const int UD = 6, GP = 13, PF = 14;

    private readonly PvMachine _machine = new();

    private ref CpuState State => ref _machine.State;

    public void Dispose() => _machine.Dispose();

    [Fact]
    public void Registers_that_the_hypervisor_keeps()
    {
        _machine.Program(a =>
        {
            a.mov(rbx, cr0);
            a.mov(rbp, cr3);
            a.mov(rsi, cr4);
            a.or(rsi, 4 | 1 << 16); // TSD, FSGSBASE
            a.and(rsi, ~0x200); // OSFXSR stays
            a.mov(cr4, rsi);
            a.mov(rdi, cr4);
            a.mov(rax, rbx);
            a.or(rax, 8);
            a.mov(cr0, rax);
            a.mov(r8, cr0);
            a.clts();
            a.mov(r9, cr0);
            a.mov(eax, 0x1234);
            a.mov(cr2, rax);
            a.mov(r10, cr2);
            a.mov(eax, 0x77);
            a.mov(dr1, rax);
            a.mov(r12, dr1);
            a.wbinvd();
            a.rdtsc(); // in spite of TSD
            a.mov(ecx, 0xC0000080);
            a.rdmsr();
            a.mov(r13, rax);
            a.mov(ecx, 0xC0000101);
            a.mov(eax, 0x4444);
            a.xor(edx, edx);
            a.wrmsr();
            a.mov(ecx, 0xC0000102);
            a.mov(eax, 0x5555);
            a.wrmsr();
            a.wrfsbase(rax);
            a.mov(ecx, 0x1B);
            a.rdmsr();
            a.mov(r14, rax);
            a.mov(ecx, 0x277);
            a.rdmsr();
            a.mov(r15, rdx);
            a.mov(ecx, 0x8B);
            a.xor(eax, eax);
            a.xor(edx, edx);
            a.wrmsr(); // how the revision is asked for
        });
        _machine.RunToEnd();
        Assert.Equal(0x8005_0033UL, State.Gpr[3]);
        Assert.Equal(KernelRoot, State.Gpr[5]);
        Assert.Equal(0x10624UL, State.Gpr[7]);
        Assert.Equal((0x8005_003BUL, 0x8005_0033UL, 0x1234UL, 0x77UL), (State.Gpr[8], State.Gpr[9], State.Gpr[10], State.Gpr[12]));
        Assert.Equal(0x1234UL, _machine.Read<ulong>(Info + 16));
        Assert.Equal((0xD01UL, 0xFEE0_0900UL, 0x501UL), (State.Gpr[13], State.Gpr[14], State.Gpr[15] & 0xFFFF_FFFF));
        Assert.Equal((0x4444UL, 0x5555UL, 0x5555UL), (State.Segments[5].Base, State.KernelGsBase, State.Segments[4].Base));
    }

    public static TheoryData<byte[]> Refused => new()
    {
        { [0xF4] }, // hlt
        { [0x0F, 0x01, 0x14, 0x24] }, // lgdt [rsp]
        { [0x0F, 0x01, 0x1C, 0x24] }, // lidt [rsp]
        { [0x0F, 0x00, 0xD0] }, // lldt ax
        { [0x0F, 0x00, 0xD8] }, // ltr ax
        { [0x0F, 0x01, 0x3C, 0x24] }, // invlpg [rsp]
        { [0x0F, 0x01, 0xF8] }, // swapgs
        { [0x44, 0x0F, 0x20, 0xC0] }, // mov rax, cr8
        { [0x0F, 0x22, 0xC0] }, // mov cr0, rax: without PE
        { [0x0F, 0x22, 0xD8] }, // mov cr3, rax: no table
        { [0x0F, 0x30] }, // wrmsr 0
        { [0x0F, 0x07] }, // sysret
        { [0xFA] }, // cli without IOPL
        { [0xE4, 0x61] }, // in al, 61h
        { [0xEE] }, // out dx, al
    };

    [Theory]
    [MemberData(nameof(Refused))]
    public void What_a_kernel_may_not_do(byte[] code)
    {
        _machine.Write(0, 0UL);
        _machine.Program(a =>
        {
            a.xor(eax, eax);
            a.xor(ecx, ecx);
            a.db(code);
        });
        var frame = _machine.Expect(GP).Frame(hasError: true);
        Assert.Equal([0, Text + 4], frame[2..4]);
    }

    [Theory]
    [InlineData(0xC1)]
    [InlineData(0xD9)]
    public void VMCALL_is_not_for_ring_3(byte last)
    {
        _machine.Program(a => a.db(0x0F, 0x01, last));
        Assert.Equal(Text, _machine.Expect(UD).Frame()[2]);
        Assert.Empty(_machine.Calls);
    }

    [Fact]
    public void Programs_have_none_of_it()
    {
        _machine.Processor.IoPrivilege = 1;
        foreach (var code in (byte[][])[[0x0F, 0x20, 0xC0], [0x0F, 0x06], [0x0F, 0x32], [0xFA], [0xE4, 0x61], [0x6C]])
        {
            _machine.Reset();
            _machine.Processor.IoPrivilege = 1;
            _machine.UserProgram(a => a.db(code));
            Assert.Equal([0, UserCode], _machine.Expect(GP).Frame(hasError: true)[2..4]);
        }
    }

    [Fact]
    public void A_root_by_MOV_to_CR3()
    {
        for (var page = 0UL; page < 0x100000; page += 4096)
            _machine.Map(OtherRoot, page, page);
        _machine.Program(a =>
        {
            a.mov(eax, (uint)OtherRoot);
            a.mov(cr3, rax);
            a.mov(rbx, cr3);
        });
        _machine.RunToEnd();
        Assert.Equal(OtherRoot, State.Gpr[3]);
    }

    [Theory]
    [InlineData(0, false, false)]
    [InlineData(0, true, true)]
    [InlineData(1, false, true)]
    public void A_kernel_is_in_ring_1_to_its_IOPL_or_in_ring_0(int privilege, bool shows, bool allowed)
    {
        _machine.ShowsIoPrivilege = shows;
        _machine.Processor.IoPrivilege = privilege;
        _machine.Program(a =>
        {
            a.xor(eax, eax);
            a.@in(al, 0x61);
            a.mov(ebx, eax);
            a.mov(dx, 0x3F8);
            a.@in(eax, dx);
            a.@out(dx, ax);
            a.cli();
            a.ud2();
        });
        if (!allowed)
        {
            _machine.Expect(GP);
            return;
        }

        var frame = _machine.Expect(UD).Frame();
        Assert.Equal((0xFFUL, 0UL), (State.Gpr[3], (ulong)_machine.Mask));
        Assert.Equal(shows ? (ulong)privilege << 12 : 0, frame[4] & 0x3000);
    }

    [Fact]
    public void IOPL_in_a_frame_counts_if_the_kernel_wants_it()
    {
        _machine.ShowsIoPrivilege = true;
        _machine.UserProgram(a =>
        {
            a.@in(al, 0x61);
            a.ud2();
        }, flags: 0x3202);
        Assert.Equal(0x1_3202UL, _machine.Expect(UD).Frame()[4]);
        Assert.Equal(3, _machine.Processor.IoPrivilege);
    }

    [Theory]
    [InlineData(64)]
    [InlineData(32)]
    public void Programs_have_the_ports_of_the_kernel_s_bitmap(int bitness)
    {
        // 60h to 63h of 64h; what is behind the end of the bitmap is forbidden.
        _machine.Memory.TryWrite(Data, Enumerable.Repeat((byte)0xFF, 12).ToArray());
        _machine.Write(Data + 12, (byte)0xF0);
        _machine.Processor.SetIoBitmap(Data, 0x64);
        _machine.UserProgram(a =>
        {
            a.@in(eax, 0x60);
            a.mov(ebx, eax);
            a.mov(dx, 0x62);
            a.@out(dx, ax);
            a.mov(edi, (uint)UserData);
            a.mov(ecx, 3);
            a.rep.insb();
            a.@in(ax, 0x63);
        }, bitness);
        var frame = _machine.Expect(GP).Frame(hasError: true);
        Assert.Equal(0xFFFF_FFFFUL, State.Gpr[3]);
        Assert.Equal((0UL, UserData + 3), (frame[0], State.Gpr[7]));
        Assert.Equal(0x00FF_FFFFU, _machine.Read<uint>(UserData));
        Assert.Equal(0xE5, _machine.Read<byte>(frame[3] + 1)); // the last one, behind its prefix
    }

    [Fact]
    public void INS_faults_where_it_stores()
    {
        _machine.Processor.IoPrivilege = 1;
        _machine.Program(a =>
        {
            a.mov(edi, 0x40000000);
            a.mov(ecx, 3);
            a.rep.insd();
        });
        var frame = _machine.Expect(PF).Frame(hasError: true);
        Assert.Equal((2UL, 0x4000_0000UL, 3UL), (frame[2], _machine.Read<ulong>(Info + 16), frame[0]));
    }

    [Fact]
    public void CPUID_hides_what_takes_ring_0()
    {
        const uint pse = 1 << 3, pge = 1 << 13, mtrr = 1 << 12;
        _machine.UserProgram(a =>
        {
            a.mov(eax, 1);
            a.cpuid();
            a.mov(esi, edx);
            a.mov(eax, 7);
            a.xor(ecx, ecx);
            a.cpuid();
            a.mov(edi, ebx);
            a.mov(eax, 0x40000002);
            a.mov(ecx, 5);
            a.db(0x0F, 0x0B, (byte)'x', (byte)'e', (byte)'n', 0x0F, 0xA2);
            a.ud2();
        });
        _machine.Expect(UD);
        Assert.Equal(0UL, State.Gpr[6] & (pse | pge | mtrr));
        Assert.Equal(0UL, State.Gpr[7] & (1 << 7 | 1 << 20 | 1 << 10)); // SMEP, SMAP, INVPCID
        Assert.Equal((0x4000_0002UL, 0x6578UL), (_machine.ReadLinear(State.Gpr[4]), State.Gpr[3]));
    }

    [Fact]
    public void XSETBV_needs_the_kernel_and_what_there_is()
    {
        var mask = CpuModel.Parse(CpuModel.DefaultName).Xcr0Mask;
        _machine.Program(a =>
        {
            a.mov(rax, cr4);
            a.or(eax, 1 << 18);
            a.mov(cr4, rax);
            a.xor(ecx, ecx);
            a.mov(eax, (uint)mask);
            a.xor(edx, edx);
            a.xsetbv();
            a.xgetbv();
            a.mov(ebx, eax);
            a.mov(eax, 0xD);
            a.xor(ecx, ecx);
            a.cpuid();
            a.mov(esi, eax);
            a.xor(ecx, ecx);
            a.xor(edx, edx);
            a.mov(eax, 6);
            a.xsetbv(); // without x87
        });
        _machine.Expect(GP);
        Assert.Equal((mask, mask), (State.Xcr0, State.Gpr[6]));
    }
}
