using Iced.Intel;
using Microsoft.Extensions.Logging;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Xen.Pv;
using Sharpvisor.Tests.Boot;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Tests.Boot.PvProgram;

namespace Sharpvisor.Tests.Guests;

/// <summary>Paravirtual kernels of our own in a whole machine, good ones and hostile ones, and some of them in a domain of Xen itself.</summary>
public sealed partial class PvProgramTests
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
            MakeProgram(p, 0x050F_0000_1234_B8FC); // cld; mov eax, 1234h; syscall
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
        { "a program's fault", "exception 13" },
        { "a pinned table is written", "exception 14 (error code 3)" },
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
                    case "a program's fault":
                        MakeProgram(p, 0x90FA_F4); // hlt
                        p.Return(UserText, 0xE033, rsp: UserText + 0x1FF8);
                        break;
                    case "a pinned table is written":
                        MakeProgram(p, 0x0B0F);
                        p.Place(UserTables, 0);
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
            if (words.Length == 0)
                continue;

            // Why, and where: for whoever sees only this.
            var dump = Assert.Single(lines, l => l.StartsWith("the domain is killed: processor 0: ", StringComparison.Ordinal));
            Assert.Contains(words, dump.Split('\n')[0], StringComparison.Ordinal);
            Assert.Contains($"CPU 0: in {(kind == "a program's fault" ? "a program" : "the kernel")}, ", dump, StringComparison.Ordinal);
            foreach (var part in (ReadOnlySpan<string>)["\nlast hypercall: ", "RIP=", "CR3=", "\nStack=", "\nCode="])
                Assert.Contains(part, dump, StringComparison.Ordinal);
            if (kind == "no event callback")
                Assert.Contains("last hypercall: sched_op(0x1, 0x0, 0x0, 0x0), which returned 0", dump, StringComparison.Ordinal);
        }
    }

    /// <summary>Page tables, selectors and frames that are not the domain's to give: the call fails, and the kernel goes on as if it had not been.</summary>
    [Theory]
    [EngineData]
    public async Task What_is_not_the_domain_s_is_refused(string engine)
    {
        const ulong list = Address + Arguments, foreign = PvLayout.FirstFrame - 1, beyond = 1UL << 30;
        var (reason, lines) = await RunAsync(engine, (p, a) =>
        {
            MakeProgram(p, 0x0B0F);
            var table = FrameOf(UserTables);
            foreach (var (what, words, count) in ((string, ulong[], ulong)[])
            [
                ("another's frame as a table", [0, foreign, 0], 1), ("what is no memory as a table", [3, beyond, 0], 1), ("code as a table", [3, FrameOf(0), 0], 1),
                ("another's root", [5, foreign, 0], 1), ("a root that is none", [5, FrameOf(0), 0], 1), ("a root for programs that is none", [15, FrameOf(UserCode), 0], 1),
                ("a pin that is not there", [4, FrameOf(UserCode), 0], 1), ("an LDT of Xen's", [13, IParavirtualDomain.HoleStart, 64], 1),
            ])
            {
                p.Words(words);
                Refused(what, () => p.Call(MmuExtOp, list, count, 0, 0x7FF0));
            }

            foreach (var (what, entry) in ((string, ulong)[])
            [
                ("another's frame", (foreign << 12) | 0x67), ("what is no memory", (beyond << 12) | 0x67), ("a superpage", (FrameOf(UserCode) << 12) | 0xE7), ("a table to write to", (table << 12) | 0x67),
            ])
            {
                Refused(what, () => p.Call(UpdateVaMapping, Address + Shared, entry, 2));
                p.Words((table + 3) << 12, entry);
                Refused(what + " by mmu_update", () => p.Call(1, list, 1, 0, 0x7FF0));
            }

            p.Words((foreign << 12) | 0, 0);
            Refused("a store to another's frame", () => p.Call(1, list, 1, 0, 0x7FF0));
            p.Words(foreign);
            Refused("another's frame as a GDT", () => p.Call(2, list, 512));
            p.Words(table);
            Refused("a table as a GDT", () => p.Call(2, list, 512));

            // A processor is to begin with what is no table.
            p.Place(Context + 512, 4); // VGCF_in_kernel
            p.Place(Context + 520 + 128, Address, 0xE033, 0x200, Address + SecondStack, 0xE02B);
            foreach (var root in (ulong[])[0, foreign, beyond, FrameOf(UserCode)])
            {
                p.Place(Context + 4984 + 24, root << 12);
                Refused($"a processor with root {root:x}", () => p.Call(VcpuOp, 0, 1, Address + Context));
            }

            p.Print("on");

            void Refused(string what, Action call)
            {
                var good = a.CreateLabel();
                call();
                a.test(rax, rax);
                a.js(good);
                p.Print($"{what} is taken");
                a.Label(ref good);
                a.nop();
            }
        }, processors: 2);
        Assert.Equal((MachineExitReason.PowerOff, "on"), (reason, string.Join(", ", lines)));
    }

    /// <summary>A kernel that leaves events where they are, or masks them for ever: whoever has the machine has it still.</summary>
    [Theory]
    [EngineData(false)]
    [EngineData(true)]
    public async Task Events_that_nobody_answers(string engine, bool returns)
    {
        using var limit = new CancellationTokenSource(Limit);
        var logger = new ListLogger(LogLevel.Information);
        await using var machine = await Create(engine, logger, (p, a) =>
        {
            var (start, events, forever) = (a.CreateLabel(), a.CreateLabel(), a.CreateLabel());
            a.jmp(start);
            a.Label(ref events);
            a.nop();
            if (returns)
            {
                a.pop(rcx);
                a.pop(r11);
                p.Back(); // what is pending still is, and comes at once
            }

            a.Label(ref forever);
            a.jmp(forever);
            a.Label(ref start);
            p.Register(0, events);
            p.Words(0, 0); // VIRQ_TIMER
            p.Demand(EventChannelOp, 1, Address + Arguments);
            a.mov(eax, __dword_ptr[r14 + Arguments + 8]);
            a.mov(__dword_ptr[r14 + Arguments], eax);
            p.Demand(EventChannelOp, 9, Address + Arguments);
            p.Demand(15, 1);
            p.Print("ready");
            p.Call(SchedOp, 1);
        }).StartAsync(limit.Token);
        while (!logger.Lines.Any(l => l.Contains("ready", StringComparison.Ordinal)))
            await Task.Delay(10, limit.Token);
        machine.PressPowerButton(); // nobody hears it
        for (var i = 0; i < 5; i++)
        {
            await machine.PauseAsync();
            await machine.ResumeAsync();
        }

        Assert.False(machine.Exit.IsCompleted);
        machine.Stop("the test is over");
        Assert.Equal(MachineExitReason.Stopped, (await machine.WaitForExitAsync(limit.Token)).Reason);
    }

    /// <summary>Page tables for a program, which may only be read from now on and are pinned, and its code.</summary>
    private static void MakeProgram(PvProgram p, ulong code)
    {
        const int present = 0x27, readOnly = 0x25;
        p.Place(UserTables, (FrameOf(UserTables + 0x1000) << 12) | present);
        p.Place(UserTables + 0x1000, (FrameOf(UserTables + 0x2000) << 12) | present);
        p.Place(UserTables + 0x2000 + (2 * 8), (FrameOf(UserTables + 0x3000) << 12) | present);
        p.Place(UserTables + 0x3000, (FrameOf(UserCode) << 12) | readOnly, (FrameOf(UserStack) << 12) | present);
        p.Place(UserCode, code);
        for (var page = 0; page < 4; page++)
            p.Demand(UpdateVaMapping, Address + UserTables + ((ulong)page << 12), (FrameOf(UserTables + (page << 12)) << 12) | readOnly, 2);
        p.Words(3, FrameOf(UserTables), 0, 15, FrameOf(UserTables), 0); // MMUEXT_PIN_L4_TABLE, NEW_USER_BASEPTR
        p.Demand(MmuExtOp, Address + Arguments, 2, 0, 0x7FF0);
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
        await using var machine = await Create(engine, logger, code, processors).StartAsync(limit.Token);
        var exit = await machine.WaitForExitAsync(limit.Token);
        return (exit.Reason, all ? [.. logger.Lines] : [.. logger.Lines.Where(l => l.StartsWith("guest: ", StringComparison.Ordinal)).Select(l => l[7..])]);
    }

    private static MachineBuilder Create(string engine, ListLogger logger, Action<PvProgram, Assembler> code, int processors = 1) => Machine.CreateBuilder()
        .WithMemory(32 << 20)
        .WithProcessors(processors)
        .WithEngine(GuestEngines.Create(engine))
        .WithXen(kind: MachineKind.XenPv)
        .WithKernel(BootSource.FromBytes(Elf(code), "kernel"))
        .WithActions(new MachineActions { Reboot = RebootAction.Shutdown, Panic = PanicAction.Shutdown })
        .WithLogger(logger);
}
