// Guest instructions to host instructions: decode, rename registers, replace the memory operand, encode again.
// What a block needs besides are checks of its memory accesses, care for the flags that those checks destroy, and ways
// out. Figures and reasons: docs/decisions/0008.
using System.Runtime.InteropServices;
using Iced.Intel;
using Sharpvisor.Core.Time;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Makes translations. One per vCPU, not thread safe.</summary>
internal sealed unsafe partial class BlockTranslator : IDisposable
{
    public const int MaxInstructions = 64;

    /// <summary>A block goes on behind this many conditional branches that are not taken.</summary>
    private const int MaxSideExits = 1;

    private readonly CpuContext* _c;
    private readonly TranslatorContext* _t;
    private readonly CodeCache _cache;
    private readonly Routines _routines;
    private readonly AccessSlots _slots;
    private readonly Tlb _tlb;
    private readonly JumpTable _jumps;

    /// <summary>Instructions, by block and offset, whose accesses meet too many pages for a slot.</summary>
    private readonly Dictionary<(ulong Physical, uint Key), HashSet<int>> _lookUps = [];
    private static readonly HashSet<int> s_none = [];
    private HashSet<int> _lookUp = s_none;
    private readonly OpBuilder _builder;
    private readonly BlockCache _arena;
    private readonly ExitTable _exits;
    private readonly bool _smp;

    /// <summary>The machine's time as generated code can read it, or null.</summary>
    private readonly TscLineData* _clock;
    private readonly byte* _page = (byte*)NativeMemory.AllocZeroed(8192);

    private CodeEmitter _hot = null!, _cold = null!;
    private uint _key;
    private bool _is64;

    /// <summary>Outside of 64-bit mode: any segment may have any base and limit.</summary>
    private bool _isSegmented;
    private ulong _pageBase;
    private Translation _block = null!;
    private byte _mask;
    private sbyte[] _map = null!;
    private bool _avxChecked, _x87Checked;
    private long _stackOffset;
    private int _index;

    public BlockTranslator(CpuContext* c, CodeCache cache, Routines routines, AccessSlots slots, Tlb tlb, JumpTable jumps, OpBuilder builder, BlockCache arena, ExitTable exits, CpuEnvironment environment)
    {
        _c = c;
        _t = &c->Translator;
        _cache = cache;
        _routines = routines;
        _slots = slots;
        _tlb = tlb;
        _jumps = jumps;
        _builder = builder;
        _arena = arena;
        _exits = exits;
        _smp = environment.ProcessorCount > 1;
        _clock = environment.Clock.TscLine;
        _reader = new PageReader();
        _decoders = [Decoder.Create(16, _reader), Decoder.Create(32, _reader), Decoder.Create(64, _reader)];
    }

    /// <summary>Where in the page no block goes on; null for nowhere.</summary>
    public PageGuards? Guards { get; set; }

    /// <summary>The bytes that the last block was made of, for a look whether they are still the same.</summary>
    public ReadOnlySpan<byte> Bytes(int offset, int length) => new(_page + offset, length);

