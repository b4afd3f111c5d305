using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.State;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Cpu.Tests.Interpreter.PvMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>What a paravirtual kernel may do with its page tables, what it sees of the hypervisor, and code under several roots.</summary>
public sealed class PvMemoryTests : IDisposable
{
    private const int UD = 6, DB = 1, PF = 14;
    private const ulong Before = 0x1111_2222_3333_4444;

    private readonly PvMachine _machine = new();

    public PvMemoryTests()
    {
        _machine.Map(KernelRoot, Table, Table, Pte.Present);
        _machine.Map(KernelRoot, High + Table, Table, Pte.Present);
        for (var i = 0UL; i < 512; i++)
            _machine.Write(Table + (i * 8), Before);
    }

    private ref CpuState State => ref _machine.State;

    public void Dispose() => _machine.Dispose();

    public static TheoryData<string, ulong> Stores => new()
    {
        { "mov", 0x5678 },
        { "xchg", 0x5678 },
        { "cmpxchg", 0x5678 },
        { "or", Before | 0x5678 },
        { "and", Before & 0x5678 },
        { "mov32", Before & ~0xFFFF_FFFFUL | 0x5678 },
        { "btr", Before & ~4UL },
        { "stosq", 0x5678 },
        { "movq", 0x5678 },
    };

    [Theory]
    [MemberData(nameof(Stores))]
    public void A_store_to_a_page_table(string kind, ulong expected)
    {
        void Store(Assembler a)
        {
            a.mov(rax, Before);
            a.mov(rbx, High + Table + 16);
            a.mov(esi, 0x5678);
            switch (kind)
            {
                case "mov": a.mov(__[rbx], rsi); break;
                case "xchg": a.xchg(__[rbx], rsi); break;
                case "cmpxchg": a.@lock.cmpxchg(__[rbx], rsi); break;
                case "or": a.@lock.or(__[rbx], rsi); break;
                case "and": a.and(__[rbx], rsi); break;
                case "mov32": a.mov(__[rbx], esi); break;
                case "btr": a.@lock.btr(__qword_ptr[rbx], 2); break;
                case "stosq":
                    a.mov(rdi, rbx);
                    a.mov(eax, 0x5678);
                    a.mov(ecx, 3);
                    a.rep.stosq();
                    break;
                default:
                    a.movq(xmm0, rsi);
                    a.movq(__qword_ptr[rbx], xmm0);
                    break;
            }
        }

        _machine.Program(Store);
        _machine.Expect(PF);
        Assert.Equal(3UL, _machine.Frame(hasError: true)[2]);
        Assert.Equal(Before, _machine.Read<ulong>(Table + 16));

        _machine.IsTable = true;
        _machine.Reset();
        _machine.RunToEnd();
        Assert.Equal(expected, _machine.Read<ulong>(Table + 16));
        Assert.Equal(kind == "stosq" ? 3 : 1, _machine.TableWrites);

        // And one that the domain may not have.
        _machine.Write(Table + 16, Before);
        _machine.TakesEntries = false;
        _machine.Reset();
        _machine.Expect(PF);
        Assert.Equal(3UL, _machine.Frame(hasError: true)[2]);
        Assert.Equal(Before, _machine.Read<ulong>(Table + 16));
    }

    [Fact]
    public void The_next_store_is_looked_at_again()
    {
        _machine.IsTable = true;
        _machine.Program(a =>
        {
            var loop = a.CreateLabel();
            a.mov(ecx, 100);
            a.Label(ref loop);
            a.mov(__[Table + 8], rcx);
            a.xchg(__[Table + 16], rcx);
            a.mov(rcx, __[Table + 8]);
            a.dec(ecx);
            a.jne(loop);
        });
        _machine.RunToEnd();
        Assert.Equal(200, _machine.TableWrites);
    }

