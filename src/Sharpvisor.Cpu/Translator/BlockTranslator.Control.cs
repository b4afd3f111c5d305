using System.Runtime.InteropServices;
using Iced.Intel;
using Sharpvisor.Cpu.Decoding;

namespace Sharpvisor.Cpu.Translator;

/// <summary>The stack, divisions, and everything that jumps.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>Offset of a branch target from the start of the page.</summary>
    private int Target(in Item item)
    {
        ref readonly var ins = ref item.Instruction;
        if (_is64)
            return (int)((long)ins.NearBranchTarget - (long)_pageBase);
        if (ins.Op0Kind == OpKind.NearBranch16)
            return item.Next + (short)(ins.NearBranch16 - (ushort)(_pageBase + (ulong)item.Next)); // the way it goes, before it is cut
        return (int)((uint)ins.NearBranchTarget - (uint)_pageBase);
    }

    private bool HasSmallStack => !_is64 && (_key & (uint)BlockMode.Stack32) == 0;

    /// <summary>Moves the stack pointer, behind the check of an access: a small one changes the host's flags.</summary>
    private void AdjustStack(int change)
    {
        if (change == 0)
            return;
        if (!HasSmallStack)
        {
            _hot.Lea(Host.GuestRsp, Host.GuestRsp, -1, change, _is64);
            return;
        }

        _hot.Raw(0x66);
        _hot.Lea(Host.GuestRsp, Host.GuestRsp, -1, change, wide: false); // lea r13w
    }

    /// <summary>Stores 2, 4 or 8 bytes.</summary>
    private void StoreTo(HostOperand to, int from, int size)
    {
        if (size == 2)
            _hot.Raw(0x66);
        _hot.Store(to.Base, to.Index, to.Displacement, from, size == 8);
    }

    /// <summary>Loads 2, 4 or 8 bytes, with zeroes above.</summary>
    private void LoadFrom(int to, HostOperand from, int size)
    {
        if (size == 2)
            _hot.LoadWord(to, from.Base, from.Index, from.Displacement);
        else
            _hot.Load(to, from.Base, from.Index, from.Displacement, size == 8);
    }

    /// <summary>Loads a register, of which 2 bytes leave the rest as it was.</summary>
    private void LoadRegister(int to, HostOperand from, int size)
    {
        if (size == 2)
            _hot.Raw(0x66);
        _hot.Load(to, from.Base, from.Index, from.Displacement, size == 8);
    }

    /// <summary>T0 or T1 as the part of an operand that stays when the other one is needed for a value.</summary>
    private HostOperand FreeT0(HostOperand operand)
    {
        if (operand.Base != Host.T0)
            return operand;
        _hot.Lea(Host.T1, operand.Base, operand.Index, operand.Displacement);
        return new HostOperand(Host.T1, -1, 0);
    }

    /// <summary>Keeps a host address over the check of another access.</summary>
    private void KeepAddress(HostOperand operand)
    {
        _hot.Lea(Host.T1, operand.Base, operand.Index, operand.Displacement);
        _hot.Store(&_t->KeptAddress, Host.T1);
        ForgetScratch();
    }

    private void EmitPush(ref Item item)
    {
        ref var ins = ref item.Instruction;
        var size = -item.StackStep;
        switch (item.Kind)
        {
            case ItemKind.PushImmediate:
                {
                    var to = EmitAccess(ref item, ref item.Stack);
                    var value = (int)(long)ins.GetImmediate(0);
                    if (size == 2)
                        _hot.Raw(0x66);
                    _hot.OnMemory(0xC7, 0, to.Base, to.Index, to.Displacement, size == 8);
                    if (size == 2)
                        _hot.Raw((byte)value, (byte)(value >> 8));
                    else
                        _hot.Int32(value);
                    break;
                }

            case ItemKind.PushSelector:
                {
                    var to = FreeT0(EmitAccess(ref item, ref item.Stack));
                    _hot.LoadWord(Host.T0, &Segment(ins.Op0Register - Register.ES)->Selector);
                    StoreTo(to, Host.T0, 2);
                    break;
                }

            case ItemKind.PushFlags:
                {
                    SaveFlags();
                    var to = FreeT0(EmitAccess(ref item, ref item.Stack));
                    EmitFlagsWord();
                    StoreTo(to, Host.T0, size);
                    break;
                }

            case ItemKind.PushMemory:
                {
                    // The stack first: its check would destroy the value. When both fault the interpreter knows the order.
                    KeepAddress(EmitAccess(ref item, ref item.Stack));
                    LoadFrom(Host.T0, EmitAccess(ref item, ref item.Operand), size);
                    _hot.Load(Host.T1, &_t->KeptAddress);
                    StoreTo(new HostOperand(Host.T1, -1, 0), Host.T0, size);
                    break;
                }

            default:
                {
                    var guest = ins.Op0Register.GetFullRegister() - Register.RAX;
                    var to = EmitAccess(ref item, ref item.Stack);
                    if (_map[guest] < 0)
                    {
                        to = FreeT0(to);
                        _hot.Load(Host.T0, Gpr(guest));
                        StoreTo(to, Host.T0, size);
                    }
                    else
                    {
                        StoreTo(to, _map[guest], size);
                    }

                    break;
                }
        }

        AdjustStack(item.StackStep);
    }

    /// <summary>RFLAGS as PUSHF stores it, into T0, from the saved flags. RF and VM read as zero.</summary>
    private void EmitFlagsWord()
    {
        // T0 = other flags | arithmetic flags. RAX is borrowed by way of the stack of the host.
        _hot.Raw(0x50); // push rax
        _hot.Load32(Host.Rax, &_t->SavedFlags);
        _hot.Raw(0x0F, 0xB6, 0xC4); // movzx eax, ah
        _hot.Move32(Host.T0, Host.Rax);
        _hot.Load32(Host.Rax, &_t->SavedFlags);
        _hot.Immediate(4, Host.Rax, 1, wide: false);
        _hot.Shift(4, Host.Rax, 11, wide: false);
        _hot.Op(0x09, Host.T0, Host.Rax, wide: false); // or
        _hot.Immediate(4, Host.T0, 0x8D5, wide: false);
        _hot.Load(Host.Rax, &_c->Arch.Rflags);
        _hot.Immediate(4, Host.Rax, unchecked((int)~(0x8D5u | 0x30000u)), wide: true);
        _hot.Op(0x09, Host.T0, Host.Rax, wide: true);
        _hot.Immediate(1, Host.T0, 2, wide: false);
        _hot.Raw(0x58);
    }

    private void EmitPop(ref Item item)
    {
        var guest = item.Instruction.Op0Register.GetFullRegister() - Register.RAX;
        var from = EmitAccess(ref item, ref item.Stack);
        var host = _map[guest] < 0 ? Host.T0 : _map[guest];
        LoadRegister(host, from, item.Stack.Size);
        if (guest != AddressBase.Rsp)
            AdjustStack(item.StackStep);
        if (_map[guest] < 0)
            _hot.Store(Gpr(guest), host);
    }

    private void EmitLeave(ref Item item)
    {
        var from = EmitAccess(ref item, ref item.Stack);
        if (HasSmallStack)
            _hot.Raw(0x66);
        _hot.Lea(Host.GuestRsp, Host.Rbp, -1, item.Stack.Size, _is64);
        LoadRegister(Host.Rbp, from, item.Stack.Size);
    }

    /// <summary>DIV and IDIV with everything that #DE can come from looked at before.</summary>
    private void EmitDivide(ref Item item)
    {
        ReleaseFlags();
        ref var ins = ref item.Instruction;
        var divisor = Host.T0;
        var size = item.HasOperand ? item.Operand.Size : ins.Op0Register.GetSize();
        var wide = size == 8;
        if (item.HasOperand)
        {
            LoadFrom(Host.T0, EmitAccess(ref item, ref item.Operand), size);
        }
        else
        {
            divisor = Use(ins.Op0Register.GetFullRegister() - Register.RAX, Host.T0);
        }

        var slow = EmitExit(NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset }));
        if (item.Kind == ItemKind.Divide)
        {
            Narrow();
            _hot.Op(0x39, Host.Rdx, divisor, wide); // cmp rdx, divisor: also true for zero
            _hot.JumpIf(3, slow); // jae
        }
        else
        {
            // Safe when the dividend is a sign-extended register and the divisor is neither 0 nor -1; else the interpreter.
            _hot.Lea(Host.T1, divisor, -1, 1, wide);
            Narrow();
            _hot.Immediate(7, Host.T1, 1, wide);
            _hot.JumpIf(6, slow); // jbe
            if (wide)
                _hot.Move(Host.T1, Host.Rax);
            else
                _hot.Move32(Host.T1, Host.Rax);
            Narrow();
            _hot.Shift(7, Host.T1, (size * 8) - 1, wide);
            Narrow();
            _hot.Op(0x39, Host.Rdx, Host.T1, wide);
            _hot.JumpIf(5, slow); // jne
        }

        // F7 /6 or /7
        Narrow();
        _hot.Raw((byte)(0x40 | (wide ? 8 : 0) | (divisor >> 3)), 0xF7, (byte)(0xC0 | ((item.Kind == ItemKind.Divide ? 6 : 7) << 3) | (divisor & 7)));

        void Narrow()
        {
            if (size == 2)
                _hot.Raw(0x66);
        }
    }

    /// <summary>Stands for the offset of a branch where there is none.</summary>
    private const int NoBranch = -1;

    private static bool Wraps(in Item item) => item.Instruction.Op0Kind == OpKind.NearBranch16;

    private void EmitJump(ref Item item) => EmitJump(Target(in item), item.Offset, Wraps(in item));

    /// <summary>Leaves for a known target, at the end of a block.</summary>
    /// <param name="branch">Offset of the branch, or <see cref="NoBranch"/>.</param>
    /// <param name="wraps">The target is cut to 16 bits.</param>
    private void EmitJump(int target, int branch, bool wraps = false)
    {
        if (_flags == FlagsPlace.Remade)
            RestoreFlags();
        if (!IsInPage(target))
        {
            EmitFarJump(target, branch, wraps);
            return;
        }

        var exit = DirectExit(target, branch, wraps, out var stub);
        _hot.Jump(stub);
        SetPatch(exit);
    }

    private void EmitJumpIf(ref Item item, bool last)
    {
        if (_index == _loopItem || !TryRestoreCarry(in item.Instruction))
            RestoreFlags();
        var condition = item.Instruction.ConditionCode - ConditionCode.o;
        if (_index == _loopItem)
        {
            EmitLoopJump(condition);
        }
        else
        {
            EmitExitIf(condition, ref item);
        }

        if (last)
            EmitJump(item.Next, NoBranch);
    }

    private void EmitExitIf(int condition, ref Item item)
    {
        var exit = DirectExit(Target(in item), item.Offset, Wraps(in item), out var stub);
        _hot.JumpIf(condition, stub);
        SetPatch(exit);
    }

    /// <summary>LOOP and its kin with a target in the same page.</summary>
    private void EmitLoopInstruction(ref Item item)
    {
        SaveFlags();
        var size = OpBuilder.CounterSize(in item.Instruction);
        var mnemonic = item.Instruction.Mnemonic;
        var isTest = mnemonic is Mnemonic.Jcxz or Mnemonic.Jecxz or Mnemonic.Jrcxz;
        if (!isTest)
        {
            Narrow();
            _hot.Lea(Host.Rcx, Host.Rcx, -1, -1, wide: size == 8);
        }

        Narrow();
        _hot.Op(0x85, Host.Rcx, Host.Rcx, wide: size == 8); // test
        if (mnemonic is Mnemonic.Loope or Mnemonic.Loopne)
        {
            var atEnd = _hot.ShortJump(0x74); // je
            _hot.TestByte((byte*)&_t->SavedFlags + 1, 0x40); // ZF
            EmitExitIf(mnemonic == Mnemonic.Loope ? 5 : 4, ref item);
            _hot.Land(atEnd);
        }
        else
        {
            EmitExitIf(isTest ? 4 : 5, ref item);
        }

        EmitJump(item.Next, NoBranch);

        void Narrow()
        {
            if (size == 2)
                _hot.Raw(0x66);
        }
    }

    /// <summary>A place in the page that the block starts in, and within its segment.</summary>
    private bool IsInside(int target) => target is >= 0 and < 4096 && (_key & TranslationKey.Edge) == 0;

    private bool IsInPage(int target) => IsInside(target) && _block.SecondPage == ulong.MaxValue;

    /// <summary>The same to another page, with the check in line: most calls of a large program are such.</summary>
    private void EmitFarJump(int target, int branch, bool wraps)
    {
        SaveFlags();
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Far, Map = _mask, Block = _block, Offset = target, Branch = branch, Wraps = wraps });
        var leave = EmitExit(exit);
        var link = _slots.AllocateLink();
        _hot.Load(Host.T1, &_t->PageBase);
        _hot.OnAbsolute(0x3B, Host.T1, &link->PageBase, wide: true);
        _hot.JumpIf(5, leave);
        _hot.Load(Host.T1, &_t->Key);
        _hot.OnAbsolute(0x3B, Host.T1, &link->Key, wide: true);
        _hot.JumpIf(5, leave);
        EmitMovePage(_hot, target);
        _hot.Jump(leave); // to be patched
        ref var far = ref _exits[exit];
        far.Link = link;
        far.Patch = _hot.Address;
        far.Stub = leave;
    }

    /// <summary>The page base of a target, to which a link goes. Uses T1.</summary>
    private void EmitMovePage(CodeEmitter e, int target)
    {
        var distance = target & ~0xFFF;
        if (distance == 0)
            return;
        if (!_isSegmented)
        {
            e.ImmediateOnAbsolute(0, &_t->PageBase, distance, wide: true);
            return;
        }

        // It may be negative there, in 32 bits.
        e.Load32(Host.T1, &_t->PageBase);
        e.Lea(Host.T1, Host.T1, -1, distance, wide: false);
        e.Store(&_t->PageBase, Host.T1);
    }

    /// <summary>The jump just emitted is the one to patch, unless the exit's own code has it.</summary>
    private void SetPatch(int exit)
    {
        ref var info = ref _exits[exit];
        if (info.Kind == ExitKind.Direct)
            info.Patch = _hot.Address;
    }

    /// <summary>An exit to a known target and the code that leaves by it.</summary>
    private int DirectExit(int target, int branch, bool wraps, out ulong stub)
    {
        var samePage = IsInPage(target);
        var info = new ExitInfo
        {
            Kind = samePage ? ExitKind.Direct : ExitKind.Far,
            Map = _mask,
            Block = _block,
            Offset = target,
            Branch = branch,
            Wraps = wraps,
            FlagsInHost = _flags == FlagsPlace.Host,
        };
        var exit = NewExit(info);
        stub = _cold.Address;
        if (_flags == FlagsPlace.Host)
            SaveFlags(_cold);
        if (!samePage)
        {
            // Which page lies there depends on the address space: linked code is entered only under the key, and at the
            // address, that it was found under.
            var patch = EmitLinkCheck(target, out var link);
            ref var far = ref _exits[exit];
            far.Link = link;
            far.Patch = patch;
        }

        var leave = _cold.Address;
        _cold.StoreImmediate32(&_t->Exit, exit);
        _cold.Jump(_routines.Exit(_mask));
        _exits[exit].Stub = samePage ? stub : leave;
        return exit;
    }

    /// <summary>Checks page and key, moves on to the target's page, and jumps: where the jump ends. What follows is for when they differ.</summary>
    private ulong EmitLinkCheck(int target, out LinkSlot* link)
    {
        link = _slots.AllocateLink();
        _cold.Load(Host.T1, &_t->PageBase);
        _cold.OnAbsolute(0x3B, Host.T1, &link->PageBase, wide: true);
        var otherPlace = _cold.ShortJump(0x75); // jne
        _cold.Load(Host.T1, &_t->Key);
        _cold.OnAbsolute(0x3B, Host.T1, &link->Key, wide: true);
        var otherKey = _cold.ShortJump(0x75);
        EmitMovePage(_cold, target);
        _cold.Jump(_cold.Address + 5); // to be patched
        var patch = _cold.Address;
        _cold.Land(otherPlace);
        _cold.Land(otherKey);
        return patch;
    }

    /// <summary>For a direct exit whose target has a second page: a jump that is taken under one key only. Its address.</summary>
    public ulong EmitCheckedJump(int exit, bool flagsInHost, byte map, ulong target, out LinkSlot* link)
    {
        _cold = _cache.Cold;
        var start = _cold.Address;
        if (flagsInHost)
            SaveFlags(_cold);
        _cold.Patch(EmitLinkCheck(0, out link), target);
        _cold.StoreImmediate32(&_t->Exit, exit);
        _cold.Jump(_routines.Exit(map));
        return start;
    }

    private void EmitCall(ref Item item)
    {
        if (_isSegmented && !IsInPage(Target(in item)))
        {
            // Out of the segment: the instruction faults before it stores anything.
            ReleaseFlags();
            EmitReturnAddress(Target(in item));
            if (Wraps(in item))
                _hot.ZeroExtend16(Host.T0, Host.T0);
            EmitTargetCheck(ref item);
        }

        var to = FreeT0(EmitAccess(ref item, ref item.Stack));
        EmitReturnAddress(item.Next);
        StoreTo(to, Host.T0, item.Stack.Size);
        AdjustStack(item.StackStep);
        EmitJump(ref item);
    }

    /// <summary>The target in T0 has to be within the code segment.</summary>
    private void EmitTargetCheck(ref Item item)
    {
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Interpret, Map = _mask, Block = _block, Offset = item.Offset });
        _hot.OnAbsolute(0x3B, Host.T0, &Segment(CS)->Limit, wide: false); // cmp
        _hot.JumpIf(7, EmitExit(exit)); // ja
    }

    private void EmitReturnAddress(int next)
    {
        _hot.Load(Host.T0, &_t->PageBase);
        _hot.Lea(Host.T0, Host.T0, -1, next, _is64);
    }

    private void EmitIndirect(ref Item item)
    {
        SaveFlags();
        ref var ins = ref item.Instruction;
        var adjust = 0;
        if (item.Kind == ItemKind.Return)
        {
            LoadFrom(Host.T0, EmitAccess(ref item, ref item.Stack), item.Stack.Size);
            adjust = item.StackStep;
            AdjustStack(adjust);
        }
        else
        {
            if (item.Kind == ItemKind.CallIndirect)
            {
                // The stack is checked first, the target is read next, and the return address is stored last.
                KeepAddress(EmitAccess(ref item, ref item.Stack));
            }

            if (item.HasOperand)
            {
                LoadFrom(Host.T0, EmitAccess(ref item, ref item.Operand), item.Operand.Size);
            }
            else
            {
                var guest = ins.Op0Register.GetFullRegister() - Register.RAX;
                if (_map[guest] < 0)
                    _hot.Load(Host.T0, Gpr(guest));
                else if (_is64)
                    _hot.Move(Host.T0, _map[guest]);
                else if (ins.Op0Register.GetSize() == 2)
                    _hot.ZeroExtend16(Host.T0, _map[guest]);
                else
                    _hot.Move32(Host.T0, _map[guest]);
            }

            if (item.Kind == ItemKind.CallIndirect)
            {
                // The target waits in the state: the address of the return address and its value take the scratch registers.
                if (_isSegmented)
                    EmitTargetCheck(ref item);
                _hot.Store(&_t->JumpTarget, Host.T0);
                EmitReturnAddress(item.Next);
                _hot.Load(Host.T1, &_t->KeptAddress);
                StoreTo(new HostOperand(Host.T1, -1, 0), Host.T0, item.Stack.Size);
                adjust = item.StackStep;
                AdjustStack(adjust);
                _hot.Load(Host.T0, &_t->JumpTarget);
            }
        }

        _routines.Adapt(_hot, _mask, RegisterMap.Canonical);
        var exit = NewExit(new ExitInfo { Kind = ExitKind.Indirect, Map = RegisterMap.Canonical, Block = _block, Offset = item.Offset, StackAdjust = adjust });
        EmitLookup(exit);
    }

    /// <summary>Looks the address in T0 up in the jump cache and goes there, or leaves.</summary>
    private void EmitLookup(int exit)
    {
        var table = checked((int)(long)_jumps.Entries);
        var otherKey = _cold.Address;
        _cold.Load(Host.T0, Host.T1, -1, table);
        var stub = _cold.Address;
        _cold.StoreImmediate32(&_t->Exit, exit);
        _cold.Jump(_routines.Exit(RegisterMap.Canonical));

        _hot.Raw(0x45, 0x0F, 0xB7, 0xFE); // movzx r15d, r14w: as many as there are entries
        _hot.Shift(4, Host.T1, JumpTable.EntryShift, wide: false);
        _hot.OnMemory(0x3B, Host.T0, Host.T1, -1, table, wide: true); // cmp
        _hot.JumpIf(5, stub);
        if (_isSegmented)
        {
            // Pages are those of linear addresses.
            _hot.OnAbsolute(0x03, Host.T0, &Segment(CS)->Base, wide: false);
            _hot.Immediate(4, Host.T0, -4096, wide: false);
            _hot.OnAbsolute(0x2B, Host.T0, &Segment(CS)->Base, wide: false);
        }
        else
        {
            _hot.Immediate(4, Host.T0, -4096);
        }

        _hot.Store(&_t->PageBase, Host.T0);
        _hot.Load(Host.T0, Host.T1, -1, table + 12, wide: false);
        _hot.OnAbsolute(0x3B, Host.T0, &_t->KeyNumber, wide: false);
        _hot.JumpIf(5, otherKey);
        _hot.Load(Host.T1, Host.T1, -1, table + 8, wide: false);
        _hot.Raw(0x41, 0xFF, 0xE7); // jmp r15
    }
}