    /// <summary>Translates the block at a place; null when nothing there can be.</summary>
    /// <param name="code">Host address of the first byte; valid to the end of its page.</param>
    /// <param name="second">Host address of the page behind, when the first instruction runs over into it.</param>
    /// <param name="predecessor">Register map of the block that leads here.</param>
    /// <param name="isLongLoop">If it is a loop, it has many rounds.</param>
    public Translation? Translate(ulong physical, uint key, ulong rip, byte* code, byte* second, ulong secondPhysical, byte predecessor, bool grouping, bool isLongLoop)
    {
        _isLongLoop = isLongLoop;
        var start = (int)(physical & 0xFFF);
        var inPage = 4096 - start;
        Buffer.MemoryCopy(code, _page + start, inPage, inPage);
        var end = 4096;
        if (second != null)
        {
            Buffer.MemoryCopy(second, _page + 4096, 16, 16);
            end = 4096 + 16;
        }

        _key = key;
        Kind = KindOf(key);
        _lookUp = _lookUps.GetValueOrDefault((physical, key), s_none);
        _is64 = (key & (uint)BlockMode.CodeMask) == (uint)BlockMode.Code64;
        _isSegmented = !_is64 && (key & (uint)BlockMode.Flat) == 0;
        _pageBase = rip - (ulong)start;
        if (!Decode(_page, start, end, _pageBase))
            return null;
        if (second != null)
            _count = 1;
        else if (_items[_count - 1].Next > 4096)
            return null;

        // STI and MOV SS keep interrupts away from the next instruction: they must not be the last one of a block.
        if (_items[_count - 1].Kind == ItemKind.EnableInterrupts || LoadsStackSegment(in _items[_count - 1]))
            _items[_count - 1].Kind = ItemKind.FallbackEnd;
        FormGroups(grouping && _is64);
        _block = new Translation
        {
            Physical = physical,
            SecondPage = second != null && _items[0].Next > 4096 ? secondPhysical & ~0xFFFUL : ulong.MaxValue,
            Key = key,
            Length = _items[_count - 1].Next - start,
            Instructions = _count,
        };
        foreach (ref readonly var item in _items.AsSpan(0, _count))
        {
            _block.IsRepeatable &= Lockstep.IsRepeatable(in item.Instruction);
            _block.UndefinedFlags |= Lockstep.UndefinedFlags(in item.Instruction);
        }

        _mask = RegisterMap.Choose(_uses, predecessor);
        _map = RegisterMap.Of(_mask);
        _block.Map = _mask;

        // What all blocks share is made where it does not get in the way.
        _ = _routines.Exit(_mask);
        _ = _routines.Exit(RegisterMap.Canonical);
        MakeRefills(Kind);
        foreach (ref readonly var item in _items.AsSpan(0, _count))
        {
            if (item.Kind == ItemKind.RepeatString)
                _ = RepeatRoutine(in item.Instruction);
            else if (item.Kind is ItemKind.SystemCall or ItemKind.SystemReturn or ItemKind.InterruptReturn)
                MakeTransition(item.Kind);
            else if (item.Kind is ItemKind.AllowAccess or ItemKind.DenyAccess)
                MakeRefills(item.Kind == ItemKind.AllowAccess ? 2 : 1);
        }

        _fields.Clear();
        _pinned = 0;
        Emit();
        RememberBytes();
        return _block;
    }

    /// <summary>Which array of the TLB the block's accesses use.</summary>
    private int Kind { get; set; }

    /// <summary>The next translation of a block is to compute the TLB index of an access each time.</summary>
    public void LookUpAt(Translation block, int offset)
    {
        if (!_lookUps.TryGetValue((block.Physical, block.Key), out var offsets))
            _lookUps.Add((block.Physical, block.Key), offsets = []);
        offsets.Add(offset);
        for (var i = block.HeadExit + 1; i < _exits.Count && _exits[i].Block == block; i++)
        {
            if (_exits[i].Kind == ExitKind.Access && _exits[i].Slot != null && _exits[i].Slot->Misses >= Routines.MaximumMisses / 8)
                offsets.Add(_exits[i].Offset);
        }
    }

    public void Forget()
    {
        _lookUps.Clear();
        Array.Clear(_transitions);
        _resumeFlagTest = _systemCallTest = 0;
    }

    public void Dispose() => NativeMemory.Free(_page);

    private void MakeRefills(int kind)
    {
        _ = _routines.Refill(kind, write: false);
        _ = _routines.Refill(kind, write: true);
    }

    private void Emit()
    {
        _hot = _cache.Hot;
        _cold = _cache.Cold;
        _avxChecked = _x87Checked = false;
        FindLiveFlags();
        FindLoop();
        _hot.Align(16);
        EmitHead();
        EmitItems();
        if (_loopJump != 0)
            EmitLoop();
        _block.End = _hot.Address;
        _block.CanonicalEntry = _routines.Adapter(RegisterMap.Canonical, _mask, _block.Entry);
    }

    private void EmitItems()
    {
        _stackOffset = 0;
        Kind = KindOf(_key);
        ForgetScratch();
        for (_index = 0; _index < _count; _index++)
        {
            ref var item = ref _items[_index];
            if (EmitItem(ref item))
                return;
        }

        EmitJump(_items[_count - 1].Next, branch: NoBranch);
    }

