using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// The ways into a paravirtual kernel and out of it: traps, events, system calls; and back by HYPERVISOR_iret. The frames
/// are those of Xen's create_bounce_frame and of struct iret_context (arch-x86/xen-x86_64.h).
/// </summary>
public unsafe partial class InterpreterVcpu
{
    /// <summary>vcpu_info: evtchn_upcall_pending, evtchn_upcall_mask, arch.cr2.</summary>
    private const int UpcallPending = 0, UpcallMask = 1, VcpuInfoCr2 = 16;

    private const int IoplShift = 12;

    /// <summary>HYPERVISOR_iret.</summary>
    private const ulong ReturnCall = 23;

    /// <summary>RFLAGS that a handler of the kernel is entered without.</summary>
    private const ulong ClearedByTrap = Rflags.AC | Rflags.VM | Rflags.RF | Rflags.NT | Rflags.TF;

    /// <summary>vcpu_info of this processor, or null.</summary>
    private byte* VcpuInfo => _domain!.VcpuInfo(Index) is not 0 and var address ? _memory.TryGetPointer(address) : null;

    /// <summary>SYSCALL of the kernel: a hypercall, which leaves RCX and R11 as the instruction does.</summary>
    private void CallHypervisor(Op* op)
    {
        var c = _c;
        var rip = c->Arch.Rip;
        c->Arch.Rip = NextRip(op);
        c->Arch.Gpr[1] = c->Arch.Rip;
        c->Arch.Gpr[11] = Flags.Get(c) & ~Rflags.RF;
        c->Arch.Segments[CS].Selector = FlatCode64; // the hypervisor returns by SYSRET
        c->Arch.Segments[SS] = new SegmentRegister { Selector = FlatData, Limit = uint.MaxValue, Attributes = UserDataAttributes };
        c->CurrentOp = _decoder.FetchOp;
        if (c->Arch.Gpr[0] == ReturnCall && _environment.Points?.Wants(TraceKind.Hypercall) != true)
        {
            // The most frequent one concerns nobody but this processor: the gate is not needed.
            ((IParavirtualProcessor)this).ReturnFromTrap();
            AskForEvents();
            return;
        }

        if (!ExecuteHypercall())
            c->Arch.Rip = rip + op->Offset;
        WaitForFlushes();
        AskForEvents();
    }

    /// <summary>Other processors have been asked to forget translations: until they have, this one does not go on.</summary>
    private void WaitForFlushes()
    {
        if (_flushWaits == 0)
            return;
        _coherence.WaitForFlushes(this, _flushWaits);
        _flushWaits = 0;
    }

    /// <summary>Has the run loop look for events if the kernel waits for any and does not mask them.</summary>
    private void AskForEvents()
    {
        var info = VcpuInfo;
        if (info != null && Volatile.Read(ref info[UpcallPending]) != 0 && info[UpcallMask] == 0)
            Interlocked.Or(ref _c->Pending, (int)PendingEvents.Interrupt);
    }

    /// <returns>The kernel was entered.</returns>
    private bool DeliverEvents()
    {
        var c = _c;
        Interlocked.And(ref c->Pending, ~(int)PendingEvents.Interrupt);
        var info = VcpuInfo;
        if (info == null || Volatile.Read(ref info[UpcallPending]) == 0 || info[UpcallMask] != 0)
            return false; // the kernel looks itself when it unmasks them
        c->Arch.Activity = ActivityState.Active;
        var (address, _) = _entries[(int)ParavirtualEntry.Event];
        if (address == 0)
        {
            Crash("an event came before the kernel had said where events go (callback_op)");
            return false;
        }

        if (_environment.Points is { } points && points.Wants(TraceKind.Interrupt))
            points.Write(new TraceEvent(TraceKind.Interrupt, Index, ulong.MaxValue, ulong.MaxValue, c->Arch.Rip));
        EnterKernel(address, NoError, masksEvents: true);
        UpdateMode();
        return true;
    }

