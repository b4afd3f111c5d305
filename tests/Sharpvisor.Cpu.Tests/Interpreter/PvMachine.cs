using System.Buffers.Binary;
using Iced.Intel;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;
using Sharpvisor.Testing.Time;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Cpu.Tests.Interpreter;

/// <summary>
/// A processor of a paravirtual domain, with a hypervisor of a few lines: the kernel ends a run by a call with a number from
/// <see cref="End"/> on, and each of its trap handlers is such a call.
/// </summary>
internal sealed class PvMachine : IDisposable, IParavirtualDomain, IHypervisor
{
    public const ulong Gdt = 0x1000, FlatSegments = 0x2000, Info = 0x3000, MachineToPhysical = 0x4000, Ldt = 0x5000, Handlers = 0x10000;
    public const ulong Text = 0x20000, Stack = 0x31000, KernelStack = 0x33000, Data = 0x40000, Table = 0x50000;
    public const ulong UserCode = 0x60000, UserStack = 0x71000, UserData = 0x72000, KernelRoot = 0x100000, UserRoot = 0x180000, OtherRoot = 0x1C0000;

    /// <summary>The kernel's addresses of the upper half: all memory once more.</summary>
    public const ulong High = 0xFFFF_FFFF_8000_0000;

    /// <summary>Selectors of the domain's own GDT, as Linux has them.</summary>
    public const ushort Code32 = 0x23, Data32 = 0x2B, Code64 = 0x33, KernelCode = 0x10;

    public const ushort FlatCode = 0xE033, FlatData = 0xE02B;

    public const uint End = 1000, Iret = 23;

    private const ulong Root4 = 0x4000, AllOfIt = 0x800000;

    private readonly MachineGate _gate = new();
    private readonly Dictionary<ulong, ulong> _next = new() { [KernelRoot] = KernelRoot + 0x1000, [UserRoot] = UserRoot + 0x1000, [OtherRoot] = OtherRoot + 0x1000 };

    public PvMachine(int processors = 1)
    {
        var errors = new GuestErrorLog(NullLogger.Instance);
        var environment = new CpuEnvironment
        {
            Memory = Memory,
            Mmio = new AddressSpace("mmio", 1UL << 48, _gate, errors),
            Ports = new AddressSpace("io", 0x10000, _gate, errors),
            Clock = new ManualClock(),
            Gate = _gate,
            Errors = errors,
            Logger = NullLogger.Instance,
            Model = CpuModel.Parse(CpuModel.DefaultName),
            ProcessorCount = processors,
            Hypervisor = this,
            Paravirtual = this,
        };
        var engine = TestEngine.Create(processors > 1 ? 8 : 0);
        Cpus = [.. Enumerable.Range(0, processors).Select(i => engine.CreateVcpu(i, environment, new ScriptedApic(), []))];
        Write(Gdt + KernelCode, 0x00AF_9B00_0000_FFFFUL); // ring 0, as Linux writes it: the hypervisor makes it ring 3
        Write(Gdt + (Code32 & ~7UL), 0x00CF_FB00_0000_FFFFUL);
        Write(Gdt + (Data32 & ~7UL), 0x00CF_F300_0000_FFFFUL);
        Write(Gdt + (Code64 & ~7UL), 0x00AF_FB00_0000_FFFFUL);
        Write(FlatSegments + 0x28, 0x00CF_F300_0000_FFFFUL);
        Write(FlatSegments + 0x30, 0x00AF_FB00_0000_FFFFUL);
        for (var page = 0UL; page < AllOfIt; page += 4096)
        {
            Map(KernelRoot, page, page);
            Map(KernelRoot, High + page, page);
        }

        foreach (var page in (ulong[])[UserCode, UserCode + 0x1000, UserStack - 0x1000, UserStack, UserData])
            Map(UserRoot, page, page);
        for (var vector = 0; vector < 256; vector++)
        {
            var number = End + (uint)vector;
            Assemble(Handlers + ((ulong)vector * 16), a =>
            {
                a.push(rax);
                a.mov(eax, number);
                a.syscall();
            });
        }

        Reset();
    }

    public GuestMemory Memory { get; } = new(16 << 20);

    public IReadOnlyList<IVcpu> Cpus { get; }

    public IParavirtualProcessor Processor => (IParavirtualProcessor)Cpus[0];

    /// <summary>The state that <see cref="Run"/> starts from, and the one it ended in.</summary>
    public CpuState State;