    private void EmitHead()
    {
        _block.EntryWithFlags = _hot.Address;
        _flags = FlagsPlace.Host;
        _remakeCount = 0;
        SaveFlags();
        _block.Entry = _hot.Address;
        _block.HeadExit = NewExit(new ExitInfo { Kind = ExitKind.Head, Map = _mask, Block = _block, Offset = (int)_block.PageOffset });
        var stub = EmitExit(_block.HeadExit);
        _exits[_block.HeadExit].Stub = stub;
        EmitHeadChecks(stub, attention: !GoesForward());
    }

    private void EmitHeadChecks(ulong stub, bool attention)
    {
        if (attention)
        {
            _hot.ImmediateOnAbsolute(7, &_t->Attention, 0, wide: false);
            _hot.JumpIf(5, stub); // jne
        }

        if ((_key & TranslationKey.Counted) != 0)
        {
            _hot.ImmediateOnAbsolute(5, &_t->Remaining, _count, wide: true);
            _hot.JumpIf(8, stub); // js
        }
    }

    /// <summary>
    /// All ways out lead to higher addresses: the block is part of a loop only together with one for which that is not
    /// so, and which looks for attention.
    /// </summary>
    private bool GoesForward()
    {
        if (_isSegmented)
            return false; // forward may come to the same place again
        foreach (ref readonly var item in _items.AsSpan(0, _count))
        {
            if (item.Kind is ItemKind.JumpIf or ItemKind.Jump or ItemKind.Call or ItemKind.Loop ? Target(in item) <= (int)_block.PageOffset : EndsBlock(item.Kind))
                return false;
        }

        return true;
    }

    /// <summary>Cold code that leaves by an exit; the flags are saved already, or are made again. Its address.</summary>
    private ulong EmitExit(int exit)
    {
        var stub = _cold.Address;
        EmitExitFlags();
        _cold.StoreImmediate32(&_t->Exit, exit);
        _cold.Jump(_routines.Exit(_exits[exit].Map));
        return stub;
    }

    /// <summary>In cold code, before it leaves. Uses T1.</summary>
    private void EmitExitFlags()
    {
        if (_flags != FlagsPlace.Remade)
            return;
        Remake(_cold);
        SaveFlags(_cold);
    }

    private int NewExit(in ExitInfo info) => _exits.Add(info);

    private void* Gpr(int guest) => _routines.Gpr(guest);

    /// <summary>The host register of a guest register, loading a spilled one into the scratch register given.</summary>
    private int Use(int guest, int scratch)
    {
        if (_map[guest] >= 0)
            return _map[guest];
        _hot.Load(scratch, Gpr(guest));
        return scratch;
    }