    /// <summary>A fault that the hypervisor serves before the kernel hears of it, or instead.</summary>
    /// <returns>False: <paramref name="vector"/> is the kernel's to handle.</returns>
    private bool ServeFault(ref int vector, ref int error)
    {
        const int protectionWrite = 3;
        var c = _c;
        if (vector == Vectors.PF)
        {
            if (!_isParavirtualKernel || (error & ~(int)AccessKind.User) != protectionWrite)
                return false;
            return WriteTable(ref vector, ref error) switch
            {
                TableWrite.Again => true,
                TableWrite.Done => !IsStepOver(ref vector, ref error),
                _ => false,
            };
        }

        if (vector == Vectors.NM && (c->Arch.Cr0 & ControlRegisters.TS) != 0)
        {
            // The hypervisor loads the FPU's state; the kernel is told that it is used.
            c->Arch.Cr0 &= ~ControlRegisters.TS;
            UpdateMode();
            return false;
        }

        return ((vector == Vectors.GP && error == 0 && TryEmulatePrivileged(ref vector, ref error)) || (vector == Vectors.UD && TryEmulateForced()))
            && !IsStepOver(ref vector, ref error);
    }

    /// <summary>With TF, the trap follows what was done in the place of an instruction, too.</summary>
    private bool IsStepOver(ref int vector, ref int error)
    {
        if ((_c->Arch.Rflags & Rflags.TF) == 0)
            return false;
        _c->Arch.Dr[6] = (_c->Arch.Dr[6] & ~15UL) | DebugStatus.SingleStep;
        vector = Vectors.DB;
        error = NoError;
        return true;
    }

    /// <summary>
    /// A store to a page that is mapped for reading only. If it is a page table, the instruction is executed all the same,
    /// and the hypervisor looks at the entry afterwards.
    /// </summary>
    private TableWrite WriteTable(ref int vector, ref int error)
    {
        var c = _c;
        var linear = c->Arch.Cr2;
        if (!TryWalk(linear, AccessKind.Read, 2, out var walk))
            return TableWrite.Refused;
        Block* block;
        var rip = c->Arch.Rip;
        var cr2 = c->Arch.Cr2;
        _passesBreakpoint = true; // it was at the instruction already
        try
        {
            block = FindBlock(rip, c->Mode | (uint)BlockMode.Single); // before the gate: who decodes may wait for others
        }
        catch (GuestFaultException)
        {
            return TableWrite.Refused;
        }
        finally
        {
            _passesBreakpoint = false;
        }

        if (block->Stale)
            return TableWrite.Again;
        bool faulted = false, isAllowed;
        using (_environment.Gate.Enter())
        {
            if (!_domain!.BeginTableWrite(walk.Physical))
                return TableWrite.Refused;
            _tablePage = walk.Physical & ~0xFFFUL;
            try
            {
                c->CurrentBlock = block;
                c->InstructionCount += block->Count;
                ((delegate*<CpuContext*, Op*, void>)block->Ops->Fn)(c, block->Ops);
            }
            catch (GuestFaultException)
            {
                faulted = true;
                vector = c->FaultVector;
                error = HasErrorCode(vector) ? (int)c->FaultError : NoError;
            }
            finally
            {
                _tablePage = NoPage;
                ReleaseSplitLock();
                c->CurrentOp = _decoder.FetchOp;
            }

            isAllowed = _domain.EndTableWrite(this);
        }

        WaitForFlushes();
        if (!faulted && isAllowed)
            return TableWrite.Done;
        if (_debugEvent is not null)
            TakeBackWatchpoint();
        c->Arch.Rip = rip;
        if (!faulted)
            c->Arch.Cr2 = cr2;
        return TableWrite.Refused;
    }

    /// <summary>What became of a store to a page that is mapped for reading only.</summary>
    private enum TableWrite
    {
        /// <summary>The fault stands, or is another one now.</summary>
        Refused,

        Done,

        /// <summary>Another processor has changed the code meanwhile: the instruction, whichever it is now, is executed again.</summary>
        Again,
    }

    /// <summary>An exception or INT n for the kernel.</summary>
    private void DeliverTrap(int vector, int error, bool software)
    {
        const int linuxCall = 0x80;
        ref readonly var gate = ref _traps[vector];
        if (vector == Vectors.NMI && !software && gate.Address == 0)
        {
            _c->Arch.NmiBlocked = false; // lost
            return;
        }

        // Of these three the gates in Xen's own IDT are open to all.
        var isOpen = vector switch { Vectors.BP or Vectors.OF => true, linuxCall => gate.Address != 0, _ => gate.Privilege >= (_isParavirtualKernel ? 1 : 3) };
        if (software && !isOpen)
            Raise(Vectors.GP, (uint)((vector * 8) | 2));
        if (gate.Address == 0)
        {
            Crash($"exception {vector}{(error == NoError ? "" : $" (error code {error:x})")}, for which the kernel has no handler");
            return;
        }

        if (vector == Vectors.PF && !software)
        {
            GuestCr2 = _c->Arch.Cr2;
            error = (error & ~(int)AccessKind.User) | (_isParavirtualKernel ? 0 : (int)AccessKind.User);
        }

        EnterKernel(gate.Address, error, gate.MasksEvents);
    }

