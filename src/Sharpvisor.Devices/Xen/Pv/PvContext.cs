using System.Buffers.Binary;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>The state that a processor of a paravirtual domain is started with: struct vcpu_guest_context of 64 bits.</summary>
internal sealed class PvContext
{
    public const int Length = 5168;

    private const int Flags = 512, UserRegisters = 520, Traps_ = 720, TrapSize = 16, TrapCount = 256, Ldt = 4816, GdtFrames_ = 4832, GdtFrameCount = 16, GdtEntries_ = 4960;
    private const int KernelSs = 4968, KernelSp = 4976, ControlRegisters = 4984, DebugRegisters_ = 5048, EventCallback = 5112, Assists_ = 5136, FsBase_ = 5144;
    private const ulong InKernel = 4, FailsafeDisablesEvents = 8, SyscallDisablesEvents = 16;

    public required ParavirtualRegisters Registers { get; init; }

    public required IReadOnlyList<(int Vector, TrapGate Gate)> Traps { get; init; }

    public required ulong LdtAddress { get; init; }

    public required int LdtEntries { get; init; }

    public required IReadOnlyList<ulong> GdtFrames { get; init; }

    public required int GdtEntries { get; init; }

    public required ushort KernelStackSelector { get; init; }

    public required ulong KernelStack { get; init; }

    /// <summary>Machine frames of the top tables; the user's may be 0.</summary>
    public required ulong KernelRoot { get; init; }

    public required ulong UserRoot { get; init; }

    public required IReadOnlyList<ulong> DebugRegisters { get; init; }

    /// <summary>VMASST_TYPE_* by bits.</summary>
    public required ulong Assists { get; init; }

    public required ulong EventEntry { get; init; }

    public required ulong FailsafeEntry { get; init; }

    public required ulong SystemCallEntry { get; init; }

    public required bool FailsafeMasksEvents { get; init; }

    public required bool SystemCallMasksEvents { get; init; }

    public required ulong FsBase { get; init; }

    public required ulong KernelGsBase { get; init; }

    public required ulong UserGsBase { get; init; }

    /// <returns>Null: more entries of a table than there can be.</returns>
    public static PvContext? Parse(ReadOnlySpan<byte> context)
    {
        const int mostLdtEntries = 8192, mostGdtEntries = 14 * 512;
        var ldtEntries = Word(context, Ldt + 8);
        var gdtEntries = Word(context, GdtEntries_);
        if (ldtEntries > mostLdtEntries || gdtEntries > mostGdtEntries)
            return null;
        var flags = Word(context, Flags);
        var traps = new List<(int, TrapGate)>();
        for (var i = 0; i < TrapCount; i++)
        {
            if (ParseTrap(context[(Traps_ + (i * TrapSize))..], out var vector) is { Address: not 0 } gate)
                traps.Add((vector, gate));
        }

        var frames = new ulong[GdtFrameCount];
        for (var i = 0; i < frames.Length; i++)
            frames[i] = Word(context, GdtFrames_ + (i * 8));
        var debug = new ulong[8];
        for (var i = 0; i < debug.Length; i++)
            debug[i] = Word(context, DebugRegisters_ + (i * 8));
        return new PvContext
        {
            Registers = ParseRegisters((flags & InKernel) != 0, context[UserRegisters..]),
            DebugRegisters = debug,
            Assists = Word(context, Assists_),
            Traps = traps,
            LdtAddress = Word(context, Ldt),
            LdtEntries = (int)ldtEntries,
            GdtFrames = frames,
            GdtEntries = (int)gdtEntries,
            KernelStackSelector = (ushort)Word(context, KernelSs),
            KernelStack = Word(context, KernelSp),
            KernelRoot = Word(context, ControlRegisters + (3 * 8)) >> 12,
            UserRoot = Word(context, ControlRegisters + 8) >> 12,
            EventEntry = Word(context, EventCallback),
            FailsafeEntry = Word(context, EventCallback + 8),
            SystemCallEntry = Word(context, EventCallback + 16),
            FailsafeMasksEvents = (flags & FailsafeDisablesEvents) != 0,
            SystemCallMasksEvents = (flags & SyscallDisablesEvents) != 0,
            FsBase = Word(context, FsBase_),
            KernelGsBase = Word(context, FsBase_ + 8),
            UserGsBase = Word(context, FsBase_ + 16),
        };
    }

    /// <summary>struct trap_info: vector, flags (0 to 1: privilege, 2: masks events), selector (of no use in 64 bits), address.</summary>
    public static TrapGate ParseTrap(ReadOnlySpan<byte> info, out int vector)
    {
        vector = info[0];
        return new TrapGate(Word(info, 8), info[1] & 3, (info[1] & 4) != 0);
    }

    /// <summary>struct cpu_user_regs.</summary>
    private static ParavirtualRegisters ParseRegisters(bool isKernel, ReadOnlySpan<byte> r)
    {
        const int r15 = 0, r14 = 8, r13 = 16, r12 = 24, rbp = 32, rbx = 40, r11 = 48, r10 = 56, r9 = 64, r8 = 72, rax = 80, rcx = 88, rdx = 96, rsi = 104, rdi = 112;
        const int rip = 128, cs = 136, flags = 144, rsp = 152, ss = 160, es = 168, ds = 176, fs = 184, gs = 192;
        ReadOnlySpan<int> order = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        var general = new ulong[order.Length];
        for (var i = 0; i < general.Length; i++)
            general[i] = Word(r, order[i]);
        return new ParavirtualRegisters(isKernel, general, Word(r, rip), Word(r, flags), Selector(r, cs), Selector(r, ss), Selector(r, ds), Selector(r, es), Selector(r, fs), Selector(r, gs));

        static ushort Selector(ReadOnlySpan<byte> r, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(r[offset..]);
    }

    private static ulong Word(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