    /// <summary>True: the block ends with it.</summary>
    private bool EmitItem(ref Item item)
    {
        CheckAvailability(ref item);
        KeepFlagsFor(in item);
        if (item.Kind is not (ItemKind.Same or ItemKind.Nothing or ItemKind.JumpIf))
            ForgetScratch();
        switch (item.Kind)
        {
            case ItemKind.Fallback:
                EmitFallback(ref item, ends: false);
                break;
            case ItemKind.FallbackEnd:
                EmitFallback(ref item, ends: true);
                return true;
            case ItemKind.Same:
                EmitSame(ref item);
                break;
            case ItemKind.Push or ItemKind.PushImmediate or ItemKind.PushMemory or ItemKind.PushSelector or ItemKind.PushFlags:
                EmitPush(ref item);
                break;
            case ItemKind.Pop:
                EmitPop(ref item);
                break;
            case ItemKind.Leave:
                EmitLeave(ref item);
                break;
            case ItemKind.Divide or ItemKind.DivideSigned:
                EmitDivide(ref item);
                break;
            case ItemKind.DisableInterrupts:
                SaveFlags();
                _hot.ImmediateOnAbsolute(4, &_c->Arch.Rflags, ~0x200, wide: true);
                break;
            case ItemKind.EnableInterrupts:
                EmitEnableInterrupts(ref item);
                break;
            case ItemKind.ClearDirection:
                SaveFlags();
                _hot.ImmediateOnAbsolute(4, &_c->Arch.Rflags, ~0x400, wide: true);
                break;
            case ItemKind.SetDirection:
                SaveFlags();
                _hot.ImmediateOnAbsolute(1, &_c->Arch.Rflags, 0x400, wide: true);
                break;
            case ItemKind.RepeatString:
                EmitRepeat(ref item);
                break;
            case ItemKind.String:
                EmitString(ref item);
                break;
            case ItemKind.BitTest:
                EmitBitTest(ref item);
                break;
            case ItemKind.LoadSelector or ItemKind.PopSelector:
                EmitLoadSelector(ref item);
                break;
            case ItemKind.Loop:
                EmitLoopInstruction(ref item);
                return true;
            case ItemKind.SwapGs:
                _hot.Load(Host.T0, SegmentBase(5));
                _hot.Load(Host.T1, &_c->Arch.KernelGsBase);
                _hot.Store(SegmentBase(5), Host.T1);
                _hot.Store(&_c->Arch.KernelGsBase, Host.T0);
                break;
            case ItemKind.LoadMxcsr:
                EmitLoadMxcsr(ref item);
                break;
            case ItemKind.ReadTimeStamp:
                EmitReadTimeStamp(ref item);
                break;
            case ItemKind.ReadSelector:
                EmitReadSelector(ref item);
                break;
            case ItemKind.ReadControl:
                EmitReadControl(ref item);
                break;
            case ItemKind.ReadProcessorId:
                EmitReadProcessorId(ref item);
                break;
            case ItemKind.ReadBase:
                EmitReadBase(ref item);
                break;
            case ItemKind.WriteBase:
                EmitWriteBase(ref item);
                break;
            case ItemKind.AllowAccess or ItemKind.DenyAccess:
                EmitAllowAccess(ref item);
                break;
            case ItemKind.SystemCall or ItemKind.SystemReturn or ItemKind.InterruptReturn:
                EmitTransition(ref item);
                return true;
            case ItemKind.JumpIf:
                EmitJumpIf(ref item, last: _index == _count - 1);
                return _index == _count - 1;
            case ItemKind.Jump when _index == _loopItem:
                EmitLoopJump(condition: -1);
                return true;
            case ItemKind.Jump:
                EmitJump(ref item);
                return true;
            case ItemKind.Call:
                EmitCall(ref item);
                return true;
            case ItemKind.CallIndirect or ItemKind.JumpIndirect or ItemKind.Return:
                EmitIndirect(ref item);
                return true;
        }

        if (item.Kind is not (ItemKind.Same or ItemKind.Nothing or ItemKind.JumpIf))
        {
            ForgetScratch();
            if ((item.Written & _remakeSources) != 0)
                _remakeCount = 0;
        }

        if (StackChange(in item) is { } change)
            _stackOffset += change;
        return false;
    }

    /// <summary>Vector and x87 instructions may fault by what control registers say: looked at once a block.</summary>
    private void CheckAvailability(ref Item item)
    {
        if (item.Kind is ItemKind.Fallback or ItemKind.FallbackEnd)
            return;
        if (item.UsesAvx && !_avxChecked)
        {
            _avxChecked = true;
            _hot.StoreImmediate8(&_t->Upper, (byte)UpperHalves.Used);
        }

        Check(item.UsesX87, ref _x87Checked, &_t->X87Slow, ref item);
    }

