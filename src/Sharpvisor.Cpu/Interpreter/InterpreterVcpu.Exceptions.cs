using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Delivery of interrupts and exceptions, and the return from them: SDM vol. 3, chapter 6.</summary>
public unsafe partial class InterpreterVcpu
{
    private const int NoError = -1;

    /// <summary>INT n, INT3, INTO: the return address is the next instruction, gate privileges are checked.</summary>
    internal void SoftwareInterrupt(int vector, ulong next, bool ioplSensitive)
    {
        var rip = _c->Arch.Rip;
        try
        {
            if (ioplSensitive && IsVm86 && ((_c->Arch.Rflags >> 12) & 3) < 3)
                Raise(Vectors.GP, 0);
            _c->Arch.Rip = next;
            DeliverEvent(vector, NoError, software: true);
            _singleStep = false; // TF is in the frame now and clear here
        }
        catch (GuestFaultException)
        {
            // The fault belongs to the INT itself, unless a task gate had already switched.
            if (_c->CurrentOp != _decoder.FetchOp)
                _c->Arch.Rip = rip;
            throw;
        }
    }

    /// <summary>An external interrupt or NMI, between instructions.</summary>
    private void DeliverInterrupt(int vector)
    {
        if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.Int) != 0)
            TraceEvent(vector, NoError, "interrupt");
        if (_environment.Points is { } points && points.Wants(TraceKind.Interrupt))
            points.Write(new TraceEvent(TraceKind.Interrupt, Index, (ulong)vector, ulong.MaxValue, _c->Arch.Rip));
        DeliverNested(vector, NoError, software: false, exception: false);
    }

    /// <summary>Delivers the exception that a handler raised.</summary>
    private protected void HandleFault()
    {
        var c = _c;
        Synchronize();
        var op = c->CurrentOp;
        ReleaseSplitLock();
        if (_debugEvent is not null && op != _decoder.FetchOp)
            TakeBackWatchpoint();
        if (op != _decoder.FetchOp)
        {
            // Operations behind the fault were counted with their block.
            var index = op - c->CurrentBlock->Ops;
            if (index >= 0 && index < c->CurrentBlock->Count)
                c->InstructionCount -= c->CurrentBlock->Count - index - 1;
        }
        else
        {
            // Nothing was executed, but a guest that faults at each fetch must come to the end of its budget too.
            c->InstructionCount++;
        }

        c->Arch.Rip = (c->Arch.Rip + op->Offset) & c->RipMask;
        c->CurrentOp = _decoder.FetchOp;
        c->Arch.InterruptShadow = false;
        c->Arch.Activity = ActivityState.Active; // the trap of a single-stepped HLT ends it
        UpdateSlow();
        var vector = c->FaultVector;
        var error = HasErrorCode(vector) && IsProtected ? (int)c->FaultError : NoError;
        if (IsParavirtual && ServeFault(ref vector, ref error))
            return;
        if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.Int) != 0)
            TraceEvent(vector, error, "exception");
        if (_environment.Points is { } points && points.Wants(TraceKind.Exception))
            points.Write(new TraceEvent(TraceKind.Exception, Index, (ulong)vector, error == NoError ? ulong.MaxValue : (ulong)error, c->Arch.Rip, c->Arch.Cr2));
        _history.Add(vector, error, c->Arch.Cr2, c->Arch.Segments[CS].Selector, c->Arch.Rip, c->InstructionCount);

        // Faults restart the instruction: RF keeps an instruction breakpoint there from hitting twice.
        if (_points.HasArmed && _points.IsArmed(LinearOf(c->Arch.Rip)))
            KeepResumeFlag(true);
        if (vector != Vectors.DB)
            c->Arch.Rflags |= Rflags.RF;
        else
            c->Arch.Dr[7] &= ~DebugStatus.GeneralDetect; // the handler may use the debug registers
        DeliverNested(vector, error, software: false, exception: true);
    }

    /// <summary>Delivers, and turns faults on the way into double and triple faults (SDM table 6-5).</summary>
    private void DeliverNested(int vector, int error, bool software, bool exception)
    {
        var c = _c;
        var savedFlags = c->Arch.Rflags;
        while (true)
        {
            try
            {
                DeliverEvent(vector, error, software);
                return;
            }
            catch (GuestFaultException)
            {
                var second = c->FaultVector;
                var secondError = HasErrorCode(second) && IsProtected ? (int)c->FaultError : NoError;
                _history.Add(second, secondError, c->Arch.Cr2, c->Arch.Segments[CS].Selector, c->Arch.Rip, c->InstructionCount);
                if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.Int) != 0)
                    TraceEvent(second, secondError, $"while delivering vector {vector}");
                if (exception && vector == Vectors.DF)
                {
                    c->Arch.Activity = ActivityState.Shutdown;
                    return;
                }

                if (exception && ((IsContributory(vector) && IsContributory(second))
                    || (vector == Vectors.PF && (IsContributory(second) || second == Vectors.PF))))
                {
                    vector = Vectors.DF;
                    error = IsProtected ? 0 : NoError;
                }
                else
                {
                    vector = second;
                    error = secondError;

                    // EXT: the event came from outside of the program.
                    if (error != NoError && vector != Vectors.PF && !software)
                        error |= 1;
                }

                exception = true;
                c->Arch.Rflags = savedFlags | Rflags.RF;
            }
        }
    }

    private static bool IsContributory(int vector) => vector is Vectors.DE or Vectors.TS or Vectors.NP or Vectors.SS or Vectors.GP;

    private static bool HasErrorCode(int vector) =>
        vector is Vectors.DF or Vectors.TS or Vectors.NP or Vectors.SS or Vectors.GP or Vectors.PF or Vectors.AC;

    private void DeliverEvent(int vector, int error, bool software)
    {
        var c = _c;
        if (IsParavirtual)
            DeliverTrap(vector, error, software);
        else if (!IsProtected)
            DeliverReal(vector);
        else if (IsLongMode)
            DeliverLong(vector, error, software);
        else
            DeliverProtected(vector, error, software);
        c->Arch.InterruptShadow = false;
        UpdateMode();
    }

    private void DeliverReal(int vector)
    {
        var c = _c;
        if ((ulong)(vector * 4) + 3 > c->Arch.Idtr.Limit)
            Raise(Vectors.GP, 0);
        var entry = ReadSystem(c->Arch.Idtr.Base + (ulong)(vector * 4), 4);
        var rsp = c->Arch.Gpr[4];
        Push(ref rsp, 2, Flags.Get(c));
        Push(ref rsp, 2, c->Arch.Segments[CS].Selector);
        Push(ref rsp, 2, c->Arch.Rip);
        SetStackPointer(rsp);
        c->Arch.Rflags &= ~(Rflags.IF | Rflags.TF | Rflags.AC | Rflags.RF);
        SetRealCs((ushort)(entry >> 16));
        c->Arch.Rip = (ushort)entry;
    }

    private void DeliverLong(int vector, int error, bool software)
    {
        var c = _c;
        var gateError = (uint)((vector * 8) | 2);
        if ((ulong)(vector * 16) + 15 > c->Arch.Idtr.Limit)
            Raise(Vectors.GP, gateError);
        var gate = new Descriptor(ReadSystem(c->Arch.Idtr.Base + (ulong)(vector * 16), 8));
        var high = ReadSystem(c->Arch.Idtr.Base + (ulong)(vector * 16) + 8, 8);
        if (gate.IsCodeOrData || gate.Type is not (14 or 15) || ((high >> 40) & 0x1F) != 0)
            Raise(Vectors.GP, gateError);
        if (software && gate.Dpl < c->Cpl)
            Raise(Vectors.GP, gateError);
        if (!gate.Present)
            Raise(Vectors.NP, gateError);
        var selector = gate.GateSelector;
        if ((selector & ~3) == 0)
            Raise(Vectors.GP, 0);
        var code = ReadDescriptor(selector, Vectors.GP, out var codeAddress);
        if (!code.IsCode || !code.Long || code.Big || code.Dpl > c->Cpl)
            Raise(Vectors.GP, (uint)(selector & ~3));
        if (!code.Present)
            Raise(Vectors.NP, (uint)(selector & ~3));
        code = MarkAccessed(code, codeAddress);
        var cpl = code.IsConforming ? c->Cpl : code.Dpl;
        var rip = gate.GateOffset | ((ulong)(uint)high << 32);
        if (!IsCanonical(rip))
            Raise(Vectors.GP, 0);
        var oldSs = c->Arch.Segments[SS];
        var oldRsp = c->Arch.Gpr[4];
        var rsp = gate.GateIst != 0 ? ReadTss64(0x24 + ((gate.GateIst - 1) * 8)) : cpl < c->Cpl ? ReadTssStack64(cpl) : oldRsp;
        var newSs = cpl < c->Cpl ? new SegmentRegister { Selector = (ushort)cpl, Attributes = (ushort)(cpl << 5) } : oldSs;
        var stack = new NewStack(this, newSs, rsp & ~15UL, cpl);
        stack.Push(8, oldSs.Selector);
        stack.Push(8, oldRsp);
        stack.Push(8, Flags.Get(c));
        stack.Push(8, c->Arch.Segments[CS].Selector);
        stack.Push(8, c->Arch.Rip);
        if (error != NoError)
            stack.Push(8, (uint)error);
        c->Arch.Segments[CS] = code.ToRegister((ushort)((selector & ~3) | cpl));
        c->Arch.Segments[SS] = newSs;
        c->Arch.Gpr[4] = stack.Rsp;
        c->Arch.Rip = rip;
        c->Cpl = (byte)cpl;
        c->Arch.Rflags &= ~(Rflags.TF | Rflags.NT | Rflags.RF | Rflags.VM | (gate.Type == 14 ? Rflags.IF : 0));
    }

    private void DeliverProtected(int vector, int error, bool software)
    {
        var c = _c;
        var gateError = (uint)((vector * 8) | 2);
        if ((ulong)(vector * 8) + 7 > c->Arch.Idtr.Limit)
            Raise(Vectors.GP, gateError);
        var gate = new Descriptor(ReadSystem(c->Arch.Idtr.Base + (ulong)(vector * 8), 8));
        if (gate.IsCodeOrData || gate.Type is not (5 or 6 or 7 or 14 or 15))
            Raise(Vectors.GP, gateError);
        if (software && gate.Dpl < c->Cpl)
            Raise(Vectors.GP, gateError);
        if (!gate.Present)
            Raise(Vectors.NP, gateError);
        if (gate.Type == 5)
        {
            SwitchTask(gate.GateSelector, TaskSwitchKind.Call, error == NoError ? null : (uint)error, c->Arch.Rip);
            return;
        }

        var size = gate.Type >= 14 ? 4 : 2;
        var selector = gate.GateSelector;
        if ((selector & ~3) == 0)
            Raise(Vectors.GP, 0);
        var code = ReadDescriptor(selector, Vectors.GP, out var codeAddress);
        if (!code.IsCode || code.Dpl > c->Cpl)
            Raise(Vectors.GP, (uint)(selector & ~3));
        if (!code.Present)
            Raise(Vectors.NP, (uint)(selector & ~3));
        code = MarkAccessed(code, codeAddress);
        ulong rip = size == 4 ? gate.GateOffset : gate.GateOffset & 0xFFFF;
        if (rip > code.Limit)
            Raise(Vectors.GP, 0);
        var fromVm86 = IsVm86;
        var oldFlags = Flags.Get(c);
        var oldSs = c->Arch.Segments[SS];
        var oldRsp = c->Arch.Gpr[4];
        var cleared = Rflags.TF | Rflags.NT | Rflags.RF | Rflags.VM | ((gate.Type & 1) == 0 ? Rflags.IF : 0);
        if (!code.IsConforming && code.Dpl < c->Cpl)
        {
            if (fromVm86 && code.Dpl != 0)
                Raise(Vectors.GP, (uint)(selector & ~3));
            ReadTssStack(code.Dpl, out var stackSelector, out var newRsp);
            var newSs = CheckStackSegment(stackSelector, Vectors.TS, code.Dpl);
            var stack = new NewStack(this, newSs, newRsp, code.Dpl);
            if (fromVm86)
            {
                stack.Push(size, c->Arch.Segments[GS].Selector);
                stack.Push(size, c->Arch.Segments[FS].Selector);
                stack.Push(size, c->Arch.Segments[DS].Selector);
                stack.Push(size, c->Arch.Segments[ES].Selector);
            }

            stack.Push(size, oldSs.Selector);
            stack.Push(size, oldRsp);
            stack.Push(size, oldFlags);
            stack.Push(size, c->Arch.Segments[CS].Selector);
            stack.Push(size, c->Arch.Rip);
            if (error != NoError)
                stack.Push(size, (uint)error);
            if (fromVm86)
            {
                foreach (var index in (ReadOnlySpan<int>)[ES, DS, FS, GS])
                    c->Arch.Segments[index] = default;
            }

            c->Arch.Segments[SS] = newSs;
            c->Arch.Gpr[4] = newSs.Big ? (uint)stack.Rsp : (oldRsp & ~0xFFFFUL) | (ushort)stack.Rsp;
            c->Cpl = (byte)code.Dpl;
        }
        else
        {
            if (fromVm86 || (!code.IsConforming && code.Dpl != c->Cpl))
                Raise(Vectors.GP, (uint)(selector & ~3));
            var rsp = oldRsp;
            Push(ref rsp, size, oldFlags);
            Push(ref rsp, size, c->Arch.Segments[CS].Selector);
            Push(ref rsp, size, c->Arch.Rip);
            if (error != NoError)
                Push(ref rsp, size, (uint)error);
            SetStackPointer(rsp);
        }

        c->Arch.Segments[CS] = code.ToRegister((ushort)((selector & ~3) | c->Cpl));
        c->Arch.Rip = rip;
        c->Arch.Rflags &= ~cleared;
    }

    /// <summary>IRET, IRETD, IRETQ.</summary>
    internal void InterruptReturn(int operandSize)
    {
        var c = _c;
        c->Arch.NmiBlocked = false;
        var rsp = c->Arch.Gpr[4];
        if (!IsProtected)
        {
            var ip = Pop(ref rsp, operandSize);
            var cs = (ushort)Pop(ref rsp, operandSize);
            var flags = Pop(ref rsp, operandSize);
            if (ip > c->Arch.Segments[CS].Limit)
                Raise(Vectors.GP, 0);
            SetStackPointer(rsp);
            SetRealCs(cs);
            c->Arch.Rip = ip;
            SetIretFlags(flags, operandSize, 0);
            UpdateMode();
            return;
        }

        if (IsVm86)
        {
            if (((c->Arch.Rflags >> 12) & 3) < 3)
                Raise(Vectors.GP, 0);
            var ip = Pop(ref rsp, operandSize);
            var cs = (ushort)Pop(ref rsp, operandSize);
            var flags = Pop(ref rsp, operandSize);
            if (ip > 0xFFFF)
                Raise(Vectors.GP, 0);
            SetStackPointer(rsp);
            SetRealCs(cs);
            c->Arch.Rip = ip;
            SetIretFlags(flags, operandSize, 3);
            UpdateMode();
            return;
        }

        if ((c->Arch.Rflags & Rflags.NT) != 0)
        {
            if (IsLongMode)
                Raise(Vectors.GP, 0);
            var link = (ushort)ReadSystem(c->Arch.Tr.Base, 2);
            SwitchTask(link, TaskSwitchKind.Iret, null, c->Arch.Rip + c->CurrentOp->Next);
            return;
        }

        var rip = Pop(ref rsp, operandSize);
        var selector = (ushort)Pop(ref rsp, operandSize);
        var newFlags = Pop(ref rsp, operandSize);
        if ((newFlags & Rflags.VM) != 0 && c->Cpl == 0 && !IsLongMode && operandSize == 4)
        {
            ReturnToVm86(rip, selector, newFlags, ref rsp);
            return;
        }

        ReturnTo(selector, rip, operandSize, ref rsp, 0, isIret: true, newFlags);
    }

    private void ReturnToVm86(ulong rip, ushort cs, ulong flags, ref ulong rsp)
    {
        var c = _c;
        var newRsp = Pop(ref rsp, 4);
        Span<ushort> selectors = stackalloc ushort[6];
        selectors[SS] = (ushort)Pop(ref rsp, 4);
        selectors[ES] = (ushort)Pop(ref rsp, 4);
        selectors[DS] = (ushort)Pop(ref rsp, 4);
        selectors[FS] = (ushort)Pop(ref rsp, 4);
        selectors[GS] = (ushort)Pop(ref rsp, 4);
        if (rip > 0xFFFF)
            Raise(Vectors.GP, 0);
        selectors[CS] = cs;
        for (var i = 0; i < 6; i++)
            c->Arch.Segments[i] = new SegmentRegister { Selector = selectors[i], Base = (ulong)selectors[i] << 4, Limit = 0xFFFF, Attributes = 0xF3 };
        Flags.SetArithmetic(c, flags);
        c->Arch.Rflags = (flags & (Rflags.TF | Rflags.IF | Rflags.DF | Rflags.IOPL | Rflags.NT | Rflags.RF | Rflags.VM | Rflags.AC | Rflags.VIF | Rflags.VIP | Rflags.ID)) | Rflags.Reserved1;
        c->Cpl = 3;
        c->Arch.Gpr[4] = newRsp;
        c->Arch.Rip = (ushort)rip;
        UpdateMode();
    }

    /// <summary>Flags as IRET loads them: IOPL at CPL 0 only, IF at CPL &lt;= IOPL only.</summary>
    private void SetIretFlags(ulong flags, int operandSize, int cpl)
    {
        var c = _c;
        var mask = Rflags.TF | Rflags.DF | Rflags.NT;
        if (operandSize > 2)
            mask |= Rflags.RF | Rflags.AC | Rflags.ID;
        if (cpl == 0)
            mask |= Rflags.IOPL | (operandSize > 2 ? Rflags.VIF | Rflags.VIP : 0);
        if (cpl <= (int)((c->Arch.Rflags >> 12) & 3))
            mask |= Rflags.IF;
        Flags.SetArithmetic(c, flags);
        c->Arch.Rflags = (c->Arch.Rflags & ~mask) | (flags & mask);
    }

    // --- debug exceptions ---

    private void CheckCodeBreakpoints(ulong rip)
    {
        var c = _c;
        var dr7 = c->Arch.Dr[7];
        if ((dr7 & 0xFF) == 0)
            return;
        var linear = c->Is64 != 0 ? rip : (uint)(c->Arch.Segments[CS].Base + rip);
        ulong hits = 0;
        for (var i = 0; i < 4; i++)
        {
            if (((dr7 >> (2 * i)) & 3) != 0 && ((dr7 >> (16 + (4 * i))) & 15) == 0 && c->Arch.Dr[i] == linear)
                hits |= 1UL << i;
        }

        if (hits == 0)
            return;
        c->Arch.Dr[6] = (c->Arch.Dr[6] & ~15UL) | hits;
        c->CurrentOp = _decoder.FetchOp;
        Raise(Vectors.DB);
    }

    private bool IsWatchedPage(ulong linear)
    {
        if (_points.HasArmedRanges && _points.WatchesPage(linear))
            return true;
        var dr7 = _c->Arch.Dr[7];
        if ((dr7 & 0xFF) == 0)
            return false;
        for (var i = 0; i < 4; i++)
        {
            if (((dr7 >> (2 * i)) & 3) != 0 && ((dr7 >> (16 + (4 * i))) & 3) != 0 && ((_c->Arch.Dr[i] ^ linear) & ~0xFFFUL) == 0)
                return true;
        }

        return false;
    }

    /// <summary>Notes data breakpoints that an access hits; the trap follows the instruction.</summary>
    private void CheckWatch(ulong linear, int size, DataAccess access)
    {
        if (_points.HasArmedRanges)
            CheckDebuggerWatch(linear, size, access);
        var dr7 = _c->Arch.Dr[7];
        if ((dr7 & 0xFF) == 0)
            return;
        for (var i = 0; i < 4; i++)
        {
            var kind = (dr7 >> (16 + (4 * i))) & 3;
            if (((dr7 >> (2 * i)) & 3) == 0 || (kind != 3 && !(kind == 1 && (access & DataAccess.Write) != 0)))
                continue;
            var length = ((dr7 >> (18 + (4 * i))) & 3) switch { 0 => 1UL, 1 => 2UL, 2 => 8UL, _ => 4UL };
            var start = _c->Arch.Dr[i] & ~(length - 1);
            if (linear < start + length && start < linear + (ulong)size)
                _c->PendingDr6 |= 1UL << i;
        }
    }

    /// <summary>The same for ports: R/W 10b, with CR4.DE only.</summary>
    private void CheckPortWatch(ushort port, int size)
    {
        var dr7 = _c->Arch.Dr[7];
        if ((dr7 & 0xFF) == 0 || (_c->Arch.Cr4 & ControlRegisters.DE) == 0)
            return;
        for (var i = 0; i < 4; i++)
        {
            if (((dr7 >> (2 * i)) & 3) == 0 || ((dr7 >> (16 + (4 * i))) & 3) != 2)
                continue;
            var length = ((dr7 >> (18 + (4 * i))) & 3) + 1;
            var start = _c->Arch.Dr[i] & ~(length - 1);
            if (port < start + length && start < port + (ulong)size)
                _c->PendingDr6 |= 1UL << i;
        }
    }

    private void RaiseDebugTrap(ulong bits)
    {
        _c->PendingDr6 = 0;
        _c->Arch.Dr[6] = (_c->Arch.Dr[6] & ~15UL) | bits;
        _c->CurrentOp = _decoder.FetchOp;
        Raise(Vectors.DB);
    }

    /// <summary>INT1: a #DB that is a trap of the instruction.</summary>
    internal void SoftwareDebugTrap(ulong next)
    {
        _c->Arch.Rip = next;
        _c->CurrentOp = _decoder.FetchOp;
        Raise(Vectors.DB);
    }
}

/// <summary>Bits of DR6.</summary>
internal static class DebugStatus
{
    public const ulong DebugRegisterAccess = 0x2000, SingleStep = 0x4000, TaskSwitch = 0x8000;

    /// <summary>DR7.GD.</summary>
    public const ulong GeneralDetect = 0x2000;
}
