using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Segment loads and the transfers of control that change CS: SDM vol. 3, chapters 3 and 5.</summary>
public unsafe partial class InterpreterVcpu
{
    internal const int ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5;

    internal bool IsProtected => (_c->Arch.Cr0 & ControlRegisters.PE) != 0;

    internal bool IsVm86 => (_c->Arch.Rflags & Rflags.VM) != 0;

    internal bool IsLongMode => (_c->Arch.Efer & ControlRegisters.LMA) != 0;

    private bool RealOrVm86 => !IsProtected || IsVm86;

    /// <summary>MOV, POP, LDS … to a segment register other than CS.</summary>
    internal void LoadSegment(int index, ushort selector)
    {
        ref var register = ref _c->Arch.Segments[index];
        if (RealOrVm86)
        {
            register.Selector = selector;
            register.Base = (ulong)selector << 4;
            if (IsVm86)
            {
                register.Limit = 0xFFFF;
                register.Attributes = 0xF3;
            }
            else
            {
                register.Attributes = (ushort)((register.Attributes & ~0x9F) | 0x93); // limit and size stay: unreal mode
            }

            UpdateMode();
            return;
        }

        var error = (uint)(selector & ~3);
        if (index == SS)
        {
            LoadStackSegment(selector, Vectors.GP, _c->Cpl);
            return;
        }

        if ((selector & ~3) == 0)
        {
            // A null selector keeps the base on some processors; here it reads as zero except by WRMSR afterwards.
            register = new SegmentRegister { Selector = selector };
            UpdateMode();
            return;
        }

        var descriptor = ReadDescriptor(selector, Vectors.GP, out var address);
        if (!descriptor.IsCodeOrData || (descriptor.IsCode && !descriptor.IsReadable))
            Raise(Vectors.GP, error);
        if (!(descriptor.IsCode && descriptor.IsConforming) && Math.Max(selector & 3, _c->Cpl) > descriptor.Dpl)
            Raise(Vectors.GP, error);
        if (!descriptor.Present)
            Raise(Vectors.NP, error);
        register = MarkAccessed(descriptor, address).ToRegister(selector);
        UpdateMode();
    }

    /// <summary>SS with its own rules: writable data of exactly this privilege.</summary>
    internal void LoadStackSegment(ushort selector, int vector, int cpl)
    {
        _c->Arch.Segments[SS] = CheckStackSegment(selector, vector, cpl);
        UpdateMode();
    }

    private SegmentRegister CheckStackSegment(ushort selector, int vector, int cpl)
    {
        var error = (uint)(selector & ~3);
        if ((selector & ~3) == 0)
        {
            // Allowed in 64-bit mode below CPL 3.
            if (_c->Is64 != 0 && cpl != 3 && (selector & 3) == cpl)
                return new SegmentRegister { Selector = selector, Attributes = (ushort)(cpl << 5) };
            Raise(vector, 0);
        }

        var descriptor = ReadDescriptor(selector, vector, out var address);
        if ((selector & 3) != cpl || !descriptor.IsWritable || descriptor.Dpl != cpl)
            Raise(vector, error);
        if (!descriptor.Present)
            Raise(Vectors.SS, error);
        return MarkAccessed(descriptor, address).ToRegister(selector);
    }

    /// <summary>Reads from GDT or LDT; outside of the table raises <paramref name="vector"/>(selector).</summary>
    internal Descriptor ReadDescriptor(ushort selector, int vector, out ulong address)
    {
        if (!TryReadDescriptor(selector, out var descriptor, out address))
            Raise(vector, (uint)(selector & ~3));
        return descriptor;
    }

    internal bool TryReadDescriptor(ushort selector, out Descriptor descriptor, out ulong address)
    {
        ulong tableBase;
        ulong limit;
        if ((selector & 4) != 0)
        {
            tableBase = _c->Arch.Ldtr.Base;
            limit = _c->Arch.Ldtr.Present ? _c->Arch.Ldtr.Limit : 0;
            if (!_c->Arch.Ldtr.Present)
            {
                descriptor = default;
                address = 0;
                return false;
            }
        }
        else
        {
            tableBase = _c->Arch.Gdtr.Base;
            limit = _c->Arch.Gdtr.Limit;
        }

        address = tableBase + (ulong)(selector & ~7);
        if ((ulong)(selector | 7) > limit)
        {
            descriptor = default;
            return false;
        }

        descriptor = new Descriptor(ReadSystem(address, 8));
        if (IsParavirtual)
            descriptor = OfRing3(descriptor);
        return true;
    }

