using Iced.Intel;
using Sharpvisor.Cpu.Paging;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Checks of memory accesses, and instructions with other registers and operands.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>A host address: base + index + displacement. Only operands of <see cref="ItemKind.Same"/> have an index that is scaled, by a power of two.</summary>
    private readonly record struct HostOperand(int Base, int Index, int Displacement, int Scale = 0);

    /// <summary>
    /// Makes sure that an access may be made, and says where. Uses both scratch registers, which the operand may name;
    /// the flags are saved first.
    /// </summary>
    /// <param name="bitString">The register that counts bits from the operand on, for BT and its kin.</param>
    private HostOperand EmitAccess(ref Item item, ref MemoryAccess m, int bitString = -1)
    {
        var stackShift = m.Base == AddressBase.Rsp ? _stackOffset : 0;
        if (m.Group >= 0 && _groups[m.Group].Checked)
            return EmitKnownAccess(ref item, ref m, m.Displacement + stackShift - _groups[m.Group].Start);

        ReleaseFlags();
        ForgetScratch();
        var single = m.Group < 0;
        var start = single ? m.Displacement : _groups[m.Group].Start - stackShift;
        var range = single ? m.Size : (int)(_groups[m.Group].End - _groups[m.Group].Start);
        var writes = single ? m.Writes : _groups[m.Group].Writes;
        var slot = _lookUp.Contains(item.Offset) ? null : _slots.Allocate();
        var retry = _hot.Address;
        EmitLinear(ref item, in m, start);
        if (bitString >= 0)
        {
            // Which word of the string: the register, as a signed number, divided by the size.
            var bit = Use(bitString, Host.T1);
            if (m.Size == 8)
                _hot.Move(Host.T1, bit);
            else
                _hot.SignExtend32(Host.T1, bit);
            _hot.Shift(7, Host.T1, m.Size == 8 ? 6 : 5);
            _hot.LeaScaled(Host.T0, Host.T0, Host.T1, m.Size == 8 ? 3 : 2, 0, wide: true);
        }

        // An aligned access runs over no page's end: one look at the address sees to both.
        var delta = (int)(m.Displacement - start);
        var alignedAlone = m.Alignment > 1 && range == m.Size;
        if (m.Alignment > 1 && !alignedAlone)
            EmitAlignmentCheckAt(ref item, m.Alignment, delta);
        var exit = NewExit(new ExitInfo
        {
            Kind = ExitKind.Access,
            Map = _mask,
            Block = _block,
            Offset = item.Offset,
            Resume = retry,
            Slot = slot,
            Range = checked((short)range),
            AccessDelta = delta,
            AccessSize = checked((short)m.Size),
            Alignment = checked((byte)m.Alignment),
            Writes = m.Writes,
            NeedsWrite = writes,
            FaultInterpreted = item.HasOperand && item.HasStack,
        });
        var tag = TlbEntry.TagOffset(writes);
        var entries = 0;
        if (slot == null)
        {
            // A place that meets many pages: look the entry up each time.
            var leave = EmitAccessExit(exit, tag);
            entries = checked((int)(long)_tlb.Kind(Kind));
            Routines.EmitIndex(_hot, Host.T1, Host.T0);
            _hot.OnMemory(0x33, Host.T0, Host.T1, -1, entries + tag, wide: true);
            EmitTagTest(leave, range, alignedAlone ? m.Alignment : 1);
        }
        else
        {
            var stub = _cold.Address;
            _cold.OnMemory(0x33, Host.T0, Host.T1, -1, tag, wide: true); // xor: the linear address again
            _cold.MoveImmediate(Host.T1, (ulong)slot);
            _cold.Call(_routines.Refill(Kind, writes));
            _cold.JumpIf(4, retry); // je
            EmitExitFlags();
            _cold.StoreImmediate32(&_t->Exit, exit);
            _cold.Jump(_routines.Exit(_mask));

            _hot.Load32(Host.T1, slot);
            _hot.OnMemory(0x33, Host.T0, Host.T1, -1, tag, wide: true); // xor: the offset in the page, if it is the right page
            EmitTagTest(stub, range, alignedAlone ? m.Alignment : 1);
        }

        var simple = bitString < 0 && m.Index < 0 && m.Segment < 0 && !m.Address32 && !m.Address16 && IsResident(m.Base);
        var again = bitString < 0 && !simple && m.Segment < 0 && (m.Base == AddressBase.None || IsResident(m.Base)) && (m.Index < 0 || IsResident(m.Index));
        if (!simple && !again)
            _hot.OnMemory(0x33, Host.T0, Host.T1, -1, entries + tag, wide: true);
        _hot.Load(Host.T1, Host.T1, -1, entries + TlbEntry.DeltaOffset);
        if (again)
            EmitOffset(in m, start); // cheaper than to get it back by another look at the tag
        if (single)
            return simple ? new HostOperand(_map[m.Base], Host.T1, (int)m.Displacement) : new HostOperand(Host.T0, Host.T1, delta);

        ref var group = ref _groups[m.Group];
        group.Checked = true;
        group.HoldsAddress = m.Index >= 0;
        group.AlignedTo = m.Alignment;
        group.AlignedAt = delta;
        if (group.Members > 1 || group.IsInvariant)
        {
            group.Delta = _slots.AllocateDelta();
            if (group.HoldsAddress)
            {
                _hot.Op(0x01, Host.T0, Host.T1); // add
                _hot.Store(group.Delta, Host.T0);
                _addressInT0 = m.Group;
                return new HostOperand(Host.T0, -1, delta);
            }

            _hot.Store(group.Delta, Host.T1);
            _deltaInT1 = m.Group;
        }

        return simple ? new HostOperand(_map[m.Base], Host.T1, (int)m.Displacement) : new HostOperand(Host.T0, Host.T1, delta);
    }

    /// <summary>An access that an earlier check of the block has covered: the registers are those of the check, only RSP has moved, by a known constant.</summary>
    /// <param name="offset">From the start of the group.</param>
    private HostOperand EmitKnownAccess(ref Item item, ref MemoryAccess m, long offset)
    {
        ref var known = ref _groups[m.Group];
        if (known.AlignedTo < m.Alignment || ((offset - known.AlignedAt) & (m.Alignment - 1)) != 0)
        {
            ReleaseFlags();
            ForgetScratch();
            EmitLinear(ref item, in m, m.Displacement);
            EmitAlignmentCheck(ref item, m.Alignment);
            known.AlignedTo = m.Alignment;
            known.AlignedAt = offset;
        }

        if (known.IsMoving)
            return EmitMovingAccess(in item, in m);
        if (known.HoldsAddress)
        {
            if (_addressInT0 != m.Group)
                _hot.Load(Host.T0, known.Delta);
            _addressInT0 = m.Group;
            return new HostOperand(Host.T0, -1, (int)offset);
        }

        if (!IsResident(m.Base))
            _addressInT0 = NoGroup;
        var register = BaseRegister(in m);
        if (_deltaInT1 != m.Group)
            _hot.Load(Host.T1, known.Delta);
        _deltaInT1 = m.Group;
        return new HostOperand(register, Host.T1, (int)m.Displacement);
    }

    /// <summary>T0 is the offset in the page, if it is the right page, else anything larger.</summary>
    private void EmitTagTest(ulong leave, int range, int alignment)
    {
        if (alignment > 1)
        {
            _hot.Raw(0x49, 0xF7, 0xC6); // test r14, imm32
            _hot.Int32(~0xFFF | (alignment - 1));
            _hot.JumpIf(5, leave); // jne
            return;
        }

        _hot.Immediate(7, Host.T0, 4096 - range);
        _hot.JumpIf(7, leave); // ja
    }

    private const int NoGroup = -1;

    /// <summary>Groups whose delta or address the scratch registers still hold.</summary>
    private int _deltaInT1 = NoGroup, _addressInT0 = NoGroup;

    private void ForgetScratch() => _deltaInT1 = _addressInT0 = NoGroup;

    /// <summary>The cold side of a check by look-up; T1 is the offset of the entry.</summary>
    private ulong EmitAccessExit(int exit, int tag)
    {
        var stub = _cold.Address;
        _cold.OnMemory(0x33, Host.T0, Host.T1, -1, checked((int)(long)_tlb.Kind(Kind)) + tag, wide: true); // xor: the linear address again
        EmitExitFlags();
        _cold.StoreImmediate32(&_t->Exit, exit);
        _cold.Jump(_routines.Exit(_mask));
        return stub;
    }

    /// <summary>The host register that holds an address base, loaded into T0 if need be.</summary>
    private int BaseRegister(in MemoryAccess m)
    {
        switch (m.Base)
        {
            case AddressBase.Rip:
                _hot.Load(Host.T0, &_t->PageBase);
                return Host.T0;
            case AddressBase.Fs or AddressBase.Gs:
                _hot.Load(Host.T0, SegmentBase(m.Base == AddressBase.Fs ? 4 : 5));
                return Host.T0;
            default:
                return Use(m.Base, Host.T0);
        }
    }

    private void* SegmentBase(int segment) => (byte*)&_c->Arch.Segments + (segment * sizeof(State.SegmentRegister));

    /// <summary>
    /// Puts the linear address of an access, with a displacement of its own, into T0. May use T1; keeps flags unless
    /// there is a segment. An offset behind the segment's limit is the interpreter's.
    /// </summary>
    private void EmitLinear(ref Item item, in MemoryAccess m, long displacement)
    {
        EmitOffset(in m, displacement);
        if (m.Segment < 0)
            return;
        if (_is64)
        {
            _hot.OnAbsolute(0x03, Host.T0, SegmentBase(m.Segment), wide: true); // add
            return;
        }

        var leave = EmitExit(NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset }));
        var last = Host.T0;
        if (m.Size > 1)
        {
            last = Host.T1;
            _hot.Lea(last, Host.T0, -1, m.Size - 1);
        }

        _hot.OnAbsolute(0x3B, last, m.Writes ? WriteLimit(m.Segment) : ReadLimit(m.Segment), wide: true); // cmp
        _hot.JumpIf(0xF, leave); // jg
        _hot.OnAbsolute(0x03, Host.T0, SegmentBase(m.Segment), wide: false); // add, cut to 32 bits
    }

    private long* ReadLimit(int segment) => (long*)&_c->ReadLimits + segment;

    private long* WriteLimit(int segment) => (long*)&_c->WriteLimits + segment;

    /// <summary>Puts the offset of an access into T0. May use T1; keeps flags.</summary>
    private void EmitOffset(in MemoryAccess m, long displacement)
    {
        var wide = !m.Address32 && !m.Address16;
        if (m.Base == AddressBase.None && m.Index < 0)
        {
            _hot.MoveImmediate(Host.T0, wide ? (ulong)displacement : m.Address16 ? (ushort)displacement : (uint)displacement);
        }
        else
        {
            var @base = m.Base == AddressBase.None ? -1 : BaseRegister(in m);
            var index = m.Index < 0 ? -1 : Use(m.Index, Host.T1);
            if (m.Base == AddressBase.None && displacement != (int)displacement)
                throw new InvalidOperationException("a displacement of 64 bits with an index");
            if (m.Address16 && index < 0 && displacement == 0)
            {
                _hot.ZeroExtend16(Host.T0, @base);
                return;
            }

            _hot.LeaScaled(Host.T0, @base, index, m.Scale, (int)displacement, wide);
            if (m.Address16)
                _hot.ZeroExtend16(Host.T0, Host.T0);
        }
    }

    private void EmitAlignmentCheck(ref Item item, int alignment)
    {
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset });
        _hot.Raw(0x41, 0xF6, 0xC6, (byte)(alignment - 1)); // test r14b, imm8
        _hot.JumpIf(5, EmitExit(exit));
    }

    private void EmitAlignmentCheckAt(ref Item item, int alignment, int delta)
    {
        if ((delta & (alignment - 1)) == 0)
        {
            EmitAlignmentCheck(ref item, alignment);
            return;
        }

        var exit = NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset });
        _hot.Lea(Host.T1, Host.T0, -1, delta);
        _hot.Raw(0x41, 0xF6, 0xC7, (byte)(alignment - 1)); // test r15b, imm8
        _hot.JumpIf(5, EmitExit(exit));
    }

    /// <summary>The guest's own instruction, on the registers and the memory where the guest's are here.</summary>
    private void EmitSame(ref Item item)
    {
        var ins = item.Instruction;
        var spilled = 0;
        var spilledGuest0 = -1;
        var spilledGuest1 = -1;
        for (var i = 0; i < ins.OpCount; i++)
        {
            if (ins.GetOpKind(i) != OpKind.Register || !ins.GetOpRegister(i).IsGPR())
                continue;
            var guest = ins.GetOpRegister(i).GetFullRegister() - Register.RAX;
            if (_map[guest] >= 0 || guest == spilledGuest0 || guest == spilledGuest1)
                continue;
            spilled++;
            if (spilledGuest0 < 0)
                spilledGuest0 = guest;
            else
                spilledGuest1 = guest;
        }

        var isLea = ins.Mnemonic == Mnemonic.Lea;
        var needsFlags = item.NeedsFlags && (item.ReadsFlags || _flagsLiveAfter[_index]);
        if (spilled > 0)
            ForgetScratch();
        if (spilled > 2 || (spilled > 1 && item.HasOperand))
        {
            EmitFallback(ref item, ends: false);
            return;
        }

        // AH to BH can't be named together with the scratch registers: RSI holds the address meanwhile.
        var hasHighByte = item.HasOperand && !isLea && NamesHighByte(in ins);
        ins.SegmentPrefix = Register.None;
        if (isLea)
        {
            ref var m = ref item.Operand;
            if (IsResident(m.Base) && (m.Index < 0 || IsResident(m.Index)) && !m.Address16 && (!m.Address32 || !_is64))
            {
                // In 32-bit code the upper halves of the registers do not reach the result.
                ins.MemoryBase = Register.RAX + _map[m.Base];
                ins.MemoryIndex = m.Index < 0 ? Register.None : Register.RAX + _map[m.Index];
                SetDisplacement(ref ins, (int)m.Displacement);
            }
            else
            {
                ForgetScratch();
                EmitOffset(in m, m.Displacement);
                ins.MemoryBase = Register.R14;
                ins.MemoryIndex = Register.None;
                ins.MemoryIndexScale = 1;
                SetDisplacement(ref ins, 0);
            }
        }
        else if (item.HasOperand)
        {
            var operand = EmitAccess(ref item, ref item.Operand);
            if (spilled > 0 || hasHighByte || (needsFlags && _flags == FlagsPlace.Saved && !NeedsOnlyCarry(in ins)))
            {
                ForgetScratch();
                _hot.LeaScaled(Host.T0, operand.Base, operand.Index, operand.Scale, operand.Displacement, wide: true);
                operand = new HostOperand(Host.T0, -1, 0);
            }

            ins.MemoryBase = hasHighByte ? Register.RSI : Register.RAX + operand.Base;
            ins.MemoryIndex = operand.Index < 0 ? Register.None : Register.RAX + operand.Index;
            ins.MemoryIndexScale = 1 << operand.Scale;
            SetDisplacement(ref ins, operand.Displacement);
        }

        if (needsFlags && !TryRestoreCarry(in ins))
            RestoreFlags();

        // Spilled operands: the first in T1, which is free now, the second (never with a memory operand) in T0.
        if (spilledGuest0 >= 0)
            _hot.Load(Host.T1, Gpr(spilledGuest0));
        if (spilledGuest1 >= 0)
            _hot.Load(Host.T0, Gpr(spilledGuest1));
        for (var i = 0; i < ins.OpCount; i++)
        {
            if (ins.GetOpKind(i) != OpKind.Register)
                continue;
            var register = ins.GetOpRegister(i);
            if (!register.IsGPR())
                continue;
            var guest = register.GetFullRegister() - Register.RAX;
            var host = guest == spilledGuest0 ? Host.T1 : guest == spilledGuest1 ? Host.T0 : _map[guest];
            ins.SetOpRegister(i, Rename(register, host));
        }

        Simplify(ref ins);
        if (hasHighByte)
            _hot.Exchange(Host.Rsi, Host.T0);
        if (!_hot.TryEncode(in ins))
            throw new InvalidOperationException($"{item.Instruction} can't be encoded as {ins}");
        NoteImmediate(_hot, _index, in ins);
        if (hasHighByte)
            _hot.Exchange(Host.Rsi, Host.T0);
        if (spilledGuest0 >= 0 && (item.Written >> spilledGuest0 & 1) != 0)
            _hot.Store(Gpr(spilledGuest0), Host.T1);
        if (spilledGuest1 >= 0 && (item.Written >> spilledGuest1 & 1) != 0)
            _hot.Store(Gpr(spilledGuest1), Host.T0);
        if (spilled > 0)
            ForgetScratch();
        NoteFlags(in item, in ins);
    }

    private static bool NamesHighByte(in Instruction ins)
    {
        for (var i = 0; i < ins.OpCount; i++)
        {
            if (ins.GetOpKind(i) == OpKind.Register && ins.GetOpRegister(i) is >= Register.AH and <= Register.BH)
                return true;
        }

        return false;
    }

    private bool IsResident(int addressBase) => addressBase < 16 && _map[addressBase] >= 0;

    private static void SetDisplacement(ref Instruction ins, int displacement)
    {
        ins.MemoryDisplacement64 = (ulong)displacement;
        ins.MemoryDisplSize = displacement == 0 ? 0 : displacement is >= -128 and <= 127 ? 1 : 8;
    }

    /// <summary>The register of the same width in another place.</summary>
    private static Register Rename(Register register, int host) => register.GetSize() switch
    {
        8 => Register.RAX + host,
        4 => Register.EAX + host,
        2 => Register.AX + host,
        _ when register is >= Register.AH and <= Register.BH => register,
        _ => host < 4 ? Register.AL + host : Register.SPL + (host - 4),
    };

    /// <summary>Encodings that 64-bit code does not have, or that name an address of their own.</summary>
    private static void Simplify(ref Instruction ins)
    {
        switch (ins.Code)
        {
            case Code.Inc_r16:
                ins.Code = Code.Inc_rm16;
                break;
            case Code.Inc_r32:
                ins.Code = Code.Inc_rm32;
                break;
            case Code.Dec_r16:
                ins.Code = Code.Dec_rm16;
                break;
            case Code.Dec_r32:
                ins.Code = Code.Dec_rm32;
                break;
            case Code.Mov_AL_moffs8:
                ins.Code = Code.Mov_r8_rm8;
                break;
            case Code.Mov_AX_moffs16:
                ins.Code = Code.Mov_r16_rm16;
                break;
            case Code.Mov_EAX_moffs32:
                ins.Code = Code.Mov_r32_rm32;
                break;
            case Code.Mov_RAX_moffs64:
                ins.Code = Code.Mov_r64_rm64;
                break;
            case Code.Mov_moffs8_AL:
                ins.Code = Code.Mov_rm8_r8;
                break;
            case Code.Mov_moffs16_AX:
                ins.Code = Code.Mov_rm16_r16;
                break;
            case Code.Mov_moffs32_EAX:
                ins.Code = Code.Mov_rm32_r32;
                break;
            case Code.Mov_moffs64_RAX:
                ins.Code = Code.Mov_rm64_r64;
                break;
        }
    }
}