    /// <summary>SYSCALL of a program. The kernel finds RCX and R11 as the instruction leaves them.</summary>
    private void EnterBySystemCall(ulong next)
    {
        var c = _c;
        var (address, masksEvents) = _entries[(int)ParavirtualEntry.SystemCall];
        if (address == 0)
            Raise(Vectors.UD); // as if it were not there
        c->Arch.Gpr[11] = Flags.Get(c) & ~Rflags.RF;
        c->Arch.Gpr[1] = next;
        c->Arch.Rip = next;
        c->CurrentOp = _decoder.FetchOp;
        c->Arch.Segments[CS].Selector = FlatCode64;
        c->Arch.Segments[SS].Selector = FlatData;
        EnterKernel(address, NoError, masksEvents);
        c->Arch.Rflags &= ~Rflags.DF; // what the hypervisor has in IA32_FMASK for kernels
        _singleStep = false;
        UpdateTrapMode();
    }

    /// <summary>SYSENTER of a program, which keeps where it came from: the kernel gets zeroes for RIP and RSP.</summary>
    private void EnterBySysenter()
    {
        var c = _c;
        var (address, masksEvents) = _entries[(int)ParavirtualEntry.SystemEnter];
        if (address == 0 || _isParavirtualKernel)
            Raise(Vectors.GP);
        c->CurrentOp = _decoder.FetchOp;
        c->Arch.Rip = 0;
        c->Arch.Gpr[4] = 0;
        c->Arch.Segments[CS].Selector = 3;
        c->Arch.Segments[SS].Selector = FlatData;
        EnterKernel(address, NoError, masksEvents);
        _singleStep = false;
        UpdateTrapMode();
    }

    /// <summary>Pushes a frame and goes to the kernel. Where that can't be done the domain has crashed.</summary>
    private void EnterKernel(ulong address, int error, bool masksEvents, bool isFailsafe = false)
    {
        var c = _c;
        var fromKernel = _isParavirtualKernel;
        var info = VcpuInfo;
        var mask = info == null ? (byte)1 : info[UpcallMask];
        var rsp = (fromKernel ? c->Arch.Gpr[4] : _kernelSp) & ~15UL;
        var flags = (Flags.Get(c) & ~(Rflags.IF | Rflags.IOPL)) | (mask == 0 ? Rflags.IF : 0);
        if (_domain!.ShowsIoPrivilege)
            flags |= (ulong)((IParavirtualProcessor)this).IoPrivilege << IoplShift;
        var cs = (ulong)c->Arch.Segments[CS].Selector;
        if (fromKernel)
            cs &= ~3UL;
        cs |= (ulong)mask << 32;

        Span<ulong> frame = stackalloc ulong[12];
        var count = 0;
        frame[count++] = c->Arch.Gpr[1];
        frame[count++] = c->Arch.Gpr[11];
        if (isFailsafe)
        {
            foreach (var segment in (ReadOnlySpan<int>)[DS, ES, FS, GS])
                frame[count++] = c->Arch.Segments[segment].Selector;
        }

        if (error != NoError)
            frame[count++] = (uint)error;
        frame[count++] = c->Arch.Rip;
        frame[count++] = cs;
        frame[count++] = flags;
        frame[count++] = c->Arch.Gpr[4];
        frame[count++] = c->Arch.Segments[SS].Selector;

        rsp -= (ulong)(count * 8);
        if (!fromKernel)
            SwitchMode(toKernel: true);
        if (!TryWriteFrame(rsp, frame[..count]))
        {
            if (!fromKernel)
                SwitchMode(toKernel: false);
            Crash($"the frame of a trap does not fit on the kernel's stack at {rsp:x16}");
            return;
        }

        if (masksEvents && info != null)
            info[UpcallMask] = 1;
        c->Arch.Segments[CS] = new SegmentRegister { Selector = FlatCode64, Limit = uint.MaxValue, Attributes = UserCodeAttributes };
        c->Arch.Segments[SS] = new SegmentRegister { Selector = FlatData, Limit = uint.MaxValue, Attributes = UserDataAttributes };
        c->Arch.Rflags &= ~ClearedByTrap;
        c->Arch.Gpr[4] = rsp;
        c->Arch.Rip = address;
        c->Arch.InterruptShadow = false;
    }

