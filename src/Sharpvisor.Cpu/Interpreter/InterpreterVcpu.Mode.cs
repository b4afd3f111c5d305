using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Reset, start-up, and what is derived from control registers, segments and flags.</summary>
public unsafe partial class InterpreterVcpu
{
    public virtual void Reset()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        Interlocked.And(ref _c->Pending, (int)(PendingEvents.Kick | PendingEvents.Code));
        EndCut();
        _debugEvent = null;
        _history.Clear();
        ResetState(init: false);
    }

    /// <summary>SDM vol. 3, table 10-1: after power-on, and after INIT, which keeps some registers.</summary>
    private void ResetState(bool init)
    {
        var c = _c;
        var old = c->Arch;
        c->Arch = default;
        _passesBreakpoint = false;
        c->Arch.Rip = 0xFFF0;
        c->Arch.Rflags = Rflags.Reserved1;
        c->Arch.Gpr[2] = _environment.Model.Query(1, 0, CpuidContext()).Eax; // family, model, stepping
        for (var i = 0; i < 6; i++)
            c->Arch.Segments[i] = new SegmentRegister { Limit = 0xFFFF, Attributes = 0x93 };
        c->Arch.Segments[CS] = new SegmentRegister { Selector = 0xF000, Base = 0xFFFF0000, Limit = 0xFFFF, Attributes = 0x9B };
        c->Arch.Gdtr = new TableRegister { Limit = 0xFFFF };
        c->Arch.Idtr = new TableRegister { Limit = 0xFFFF };
        c->Arch.Ldtr = new SegmentRegister { Limit = 0xFFFF, Attributes = 0x82 };
        c->Arch.Tr = new SegmentRegister { Limit = 0xFFFF, Attributes = 0x8B };
        c->Arch.Cr0 = 0x60000010;
        c->Arch.Dr[6] = 0xFFFF0FF0;
        c->Arch.Dr[7] = 0x400;
        Flags.SetArithmetic(c, 0);
        if (init)
        {
            c->Arch.Cr0 |= old.Cr0 & (ControlRegisters.CD | ControlRegisters.NW);
            c->Arch.X87 = old.X87;
            c->Arch.Ymm = old.Ymm;
            c->Arch.Mxcsr = old.Mxcsr;
            c->Arch.Xcr0 = old.Xcr0;
            c->Arch.Pat = old.Pat;
            c->Arch.MiscEnable = old.MiscEnable;
            c->Arch.MtrrDefaultType = old.MtrrDefaultType;
            c->Arch.MtrrVariable = old.MtrrVariable;
            c->Arch.MtrrFixed = old.MtrrFixed;
            c->Arch.TscOffset = old.TscOffset;
            c->Arch.TscAux = old.TscAux;
        }
        else
        {
            SaveX87();
            *(ushort*)&c->Arch.X87 = 0x40; // FCW of a processor reset; the stack is empty
            c->Arch.Mxcsr = 0x1F80;
            c->Arch.Xcr0 = 1;
            c->Arch.Pat = 0x0007040600070406;
            c->Arch.MiscEnable = _environment.Model.MiscEnable;
            _debugControl = _machineCheckStatus = 0;
            using (_environment.Gate.Enter())
                TellTscOffset();
        }

        ResetParavirtual();
        c->Arch.Activity = Index == 0 ? ActivityState.Active : ActivityState.WaitForSipi;
        if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.CpuReset) != 0)
            trace.Write($"CPU {Index} {(init ? "INIT" : "reset")}");
        FlushTlb(global: true);
        UpdateMode();
    }

    private void StartUp(byte vector)
    {
        var c = _c;
        ref var cs = ref c->Arch.Segments[CS];
        cs.Selector = (ushort)(vector << 8);
        cs.Base = (ulong)vector << 12;
        c->Arch.Rip = 0;
        c->Arch.Activity = ActivityState.Active;
        UpdateMode();
    }

    /// <summary>Derives everything from the state: after anything but arithmetic flags changed.</summary>
    private protected void UpdateMode()
    {
        var c = _c;
        ref var s = ref c->Arch;
        if (!IsProtected)
            c->Cpl = 0;
        else if (IsVm86)
            c->Cpl = 3;
        var longMode = (s.Efer & ControlRegisters.LMA) != 0;
        var cs = s.Segments[CS];
        var ss = s.Segments[SS];
        var is64 = longMode && cs.Long && !IsVm86;
        c->Is64 = (byte)(is64 ? 1 : 0);
        c->RipMask = is64 ? ulong.MaxValue : uint.MaxValue;
        c->StackMask = is64 ? ulong.MaxValue : ss.Big ? uint.MaxValue : 0xFFFF;
        var mode = is64 ? BlockMode.Code64 : cs.Big ? BlockMode.Code32 : BlockMode.Code16;
        if (!is64)
        {
            if (ss.Big)
                mode |= BlockMode.Stack32;
            if (IsFlat(cs, code: true) && IsFlat(ss, code: false) && IsFlat(s.Segments[DS], code: false) && IsFlat(s.Segments[ES], code: false))
                mode |= BlockMode.Flat;
            if (RealOrVm86)
                mode |= BlockMode.Real;
            if (IsVm86)
                mode |= BlockMode.Virtual86;
            for (var i = 0; i < 6; i++)
                (c->ReadLimits[i], c->WriteLimits[i]) = SimpleLimits(in s.Segments[i]);
        }

        c->Mode = (uint)mode;

        var traps = FpuTraps.None;
        if ((s.Cr0 & (ControlRegisters.EM | ControlRegisters.TS)) != 0)
            traps |= FpuTraps.X87NotAvailable;
        if ((s.Cr0 & ControlRegisters.EM) != 0)
            traps |= FpuTraps.MmxUndefined | FpuTraps.SseUndefined;
        if ((s.Cr4 & ControlRegisters.OSFXSR) == 0)
            traps |= FpuTraps.SseUndefined;
        if ((s.Cr4 & ControlRegisters.OSXSAVE) == 0 || (s.Xcr0 & 6) != 6 || RealOrVm86)
            traps |= FpuTraps.AvxUndefined;
        if (RealOrVm86)
            traps |= FpuTraps.VexUndefined;
        if ((s.Cr0 & ControlRegisters.TS) != 0)
            traps |= FpuTraps.TaskSwitched;
        if ((s.Cr0 & (ControlRegisters.TS | ControlRegisters.MP)) == (ControlRegisters.TS | ControlRegisters.MP))
            traps |= FpuTraps.WaitNotAvailable;
        c->FpuTrap = (byte)traps;
        SetCodeSegment(is64 ? 0 : cs.Base, is64 ? uint.MaxValue : cs.Limit);
        c->LookupKey = (_epoch << 16) | ((ulong)c->Cpl << 8) | c->Mode;
        UpdateTlbKind();
        UpdateSlow();
    }

    /// <summary>See <see cref="CpuContext.ReadLimits"/>.</summary>
    private static (long Read, long Write) SimpleLimits(in SegmentRegister s)
    {
        if ((s.Attributes & 0x90) != 0x90)
            return (-1, -1);
        if (s.IsCode)
            return ((s.Attributes & 2) != 0 ? s.Limit : -1, -1);
        return (s.Attributes & 4) != 0 ? (-1, -1) : (s.Limit, (s.Attributes & 2) != 0 ? s.Limit : -1);
    }

    private static bool IsFlat(in SegmentRegister s, bool code) =>
        s.Base == 0 && s.Limit == uint.MaxValue && (s.Attributes & 0x90) == 0x90
        && (code ? (s.Attributes & 8) != 0 : (s.Attributes & 0xE) == 2);

    private protected void UpdateTlbKind()
    {
        // Alignment checks are made on the slow path: while they are in force no access has another one.
        _alignmentCheck = _c->Cpl == 3 && (_c->Arch.Rflags & Rflags.AC) != 0 && (_c->Arch.Cr0 & ControlRegisters.AM) != 0;
        _c->Tlb = _tlb.Kind(_alignmentCheck ? Tlb.EmptyKind : CurrentKind);
    }

    private void UpdateSlow()
    {
        var c = _c;
        var slow = SlowReasons.None;
        if ((c->Arch.Rflags & (Rflags.TF | Rflags.RF)) != 0 || (c->Arch.Dr[7] & 0xFF) != 0)
            slow |= SlowReasons.Debug;
        if (c->Arch.InterruptShadow)
            slow |= SlowReasons.Shadow;
        if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.Exec) != 0)
            slow |= SlowReasons.Trace;
        if (_passesBreakpoint || _stepping.Kind != StepKind.None)
            slow |= SlowReasons.Debugger;
        c->Slow = (byte)slow;
    }
}
