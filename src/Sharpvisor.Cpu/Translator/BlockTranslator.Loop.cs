// A block that jumps to its own start is emitted twice: the first round as always, and the rounds after it, which are
// only ever entered from the first or from themselves. What the first has made sure of holds there: checks of accesses
// whose address no instruction of the block changes, and which instruction made the flags.
using System.Runtime.InteropServices;
using Iced.Intel;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Blocks that are loops.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>The instruction that jumps back, or -1.</summary>
    private int _loopItem;

    /// <summary>The end of the first round's jump to the later ones, or 0; and where those begin.</summary>
    private ulong _loopJump, _loopHead;
    private bool _loopFlagsInHost;
    private Instruction _loopRemake0, _loopRemake1;
    private int _loopRemakeCount;
    private ushort _loopRemakeSources;

    private void FindLoop()
    {
        _loopItem = -1;
        _loopJump = _loopHead = 0;
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
        for (var i = 0; i < _count; i++)
        {
            MarkInvariant(in _items[i].Operand, _items[i].HasOperand && _items[i].Instruction.Mnemonic != Mnemonic.Lea, written);
            MarkInvariant(in _items[i].Stack, _items[i].HasStack, written);
        }
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
            _loopRemakeCount = _remakeCount;
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
        _hot.Patch(_loopJump, _hot.Address);
        _loopHead = _hot.Address;
        _flags = _loopFlagsInHost ? FlagsPlace.Host : FlagsPlace.Saved;
        _remake0 = _loopRemake0;
        _remake1 = _loopRemake1;
        _remakeCount = _loopRemakeCount;
        _remakeSources = _loopRemakeSources;
        for (var g = 0; g < _groupCount; g++)
            _groups[g].Checked = _groups[g].HoldsInLoop;
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
        EmitItems();
    }
}