    ulong IParavirtualProcessor.ReturnFromTrap()
    {
        const ulong inSystemCall = 0x100;
        var c = _c;
        Span<ulong> frame = stackalloc ulong[9];
        var onStack = (ulong*)KnownPointer(c->Arch.Gpr[4], frame.Length * 8, 2, isWrite: false);
        if (onStack != null)
        {
            new ReadOnlySpan<ulong>(onStack, frame.Length).CopyTo(frame);
        }
        else if (!((ILinearMemory)this).TryRead(c->Arch.Gpr[4], System.Runtime.InteropServices.MemoryMarshal.AsBytes(frame)))
        {
            Crash($"HYPERVISOR_iret with a stack that can't be read ({c->Arch.Gpr[4]:x16})");
            return c->Arch.Gpr[0];
        }

        var (rax, r11, rcx, how) = (frame[0], frame[1], frame[2], frame[3]);
        var (rip, cs, flags, rsp, ss) = (frame[4], (ushort)frame[5], frame[6], frame[7], (ushort)frame[8]);
        var toUser = (cs & 3) == 3;
        if (toUser && _userRoot == 0)
        {
            Crash("HYPERVISOR_iret to a program, but there are no page tables for any (MMUEXT_NEW_USER_BASEPTR)");
            return rax;
        }

        if (toUser)
            SwitchMode(toKernel: false);
        if (_domain!.ShowsIoPrivilege)
            ((IParavirtualProcessor)this).IoPrivilege = (int)(flags >> IoplShift) & 3;
        c->Arch.Gpr[0] = rax;
        c->Arch.Rip = rip;
        c->Arch.Gpr[4] = rsp;
        // Every fault leaves RFLAGS.RF in its frame. Where there are no breakpoints it would only have the next
        // instruction, and each iteration of a repeated one, executed by itself.
        SetGuestFlags(_points.HasArmed || (c->Arch.Dr[7] & 0xFF) != 0 ? flags : flags & ~Rflags.RF);
        if ((how & inSystemCall) == 0)
            (c->Arch.Gpr[11], c->Arch.Gpr[1]) = (r11, rcx);
        else if (IsCanonical(rip)) // by SYSRET
            (c->Arch.Gpr[11], c->Arch.Gpr[1], cs, ss) = (Flags.Get(c) & ~Rflags.RF, rip, cs == FlatCode32 ? FlatCode32 : FlatCode64, FlatData);
        c->Arch.NmiBlocked = false;
        _singleStep = false;
        var info = VcpuInfo;
        if (info != null)
            info[UpcallMask] = (flags & Rflags.IF) != 0 ? (byte)0 : (byte)1;
        if (!TryReturnTo((ushort)(cs | 3), rip, (ushort)(ss | 3)))
            EnterFailsafe(cs, ss);
        else if (c->Is64 == 0)
            c->Arch.Gpr[4] = (uint)rsp;
        if ((c->Arch.Rflags & Rflags.TF) != 0)
            UpdateSlow();
        return c->Arch.Gpr[0];
    }

    /// <summary>What IRET of a processor would do with these, in ring 3.</summary>
    private bool TryReturnTo(ushort cs, ulong rip, ushort ss)
    {
        const ulong flatCode = 0x00AF_FB00_0000_FFFF, flatData = 0x00CF_F300_0000_FFFF;
        const int inLocalTable = 4;
        var c = _c;
        var codeKnown = (ulong*)KnownPointer(c->Arch.Gdtr.Base + (ulong)(cs & ~7), 8, ProcessorKind, isWrite: false);
        var stackKnown = (ulong*)KnownPointer(c->Arch.Gdtr.Base + (ulong)(ss & ~7), 8, ProcessorKind, isWrite: false);
        if (((cs | ss) & inLocalTable) == 0 && codeKnown != null && stackKnown != null && *codeKnown == flatCode && *stackKnown == flatData && IsCanonical(rip))
        {
            c->Arch.Segments[CS] = new SegmentRegister { Selector = cs, Limit = uint.MaxValue, Attributes = UserCodeAttributes };
            c->Arch.Segments[SS] = new SegmentRegister { Selector = ss, Limit = uint.MaxValue, Attributes = UserDataAttributes };
            UpdateTrapMode();
            return true;
        }

        try
        {
            c->CurrentOp = _decoder.FetchOp;
            if (!TryReadDescriptor(cs, out var code, out var address) || !code.IsCode || !code.Present || (code.IsConforming ? code.Dpl > 3 : code.Dpl != 3)
                || (code.Long && code.Big) || (code.Long ? !IsCanonical(rip) : rip > code.Limit))
            {
                return false;
            }

            if ((ss & ~3) == 0)
                return false;
            var stack = CheckStackSegment(ss, Vectors.GP, 3);
            c->Arch.Segments[CS] = MarkAccessed(code, address).ToRegister(cs);
            c->Arch.Segments[SS] = stack;
            UpdateTrapMode();
            return true;
        }
        catch (GuestFaultException)
        {
            return false;
        }
    }

