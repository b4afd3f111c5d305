using Iced.Intel;
using Microsoft.Extensions.Logging;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Tests.Boot;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Tests.Boot.PvProgram;

namespace Sharpvisor.Tests.Guests;

/// <summary>Paravirtual kernels of our own in a whole machine: good ones and hostile ones.</summary>
public sealed class PvProgramTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);

    [Theory]
    [EngineData(0, MachineExitReason.PowerOff)]
    [EngineData(1, MachineExitReason.Reset)]
    [EngineData(3, MachineExitReason.GuestPanic)]
    public async Task Shutdown_codes(string engine, int reason, MachineExitReason expected) =>
        Assert.Equal(expected, (await RunAsync(engine, (p, _) => p.ShutDown(reason))).Reason);

    [Theory]
    [EngineData]
    public async Task It_has_traps_programs_events_and_a_second_processor(string engine)
    {
        var (reason, lines) = await RunAsync(engine, (p, a) =>
        {
            var (start, fault, interrupt, call, called, failsafe, events, second) =
                (a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel());
            a.jmp(start);

            a.Label(ref fault);
            a.pop(rcx);
            a.pop(r11);
            a.pop(rbx); // the error code
            a.mov(rbp, __[r14 + Shared + 16]); // vcpu_info.arch.cr2
            a.mov(__[rsp], r15);
            p.Back();

            a.Label(ref interrupt);
            p.Print("an interrupt");
            a.pop(rcx);
            a.pop(r11);
            p.Back();

            a.Label(ref failsafe);
            p.Print("failsafe");
            p.ShutDown(3);

            a.Label(ref events);
            a.mov(__byte_ptr[r14 + Shared], 0);
            a.mov(__qword_ptr[r14 + Shared + 8], 0);
            a.mov(__qword_ptr[r14 + Shared + 0x800], 0);
            p.Print("an event");
            a.pop(rcx);
            a.pop(r11);
            p.Back();

            a.Label(ref second);
            a.mov(r14, Address);
            p.Print("the second processor");
            a.@lock.inc(__dword_ptr[r14 + Flag + 8]);
            p.Call(VcpuOp, 2, 1);
            p.Print("it is up again");
            a.@lock.inc(__dword_ptr[r14 + Flag + 8]);
            p.Call(VcpuOp, 2, 1);

            a.Label(ref start);
            p.Print("a kernel");
            a.mov(rbx, __[r14 + Flag]);
            a.mov(rsi, __[rbx + 40]); // shared_info
            a.or(rsi, 0x67);
            a.mov(rdi, Address + Shared);
            a.mov(edx, 2); // UVMF_INVLPG
            a.mov(eax, UpdateVaMapping);
            a.syscall();

            p.SetTrap(0, 14, 0, fault);
            p.SetTrap(1, 0x77, 3, interrupt);
            p.Place(Traps + 32, 0, 0);
            p.Demand(0, Address + Traps);
            p.Register(0, events);
            p.Register(1, failsafe);
            p.Register(2, call);
            p.Demand(3, 0xE02B, Address + Stack);

            // A page fault, and where.
            var behind = a.CreateLabel();
            var bad = a.CreateLabel();
            a.lea(r15, __[behind]);
            a.mov(eax, 0x1234560);
            a.mov(rax, __[rax]);
            a.Label(ref behind);
            a.cmp(rbp, 0x1234560);
            a.jne(bad);
            a.test(rbx, rbx); // no write, no user, not present
            a.jne(bad);
            p.Print("a page fault");
            a.@int(0x77);

            // A list of calls, of which one fails.
            p.Words(ConsoleIo, 99, 0, 0, Address + Texts);
            p.Place(Arguments + 64, 63, 99);
            p.Place(Arguments + 128, 17, 99, 7, 0);
            p.Demand(MultiCall, Address + Arguments, 3);
            a.cmp(__qword_ptr[r14 + Arguments + 8], 0);
            a.jne(bad);
            a.cmp(__qword_ptr[r14 + Arguments + 64 + 8], -38);
            a.jne(bad);
            a.cmp(__qword_ptr[r14 + Arguments + 128 + 8], 4096);
            a.jne(bad);
            p.Print("multicall");

            // A program: its tables are filled, then may only be read, then are what they are.
            const int present = 0x27, readOnly = 0x25;
            p.Place(UserTables, (FrameOf(UserTables + 0x1000) << 12) | present);
            p.Place(UserTables + 0x1000, (FrameOf(UserTables + 0x2000) << 12) | present);
            p.Place(UserTables + 0x2000 + (2 * 8), (FrameOf(UserTables + 0x3000) << 12) | present);
            p.Place(UserTables + 0x3000, (FrameOf(UserCode) << 12) | readOnly, (FrameOf(UserStack) << 12) | present);
            p.Place(UserCode, 0x050F_0000_1234_B8FC, 0x0B0F); // cld; mov eax, 1234h; syscall; ud2
            for (var page = 0; page < 4; page++)
                p.Demand(UpdateVaMapping, Address + UserTables + ((ulong)page << 12), (FrameOf(UserTables + (page << 12)) << 12) | readOnly, 2);
            p.Words(3, FrameOf(UserTables), 0, 15, FrameOf(UserTables), 0); // MMUEXT_PIN_L4_TABLE, NEW_USER_BASEPTR
            p.Demand(MmuExtOp, Address + Arguments, 2, 0, 0x7FF0);
            p.Return(UserText, 0xE033, rsp: UserText + 0x1FF8);
            a.Label(ref call);
            a.cmp(eax, 0x1234);
            a.je(called);
            a.Label(ref bad);
            p.Print("bad");
            p.ShutDown(3);
            a.Label(ref called);
            a.cmp(__word_ptr[rsp + 24], 0xE033);
            a.jne(bad);
            p.Print("a system call");

            // VIRQ_TIMER, which is over at once.
            p.Words(0, 0);
            p.Demand(EventChannelOp, 1, Address + Arguments);
            a.mov(eax, __dword_ptr[r14 + Arguments + 8]);
            a.mov(__dword_ptr[r14 + Arguments], eax);
            p.Demand(EventChannelOp, 9, Address + Arguments);
            p.Demand(15, 1);
            p.Demand(SchedOp, 1);
            p.Print("on");

            // Another processor.
            p.Place(Context + 512, 4); // VGCF_in_kernel
            a.lea(rax, __[second]);
            a.mov(__[r14 + Context + 520 + 128], rax);
            p.Place(Context + 520 + 136, 0xE033, 0x200, Address + SecondStack, 0xE02B);
            a.mov(rax, cr3);
            a.mov(__[r14 + Context + 4984 + 24], rax);
            p.Demand(VcpuOp, 0, 1, Address + Context);
            foreach (var expected in (int[])[1, 2])
            {
                var again = a.CreateLabel();
                p.Demand(VcpuOp, 1, 1);
                a.Label(ref again);
                p.Call(SchedOp); // yield
                a.cmp(__dword_ptr[r14 + Flag + 8], expected);
                a.jne(again);
                var up = a.CreateLabel();
                a.Label(ref up);
                p.Call(VcpuOp, 3, 1);
                a.test(rax, rax);
                a.jne(up);
            }

            p.Call(VcpuOp, 0, 1, Address + Context);
            a.cmp(rax, -17); // EEXIST
            a.jne(bad);
            p.Print("the end");
        }, processors: 2);
        Assert.Equal(["a kernel", "a page fault", "an interrupt", "multicall", "a system call", "an event", "on", "the second processor", "it is up again", "the end"], lines);
        Assert.Equal(MachineExitReason.PowerOff, reason);
    }

    public static TheoryData<string, string> Ends => new()
    {
        { "no handler", "exception 6" },
        { "no stack", "does not fit on the kernel's stack" },
        { "stack in the hole", "does not fit on the kernel's stack" },
        { "no user tables", "no page tables for any" },
        { "bad selector", "no failsafe callback" },
        { "return to nowhere", "exception 14" },
        { "no frame", "a stack that can't be read" },
        { "no event callback", "an event came before" },
        { "last processor", "" },
    };

    [Theory]
    [MemberData(nameof(Ends))]
    public async Task A_kernel_that_can_t_go_on(string kind, string words)
    {
        foreach (var engine in GuestEngines.Names)
        {
            var (reason, lines) = await RunAsync(engine, (p, a) =>
            {
                switch (kind)
                {
                    case "no handler":
                        a.ud2();
                        break;
                    case "no stack" or "stack in the hole":
                        var handler = a.CreateLabel();
                        p.SetTrap(0, 6, 0, handler);
                        p.Place(Traps + 16, 0, 0);
                        p.Demand(0, Address + Traps);
                        a.mov(rsp, kind == "no stack" ? 0 : IParavirtualDomain.DescriptorTables + 0x1000);
                        a.Label(ref handler);
                        a.ud2();
                        break;
                    case "no user tables":
                        p.Return(UserText, 0xE033);
                        break;
                    case "bad selector":
                        p.Return(Address, 0x1230);
                        break;
                    case "return to nowhere":
                        p.Return(0x1000, 0xE030);
                        break;
                    case "no frame":
                        a.mov(esp, 0x1000);
                        a.mov(eax, Iret);
                        a.syscall();
                        break;
                    case "no event callback":
                        p.Words(0, 0);
                        p.Demand(EventChannelOp, 1, Address + Arguments);
                        a.mov(eax, __dword_ptr[r14 + Arguments + 8]);
                        a.mov(__dword_ptr[r14 + Arguments], eax);
                        p.Demand(EventChannelOp, 9, Address + Arguments);
                        p.Demand(15, 1);
                        p.Call(SchedOp, 1);
                        break;
                    default:
                        p.Call(VcpuOp, 2, 0);
                        break;
                }
            }, all: true);
            Assert.Equal(words.Length == 0 ? MachineExitReason.PowerOff : MachineExitReason.GuestPanic, reason);
            if (words.Length > 0)
                Assert.Contains(lines, l => l.Contains(words, StringComparison.Ordinal) && l.Contains("RIP=", StringComparison.Ordinal));
        }
    }

    [Theory]
    [EngineData]
    public async Task Pointers_that_lead_nowhere_are_errors(string engine)
    {
        ulong[] nowhere = [8, 0x1234560, 0x8000_0000_0000_0000, IParavirtualDomain.HoleStart + 0x100_0000_0000, IParavirtualDomain.DescriptorTables, ulong.MaxValue - 3];
        (int Number, ulong First, bool IsSecond)[] calls =
        [
            (0, 0, false), (2, 0, false), (13, 0, false), (17, 1, true), (17, 6, true), (24, 0, false), (24, 10, false), (30, 0, true), (32, 1, true), (32, 4, true), (33, 6, true), (33, 7, true), (29, 2, true), (29, 3, true), (20, 2, true), (20, 6, true), (12, 9, true), (26, 0, false), (1, 0, false),
        ];
        var (reason, lines) = await RunAsync(engine, (p, a) =>
        {
            foreach (var (number, first, isSecond) in calls)
            {
                foreach (var pointer in nowhere)
                {
                    var good = a.CreateLabel();
                    if (isSecond)
                        p.Call(number, first, pointer, 1);
                    else if (number == 24)
                        p.Call(number, first, 0, pointer);
                    else
                        p.Call(number, pointer, 1, 0, 0x7FF0);
                    a.test(rax, rax);
                    a.js(good);
                    p.Print($"{number} {first} {pointer:x} is taken");
                    a.Label(ref good);
                }
            }
        });
        Assert.Empty(lines);
        Assert.Equal(MachineExitReason.PowerOff, reason);
    }

    /// <summary>Hypercalls of numbers, pointers to numbers, and frames at random: the domain ends somehow, the machine lives.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    [InlineData(6)]
    public async Task Random_hypercalls(int seed)
    {
        const int count = 30_000, table = Shared, scratch = Context;
        ulong[] values =
        [
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 0x7FF0, 64, Address + scratch, Address + scratch + 8, Address + scratch + 64, Address + UserTables, IParavirtualDomain.HoleStart, 0x8000_0000_0000_0000,
            FrameOf(UserTables), FrameOf(UserTables + 0x1000), FrameOf(UserCode), (FrameOf(UserTables) << 12) | 0x67, (FrameOf(UserTables) << 12) | 0x25, FrameOf(UserTables) << 12, PvKernel.FrameListAt, uint.MaxValue, ulong.MaxValue, 0x100,
        ];
        Assert.Equal(32, values.Length);
        var (reason, _) = await RunAsync("translator", (p, a) =>
        {
            var (loop, again, fill) = (a.CreateLabel(), a.CreateLabel(), a.CreateLabel());
            p.Place(table, values);
            a.mov(r13, 0x9E3779B97F4A7C15UL * (ulong)seed);
            a.mov(ebp, count);
            a.Label(ref loop);
            a.xor(ebx, ebx);
            a.Label(ref fill);
            Next(rax);
            a.mov(__[r14 + rbx * 8 + scratch], rax);
            a.inc(ebx);
            a.cmp(ebx, 12);
            a.jne(fill);
            foreach (var register in (AssemblerRegister64[])[rdi, rsi, rdx, r10, r8])
                Next(register);
            a.Label(ref again);
            Random();
            a.mov(rax, r13);
            a.shr(rax, 40);
            a.and(eax, 63);
            a.cmp(eax, Iret);
            a.je(again);
            a.cmp(eax, SchedOp);
            a.je(again);
            a.cmp(eax, 37); // with domctl and its like there is nothing
            a.ja(again);
            a.syscall();
            a.mov(rdi, r13);
            a.dec(ebp);
            a.jne(loop);

            void Random()
            {
                a.mov(rcx, 6364136223846793005);
                a.imul(r13, rcx);
                a.mov(rcx, 1442695040888963407);
                a.add(r13, rcx);
            }

            void Next(AssemblerRegister64 register)
            {
                Random();
                a.mov(r12, r13);
                a.shr(r12, 45);
                a.and(r12d, 31);
                a.mov(register, __[r14 + r12 * 8 + table]);
            }
        });
        Assert.Contains(reason, (MachineExitReason[])[MachineExitReason.PowerOff, MachineExitReason.GuestPanic]);
    }

    /// <returns>Why it ended; what the kernel has said, or (<paramref name="all"/>) all lines of the log.</returns>
    private static async Task<(MachineExitReason Reason, IReadOnlyList<string> Lines)> RunAsync(string engine, Action<PvProgram, Assembler> code, int processors = 1, bool all = false)
    {
        using var limit = new CancellationTokenSource(Limit);
        var logger = new ListLogger(LogLevel.Information);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(32 << 20)
            .WithProcessors(processors)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(kind: MachineKind.XenPv)
            .WithKernel(BootSource.FromBytes(Elf(code), "kernel"))
            .WithActions(new MachineActions { Reboot = RebootAction.Shutdown, Panic = PanicAction.Shutdown })
            .WithLogger(logger)
            .StartAsync(limit.Token);
        var exit = await machine.WaitForExitAsync(limit.Token);
        return (exit.Reason, all ? [.. logger.Lines] : [.. logger.Lines.Where(l => l.StartsWith("guest: ", StringComparison.Ordinal)).Select(l => l[7..])]);
    }
}