    /// <summary>The upper half of a 16-byte system descriptor.</summary>
    private uint ReadHighBase(ushort selector, ulong address)
    {
        var limit = (selector & 4) != 0 ? _c->Arch.Ldtr.Limit : _c->Arch.Gdtr.Limit;
        if ((ulong)(selector & ~7) + 15 > limit)
            Raise(Vectors.GP, (uint)(selector & ~3));
        var high = ReadSystem(address + 8, 8);
        if (((high >> 40) & 0x1F) != 0)
            Raise(Vectors.GP, (uint)(selector & ~3));
        return (uint)high;
    }

    private Descriptor MarkAccessed(Descriptor descriptor, ulong address)
    {
        if ((descriptor.Raw & (1UL << 40)) == 0)
        {
            descriptor = new Descriptor(descriptor.Raw | (1UL << 40));
            if (!IsParavirtual || MayMark(address + 5))
                WriteSystem(address + 5, 1, (descriptor.Raw >> 40) & 0xFF);
        }

        return descriptor;
    }

    internal void LoadLdtr(ushort selector)
    {
        if ((selector & ~3) == 0)
        {
            _c->Arch.Ldtr = new SegmentRegister { Selector = selector };
            return;
        }

        if ((selector & 4) != 0)
            Raise(Vectors.GP, (uint)(selector & ~3));
        var descriptor = ReadDescriptor(selector, Vectors.GP, out var address);
        if (descriptor.IsCodeOrData || descriptor.Type != 2)
            Raise(Vectors.GP, (uint)(selector & ~3));
        if (!descriptor.Present)
            Raise(Vectors.NP, (uint)(selector & ~3));
        _c->Arch.Ldtr = descriptor.ToRegister(selector, IsLongMode ? ReadHighBase(selector, address) : 0);
    }

    internal void LoadTr(ushort selector)
    {
        var error = (uint)(selector & ~3);
        if ((selector & ~3) == 0 || (selector & 4) != 0)
            Raise(Vectors.GP, error);
        var descriptor = ReadDescriptor(selector, Vectors.GP, out var address);
        if (descriptor.IsCodeOrData || (descriptor.Type != 9 && (descriptor.Type != 1 || IsLongMode)))
            Raise(Vectors.GP, error);
        if (!descriptor.Present)
            Raise(Vectors.NP, error);
        var high = IsLongMode ? ReadHighBase(selector, address) : 0;
        descriptor = new Descriptor(descriptor.Raw | (1UL << 41)); // busy
        WriteSystem(address + 5, 1, (descriptor.Raw >> 40) & 0xFF);
        _c->Arch.Tr = descriptor.ToRegister(selector, high);
    }

    /// <summary>Real-mode and virtual-8086 CS.</summary>
    private void SetRealCs(ushort selector)
    {
        ref var cs = ref _c->Arch.Segments[CS];
        cs.Selector = selector;
        cs.Base = (ulong)selector << 4;
        if (IsVm86)
        {
            cs.Limit = 0xFFFF;
            cs.Attributes = 0xF3;
        }
        else
        {
            cs.Attributes = 0x93;
        }
    }