    /// <summary>All calls but those that end a run.</summary>
    public List<Hypercall> Calls { get; } = [];

    /// <summary>What is done at a call before it returns.</summary>
    public Func<Hypercall, IParavirtualProcessor, ulong>? OnCall { get; set; }

    /// <summary>The call that ended the run, less <see cref="End"/>: the vector of the trap; null: it did not end so.</summary>
    public int? Ended { get; private set; }

    public string? Crashed { get; private set; }

    /// <summary>Whether stores to <see cref="Table"/> are let through, and whether they stay.</summary>
    public bool IsTable { get; set; }

    public bool TakesEntries { get; set; } = true;

    public int TableWrites { get; private set; }

    public bool ShowsIoPrivilege { get; set; }

    /// <summary>Counts all changes of tables, as the processor takes it for each kind of change.</summary>
    public long Changes { get; set; }

    long IParavirtualDomain.TableGeneration => Changes;

    long IParavirtualDomain.CodeGeneration => Changes;

    long IParavirtualDomain.RootGeneration(ulong root) => Changes;

    /// <summary>The frame that the kernel was entered with: RCX, R11, [error], RIP, CS, RFLAGS, RSP, SS.</summary>
    public ulong[] Frame(bool hasError = false) => [.. Enumerable.Range(0, hasError ? 8 : 7).Select(i => ReadLinear(State.Gpr[4] + 8 + ((ulong)i * 8)))];

    public byte Mask
    {
        get => Read<byte>(Info + 1);
        set => Write(Info + 1, value);
    }

    public byte Pending
    {
        get => Read<byte>(Info);
        set => Write(Info, value);
    }

    public void Dispose()
    {
        foreach (var cpu in Cpus)
            cpu.Dispose();
        Memory.Dispose();
    }

    public void Reset()
    {
        foreach (var cpu in Cpus)
            cpu.Reset();
        State = Cpus[0].GetState();
        (State.Rip, State.Gpr[4], State.Cr3) = (Text, Stack, KernelRoot);
        var p = Processor;
        p.UserRoot = UserRoot;
        p.SetKernelStack(FlatData, KernelStack);
        for (var vector = 0; vector < 256; vector++)
            p.SetTrap(vector, new TrapGate(Handlers + ((ulong)vector * 16), 0, false));
    }

    public T Read<T>(ulong physical) where T : unmanaged
    {
        Assert.True(Memory.TryRead(physical, out T value));
        return value;
    }

    public void Write<T>(ulong physical, T value) where T : unmanaged => Assert.True(Memory.TryWrite(physical, value));

    /// <summary>By the tables of whoever is at work.</summary>
    public ulong ReadLinear(ulong linear)
    {
        Span<byte> bytes = stackalloc byte[8];
        Assert.True(Processor.TryRead(linear, bytes));
        return BinaryPrimitives.ReadUInt64LittleEndian(bytes);
    }

