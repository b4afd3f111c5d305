// ORC, by which Linux unwinds its own stacks (Documentation/arch/x86/orc-unwinder.rst, arch/x86/include/asm/orc_types.h):
// a sorted table of addresses, 32 bits each and relative to themselves, and beside it a table of entries of 6 bytes:
//
//   sp_offset, bp_offset   16 bits each
//   bits 0 to 3            the register that the caller's stack pointer is counted from
//   bits 4 to 7            the one that its RBP is found by
//   bits 8 and up          the kind of frame: two bits up to 6.3 (call, registers, IRET frame), followed by "signal"
//                          (6.3 only) and "end"; since 6.4 three bits (undefined, end, call, registers, IRET frame)
//                          and "signal"
//
// Which of the two it is shows by what most entries are: calls. Leaves out kernels that number the registers anew.
using System.Buffers.Binary;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Debugging.Stacks;

/// <summary>What a frame's address is counted from.</summary>
internal enum OrcRegister
{
    Undefined = 0,
    PreviousSp = 1,
    Dx = 2,
    Di = 3,
    Bp = 4,
    Sp = 5,
    R10 = 6,
    R13 = 7,
    BpIndirect = 8,
    SpIndirect = 9,
}

/// <summary>What lies where the frame ends.</summary>
internal enum OrcType
{
    Undefined,
    EndOfStack,

    /// <summary>A return address.</summary>
    Call,

    /// <summary>struct pt_regs.</summary>
    Registers,

    /// <summary>RIP, CS, RFLAGS, RSP and SS, as an interrupt pushes them.</summary>
    InterruptFrame,
}

/// <summary>One entry.</summary>
internal readonly record struct OrcEntry(short SpOffset, short BpOffset, OrcRegister SpRegister, OrcRegister BpRegister, OrcType Type)
{
    /// <summary>Where nothing is known: a frame with a frame pointer.</summary>
    public static OrcEntry FramePointer => new(16, -16, OrcRegister.Bp, OrcRegister.PreviousSp, OrcType.Call);
}

/// <summary>The entries of the kernel, or of a module.</summary>
/// <param name="Addresses">Linear address of the table of addresses.</param>
/// <param name="Entries">That of the entries.</param>
internal sealed record OrcTable(ulong Addresses, ulong Entries, int Count)
{
    private const int EntrySize = 6, SampledEntries = 512, MaximumCount = 1 << 24;

    private bool? _hasNewTypes;
    private bool _isKnown = true;

    public static OrcTable OfKernel(SymbolTable symbols) =>
        symbols.TryGetAddress("__start_orc_unwind_ip", out var addresses) &&
        symbols.TryGetAddress("__stop_orc_unwind_ip", out var end) &&
        symbols.TryGetAddress("__start_orc_unwind", out var entries) &&
        (end - addresses) / 4 is var count and > 0 and < MaximumCount
            ? new OrcTable(addresses, entries, (int)count)
            : new OrcTable(0, 0, 0);

    /// <summary>The entry of the last address that is not above.</summary>
    /// <param name="kernel">The kernel's own table, which shows the format of all.</param>
    public OrcEntry? Find(LinearMemory memory, ulong address, OrcTable kernel)
    {
        if (Count is <= 0 or > MaximumCount || !kernel.LearnFormat(memory))
            return null;
        int low = 0, high = Count;
        while (low < high)
        {
            var middle = (low + high) / 2;
            if (AddressOf(memory, middle) is not { } at)
                return null;
            if (at <= address)
                low = middle + 1;
            else
                high = middle;
        }

        Span<byte> entry = stackalloc byte[EntrySize];
        if (low == 0 || memory.Read(Entries + ((ulong)(low - 1) * EntrySize), entry) < EntrySize)
            return null;
        var flags = BinaryPrimitives.ReadUInt16LittleEndian(entry[4..]);
        return new OrcEntry(
            BinaryPrimitives.ReadInt16LittleEndian(entry),
            BinaryPrimitives.ReadInt16LittleEndian(entry[2..]),
            (OrcRegister)(flags & 15),
            (OrcRegister)((flags >> 4) & 15),
            TypeOf(flags, kernel._hasNewTypes == true));
    }

    private static OrcType TypeOf(ushort flags, bool isNew)
    {
        if (isNew)
            return (OrcType)((flags >> 8) & 7);
        if ((flags & 15) == 0)
            return (flags >> 10) == 0 ? OrcType.Undefined : OrcType.EndOfStack;
        return ((flags >> 8) & 3) switch
        {
            0 => OrcType.Call,
            1 => OrcType.Registers,
            2 => OrcType.InterruptFrame,
            _ => OrcType.Undefined,
        };
    }

    /// <summary>Looks at some entries all over the table.</summary>
    private bool LearnFormat(LinearMemory memory)
    {
        if (_hasNewTypes is not null)
            return _isKnown;
        int old = 0, recent = 0, bySp = 0, seen = 0;
        Span<byte> entry = stackalloc byte[EntrySize];
        for (var i = 0; i < SampledEntries && Count > 0; i++)
        {
            if (memory.Read(Entries + ((ulong)((long)Count * i / SampledEntries) * EntrySize), entry) < EntrySize)
                continue;
            var flags = BinaryPrimitives.ReadUInt16LittleEndian(entry[4..]);
            seen++;
            if ((flags & 15) != (int)OrcRegister.Sp)
                continue;
            bySp++;
            if (((flags >> 8) & 7) == (int)OrcType.Call)
                recent++;
            else if (((flags >> 8) & 3) == 0)
                old++;
        }

        _hasNewTypes = recent > old;
        return _isKnown = bySp * 4 >= seen && seen > 0;
    }

    private ulong? AddressOf(LinearMemory memory, int index)
    {
        var place = Addresses + ((ulong)index * 4);
        return memory.TryRead(place, out int relative) ? place + (ulong)(long)relative : null;
    }
}
