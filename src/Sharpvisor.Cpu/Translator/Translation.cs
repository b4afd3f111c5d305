using Iced.Intel;
using Sharpvisor.Cpu.Decoding;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Host code for a run of guest instructions that is entered at its start and may be left at several places.</summary>
internal sealed unsafe class Translation
{
    /// <summary>Guest-physical address of the first byte.</summary>
    public required ulong Physical { get; init; }

    /// <summary>The page that the only instruction runs over into; all ones if none does.</summary>
    public ulong SecondPage { get; init; } = ulong.MaxValue;

    /// <summary>What the code depends on, see <see cref="TranslationKey"/>.</summary>
    public required uint Key { get; init; }

    /// <summary>By which a decoded block refers to it, until all are dropped.</summary>
    public int Number { get; set; }

    /// <summary>Bytes of guest code, from the first to the end of the last.</summary>
    public int Length { get; set; }

    public int Instructions { get; set; }

    /// <summary>Instructions that may do something else, or be seen from outside, when they are executed twice.</summary>
    public bool IsRepeatable { get; set; } = true;

    /// <summary>Arithmetic flags that one of the instructions leaves undefined.</summary>
    public ulong UndefinedFlags { get; set; }

    /// <summary>The register map at the entries.</summary>
    public byte Map { get; set; }

    /// <summary>Entry with the guest's flags in the host's.</summary>
    public ulong EntryWithFlags { get; set; }

    /// <summary>Entry with the flags in <see cref="State.TranslatorContext.SavedFlags"/>.</summary>
    public ulong Entry { get; set; }

    /// <summary>The same, for the canonical register map: what jump entries lead to.</summary>
    public ulong CanonicalEntry { get; set; }

    /// <summary>Where the second and later rounds of a block that jumps to itself begin, and the way out from there; or zero.</summary>
    public ulong LoopEntry { get; set; }

    public ulong LoopExit { get; set; }

    /// <summary>Where the code ends.</summary>
    public ulong End { get; set; }

    /// <summary>The exit at the head: attention, or a stale translation.</summary>
    public int HeadExit { get; set; }

    /// <summary>Direct exits of others that lead here.</summary>
    public List<int> Incoming { get; } = [];

    /// <summary>Guest code has changed, or may have: not to be entered before it has been looked at again.</summary>
    public bool Stale { get; set; }

    /// <summary>The bytes that it was made of.</summary>
    public byte* Bytes { get; set; }

    /// <summary>Immediates of the guest's that are the host's too, in order.</summary>
    public ImmediateField* Fields { get; set; }

    public int FieldCount { get; set; }

    /// <summary>For each byte 0 in such an immediate, else FFh; made when it is needed first.</summary>
    public byte[]? FixedBytes { get; set; }

    /// <summary>While it is stale: what the code at <see cref="Entry"/> and at <see cref="LoopEntry"/> was.</summary>
    public ulong EntryCode { get; set; }

    public ulong LoopCode { get; set; }

    /// <summary>Accesses that could not use their group.</summary>
    public int GroupFailures { get; set; }

    /// <summary>How often the head's check for attention led out.</summary>
    public int Samples { get; set; }

    public ulong PageOffset => Physical & 0xFFF;
}

/// <summary>What a translation depends on besides its bytes.</summary>
internal static class TranslationKey
{
    /// <summary>The bits of <see cref="BlockMode"/>.</summary>
    public const uint ModeMask = 0xFF;

    /// <summary>Which array of the TLB, in bits 8 and 9.</summary>
    public const int KindShift = 8;

    public const uint Kernel = 1 << 10;

    /// <summary>Each block counts its instructions against the budget.</summary>
    public const uint Counted = 1 << 11;

    /// <summary>SSE and AVX instructions can simply be executed, in bits 12 and 13.</summary>
    public const int VectorShift = 12;

    /// <summary>
    /// Not all of the page that the block lies in is within the code segment, or branches may wrap round there: each way
    /// out is checked by where it leads from there.
    /// </summary>
    public const uint Edge = 1 << 14;
}

/// <summary>Ways out of generated code.</summary>
internal enum ExitKind : byte
{
    /// <summary>At the head of a block, before anything: attention, or it is stale.</summary>
    Head,

    /// <summary>A jump to a known place in the same page, not linked yet.</summary>
    Direct,

    /// <summary>A jump to a known place in another page: whether it is mapped as before has to be checked.</summary>
    Far,

    /// <summary>A jump to the address in T0 that is not in the jump cache.</summary>
    Indirect,

    /// <summary>An access slot has another page, and the TLB does not have the right one.</summary>
    Access,

    /// <summary>The interpreter has to go on from here.</summary>
    Interpret,

    /// <summary>The interpreter executes one instruction; then goes on behind it.</summary>
    Fallback,
}

/// <summary>What is known about one way out. There are many: addresses are those of memory below 2 GiB, in 32 bits.</summary>
internal unsafe struct ExitInfo
{
    public ExitKind Kind;

    /// <summary>Register map at the exit.</summary>
    public byte Map;

    /// <summary>Direct: the flags are in the host's where the jump is.</summary>
    public bool FlagsInHost;

    /// <summary>Access: the access at the check writes; the slot has to allow writing.</summary>
    public bool Writes, NeedsWrite;

    /// <summary>Access: a fault has to be raised by the interpreter, which knows the order of several accesses.</summary>
    public bool FaultInterpreted;

    /// <summary>Fallback: the flags are looked at or changed.</summary>
    public bool UsesFlags;

    /// <summary>Access: what the operand's address must be a multiple of.</summary>
    public byte Alignment;

    /// <summary>Fallback: the instruction.</summary>
    public Mnemonic Mnemonic;

    private uint _resume, _patch, _stub, _slot;

    public Translation Block;

    /// <summary>Offset of the instruction, or of the target, from the start of the page.</summary>
    public int Offset;

    /// <summary>Where to go on.</summary>
    public ulong Resume
    {
        readonly get => _resume;
        set => _resume = (uint)value;
    }

    /// <summary>Direct: end of the rel32 to patch.</summary>
    public ulong Patch
    {
        readonly get => _patch;
        set => _patch = (uint)value;
    }

    /// <summary>Direct: where it leads when not linked.</summary>
    public ulong Stub
    {
        readonly get => _stub;
        set => _stub = (uint)value;
    }

    /// <summary>Direct: whom it is linked to.</summary>
    public Translation? Target;

    public Op* Op;

    public AccessSlot* Slot
    {
        readonly get => (AccessSlot*)(nuint)_slot;
        set => _slot = (uint)(nuint)value;
    }

    /// <summary>Far: where the code has the expected page and key. An exit has no slot then.</summary>
    public LinkSlot* Link
    {
        readonly get => (LinkSlot*)(nuint)_slot;
        set => _slot = (uint)(nuint)value;
    }

    /// <summary>Direct, Far: the target is cut to 16 bits.</summary>
    public bool Wraps;

    /// <summary>Direct, Far: offset of the branch, which faults itself where its target is not in the segment; -1 behind other instructions.</summary>
    public int Branch
    {
        readonly get => AccessDelta;
        set => AccessDelta = value;
    }

    /// <summary>Access: what to add to T0 for the address of the instruction's own operand.</summary>
    public int AccessDelta;

    /// <summary>Access: bytes of the operand, and bytes that the check covers.</summary>
    public short AccessSize, Range;

    /// <summary>Indirect: what the instruction has added to RSP.</summary>
    public int StackAdjust;
}
