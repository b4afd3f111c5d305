using Iced.Intel;

namespace Sharpvisor.Cpu.Translator;

/// <summary>How an instruction is translated.</summary>
internal enum ItemKind : byte
{
    /// <summary>Executed by the interpreter; the block goes on.</summary>
    Fallback,

    /// <summary>Executed by the interpreter; the block ends.</summary>
    FallbackEnd,

    /// <summary>The same instruction with other registers and another memory operand.</summary>
    Same,
    Nothing,
    Push, PushImmediate, PushMemory, PushSelector, Pop, PushFlags, Leave,
    Call, CallIndirect, Return, Jump, JumpIndirect, JumpIf,

    /// <summary>LOOP, LOOPE, LOOPNE, JCXZ.</summary>
    Loop,

    /// <summary>MOV and POP of a segment register where it takes no descriptor.</summary>
    LoadSelector, PopSelector,
    Divide, DivideSigned,

    /// <summary>REP MOVS and STOS in flat segments.</summary>
    RepeatString,

    /// <summary>MOVS, LODS, STOS once: the source is the operand, the destination takes the place of the stack.</summary>
    String,

    /// <summary>BT, BTS, BTR, BTC on a bit string in memory.</summary>
    BitTest,
    SwapGs, LoadMxcsr,

    /// <summary>RDTSC and RDTSCP.</summary>
    ReadTimeStamp,

    /// <summary>RDPID.</summary>
    ReadProcessorId,

    /// <summary>MOV of a segment register, or of a control register, to a general one.</summary>
    ReadSelector, ReadControl,

    /// <summary>RDFSBASE, RDGSBASE; WRFSBASE, WRGSBASE.</summary>
    ReadBase, WriteBase,

    /// <summary>STAC; CLAC.</summary>
    AllowAccess, DenyAccess,

    /// <summary>SYSCALL; SYSRET to 64-bit code; IRETQ.</summary>
    SystemCall, SystemReturn, InterruptReturn,
    DisableInterrupts, EnableInterrupts, ClearDirection, SetDirection,
}

/// <summary>What the base of an address is: a guest register, or one of these.</summary>
internal static class AddressBase
{
    public const int Rsp = 4, Rip = 16, None = 17, Fs = 18, Gs = 19, Count = 20;
}

/// <summary>One access of an instruction to memory.</summary>
internal struct MemoryAccess
{
    /// <summary>A guest register, or one of <see cref="AddressBase"/>.</summary>
    public sbyte Base;

    /// <summary>Guest register, or -1.</summary>
    public sbyte Index;
    public byte Scale;

    /// <summary>
    /// The segment whose base is added and, outside of 64-bit mode, whose limit is checked; -1: none. In 64-bit mode
    /// this is 4 FS or 5 GS, with <see cref="Base"/> a register.
    /// </summary>
    public sbyte Segment;

    /// <summary>How wide the offset is, where that is not 64 bits.</summary>
    public bool Address16, Address32;
    public bool Reads, Writes;

    /// <summary>Bytes.</summary>
    public int Size;
    public int Alignment;
    public long Displacement;

    /// <summary>Index of the group, or -1: none, each access checks.</summary>
    public int Group;
}

/// <summary>An instruction of a block and what the analysis found out about it.</summary>
internal struct Item
{
    public Instruction Instruction;
    public ItemKind Kind;

    /// <summary>From the start of the page that the block starts in.</summary>
    public int Offset, Next;
    public bool HasOperand, HasStack;
    public MemoryAccess Operand, Stack;

    /// <summary>Bytes by which the instruction moves the stack pointer.</summary>
    public int StackStep;

    /// <summary>Guest registers that are written, by number.</summary>
    public ushort Written;
    public ushort Read;

    /// <summary>Looks at flags, or leaves some of them as they were.</summary>
    public bool NeedsFlags;
    public bool ChangesFlags;
    public bool ReadsFlags;

    /// <summary>Sets all six, whatever they were.</summary>
    public bool SetsAllFlags;
    public bool UsesSse, UsesAvx, UsesX87;
}

/// <summary>Accesses that one check covers.</summary>
internal unsafe struct AccessGroup
{
    /// <summary>Displacements from the base as it was when the group began; for RSP from the start of the block.</summary>
    public long Start, End;
    public bool Writes;
    public int Members;
    public bool Checked;

    /// <summary>No register of the address changes in the block, so that the check holds for all rounds of a loop.</summary>
    public bool IsInvariant;

    /// <summary>The guest register with which the address moves by a constant in each round of a loop, or -1.</summary>
    public sbyte Mover;

    /// <summary>Where that is so: the address, as in <see cref="MemoryAccess"/>.</summary>
    public sbyte Base, Index;
    public byte Scale;

    /// <summary>The power of two that the mover is multiplied by.</summary>
    public readonly int MoverScale => Mover == Index ? Scale : 0;

    /// <summary>The accesses come behind the instruction that moves the register.</summary>
    public bool MovesBefore;

    /// <summary>In later rounds of a loop: the mover is below its bound, so that the accesses need no check.</summary>
    public bool IsMoving;

    /// <summary>What is added to the mover, scaled, and the displacement to make a host address.</summary>
    public ulong* Pointer;

    /// <summary>The check was made before the block jumps back to its start.</summary>
    public bool HoldsInLoop;

    /// <summary>What members need: what makes a host address of a linear one, or the host address of the group's start.</summary>
    public ulong* Delta;
    public bool HoldsAddress;

    /// <summary>The address at this offset is known to be a multiple of that.</summary>
    public int AlignedTo;
    public long AlignedAt;
}