    /// <summary>JMP ptr and JMP m16:x. <paramref name="next"/> is where a task that is left resumes.</summary>
    internal void FarJump(ushort selector, ulong offset, ulong next)
    {
        if (RealOrVm86)
        {
            if (offset > _c->Arch.Segments[CS].Limit)
                Raise(Vectors.GP, 0);
            SetRealCs(selector);
            _c->Arch.Rip = offset;
            UpdateMode();
            return;
        }

        var error = (uint)(selector & ~3);
        if ((selector & ~3) == 0)
            Raise(Vectors.GP, 0);
        var descriptor = ReadDescriptor(selector, Vectors.GP, out var address);
        if (descriptor.IsCodeOrData)
        {
            var cs = CheckCodeForJump(descriptor, selector, address, offset);
            SetCs(cs, _c->Cpl, offset);
            return;
        }

        switch (descriptor.Type)
        {
            case 12 or 4: // call gate
                if (IsLongMode && descriptor.Type == 4)
                    Raise(Vectors.GP, error);
                if (descriptor.Dpl < _c->Cpl || descriptor.Dpl < (selector & 3))
                    Raise(Vectors.GP, error);
                if (!descriptor.Present)
                    Raise(Vectors.NP, error);
                var target = descriptor.GateSelector;
                ulong entry = descriptor.Type == 4 ? descriptor.GateOffset & 0xFFFF : descriptor.GateOffset;
                if (IsLongMode)
                    entry |= (ulong)ReadHighBase(selector, address) << 32;
                if ((target & ~3) == 0)
                    Raise(Vectors.GP, 0);
                var code = ReadDescriptor(target, Vectors.GP, out var codeAddress);
                if (!code.IsCode || (code.IsConforming ? code.Dpl > _c->Cpl : code.Dpl != _c->Cpl) || (IsLongMode && (!code.Long || code.Big)))
                    Raise(Vectors.GP, (uint)(target & ~3));
                if (!code.Present)
                    Raise(Vectors.NP, (uint)(target & ~3));
                CheckEntry(code, entry);
                SetCs(MarkAccessed(code, codeAddress).ToRegister((ushort)((target & ~3) | _c->Cpl)), _c->Cpl, entry);
                break;
            case 5 when !IsLongMode: // task gate
                if (descriptor.Dpl < _c->Cpl || descriptor.Dpl < (selector & 3))
                    Raise(Vectors.GP, error);
                if (!descriptor.Present)
                    Raise(Vectors.NP, error);
                SwitchTask(descriptor.GateSelector, TaskSwitchKind.Jump, null, next);
                break;
            case 1 or 9 when !IsLongMode: // available TSS
                if (descriptor.Dpl < _c->Cpl || descriptor.Dpl < (selector & 3))
                    Raise(Vectors.GP, error);
                if (!descriptor.Present)
                    Raise(Vectors.NP, error);
                SwitchTask(selector, TaskSwitchKind.Jump, null, next);
                break;
            default:
                Raise(Vectors.GP, error);
                break;
        }
    }

    /// <summary>CALL ptr and CALL m16:x. <paramref name="next"/> is the return address.</summary>
    internal void FarCall(ushort selector, ulong offset, int operandSize, ulong next)
    {
        var c = _c;
        var oldCs = c->Arch.Segments[CS].Selector;
        var rsp = c->Arch.Gpr[4];
        if (RealOrVm86)
        {
            Push(ref rsp, operandSize, oldCs);
            Push(ref rsp, operandSize, next);
            if (offset > c->Arch.Segments[CS].Limit)
                Raise(Vectors.GP, 0);
            SetStackPointer(rsp);
            SetRealCs(selector);
            c->Arch.Rip = offset;
            UpdateMode();
            return;
        }

        var error = (uint)(selector & ~3);
        if ((selector & ~3) == 0)
            Raise(Vectors.GP, 0);
        var descriptor = ReadDescriptor(selector, Vectors.GP, out var address);
        if (descriptor.IsCodeOrData)
        {
            var cs = CheckCodeForJump(descriptor, selector, address, offset);
            Push(ref rsp, operandSize, oldCs);
            Push(ref rsp, operandSize, next);
            SetStackPointer(rsp);
            SetCs(cs, c->Cpl, offset);
            return;
        }

        switch (descriptor.Type)
        {
            case 12 or 4:
                CallThroughGate(descriptor, selector, address, next);
                break;
            case 5 when !IsLongMode:
                if (descriptor.Dpl < c->Cpl || descriptor.Dpl < (selector & 3))
                    Raise(Vectors.GP, error);
                if (!descriptor.Present)
                    Raise(Vectors.NP, error);
                SwitchTask(descriptor.GateSelector, TaskSwitchKind.Call, null, next);
                break;
            case 1 or 9 when !IsLongMode:
                if (descriptor.Dpl < c->Cpl || descriptor.Dpl < (selector & 3))
                    Raise(Vectors.GP, error);
                if (!descriptor.Present)
                    Raise(Vectors.NP, error);
                SwitchTask(selector, TaskSwitchKind.Call, null, next);
                break;
            default:
                Raise(Vectors.GP, error);
                break;
        }
    }