    [Fact]
    public void Another_fault_of_the_same_instruction_is_the_kernel_s()
    {
        // The other operand is not there; and the operand goes on in a page that may not be written either.
        _machine.IsTable = true;
        _machine.Program(a =>
        {
            a.mov(edi, (uint)Table);
            a.mov(esi, 0x40000000);
            a.movsq();
        });
        Assert.Equal(0UL, _machine.Expect(PF).Frame(hasError: true)[2]);
        Assert.Equal(0x4000_0000UL, _machine.Read<ulong>(Info + 16));

        _machine.Map(KernelRoot, Table + 0x1000, Table + 0x1000, Pte.Present);
        _machine.Reset();
        _machine.Program(a => a.mov(__[Table + 0xFFC], rax));
        Assert.Equal(3UL, _machine.Expect(PF).Frame(hasError: true)[2]);
        Assert.Equal(Table + 0x1000, _machine.Read<ulong>(Info + 16));
        Assert.Equal(Before, _machine.Read<ulong>(Table + 0xFF8));
        Assert.Equal(Text, _machine.Frame(hasError: true)[3]);

        // The pages before and behind it are other ones.
        _machine.Map(KernelRoot, Table + 0x1000, Table + 0x1000);
        _machine.Reset();
        _machine.Program(a =>
        {
            a.mov(rax, 0x12345678_9ABCDEF0);
            a.mov(__[Table + 0xFFC], rax);
        });
        _machine.RunToEnd();
        Assert.Equal((0x9ABC_DEF0u, 0x1234_5678u), (_machine.Read<uint>(Table + 0xFFC), _machine.Read<uint>(Table + 0x1000)));
    }

    [Fact]
    public void Programs_and_other_pages_have_no_such_stores()
    {
        _machine.IsTable = true;
        _machine.Map(UserRoot, Table, Table, Pte.Present);
        _machine.UserProgram(a => a.mov(__[Table], rax));
        Assert.Equal(7UL, _machine.Expect(PF).Frame(hasError: true)[2]);

        _machine.Map(KernelRoot, Data, Data, Pte.Present);
        _machine.Reset();
        _machine.Program(a => a.mov(__[Data], rax));
        Assert.Equal(3UL, _machine.Expect(PF).Frame(hasError: true)[2]);
        Assert.Equal(0, _machine.TableWrites);
    }

    [Fact]
    public void A_step_over_a_store_to_a_table()
    {
        const ulong tf = 0x100;
        _machine.IsTable = true;
        _machine.Program(a => Return(a, Text + 0x800, FlatCode & ~3UL, 0x202 | tf, Stack, FlatData));
        var next = _machine.Assemble(Text + 0x800, a => a.mov(__[Table], rsp));
        Assert.Equal(next, _machine.Expect(DB).Frame()[2]);
        Assert.Equal(Stack, _machine.Read<ulong>(Table));
    }

    [Fact]
    public void Of_the_hypervisor_s_hole_the_kernel_reads_one_table()
    {
        _machine.Write(MachineToPhysical + 8, 0x1234UL);
        _machine.Program(a =>
        {
            a.mov(rbx, IParavirtualDomain.MachineToPhysical);
            a.mov(rsi, __[rbx + 8]);
            a.mov(__[rbx + 8], rsi);
        });
        Assert.Equal(2UL, _machine.Expect(PF).Frame(hasError: true)[2] & 6);
        Assert.Equal(0x1234UL, State.Gpr[6]);

        foreach (var address in (ulong[])[IParavirtualDomain.DescriptorTables, IParavirtualDomain.MachineToPhysical + 0x1000, IParavirtualDomain.HoleStart + IParavirtualDomain.HoleLength - 8])
        {
            _machine.Reset();
            _machine.Program(a =>
            {
                a.mov(rbx, address);
                a.mov(rsi, __[rbx]);
            });
            _machine.Expect(PF);
            Assert.Equal(address, _machine.Read<ulong>(Info + 16));
        }

        _machine.Reset();
        _machine.Program(a =>
        {
            a.mov(rbx, IParavirtualDomain.MachineToPhysical);
            a.jmp(rbx);
        });
        _machine.Expect(PF);
        _machine.Reset();
        _machine.UserProgram(a =>
        {
            a.mov(rbx, IParavirtualDomain.MachineToPhysical);
            a.mov(rsi, __[rbx + 8]);
        });
        Assert.Equal(4UL, _machine.Expect(PF).Frame(hasError: true)[2] & 6);

        // Pointers in hypercalls lead nowhere there, either.
        _machine.Reset();
        _machine.OnCall = (call, p) => p.TryWrite(IParavirtualDomain.MachineToPhysical, new byte[8]) || p.TryRead(IParavirtualDomain.DescriptorTables, new byte[8]) ? 1UL : 2;
        _machine.Program(a =>
        {
            a.mov(eax, 1);
            a.syscall();
            a.mov(rbx, rax);
        });
        _machine.RunToEnd();
        Assert.Equal(2UL, State.Gpr[3]);
    }

