using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Translator;
using static Iced.Intel.AssemblerRegisters;
using M = Sharpvisor.Cpu.Tests.Interpreter.BareMachine;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>
/// Short loops whose immediates change between their executions: a translator may have several copies of one, in the
/// first and in later rounds, and where flags are made again.
/// </summary>
public class ChangedLoopTests
{
    private const ulong Area = 0x200000, Hole = Area + 0x1000, Writer = 0x18000;
    private const long Forever = 1L << 40; // instructions are not counted, as in a real machine

    public static TheoryData<int> Seeds => [.. Enumerable.Range(1, 6)];

    /// <summary>Random loops end as they do on the interpreter, whoever changed them.</summary>
    [Theory]
    [MemberData(nameof(Seeds))]
    public void A_random_loop_is_executed_as_it_is_now(int seed)
    {
        var random = new Random(seed);
        using var tested = new M();
        using var reference = new M(engine: new InterpreterEngine());
        var changes = 0;
        for (var run = 0; run < 60; run++)
        {
            tested.Enter(Mode.Long);
            reference.Enter(Mode.Long);
            var code = M.Code + ((ulong)random.Next(0x3000) & ~1UL);
            var programSeed = random.Next();
            var end = tested.Assemble(code, a => LoopTests.EmitLoop(a, new Random(programSeed)));
            reference.Assemble(code, a => LoopTests.EmitLoop(a, new Random(programSeed)));
            var image = new byte[end - code];
            Assert.True(tested.Memory.TryRead(code, image));
            for (var generation = 0; generation < 6; generation++)
            {
                var stateSeed = random.Next();
                var budget = random.Next(3) == 0 ? 100_000 : Forever;
                var (vector, state, memory) = Execute(reference, code, stateSeed, 100_000);
                var actual = Execute(tested, code, stateSeed, budget);
                var what = $"seed {seed}, run {run}, generation {generation}: {Convert.ToHexString(image)}";
                Assert.Equal(vector, actual.Vector);
                for (var i = 0; i < 16; i++)
                    Assert.True(state.Gpr[i] == actual.State.Gpr[i], $"{what}: register {i} is 0x{actual.State.Gpr[i]:x}, not 0x{state.Gpr[i]:x}");
                Assert.True(state.Rip == actual.State.Rip && state.Rflags == actual.State.Rflags, $"{what}: flags 0x{actual.State.Rflags:x}, not 0x{state.Rflags:x}");
                Assert.True(memory.AsSpan().SequenceEqual(actual.Memory), $"{what}: other memory");
                changes += Change(tested, reference, code, image, random);
            }
        }

        if (tested.Cpu is TranslatorVcpu translator)
        {
            var statistics = translator.Statistics;
            Assert.True(statistics.Updated > changes / 10 && statistics.Revived > changes / 10, $"{changes} changes, {statistics.Updated} updated, {statistics.Revived} revived");
        }
    }

    /// <summary>How far a loop moves its accesses in each round changes: they stop at the end of what is mapped, each time.</summary>
    [Fact]
    public void A_loop_moves_by_another_step()
    {
        using var m = new M();
        m.Map(Area, Area);
        m.Map(Hole, 0, 0);
        m.Program(a =>
        {
            var loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(ebx);
            a.mov(__byte_ptr[rsi], bl);
            a.add(rsi, 1); // imm8
            a.jmp(loop);
        });
        var immediate = M.Code + 7;
        Assert.Equal(1, m.Read<byte>(immediate));
        foreach (byte step in (byte[])[1, 64, 1, 3, 100, 2, 127])
        {
            m.Write(immediate, step);
            m.State.Rip = M.Code;
            m.State.Activity = ActivityState.Active;
            m.Rsp = M.Stack;
            m.Rbx = 0;
            m.Rsi = Area;
            m.Run(Forever).Is(Vectors.PF, 2, M.Code + 2);
            Assert.Equal((ulong)((4095 / step) + 2), m.Rbx);
            Assert.Equal((byte)2, m.Read<byte>(Area + step));
        }
    }

