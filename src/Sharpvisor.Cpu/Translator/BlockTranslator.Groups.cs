using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

/// <content>Accesses near the same unchanged base, whose check is made once.</content>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>Puts accesses near the same unchanged base into groups, and counts the uses of R8 to R15.</summary>
    private void FormGroups(bool grouping)
    {
        CloseAll();
        Array.Clear(_uses);
        _groupCount = 0;
        long stackOffset = 0;
        for (var i = 0; i < _count; i++)
        {
            ref var item = ref _items[i];
            var used = item.Read | item.Written;
            for (var r = 8; r < 16; r++)
                _uses[r - 8] += (used >> r & 1) + ((item.Written >> r & 1) * 2);
            if (item.Kind is ItemKind.Fallback or ItemKind.FallbackEnd)
            {
                CloseAll();
                continue;
            }

            if (grouping && item.HasStack)
                Join(ref item.Stack, stackOffset);
            if (item.Kind is ItemKind.SwapGs or ItemKind.WriteBase)
                _activeGroup[AddressBase.Fs] = _activeGroup[AddressBase.Gs] = -1;
            if (item.Kind is ItemKind.AllowAccess or ItemKind.DenyAccess)
                CloseAll(); // what has been checked was checked by other rules
            if (grouping && item.HasOperand && item.Kind != ItemKind.BitTest && item.Instruction.Mnemonic != Mnemonic.Lea)
                Join(ref item.Operand, stackOffset);
            if (StackChange(in item) is { } change)
            {
                stackOffset += change;
                CloseWritten((ushort)(item.Written & ~(1 << AddressBase.Rsp)));
            }
            else
            {
                CloseWritten(item.Written);
            }
        }
    }

    private void CloseAll()
    {
        Array.Fill(_activeGroup, -1);
        foreach (ref var known in _indexGroups.AsSpan())
            known.Group = -1;
    }

    /// <summary>The group that accesses by these registers may join; -1 for none.</summary>
    private ref int ActiveGroup(in MemoryAccess m)
    {
        if (m.Index < 0)
            return ref _activeGroup[m.Base];
        var free = 0;
        for (var i = 0; i < _indexGroups.Length; i++)
        {
            ref var known = ref _indexGroups[i];
            if (known.Group >= 0 && known.Base == m.Base && known.Index == m.Index && known.Scale == m.Scale)
                return ref known.Group;
            if (known.Group < 0)
                free = i;
        }

        _indexGroups[free] = new IndexGroup { Base = m.Base, Index = m.Index, Scale = m.Scale, Group = -1 };
        return ref _indexGroups[free].Group;
    }

    private void CloseWritten(ushort written)
    {
        foreach (ref var known in _indexGroups.AsSpan())
        {
            if (known.Group >= 0 && ((known.Base < 16 && (written >> known.Base & 1) != 0) || (written >> known.Index & 1) != 0))
                known.Group = -1;
        }

        for (var r = 0; written >> r != 0; r++)
        {
            if ((written >> r & 1) != 0)
                _activeGroup[r] = -1;
        }
    }

    /// <summary>The constant by which an instruction moves RSP, or null if it does something else to it (or nothing).</summary>
    private long? StackChange(in Item item)
    {
        ref readonly var ins = ref item.Instruction;
        switch (item.Kind)
        {
            case ItemKind.Push or ItemKind.PushImmediate or ItemKind.PushMemory or ItemKind.PushFlags or ItemKind.Call or ItemKind.CallIndirect:
                return item.StackStep;
            case ItemKind.Pop:
                return ins.Op0Register.GetFullRegister() == Register.RSP ? null : item.StackStep;
            case ItemKind.Same when ins.Op0Kind == OpKind.Register && ins.Op0Register == Register.RSP && ins.OpCount == 2:
                if (ins.Mnemonic == Mnemonic.Lea)
                    return ins.MemoryBase == Register.RSP && ins.MemoryIndex == Register.None ? (long)ins.MemoryDisplacement64 : null;
                if (ins.Mnemonic is Mnemonic.Add or Mnemonic.Sub && ins.Op1Kind is OpKind.Immediate8to64 or OpKind.Immediate32to64)
                    return ins.Mnemonic == Mnemonic.Add ? (long)ins.GetImmediate(1) : -(long)ins.GetImmediate(1);
                return null;
            default:
                return null;
        }
    }

    private void Join(ref MemoryAccess m, long stackOffset)
    {
        m.Group = -1;
        if (m.Address32 || m.Segment >= 0 || m.Base == AddressBase.None)
            return;
        var start = m.Displacement + (m.Base == AddressBase.Rsp ? stackOffset : 0);
        var end = start + m.Size;
        ref var active = ref ActiveGroup(in m);
        if (active >= 0)
        {
            ref var group = ref _groups[active];
            var newStart = Math.Min(group.Start, start);
            var newEnd = Math.Max(group.End, end);
            if (newEnd - newStart <= GroupRange)
            {
                group.Start = newStart;
                group.End = newEnd;
                group.Writes |= m.Writes;
                group.Members++;
                m.Group = active;
                return;
            }
        }

        active = _groupCount++;
        _groups[active] = new AccessGroup { Start = start, End = end, Writes = m.Writes, Members = 1, Mover = -1 };
        m.Group = active;
    }
}
