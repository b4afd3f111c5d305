using Iced.Intel;
using Microsoft.Extensions.Logging;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Tests.Boot;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Tests.Boot.PvProgram;

namespace Sharpvisor.Tests.Guests;

// Kernels that ask for answers, of our domains and of Xen's.
public sealed partial class PvProgramTests
{
    private const string XenShim = "xen-shim/xen-shim";

    [Theory]
    [EngineData]
    public async Task Pointers_that_lead_nowhere_are_errors(string engine)
    {
        var (reason, lines) = await RunAsync(engine, (p, a) => GiveBadPointers(p, a, hasGrants: true));
        Assert.Empty(lines);
        Assert.Equal(MachineExitReason.PowerOff, reason);
    }

    [GuestTheory(XenShim)]
    [InlineData("translator")]
    [Trait("Category", "Guest")]
    public async Task Pointers_that_lead_nowhere_are_errors_of_Xen_itself(string engine)
    {
        // The shim hands pointers of grant_table_op on to us, who read what Xen has there.
        var (reason, lines) = await RunInXenAsync(engine, (p, a) => GiveBadPointers(p, a, hasGrants: false));
        Assert.DoesNotContain(lines, l => l.Contains("r12: ", StringComparison.Ordinal)); // a bit for each call that took one, in R13 for each pointer
        Assert.Equal(MachineExitReason.PowerOff, reason);
    }