    public ulong Assemble(ulong at, Action<Assembler> code, int bitness = 64)
    {
        var assembler = new Assembler(bitness);
        code(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Assert.True(Memory.TryWrite(at, stream.ToArray()));
        return at + (ulong)stream.Length;
    }

    /// <summary>Maps a page without the user's bit, which counts for nothing.</summary>
    /// <returns>The address of the entry.</returns>
    public ulong Map(ulong root, ulong linear, ulong physical, ulong flags = Pte.Present | Pte.Write)
    {
        var table = root;
        for (var shift = 39; shift > 12; shift -= 9)
        {
            var entry = table + (((linear >> shift) & 511) * 8);
            if ((Read<ulong>(entry) & Pte.Present) == 0)
            {
                Write(entry, _next[root] | Pte.Present | Pte.Write);
                _next[root] += 0x1000;
            }

            table = Read<ulong>(entry) & ~0xFFFUL;
        }

        var last = table + (((linear >> 12) & 511) * 8);
        Write(last, physical | flags);
        Changes++;
        return last;
    }

    /// <summary>Ends the run from the kernel; not from a program.</summary>
    public static void Done(Assembler a)
    {
        a.mov(eax, End + 999);
        a.syscall();
    }

    /// <summary>Has the kernel return to a program; its frame is on the stack.</summary>
    public static void Return(Assembler a, ulong rip, ulong cs = Code64, ulong flags = 0x202, ulong rsp = UserStack, ulong ss = Data32, ulong how = 0)
    {
        foreach (var value in (ulong[])[ss, rsp, flags, cs, rip, how, 0x1C1C, 0x1B1B, 0x1A1A])
        {
            a.mov(rax, value);
            a.push(rax);
        }

        a.mov(eax, Iret);
        a.syscall();
    }

    /// <summary>Assembles the kernel's program, with an end.</summary>
    public void Program(Action<Assembler> code) => Assemble(Text, a =>
    {
        code(a);
        Done(a);
    });

    /// <summary>A program in user mode, which the kernel goes to at once.</summary>
    public void UserProgram(Action<Assembler> code, int bitness = 64, ulong flags = 0x202)
    {
        Assemble(UserCode, code, bitness);
        Program(a => Return(a, UserCode, bitness == 64 ? Code64 : Code32, flags));
    }

    public PvMachine Run(long budget = 10_000)
    {
        Cpus[0].SetState(State);
        return Continue(budget);
    }

    public PvMachine Continue(long budget = 10_000)
    {
        Go(budget);
        return this;
    }

    /// <summary>Goes on from where it is.</summary>
    public VcpuExit Go(long budget = 10_000)
    {
        (Ended, Crashed) = (null, null);
        var exit = Cpus[0].Run(budget);
        State = Cpus[0].GetState();
        return exit;
    }

    /// <summary>Runs, and demands that it ended in this handler.</summary>
    public PvMachine Expect(int vector)
    {
        Run();
        Assert.True(Ended == vector, $"expected {vector}, got {Ended} {Crashed} at {State.Rip:x}");
        return this;
    }

    public void RunToEnd() => Expect(999);

    public void RunToCrash(string words)
    {
        Run();
        Assert.Contains(words, Crashed, StringComparison.Ordinal);
    }

    void IHypervisor.SetActivity(int processor, ProcessorActivity activity)
    {
        // Nobody asks here what time it took.
    }

    (uint Eax, uint Ebx, uint Ecx, uint Edx) IHypervisor.QueryCpuid(int processor, uint leaf, uint subleaf) => (leaf, 0x6578, subleaf, 0);

    HypercallResult IHypervisor.Call(in Hypercall call, ILinearMemory memory)
    {
        if (call.Number >= End)
        {
            Ended = (int)(call.Number - End);
            return new HypercallResult(0, After: AfterHypercall.Offline);
        }

        Calls.Add(call);
        return new HypercallResult(call.Number == Iret ? ((IParavirtualProcessor)memory).ReturnFromTrap() : OnCall?.Invoke(call, (IParavirtualProcessor)memory) ?? 0);
    }

    ulong IParavirtualDomain.VcpuInfo(int processor) => Info + ((ulong)processor * 64);

    bool IParavirtualDomain.TryTranslateHole(int processor, ulong linear, out ulong physical)
    {
        const ulong flatPage = 14 * 4096;
        var offset = linear - IParavirtualDomain.DescriptorTables;
        var inTable = linear - IParavirtualDomain.MachineToPhysical;
        physical = (linear & 0xFFF) | (inTable < 4096 ? MachineToPhysical : (offset & 0xF000) == flatPage ? FlatSegments : (offset & 0xF000) == 0 ? Gdt : Root4 + 0x4000);
        return inTable < 4096 || offset < IParavirtualDomain.DescriptorTableLength * (ulong)Cpus.Count;
    }

    bool IParavirtualDomain.BeginTableWrite(ulong physical)
    {
        if (!IsTable || (physical & ~0xFFFUL) != Table)
            return false;
        _before = new byte[4096];
        Assert.True(Memory.TryRead(Table, _before));
        return true;
    }

    bool IParavirtualDomain.EndTableWrite(IParavirtualProcessor processor)
    {
        TableWrites++;
        if (!TakesEntries)
            Memory.TryWrite(Table, _before);
        return TakesEntries;
    }

    bool IParavirtualDomain.TrySetRoot(IParavirtualProcessor processor, ulong root)
    {
        if (root != OtherRoot)
            return false;
        processor.KernelRoot = root;
        return true;
    }

    bool IParavirtualDomain.StartProcessor(IParavirtualProcessor processor) => Starter?.Invoke(processor) == true;

    public Func<IParavirtualProcessor, bool>? Starter { get; set; }

    void IParavirtualDomain.Crash(int processor, string reason, string state) => Crashed = $"{reason}\n{state}";

    private byte[] _before = [];
}