    /// <summary>The kernel has returned to selectors or an address that no processor takes: its failsafe callback hears of it.</summary>
    private void EnterFailsafe(ushort cs, ushort ss)
    {
        var (address, masksEvents) = _entries[(int)ParavirtualEntry.Failsafe];
        if (address == 0)
        {
            Crash($"HYPERVISOR_iret to {cs:x4}:{_c->Arch.Rip:x16} with stack {ss:x4}, and no failsafe callback");
            return;
        }

        _c->Arch.Segments[CS].Selector = cs;
        _c->Arch.Segments[SS].Selector = (ushort)(ss | 3);
        EnterKernel(address, NoError, masksEvents, isFailsafe: true);
        UpdateMode();
    }

    /// <summary>RFLAGS as a kernel in ring 3 may have them: interrupts are always on, and IOPL is the hypervisor's.</summary>
    private void SetGuestFlags(ulong flags)
    {
        const ulong allowed = Rflags.TF | Rflags.DF | Rflags.NT | Rflags.RF | Rflags.AC | Rflags.ID;
        Flags.SetArithmetic(_c, flags);
        _c->Arch.Rflags = (flags & allowed) | Rflags.Reserved1 | Rflags.IF;
    }

    /// <summary>What <see cref="UpdateMode"/> does, where both sides are flat 64-bit code: then little can have changed.</summary>
    private void UpdateTrapMode()
    {
        var c = _c;
        ref var cs = ref c->Arch.Segments[CS];
        if (c->Mode != (uint)BlockMode.Code64 || !cs.Long)
        {
            UpdateMode();
            return;
        }

        ref var known = ref _isParavirtualKernel ? ref _kernelEpoch : ref _userEpoch;
        if (known.Generation == EpochGeneration)
        {
            _codeSegment = (0, uint.MaxValue, CodeSpace);
            _epoch = known.Epoch;
            UpdateLookupKey();
        }
        else
        {
            SetCodeSegment(0, uint.MaxValue);
            known = (EpochGeneration, _epoch);
        }

        UpdateTlbKind();
        UpdateSlow();
    }

    /// <summary>Between kernel and programs: other page tables, and SWAPGS.</summary>
    private void SwitchMode(bool toKernel)
    {
        _isParavirtualKernel = toKernel;
        if (!toKernel && _userEntriesOf != _userRoot)
            SwitchUserRoot(_userRoot); // the kernel has changed its own root only
        (_c->Arch.KernelGsBase, _c->Arch.Segments[GS].Base) = (_c->Arch.Segments[GS].Base, _c->Arch.KernelGsBase);
    }

    private bool TryWriteFrame(ulong linear, ReadOnlySpan<ulong> frame)
    {
        var known = (ulong*)KnownPointer(linear, frame.Length * 8, 2, isWrite: true);
        if (known != null)
        {
            frame.CopyTo(new Span<ulong>(known, frame.Length));
            return true;
        }

        if (!IsCanonical(linear) || !IsCanonical(linear + (ulong)(frame.Length * 8)))
            return false;
        try
        {
            for (var i = 0; i < frame.Length; i++)
                Write(linear + (ulong)(i * 8), 8, frame[i], 2);
            return true;
        }
        catch (GuestFaultException)
        {
            return false;
        }
    }

    /// <summary>The host address of what lies within one page that the TLB has; else null.</summary>
    private byte* KnownPointer(ulong linear, int length, int kind, bool isWrite)
    {
        var entry = _tlb.Kind(kind) + Tlb.Index(linear);
        return ((isWrite ? entry->WriteTag : entry->ReadTag) ^ linear) <= 4096UL - (ulong)length ? (byte*)(entry->Delta + linear) : null;
    }

    /// <summary>The domain can't go on: it is told why, and this processor executes nothing more.</summary>
    private void Crash(string reason)
    {
        using (_environment.Gate.Enter())
            _domain!.Crash(Index, reason, DescribeParavirtual());
        _c->Arch.Activity = ActivityState.WaitForSipi;
    }
}