    /// <summary>A loop that goes on sees it when a device stores to an immediate.</summary>
    [Theory]
    [InlineData(new byte[] { 0x83, 0xFB, 0x00, 0x75 }, 1)] // cmp ebx, 0; jne
    [InlineData(new byte[] { 0xF6, 0xC3, 0x02, 0x74 }, 3)] // test bl, 2; je
    [InlineData(new byte[] { 0x83, 0xC3, 0x00, 0x75 }, 0xFF)] // add ebx, 0; jne
    public void A_loop_that_goes_on_sees_a_new_immediate(byte[] code, byte immediate)
    {
        using var m = new M();
        m.Program(a =>
        {
            a.db(code);
            a.db((byte)-(code.Length + 1));
        });
        m.Rbx = 1;
        Assert.Equal(VcpuExit.Kicked, RunFor(m, 20, () => { }));
        Assert.Equal(VcpuExit.Halted, RunFor(m, 10_000, () => m.Write(M.Code + 2, immediate)));
    }

    private static VcpuExit RunFor(M m, int milliseconds, Action meanwhile)
    {
        m.Cpu.SetState(m.State);
        using var ended = new ManualResetEventSlim();
        var helper = new Thread(() =>
        {
            Thread.Sleep(10);
            meanwhile();
            if (!ended.Wait(milliseconds))
                m.Cpu.Kick();
        });
        helper.Start();
        var exit = m.Cpu.Run(Forever);
        ended.Set();
        helper.Join();
        m.State = m.Cpu.GetState();
        return exit;
    }

    private static (int Vector, CpuState State, byte[] Memory) Execute(M m, ulong code, int seed, long budget)
    {
        var random = new Random(seed);
        m.Enter(Mode.Long);
        var memory = new byte[4096];
        random.NextBytes(memory);
        m.Write(Area, memory);
        m.Map(Area, Area);
        m.Map(Hole, 0, 0);
        m.State.Rip = code;
        for (var i = 0; i < 16; i++)
        {
            if (i != 4)
                m.State.Gpr[i] = random.Next(3) == 0 ? (ulong)random.Next(10) : (ulong)random.NextInt64();
        }

        m.Rcx = (ulong)random.Next(2, 40);
        m.Rsi = Area + (ulong)random.Next(0x1000);
        m.Rdi = Area + 0x100 + (ulong)random.Next(0xC00);
        m.Rbp = Area + 0x100 + ((ulong)random.Next(0xC00) & ~15UL);
        m.State.Rflags = 2 | ((ulong)random.Next() & 0xCD5 & ~0x400UL);
        var stop = m.Run(budget);
        Assert.True(stop.Exit == VcpuExit.Halted, stop.ToString());
        Assert.True(m.Memory.TryRead(Area, memory));
        return (stop.Vector, m.State, memory);
    }

    /// <summary>Gives some instructions other immediates, by stores of the guest's or from outside. How many.</summary>
    private static int Change(M tested, M reference, ulong code, byte[] image, Random random)
    {
        var changes = 0;
        var byGuest = random.Next(2) == 0;
        var decoder = Decoder.Create(64, new ByteArrayCodeReader(image));
        while (decoder.IP < (ulong)image.Length)
        {
            var instruction = decoder.Decode();
            var offsets = decoder.GetConstantOffsets(instruction);
            if (instruction.FlowControl != FlowControl.Next || !offsets.HasImmediate || offsets.ImmediateSize == 0 || random.Next(3) == 0)
                continue;
            if (instruction.Op0Kind == OpKind.Register && instruction.Op0Register.GetFullRegister() == Register.RCX)
                continue; // or it might never end
            var at = (int)instruction.IP + offsets.ImmediateOffset;
            var value = image.AsSpan(at, offsets.ImmediateSize);
            random.NextBytes(value);
            if (random.Next(2) == 0)
                value[1..].Clear();
            foreach (var m in (M[])[tested, reference])
            {
                if (byGuest)
                    Store(m, code + (ulong)at, value);
                else
                    m.Write(code + (ulong)at, value.ToArray());
            }

            changes++;
        }

        return changes;
    }

    private static void Store(M m, ulong at, ReadOnlySpan<byte> value)
    {
        m.Enter(Mode.Long);
        m.Assemble(Writer, a =>
        {
            a.mov(__byte_ptr[rdi], al);
            a.hlt();
            a.mov(__word_ptr[rdi], ax);
            a.hlt();
            a.mov(__dword_ptr[rdi], eax);
            a.hlt();
        });
        m.State.Rip = Writer + (value.Length switch { 1 => 0u, 2 => 3u, _ => 7u });
        m.Rdi = at;
        for (var i = 0; i < value.Length; i++)
            m.Rax |= (ulong)value[i] << (i * 8);
        m.RunToHalt(Forever);
    }
}