    private void CallThroughGate(Descriptor gate, ushort selector, ulong address, ulong next)
    {
        var c = _c;
        var error = (uint)(selector & ~3);
        var longMode = IsLongMode;
        if (longMode && gate.Type == 4)
            Raise(Vectors.GP, error);
        if (gate.Dpl < c->Cpl || gate.Dpl < (selector & 3))
            Raise(Vectors.GP, error);
        if (!gate.Present)
            Raise(Vectors.NP, error);
        var size = longMode ? 8 : gate.Type == 12 ? 4 : 2;
        ulong entry = size == 2 ? gate.GateOffset & 0xFFFF : gate.GateOffset;
        if (longMode)
            entry |= (ulong)ReadHighBase(selector, address) << 32;
        var target = gate.GateSelector;
        if ((target & ~3) == 0)
            Raise(Vectors.GP, 0);
        var code = ReadDescriptor(target, Vectors.GP, out var codeAddress);
        if (!code.IsCode || code.Dpl > c->Cpl || (longMode && (!code.Long || code.Big)))
            Raise(Vectors.GP, (uint)(target & ~3));
        if (!code.Present)
            Raise(Vectors.NP, (uint)(target & ~3));
        CheckEntry(code, entry);
        code = MarkAccessed(code, codeAddress);
        var oldCs = c->Arch.Segments[CS].Selector;
        if (code.IsConforming || code.Dpl == c->Cpl)
        {
            var rsp = c->Arch.Gpr[4];
            Push(ref rsp, size, oldCs);
            Push(ref rsp, size, next);
            SetStackPointer(rsp);
            SetCs(code.ToRegister((ushort)((target & ~3) | c->Cpl)), c->Cpl, entry);
            return;
        }

        var cpl = code.Dpl;
        var oldSs = c->Arch.Segments[SS];
        var oldRsp = c->Arch.Gpr[4];
        ulong newRsp;
        SegmentRegister newSs;
        if (longMode)
        {
            newRsp = ReadTssStack64(cpl);
            newSs = new SegmentRegister { Selector = (ushort)cpl, Attributes = (ushort)(cpl << 5) };
        }
        else
        {
            ReadTssStack(cpl, out var selectorOfStack, out newRsp);
            newSs = CheckStackSegment(selectorOfStack, Vectors.TS, cpl);
        }

        var stack = new NewStack(this, newSs, newRsp, cpl);
        stack.Push(size, oldSs.Selector);
        stack.Push(size, oldRsp);
        if (!longMode)
        {
            for (var i = gate.GateParameterCount - 1; i >= 0; i--)
            {
                var at = (oldRsp + (ulong)(i * size)) & c->StackMask;
                stack.Push(size, ReadLinear((uint)(oldSs.Base + at), size));
            }
        }

        stack.Push(size, oldCs);
        stack.Push(size, next);
        c->Arch.Segments[SS] = newSs;
        c->Cpl = (byte)cpl;
        var cs = code.ToRegister((ushort)((target & ~3) | cpl));
        SetCs(cs, cpl, entry);
        c->Arch.Gpr[4] = longMode ? stack.Rsp : MergeStackPointer(oldRsp, stack.Rsp);
    }

    /// <summary>RETF. <paramref name="release"/> bytes of parameters are dropped from both stacks.</summary>
    internal void FarReturn(int operandSize, int release)
    {
        var c = _c;
        var rsp = c->Arch.Gpr[4];
        var offset = Pop(ref rsp, operandSize);
        var selector = (ushort)Pop(ref rsp, operandSize);
        if (RealOrVm86)
        {
            if (offset > c->Arch.Segments[CS].Limit)
                Raise(Vectors.GP, 0);
            SetStackPointer(rsp + (ulong)release);
            SetRealCs(selector);
            c->Arch.Rip = offset;
            UpdateMode();
            return;
        }

        ReturnTo(selector, offset, operandSize, ref rsp, release, isIret: false, 0);
    }

    /// <summary>The common end of RETF and IRET in protected and long mode.</summary>
    private void ReturnTo(ushort selector, ulong offset, int operandSize, ref ulong rsp, int release, bool isIret, ulong flags)
    {
        var c = _c;
        var error = (uint)(selector & ~3);
        if ((selector & ~3) == 0)
            Raise(Vectors.GP, 0);
        var rpl = selector & 3;
        var descriptor = ReadDescriptor(selector, Vectors.GP, out var address);
        if (!descriptor.IsCode || rpl < c->Cpl || (descriptor.IsConforming ? descriptor.Dpl > rpl : descriptor.Dpl != rpl)
            || (IsLongMode && descriptor.Long && descriptor.Big))
            Raise(Vectors.GP, error);
        if (!descriptor.Present)
            Raise(Vectors.NP, error);
        var toLong = IsLongMode && descriptor.Long;
        if (!toLong ? offset > descriptor.Limit : !IsCanonical(offset))
            Raise(Vectors.GP, 0);
        var outer = rpl > c->Cpl;
        rsp += (ulong)release;
        var wasLong = c->Is64 != 0;
        if (!outer && !(isIret && wasLong))
        {
            if (isIret)
                SetIretFlags(flags, operandSize, c->Cpl);
            SetStackPointer(rsp);
            SetCs(MarkAccessed(descriptor, address).ToRegister(selector), c->Cpl, offset);
            return;
        }

        var newRsp = Pop(ref rsp, operandSize);
        var newSsSelector = (ushort)Pop(ref rsp, operandSize);
        SegmentRegister newSs;
        if ((newSsSelector & ~3) == 0)
        {
            if (!toLong || rpl == 3 || (newSsSelector & 3) != rpl)
                Raise(Vectors.GP, 0);
            newSs = new SegmentRegister { Selector = newSsSelector, Attributes = (ushort)(rpl << 5) };
        }
        else
        {
            newSs = CheckStackSegment(newSsSelector, Vectors.GP, rpl);
        }

        if (isIret)
            SetIretFlags(flags, operandSize, c->Cpl);
        c->Arch.Segments[SS] = newSs;
        SetCs(MarkAccessed(descriptor, address).ToRegister(selector), rpl, offset);
        if (outer)
            DropOuterSegments(rpl);
        newRsp += (ulong)(outer ? release : 0);
        c->Arch.Gpr[4] = toLong || operandSize == 8 ? newRsp : MergeStackPointer(c->Arch.Gpr[4], newRsp);
    }

