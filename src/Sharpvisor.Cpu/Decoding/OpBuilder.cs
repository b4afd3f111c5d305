using Iced.Intel;
using Sharpvisor.Cpu.Cpuid;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Decoding;

/// <summary>
/// Chooses the handler of an instruction and lays out its operands. The common integer instructions have handlers of
/// their own; vector and x87 instructions are thunks of the host; all others go to
/// <see cref="InterpreterVcpu.ExecuteRare"/> with the decoded instruction.
/// </summary>
internal sealed unsafe partial class OpBuilder
{
    /// <summary>A guest can think of endless instructions.</summary>
    private const int MaximumThunks = 1 << 14;

    private readonly CpuModel _model;

    /// <summary>By code: 1 the model has it, 2 it is #UD.</summary>
    private readonly byte[] _supported = new byte[Enum.GetValues<Code>().Length];

    /// <summary>The thunks that blocks refer to: they keep the code in memory.</summary>
    private readonly HashSet<HostThunk> _thunks = [];
    private BlockCache _cache = null!;
    private ulong _rip;
    private uint _mode;

    public OpBuilder(CpuModel model)
    {
        _model = model;
    }

    /// <summary>True when no more thunks should be held: <see cref="Clear"/>, together with the blocks.</summary>
    public bool IsFull => _thunks.Count >= MaximumThunks;

    public void Clear() => _thunks.Clear();

    internal bool IsSupported(in Instruction ins)
    {
        ref var known = ref _supported[(int)ins.Code];
        if (known == 0)
            known = _model.Supports(in ins) ? (byte)1 : (byte)2;
        return known == 1;
    }

    private int CodeSize => 16 << (int)(_mode & (uint)BlockMode.CodeMask);

    private bool Is64 => (_mode & (uint)BlockMode.CodeMask) == (uint)BlockMode.Code64;

    private bool IsFlat => (_mode & (uint)BlockMode.Flat) != 0;

    public void Begin(BlockCache cache, ulong rip, uint mode)
    {
        _cache = cache;
        _rip = rip;
        _mode = mode;
    }

    /// <summary>Writes the operation that ends a block.</summary>
    public void End(Op* op, int length)
    {
        *op = default;
        op->Fn = (nint)(delegate*<CpuContext*, Op*, void>)&ControlHandlers.FallThrough;
        op->Offset = op->Next = (ushort)length;
    }

    /// <summary>Writes the operation of an instruction. True: it ends the block.</summary>
    public bool Build(Op* op, in Instruction ins, int offset, bool tooLong)
    {
        *op = default;
        op->Offset = (ushort)offset;
        op->Next = (ushort)(offset + ins.Length);
        op->Base = op->Index = ZeroOffset;
        if (ins.IsInvalid || !IsSupported(in ins))
        {
            op->Extra = (byte)(tooLong ? Vectors.GP : Vectors.UD);
            op->Fn = (nint)(delegate*<CpuContext*, Op*, void>)&RareHandlers.Invalid;
            return true;
        }

        var memory = MemoryOperand(in ins);
        if (memory >= 0)
            LayOutAddress(op, in ins);
        op->Fn = Choose(op, in ins, memory, out var ends);
        if (op->Fn != 0)
            return ends;
        return !TryBuildThunk(op, in ins, memory) && BuildRare(op, in ins);
    }

    /// <summary>Where a general register (or part of one) lies in the context; -1 for other registers.</summary>
    internal static int RegisterOffset(Register r) => r switch
    {
        >= Register.RAX and <= Register.R15 => (r - Register.RAX) * 8,
        >= Register.EAX and <= Register.R15D => (r - Register.EAX) * 8,
        >= Register.AX and <= Register.R15W => (r - Register.AX) * 8,
        >= Register.AL and <= Register.BL => (r - Register.AL) * 8,
        >= Register.AH and <= Register.BH => ((r - Register.AH) * 8) + 1,
        >= Register.SPL and <= Register.R15L => (r - Register.SPL + 4) * 8,
        _ => -1,
    };

    internal static ushort ZeroOffset { get; } = FieldOffset(true);

    private static ushort RipOffset { get; } = FieldOffset(false);

    private static ushort FieldOffset(bool zero)
    {
        CpuContext c = default;
        return (ushort)((byte*)(zero ? &c.Zero : &c.Arch.Rip) - (byte*)&c);
    }

    internal static int XmmOffset(Register r)
    {
        CpuContext c = default;
        return (int)((byte*)&c.Arch.Ymm - (byte*)&c) + ((r - Register.XMM0) * 32);
    }

    private static int MemoryOperand(in Instruction ins)
    {
        for (var i = 0; i < ins.OpCount; i++)
        {
            if (ins.GetOpKind(i) == OpKind.Memory)
                return i;
        }

        return -1;
    }

    private static int SegmentIndex(Register r) => r - Register.ES;

