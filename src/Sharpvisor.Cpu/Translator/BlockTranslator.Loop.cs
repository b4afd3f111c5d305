// A block that jumps to its own start is emitted twice: the first round as always, and the rounds after it, which are
// only ever entered from the first or from themselves. What the first has made sure of holds there: checks of accesses
// whose address no instruction of the block changes, and which instruction made the flags. Accesses that move on by a
// constant in each round are checked when the register that moves them comes to a bound: where the first of them
// leaves its page.
using System.Runtime.InteropServices;
using Iced.Intel;
using Sharpvisor.Cpu.Paging;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Blocks that are loops.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>The instruction that jumps back, or -1.</summary>
    private int _loopItem;

    /// <summary>It pays to look at more than the first rounds need.</summary>
    private bool _isLongLoop;

    /// <summary>The end of the first round's jump to the later ones, or 0; and where those begin.</summary>
    private ulong _loopJump, _loopHead;
    private bool _loopFlagsInHost;
    private Instruction _loopRemake0, _loopRemake1;
    private int _loopRemakeCount, _loopRemakeItem;
    private ushort _loopRemakeSources;

    /// <summary>An access that moves further than this in each round would often come to its bound.</summary>
    private const int MaximumStep = 256;

    /// <summary>By guest register: how far the block moves it in each round, where that is all that it does to it, and which item does it.</summary>
    private readonly int[] _steps = new int[16];
    private readonly int[] _stepItems = new int[16];

    /// <summary>By guest register: where generated code keeps the value that it has to stay below, or above; null: it moves no accesses.</summary>
    private readonly ulong*[] _bounds = new ulong*[16];

    private void FindLoop()
    {
        _loopItem = -1;
        _loopJump = _loopHead = 0;
        Array.Clear(_bounds);
        ushort written = 0;
        var isPlain = true;
        for (var i = 0; i < _count; i++)
        {
            ref readonly var item = ref _items[i];
            written |= item.Written;
            if (item.Kind is ItemKind.JumpIf or ItemKind.Jump && Target(in item) == (int)_block.PageOffset && IsInPage(Target(in item)))
                _loopItem = i;

            // After these the block goes on from C#, where what was made sure of may change.
            isPlain &= item.Kind is not (ItemKind.Fallback or ItemKind.FallbackEnd or ItemKind.EnableInterrupts or ItemKind.RepeatString or ItemKind.SwapGs
                    or ItemKind.ReadTimeStamp or ItemKind.WriteBase or ItemKind.ReadBase or ItemKind.AllowAccess or ItemKind.DenyAccess)
                && !item.UsesX87;
        }

        if (!isPlain)
            _loopItem = -1;
        if (_loopItem < 0)
            return;
        FindSteps();
        for (var i = 0; i < _count; i++)
        {
            var hasOperand = _items[i].HasOperand && _items[i].Instruction.Mnemonic != Mnemonic.Lea;
            MarkInvariant(in _items[i].Operand, hasOperand, written);
            MarkInvariant(in _items[i].Stack, _items[i].HasStack, written);
            if (_isLongLoop && hasOperand && i <= _loopItem)
                MarkMoving(i, in _items[i].Operand, written);
        }
    }

    /// <summary>Finds the registers to which the loop does nothing but add a constant, once.</summary>
    private void FindSteps()
    {
        Array.Clear(_steps);
        ushort once = 0, twice = 0;
        for (var i = 0; i < _count; i++)
        {
            ref readonly var item = ref _items[i];
            twice |= (ushort)(once & item.Written);
            once |= item.Written;
            if (item.Kind != ItemKind.Same || i > _loopItem || item.Instruction.Op0Kind != OpKind.Register || !item.Instruction.Op0Register.IsGPR64())
                continue;
            var register = item.Instruction.Op0Register - Register.RAX;
            if (item.Written == 1 << register && register != AddressBase.Rsp)
            {
                _steps[register] = StepOf(in item);
                _stepItems[register] = i;
            }
        }

        for (var r = 0; r < 16; r++)
        {
            if ((twice >> r & 1) != 0)
                _steps[r] = 0;
        }
    }

    private static int StepOf(in Item item)
    {
        ref readonly var ins = ref item.Instruction;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Inc:
                return 1;
            case Mnemonic.Dec:
                return -1;
            case Mnemonic.Add or Mnemonic.Sub when ins.Op1Kind is OpKind.Immediate8to64 or OpKind.Immediate32to64:
                return Within((long)ins.GetImmediate(1) * (ins.Mnemonic == Mnemonic.Add ? 1 : -1));
            case Mnemonic.Lea when ins.MemoryBase == ins.Op0Register && ins.MemoryIndex == Register.None:
                return Within((long)ins.MemoryDisplacement64);
            default:
                return 0;
        }

        static int Within(long step) => step is >= -MaximumStep and <= MaximumStep ? (int)step : 0;
    }

    /// <summary>Whether the group of an access moves with one register, and nothing else of its address changes.</summary>
    private void MarkMoving(int at, in MemoryAccess m, ushort written)
    {
        if (m.Group < 0 || _groups[m.Group].Mover >= 0 || !IsResident(m.Base) || (m.Index >= 0 && !IsResident(m.Index)))
            return;
        var baseMoves = (written >> m.Base & 1) != 0;
        var indexMoves = m.Index >= 0 && (written >> m.Index & 1) != 0;
        if (baseMoves == indexMoves)
            return;
        var mover = baseMoves ? m.Base : m.Index;
        var scale = baseMoves ? 0 : m.Scale;
        if (_steps[mover] == 0 || Math.Abs(_steps[mover]) << scale > MaximumStep)
            return;
        ref var group = ref _groups[m.Group];
        if (Math.Abs(group.Start) > int.MaxValue - MaximumStep)
            return; // a step further it would be no displacement
        group.Mover = mover;
        _pinned |= 1UL << _stepItems[mover];
        (group.Base, group.Index, group.Scale) = (m.Base, m.Index, m.Scale);
        group.MovesBefore = at > _stepItems[mover];
        group.Pointer = _slots.AllocateDelta();
        if (_bounds[mover] == null)
            _bounds[mover] = _slots.AllocateDelta();
    }

    /// <summary>An access of a group that moves.</summary>
    private HostOperand EmitMovingAccess(in Item item, in MemoryAccess m)
    {
        ref readonly var group = ref _groups[m.Group];
        if (_deltaInT1 != m.Group)
            _hot.Load(Host.T1, group.Pointer);
        _deltaInT1 = m.Group;
        var mover = _map[group.Mover];
        if (group.MoverScale == 0)
            return new HostOperand(mover, Host.T1, (int)m.Displacement);
        if (item.Kind == ItemKind.Same)
            return new HostOperand(Host.T1, mover, (int)m.Displacement, group.MoverScale);
        _addressInT0 = NoGroup;
        _hot.LeaScaled(Host.T0, Host.T1, mover, group.MoverScale, (int)m.Displacement, wide: true);
        return new HostOperand(Host.T0, -1, 0);
    }

    private bool HasBounds
    {
        get
        {
            foreach (var bound in _bounds)
            {
                if (bound != null)
                    return true;
            }

            return false;
        }
    }

    /// <summary>The way from the first round to the later ones: no bound is known there.</summary>
    private void EmitLoopEntry()
    {
        var entry = _cold.Address;
        for (var r = 0; r < 16; r++)
        {
            if (_bounds[r] == null)
                continue;
            _cold.MoveImmediate(Host.T1, _steps[r] > 0 ? 1UL << 63 : long.MaxValue);
            _cold.Store(_bounds[r], Host.T1);
        }

        _hot.Patch(_loopJump, entry);
        _cold.Jump(_loopHead);
    }

    /// <summary>
    /// At the head of a later round: the registers that move accesses have to be within their bounds. Where one is not,
    /// all groups are looked up again, which makes new bounds; if that fails, a round as the first one is next.
    /// </summary>
    private void EmitBoundChecks()
    {
        var jumps = new List<ulong>();
        for (var r = 0; r < 16; r++)
        {
            if (_bounds[r] == null)
                continue;
            _hot.OnAbsolute(0x3B, _map[r], _bounds[r], wide: true);
            _hot.JumpIf(_steps[r] > 0 ? 0xD : 0xE, _hot.Address); // jge, jle
            jumps.Add(_hot.Address);
        }

        foreach (var jump in jumps)
            _hot.Patch(jump, _cold.Address);
        EmitExitFlags();
        jumps.Clear();
        for (var r = 0; r < 16; r++)
        {
            if (_bounds[r] == null)
                continue;
            _cold.MoveImmediate(Host.T1, _steps[r] > 0 ? long.MaxValue : 1UL << 63);
            _cold.Store(_bounds[r], Host.T1);

            // A register that could wrap round before it comes to a bound would never come to it.
            _cold.Move(Host.T1, _map[r]);
            _cold.Immediate(_steps[r] > 0 ? 0 : 5, Host.T1, 4 * 4096);
            _cold.JumpIf(0, _cold.Address); // jo
            jumps.Add(_cold.Address);
        }

        foreach (ref readonly var group in _groups.AsSpan(0, _groupCount))
        {
            if (group.Mover >= 0)
                jumps.Add(EmitBound(in group));
        }

        _cold.Jump(_hot.Address);
        foreach (var jump in jumps)
            _cold.Patch(jump, _cold.Address);
        if ((_key & TranslationKey.Counted) != 0)
            _cold.ImmediateOnAbsolute(0, &_t->Remaining, _count, wide: true);
        _cold.Jump(_block.Entry);
    }

    /// <summary>Looks a group up and moves the bound to where it leaves its page, if that is nearer. The end of the jump to be taken when it is not in the TLB.</summary>
    private ulong EmitBound(in AccessGroup group)
    {
        var mover = _map[group.Mover];
        var step = _steps[group.Mover];
        var entries = checked((int)(long)_tlb.Kind(Kind));
        var tag = TlbEntry.TagOffset(group.Writes);
        var range = (int)(group.End - group.Start);
        var moved = group.MovesBefore ? step << group.MoverScale : 0;
        var index = group.Index < 0 ? -1 : _map[group.Index];
        _cold.LeaScaled(Host.T0, _map[group.Base], index, group.Scale, checked((int)group.Start + moved), wide: true);
        Routines.EmitIndex(_cold, Host.T1, Host.T0);
        _cold.OnMemory(0x33, Host.T0, Host.T1, -1, entries + tag, wide: true); // xor: the offset in the page
        _cold.Immediate(7, Host.T0, 4096 - range);
        _cold.JumpIf(7, _cold.Address); // ja
        var fail = _cold.Address;
        _cold.Load(Host.T1, Host.T1, -1, entries + TlbEntry.DeltaOffset);
        if (group.Mover == group.Index)
            _cold.Lea(Host.T1, Host.T1, _map[group.Base], 0);
        else if (index >= 0)
            _cold.LeaScaled(Host.T1, Host.T1, index, group.Scale, 0, wide: true);
        _cold.Store(group.Pointer, Host.T1);

        // How many steps of one there are to the page's end, or start.
        if (step > 0)
        {
            _cold.MoveImmediate(Host.T1, (ulong)(4096 - range));
            _cold.Op(0x29, Host.T1, Host.T0, wide: false); // sub
            if (group.MoverScale > 0)
                _cold.Shift(5, Host.T1, group.MoverScale, wide: false);
            _cold.Lea(Host.T1, Host.T1, mover, 1);
        }
        else
        {
            _cold.Move(Host.T1, mover);
            if (group.MoverScale > 0)
                _cold.Shift(5, Host.T0, group.MoverScale, wide: false);
            _cold.Op(0x29, Host.T1, Host.T0);
            _cold.Immediate(5, Host.T1, 1);
        }

        _cold.OnAbsolute(0x3B, Host.T1, _bounds[group.Mover], wide: true);
        var further = _cold.ShortJump((byte)(step > 0 ? 0x7D : 0x7E)); // jge, jle
        _cold.Store(_bounds[group.Mover], Host.T1);
        _cold.Land(further);
        return fail;
    }

    private void MarkInvariant(in MemoryAccess m, bool present, ushort written)
    {
        if (present && m.Group >= 0 && (m.Base >= 16 || (written >> m.Base & 1) == 0) && (m.Index < 0 || (written >> m.Index & 1) == 0))
            _groups[m.Group].IsInvariant = true;
    }

    /// <summary>The jump back to the start.</summary>
    /// <param name="condition">As in the opcode, or -1.</param>
    private void EmitLoopJump(int condition)
    {
        if (_flags == FlagsPlace.Remade)
            RestoreFlags();
        if (_loopHead == 0)
        {
            _loopFlagsInHost = _flags == FlagsPlace.Host;
            _loopRemake0 = _remake0;
            _loopRemake1 = _remake1;
            _loopRemakeCount = _remakeCarry ? 0 : _remakeCount; // a later round need not save flags where the first did
            _loopRemakeItem = _remakeItem;
            _loopRemakeSources = _remakeSources;
            for (var g = 0; g < _groupCount; g++)
                _groups[g].HoldsInLoop = _groups[g].IsInvariant && _groups[g].Checked;
        }
        else if (_loopFlagsInHost)
        {
            RestoreFlags();
        }
        else if (_flags == FlagsPlace.Host)
        {
            SaveFlags(_hot); // the host has them still
            _flags = FlagsPlace.Both;
        }

        var target = _loopHead == 0 ? _hot.Address : _loopHead;
        if (condition < 0)
            _hot.Jump(target);
        else
            _hot.JumpIf(condition, target);
        if (_loopHead == 0)
            _loopJump = _hot.Address;
    }

    private void EmitLoop()
    {
        _hot.Align(16);
        _loopHead = _hot.Address;
        if (HasBounds)
            EmitLoopEntry();
        else
            _hot.Patch(_loopJump, _loopHead);
        _flags = _loopFlagsInHost ? FlagsPlace.Host : FlagsPlace.Saved;
        _remake0 = _loopRemake0;
        _remake1 = _loopRemake1;
        _remakeCount = _loopRemakeCount;
        _remakeCarry = false;
        _remakeItem = _loopRemakeItem;
        _remakeSources = _loopRemakeSources;
        foreach (ref var group in _groups.AsSpan(0, _groupCount))
        {
            group.IsMoving = group.Mover >= 0;
            group.Checked = group.HoldsInLoop || group.IsMoving;
            if (group.IsMoving && (_steps[group.Mover] << group.MoverScale) % Math.Max(group.AlignedTo, 1) != 0)
                group.AlignedTo = 1;
        }

        if (_loopItem != _count - 1)
        {
            // Only what lies before the jump back has been done.
            _avxChecked = false;
            for (var g = 0; g < _groupCount; g++)
                _groups[g].AlignedTo = 1;
        }

        _block.LoopEntry = _loopHead;
        _block.LoopExit = _cold.Address;
        if (_loopFlagsInHost)
            SaveFlags(_cold);
        _cold.StoreImmediate32(&_t->Exit, _block.HeadExit);
        _cold.Jump(_routines.Exit(_mask));

        _index = 0;
        ReleaseFlags();
        EmitHeadChecks(EmitExit(_block.HeadExit), attention: true);
        if (HasBounds)
            EmitBoundChecks();
        EmitItems();
    }
}