    /// <summary>After a return to less privilege: data segments that this privilege may not use become null.</summary>
    private void DropOuterSegments(int cpl)
    {
        foreach (var index in (ReadOnlySpan<int>)[ES, DS, FS, GS])
        {
            ref var s = ref _c->Arch.Segments[index];
            if (s.Dpl < cpl && (!s.IsCode || (s.Type & 4) == 0) && (s.Selector & ~3) != 0)
                s = new SegmentRegister { Base = _c->Is64 != 0 ? s.Base : 0 };
        }

        UpdateMode();
    }

    /// <summary>Checks a code descriptor as the target of a direct far jump or call.</summary>
    private SegmentRegister CheckCodeForJump(Descriptor descriptor, ushort selector, ulong address, ulong offset)
    {
        var error = (uint)(selector & ~3);
        if (!descriptor.IsCode)
            Raise(Vectors.GP, error);
        if (descriptor.IsConforming ? descriptor.Dpl > _c->Cpl : (selector & 3) > _c->Cpl || descriptor.Dpl != _c->Cpl)
            Raise(Vectors.GP, error);
        if (IsLongMode && descriptor.Long && descriptor.Big)
            Raise(Vectors.GP, error);
        if (!descriptor.Present)
            Raise(Vectors.NP, error);
        if (IsLongMode && descriptor.Long ? !IsCanonical(offset) : offset > descriptor.Limit)
            Raise(Vectors.GP, 0);
        return MarkAccessed(descriptor, address).ToRegister((ushort)((selector & ~3) | _c->Cpl));
    }

    /// <summary>The entry point of a call gate.</summary>
    private void CheckEntry(Descriptor code, ulong entry)
    {
        if (IsLongMode ? !IsCanonical(entry) : entry > code.Limit)
            Raise(Vectors.GP, 0);
    }

    private void SetCs(SegmentRegister cs, int cpl, ulong rip)
    {
        _c->Arch.Segments[CS] = cs;
        _c->Cpl = (byte)cpl;
        _c->Arch.Rip = rip;
        UpdateMode();
    }

    // --- LAR, LSL, VERR, VERW ---

    /// <summary>LAR and LSL: the descriptor if it may be looked at from here.</summary>
    internal bool TryLookAtDescriptor(ushort selector, bool forLimit, out Descriptor descriptor)
    {
        descriptor = default;
        if ((selector & ~3) == 0 || !TryReadDescriptor(selector, out descriptor, out _))
            return false;
        if (!descriptor.IsCodeOrData)
        {
            var allowed = descriptor.Type switch
            {
                1 or 3 => !IsLongMode,
                2 or 9 or 11 => true,
                4 or 5 => !forLimit && !IsLongMode,
                12 => !forLimit,
                _ => false,
            };
            if (!allowed)
                return false;
        }

        return (descriptor.IsCode && descriptor.IsConforming) || descriptor.Dpl >= Math.Max(selector & 3, _c->Cpl);
    }

    internal bool VerifySegment(ushort selector, bool write)
    {
        if ((selector & ~3) == 0 || !TryReadDescriptor(selector, out var descriptor, out _) || !descriptor.IsCodeOrData)
            return false;
        if (!(descriptor.IsCode && descriptor.IsConforming) && descriptor.Dpl < Math.Max(selector & 3, _c->Cpl))
            return false;
        return write ? descriptor.IsWritable : !descriptor.IsCode || descriptor.IsReadable;
    }
}