    [Fact]
    public void The_same_address_has_other_code_in_kernel_and_program()
    {
        // Both run it again and again, so that every cache knows it: 1 is the kernel's, 2 the program's.
        const ulong both = 0x200000, kernelPage = 0x90000, userPage = 0x91000;
        _machine.Map(KernelRoot, both, kernelPage);
        _machine.Map(UserRoot, both, userPage);
        _machine.Assemble(kernelPage, a =>
        {
            a.add(rbx, 1);
            a.ret();
        });
        _machine.Assemble(userPage, a =>
        {
            a.add(rbx, 0x1000);
            a.ret();
        });
        _machine.Processor.SetEntry(ParavirtualEntry.SystemCall, Text + 0x800, masksEvents: false);
        _machine.UserProgram(a =>
        {
            var loop = a.CreateLabel();
            a.xor(ebx, ebx);
            a.mov(ebp, 20);
            a.Label(ref loop);
            a.mov(eax, (uint)both);
            a.call(rax);
            a.syscall();
            a.dec(ebp);
            a.jne(loop);
            a.ud2();
        });
        _machine.Assemble(Text + 0x800, a =>
        {
            a.mov(r13, __[rsp + 16]);
            a.mov(eax, (uint)both);
            a.call(rax);
            a.push((int)Data32);
            a.push((int)UserStack);
            a.push(0x202);
            a.push((int)Code64);
            a.push(r13);
            a.push(0);
            a.push(0);
            a.push(0);
            a.push(0);
            a.mov(eax, Iret);
            a.syscall();
        });
        _machine.Expect(UD);
        Assert.Equal(20UL * 0x1001, State.Gpr[3]);
    }

    [Theory]
    [InlineData(0x200000UL)]
    [InlineData(High + 0x7F_0000)]
    public void Another_root_has_other_code(ulong address)
    {
        const ulong first = 0x90000, second = 0x91000;
        for (var page = 0UL; page < 0x100000; page += 4096)
            _machine.Map(OtherRoot, page, page);
        _machine.Map(KernelRoot, address, first);
        _machine.Map(OtherRoot, address, second);
        _machine.Assemble(first, a =>
        {
            a.add(rbx, 1);
            a.ret();
        });
        _machine.Assemble(second, a =>
        {
            a.add(rbx, 0x1000);
            a.ret();
        });
        _machine.OnCall = (call, p) => p.KernelRoot = call.Arg1;
        _machine.Program(a =>
        {
            var loop = a.CreateLabel();
            a.xor(ebx, ebx);
            a.mov(ebp, 20);
            a.mov(r12, address);
            a.Label(ref loop);
            foreach (var root in (ulong[])[OtherRoot, KernelRoot])
            {
                a.mov(edi, (uint)root);
                a.mov(eax, 1);
                a.syscall();
                a.call(r12);
            }

            a.dec(ebp);
            a.jne(loop);
        });
        _machine.RunToEnd();
        Assert.Equal(20UL * 0x1001, State.Gpr[3]);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_page_that_means_other_memory_after_a_flush(bool onlyPage)
    {
        const ulong address = High + 0x7F_0000, first = 0x90000, second = 0x91000;
        foreach (var (page, value) in (ReadOnlySpan<(ulong, int)>)[(first, 1), (second, 0x1000)])
        {
            _machine.Assemble(page, a =>
            {
                a.add(rbx, value);
                a.ret();
            });
            _machine.Write(page + 0x800, (ulong)value);
        }

        _machine.OnCall = (call, p) =>
        {
            _machine.Map(KernelRoot, address, call.Arg1);
            p.FlushTlb(onlyPage ? address : null);
            return 0;
        };
        _machine.Program(a =>
        {
            var loop = a.CreateLabel();
            a.xor(ebx, ebx);
            a.xor(esi, esi);
            a.mov(ebp, 20);
            a.mov(r12, address);
            a.Label(ref loop);
            foreach (var page in (ulong[])[first, second])
            {
                a.mov(edi, (uint)page);
                a.mov(eax, 1);
                a.syscall();
                a.call(r12);
                a.add(rsi, __[r12 + 0x800]);
            }

            a.dec(ebp);
            a.jne(loop);
        });
        _machine.RunToEnd();
        Assert.Equal((20UL * 0x1001, 20UL * 0x1001), (State.Gpr[3], State.Gpr[6]));
    }
}