    private void LayOutAddress(Op* op, in Instruction ins)
    {
        op->Segment = (byte)SegmentIndex(ins.MemorySegment);
        var addressSize = CodeSize;
        var size = ins.MemoryBase != Register.None ? ins.MemoryBase : ins.MemoryIndex;
        if (ins.IsIPRelativeMemoryOperand)
        {
            addressSize = ins.MemoryBase == Register.EIP ? 32 : 64;
            op->Base = RipOffset;
            op->Disp = (long)(ins.IPRelativeMemoryAddress - _rip);
        }
        else
        {
            if (size is >= Register.RAX and <= Register.R15)
                addressSize = 64;
            else if (size is >= Register.EAX and <= Register.R15D)
                addressSize = 32;
            else if (size is >= Register.AX and <= Register.R15W)
                addressSize = 16;
            else if (ins.MemoryDisplSize is 2 && CodeSize != 64)
                addressSize = 16;
            else if (ins.MemoryDisplSize == 4 && CodeSize != 64)
                addressSize = 32;
            else if (CodeSize == 64 && ins.MemoryDisplSize == 4)
                addressSize = 32; // an absolute address of 32 bits: moffs or no base with prefix 67h
            if (RegisterOffset(ins.MemoryBase) is var b and >= 0)
                op->Base = (ushort)b;
            if (RegisterOffset(ins.MemoryIndex) is var i and >= 0)
                op->Index = (ushort)i;
            op->Scale = (byte)(ins.MemoryIndexScale switch { 1 => 0, 2 => 1, 4 => 2, _ => 3 });
            op->Disp = (long)ins.MemoryDisplacement64;
        }

        op->AddressSize = (byte)(addressSize / 16);
    }

    private EaKind Ea(Op* op)
    {
        if (Is64)
            return op->Segment >= 4 || op->AddressSize != 4 ? EaKind.Segment : op->Index == ZeroOffset ? EaKind.Base : EaKind.Index;

        // A code segment is never written: that has to be checked even when it is flat.
        return IsFlat && op->Segment is InterpreterVcpu.ES or InterpreterVcpu.SS or InterpreterVcpu.DS && op->AddressSize == 2 ? EaKind.Flat32 : EaKind.Segment;
    }

    private bool BuildRare(Op* op, in Instruction ins)
    {
        var copy = (Instruction*)_cache.Allocate(sizeof(Instruction));
        *copy = ins;
        op->Imm = (ulong)copy;
        var ends = InterpreterVcpu.RareEndsBlock(in ins);
        op->Fn = ends
            ? (nint)(delegate*<CpuContext*, Op*, void>)&RareHandlers.ExecuteAndEnd
            : (nint)(delegate*<CpuContext*, Op*, void>)&RareHandlers.Execute;
        return ends;
    }

    private bool TryBuildThunk(Op* op, in Instruction ins, int memory)
    {
        if (ins.HasLockPrefix || ins.Mnemonic == Mnemonic.Crc32 || HostThunks.TryCreate(in ins, CodeSize) is not { } thunk)
            return false;
        var info = (ThunkInfo*)_cache.Allocate(sizeof(ThunkInfo));
        _thunks.Add(thunk);
        *info = new ThunkInfo
        {
            Code = thunk.Code,
            FlagsWritten = thunk.FlagsWritten & Rflags.Arithmetic,
            MemorySize = thunk.MemorySize,
            Alignment = Math.Max(1, thunk.Alignment),
            Traps = Traps(thunk, in ins),
            Reads = thunk.ReadsMemory,
            Writes = thunk.WritesMemory,
            ReadsFlags = thunk.ReadsFlags,
            NeedsX87 = thunk.NeedsX87,
            Waits = thunk.NeedsX87 && ins.Mnemonic is not (Mnemonic.Fnstcw or Mnemonic.Fnstsw or Mnemonic.Fnclex
                or Mnemonic.Fninit or Mnemonic.Fnstenv or Mnemonic.Fnsave),
        };
        op->Imm = (ulong)info;
        if (thunk.IsSpecial)
        {
            // The handler finds the instruction behind the thunk's description.
            *(Instruction*)_cache.Allocate(sizeof(Instruction)) = ins;
            op->Fn = (nint)(delegate*<CpuContext*, Op*, void>)&ThunkHandlers.Special;
        }
        else if (ChooseVector(op, in ins, memory) is var handler and not 0)
        {
            op->Fn = handler;
        }
        else if (memory < 0 || thunk.MemorySize == 0)
        {
            op->Fn = (nint)(delegate*<CpuContext*, Op*, void>)&ThunkHandlers.Register;
        }
        else
        {
            op->Fn = Handlers.PickFixed<ThunkMemory, ulong>(Ea(op));
        }

        return true;
    }

    private static FpuTraps Traps(HostThunk thunk, in Instruction ins) => thunk.Isa switch
    {
        HostIsa.X87 when ins.Mnemonic == Mnemonic.Wait => FpuTraps.WaitNotAvailable,
        HostIsa.X87 => FpuTraps.X87NotAvailable,
        HostIsa.Mmx => FpuTraps.MmxUndefined | FpuTraps.TaskSwitched,
        HostIsa.Sse => FpuTraps.SseUndefined | FpuTraps.TaskSwitched,
        HostIsa.Avx => FpuTraps.AvxUndefined | FpuTraps.TaskSwitched,
        _ => thunk.IsVex ? FpuTraps.VexUndefined : FpuTraps.None,
    };
}