    private void Check(bool needed, ref bool done, byte* slow, ref Item item)
    {
        if (!needed || done)
            return;
        done = true;
        SaveFlags();
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset });
        var stub = EmitExit(exit);
        _hot.CompareByte(slow, 0);
        _hot.JumpIf(5, stub);
    }

    private void EmitFallback(ref Item item, bool ends)
    {
        SaveFlags();
        var exit = NewFallback(ref item, ends);
        _hot.StoreImmediate32(&_t->Exit, exit);
        _hot.Jump(_routines.Exit(_mask));
        if (!ends)
            _exits[exit].Resume = _hot.Address;

        for (var g = 0; g < _groupCount; g++)
            _groups[g].Checked = false;
    }

    /// <summary>An exit by which the interpreter executes an instruction.</summary>
    private int NewFallback(ref Item item, bool ends)
    {
        // On the way back the flags may be others, and what is available, and whether upper halves are in use, is decided anew.
        _avxChecked = _x87Checked = false;
        _remakeCount = 0;
        var ops = (Op*)_arena.Allocate(2 * sizeof(Op));
        _builder.Begin(_arena, _pageBase, _key & TranslationKey.ModeMask);
        _builder.Build(ops, in item.Instruction, item.Offset, tooLong: false);
        ops->Next = (ushort)item.Next;
        _builder.End(ops + 1, item.Next);
        ref var ins = ref item.Instruction;
        var info = new ExitInfo
        {
            Kind = ExitKind.Fallback,
            Map = _mask,
            Block = _block,
            Offset = item.Next,
            Op = ops,
            Mnemonic = item.Instruction.Mnemonic,
            UsesFlags = ends || ins.RflagsRead != RflagsBits.None || ins.RflagsModified != RflagsBits.None || ins.Mnemonic is Mnemonic.Pushf or Mnemonic.Pushfd or Mnemonic.Pushfq,
        };
        return NewExit(info);
    }

    /// <summary>LDMXCSR of a value that masks all exceptions; others are the interpreter's.</summary>
    private void EmitLoadMxcsr(ref Item item)
    {
        SaveFlags();
        var from = EmitAccess(ref item, ref item.Operand);
        _hot.Load(Host.T0, from.Base, from.Index, from.Displacement, wide: false);
        _hot.Move32(Host.T1, Host.T0);
        _hot.Immediate(4, Host.T1, unchecked((int)0xFFFF_1F80), wide: false);
        _hot.Immediate(7, Host.T1, 0x1F80, wide: false);
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset });
        _hot.JumpIf(5, EmitExit(exit));
        _hot.Store32(&_t->PresentMxcsr, Host.T0);
        _hot.Raw(0x0F, 0xAE);
        _hot.Absolute(2, &_t->PresentMxcsr);
    }

    /// <summary>BT and its kin on a bit string in memory: the register says which word, too.</summary>
    private void EmitBitTest(ref Item item)
    {
        SaveFlags();
        var ins = item.Instruction;
        var size = item.Operand.Size;
        var bit = ins.Op1Register.GetFullRegister() - Register.RAX;
        var operand = EmitAccess(ref item, ref item.Operand, bit);
        _hot.Lea(Host.T0, operand.Base, operand.Index, operand.Displacement);
        var source = Use(bit, Host.T1);
        if (source != Host.T1)
            _hot.Move(Host.T1, source);
        _hot.Immediate(4, Host.T1, (size * 8) - 1, wide: false); // within the word
        if (_flags == FlagsPlace.Saved)
        {
            _hot.Raw(0x50); // push rax
            _hot.Load32(Host.Rax, &_t->SavedFlags);
            _hot.Raw(0x04, 0x7F, 0x9E, 0x58); // add al, 7Fh; sahf; pop rax
        }

        ins.SegmentPrefix = Register.None;
        ins.MemoryBase = Register.R14;
        ins.MemoryIndex = Register.None;
        ins.MemoryIndexScale = 1;
        SetDisplacement(ref ins, 0);
        ins.Op1Register = size == 8 ? Register.R15 : Register.R15D;
        if (!_hot.TryEncode(in ins))
            throw new InvalidOperationException($"{item.Instruction} can't be encoded as {ins}");
        NoteFlags(in item, in ins);
    }

    /// <summary>STI: an interrupt that waits already comes after exactly one more instruction, which the interpreter sees to.</summary>
    private void EmitEnableInterrupts(ref Item item)
    {
        SaveFlags();
        _hot.Load32(Host.T0, &_c->Pending);
        _hot.Immediate(4, Host.T0, (int)(PendingEvents.Interrupt | PendingEvents.Nmi), wide: false);
        var exit = NewFallback(ref item, ends: false);
        _hot.JumpIf(5, EmitExit(exit)); // jne
        _hot.ImmediateOnAbsolute(1, &_c->Arch.Rflags, 0x200, wide: true);
        _exits[exit].Resume = _hot.Address;
    }
}