    private static void GiveBadPointers(PvProgram p, Assembler a, bool hasGrants)
    {
        ulong[] nowhere = [8, 0x1234560, 0x8000_0000_0000_0000, IParavirtualDomain.HoleStart + 0x100_0000_0000, IParavirtualDomain.DescriptorTables, ulong.MaxValue - 3];
        (int Number, ulong First, bool IsSecond)[] calls =
        [
            (0, 0, false), (2, 0, false), (13, 0, false), (17, 1, true), (17, 6, true), (24, 0, false), (24, 10, false), (30, 0, true), (32, 1, true), (32, 4, true), (33, 6, true), (33, 7, true), (29, 2, true), (29, 3, true), (20, 2, true), (20, 6, true), (12, 9, true), (26, 0, false), (1, 0, false),
        ];
        a.xor(r12, r12);
        a.xor(r13, r13);
        foreach (var (number, first, isSecond) in calls.Where(c => hasGrants || c.Number != 20))
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
                a.or(r12d, 1 << Array.IndexOf(calls, (number, first, isSecond)));
                a.or(r13d, 1 << Array.IndexOf(nowhere, pointer));
                a.Label(ref good);
            }
        }

        var end = a.CreateLabel();
        a.test(r12, r12);
        a.je(end);
        a.ud2();
        a.Label(ref end);
        a.nop();
    }

    [Theory]
    [EngineData]
    public async Task Answers_are_those_of_Xen(string engine)
    {
        var (reason, lines) = await RunAsync(engine, CompareAnswers, processors: 2);
        Assert.Equal(["the end"], lines);
        Assert.Equal(MachineExitReason.PowerOff, reason);
    }

    /// <summary>The same kernel in a domain of Xen itself: what is expected is what Xen says.</summary>
    [GuestTheory(XenShim)]
    [InlineData("translator")]
    [Trait("Category", "Guest")]
    public async Task Answers_are_those_of_Xen_itself(string engine)
    {
        var (reason, lines) = await RunInXenAsync(engine, CompareAnswers);
        Assert.DoesNotContain(lines, l => l.Contains("r12: ", StringComparison.Ordinal)); // a bit for each answer that is another one
        Assert.Equal(MachineExitReason.PowerOff, reason);
    }

    private static void CompareAnswers(PvProgram p, Assembler a)
    {
        const ulong noncanonical = 0x8000_0000_0000_0000, list = Address + Arguments;
        (int Number, ulong First, ulong Second, ulong Third, int Expected)[] calls =
        [
            (CallbackOp, 1, list + 8, 0, -22), // unregister SYSENTER
            (CallbackOp, 1, list, 0, 0), // NMI
            (CallbackOp, 1, list + 16, 0, -38),
            (8, 4, 0, 0, 0), (8, 8, 0, 0, -19), (8, 0, IParavirtualDomain.HoleStart, 0, -1), (8, 7, 1UL << 32, 0, -22), (8, 7, 0x2000, 0, -1), (8, 0, 0x1234, 0, 0), (9, 0, 0, 0, 0x1234), (9, 5, 0, 0, 0x400), (9, 9, 0, 0, -19),
            (21, 0, 4, 0, 0), (21, 1, 4, 0, 0), (21, 0, 77, 0, -22), (21, 2, 0, 0, -38),
            (VcpuOp, 3, 0, 0, 1), (VcpuOp, 3, 9, 0, -2), (VcpuOp, 1, 1, 0, -22), (VcpuOp, 2, 1, 0, 0), (VcpuOp, 11, 1, 0, 0), (VcpuOp, 11, 9, 0, -2),
            (25, 3, 0xFFF8, 0, 0), (25, 0, noncanonical, 0, -22), (25, 4, 0, 0, -22),
            (33, 6, list + 24, 0, -22), (33, 7, list + 24, 0, -22), (33, 99, 0, 0, -38),
            (17, 5, list, 0, 0), (2, 0, 0, 0, 0), (2, 0, 14 * 512 + 1, 0, -22), (5, 1, 0, 0, 0), (63, 0, 0, 0, -38),
        ];
        var checks = 0;
        a.xor(r12, r12);
        p.Words(4, 5, 9, 4, 0x10001);
        foreach (var (number, first, second, third, expected) in calls)
        {
            p.Call(number, first, second, third);
            Compare(rax, expected, $"{number} {first:x} {second:x}");
        }

        a.mov(rbx, __[r14 + Arguments]);
        a.mov(rax, IParavirtualDomain.HoleStart);
        a.sub(rbx, rax);
        Compare(rbx, 0, "virt_start");
        foreach (var (leaf, register, expected) in ((uint, AssemblerRegister64, int)[])[(0x40000002, rcx, 1), (0x40000004, rax, 0), (0x40000001, rax, 0x40011)])
        {
            a.mov(eax, leaf);
            a.xor(ecx, ecx);
            a.db(0x0F, 0x0B, (byte)'x', (byte)'e', (byte)'n', 0x0F, 0xA2);
            Compare(register, expected, $"cpuid {leaf:x}");
        }

        // Xen says nothing for such a domain, but shows its registers when it kills it.
        var end = a.CreateLabel();
        a.test(r12, r12);
        a.je(end);
        a.ud2();
        a.Label(ref end);
        p.Print("the end");

        void Compare(AssemblerRegister64 register, int expected, string what)
        {
            var good = a.CreateLabel();
            a.cmp(register, expected);
            a.je(good);
            a.mov(rax, 1UL << checks++);
            a.or(r12, rax);
            p.Print(what);
            a.Label(ref good);
            a.nop();
        }
    }

    /// <summary>In a domain of two processors of Xen's PV shim, which is a PVH domain of ours.</summary>
    /// <returns>Why it ended; the log, with what Xen has said.</returns>
    private static async Task<(MachineExitReason Reason, IReadOnlyList<string> Lines)> RunInXenAsync(string engine, Action<PvProgram, Assembler> code)
    {
        using var limit = new CancellationTokenSource(Limit);
        var logger = new ListLogger(LogLevel.Information);
        await using var machine = await Machine.CreateBuilder()
            .WithMemory(128 << 20)
            .WithProcessors(2)
            .WithEngine(GuestEngines.Create(engine))
            .WithXen(7, kind: MachineKind.XenPvh)
            .WithKernel(GuestCache.Open(XenShim))
            .WithCommandLine("pv-shim console=xen guest_loglvl=all")
            .WithModule(BootSource.FromBytes(Elf(code), "kernel"))
            .WithActions(new MachineActions { Reboot = RebootAction.Shutdown, Panic = PanicAction.Shutdown })
            .WithLogger(logger)
            .StartAsync(limit.Token);
        var exit = await machine.WaitForExitAsync(limit.Token);
        return (exit.Reason, logger.Lines);
    }
}
