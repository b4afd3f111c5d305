using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// One x86 processor that executes decoded blocks: the reference engine. This file is its life: the run loop, the
/// look-up of blocks, and what other threads may ask of it.
/// </summary>
public unsafe partial class InterpreterVcpu : IVcpu
{
    private const int JumpEntries = 16384;
    private const int FetchEntries = 256;

    /// <summary>A vCPU that halts for long is not sent more than this: dropping all its code is cheaper then.</summary>
    private const int MaximumCodeRequests = 256;

    [ThreadStatic]
    private static InterpreterVcpu? _current;

    private protected readonly CpuContext* _c;
    private protected readonly CpuEnvironment _environment;
    private protected readonly GuestMemory _memory;
    private readonly ILocalInterruptController _apic;
    private readonly IReadOnlyList<IMsrDevice> _msrs;
    private protected readonly CodeCoherence _coherence;
    private protected readonly BlockCache _blocks;
    private protected readonly BlockDecoder _decoder;
    private readonly GuestFaultException _fault = new();
    private readonly FaultHistory _history = new();
    private readonly WakeableSleep _sleep = new(polls: true);
    private readonly Queue<CodeRequest> _codeRequests = new();
    private readonly FetchEntry[] _fetchTlb = new FetchEntry[FetchEntries];
    private readonly int _physicalBits;
    private readonly ulong _cr4Mask;
    private GCHandle _self;
    private readonly List<CodeRequest> _ownWrites = [];

    /// <summary>The instruction at work is followed by a single-step trap.</summary>
    private bool _singleStep;

    /// <summary>MOV SS or POP SS was just executed: debug traps wait for the next instruction.</summary>
    private bool _debugHeld;
    private ulong _overwrittenPage = ulong.MaxValue;
    private ulong _storedAt, _lastOverwrite;
    private int _overwrites;
    private int _startupVector;
    private volatile bool _inGuest;
    private volatile int _codeRequestCount;
    private bool _codeRequestsLost;
    private volatile bool _disposed;

    internal InterpreterVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs, CodeCoherence coherence, ulong blockArenaSize = 64UL << 20)
    {
        Index = index;
        _blocks = new BlockCache(blockArenaSize);
        _environment = environment;
        _memory = environment.Memory;
        _apic = apic;
        _msrs = msrs;
        _domain = environment.Paravirtual;
        (_traps, _entries) = _domain is null ? ([], []) : (new TrapGate[256], new (ulong Address, bool MasksEvents)[(int)ParavirtualEntry.Nmi + 1]);
        _coherence = coherence;
        _physicalBits = environment.Model.PhysicalAddressBits;
        _cr4Mask = Cr4MaskOf(environment.Model);
        _self = GCHandle.Alloc(this, GCHandleType.Weak);
        _c = (CpuContext*)HostMemory.ReserveLow((ulong)sizeof(CpuContext) + (JumpEntries * (ulong)sizeof(JumpEntry)) + 8192);
        _c->JumpCache = (JumpEntry*)((byte*)_c + ((sizeof(CpuContext) + 4095) & ~4095));
        _c->Self = GCHandle.ToIntPtr(_self);
        _decoder = new BlockDecoder(environment.Model);
        _c->CurrentOp = _decoder.FetchOp;
        coherence.Add(this);
        Reset();
    }

    public int Index { get; }

    public bool TakesInterrupts => (_c->Arch.Rflags & Rflags.IF) != 0;

    public long InstructionCount => _disposed ? 0 : Volatile.Read(ref _c->InstructionCount);

    /// <summary>The vCPU that the calling thread runs, if any.</summary>
    internal static InterpreterVcpu? Current => _current;

    internal CodeCoherence Coherence => _coherence;

    /// <summary>False while it neither reads nor writes guest memory.</summary>
    internal bool IsInGuest => _inGuest;

    internal bool HasCodeRequests => _codeRequestCount != 0 || Volatile.Read(ref _flushRequest) != NoFlush;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static InterpreterVcpu Of(CpuContext* c) => Unsafe.As<InterpreterVcpu>(GCHandle.FromIntPtr(c->Self).Target!);

    public VcpuExit Run(long budget)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var limit = budget > long.MaxValue - _c->InstructionCount ? long.MaxValue : _c->InstructionCount + budget;
        _current = this;
        _inGuest = true;
        Interlocked.MemoryBarrier();
        InterpretSystemCalls(_environment.Points?.Wants(TraceKind.SystemCall) == true);
        UpdateSlow(); // the log may want each block from now on, or no longer
        try
        {
            while (true)
            {
                try
                {
                    if (HandlePending() is { } exit)
                        return exit;
                    Execute(limit);
                    if (_c->InstructionCount >= limit)
                        return VcpuExit.Budget;
                }
                catch (GuestFaultException)
                {
                    HandleFault();
                    EndStep();
                }
            }
        }
        finally
        {
            Synchronize();
            ReleaseSplitLock();
            SaveX87();
            _inGuest = false;
            _current = null;

            // Whoever posts sets Pending first and looks at _inGuest then; the caller looks at Pending next. Without a
            // full fence here both could see the old value, and a halted vCPU would sleep through an interrupt.
            Interlocked.MemoryBarrier();
        }
    }

    public void WaitForWork()
    {
        // Post sets Pending and then looks whether this thread is in the guest; this thread has left the guest and now
        // looks at Pending. Without a full fence both could see the old value, and a wake-up would be lost.
        Interlocked.MemoryBarrier();
        while (!HasWork())
            _sleep.Sleep(long.MaxValue);
    }

    public void Kick() => Post(PendingEvents.Kick);

    public void SetInterruptRequest(bool asserted)
    {
        if (asserted)
            Post(PendingEvents.Interrupt);
        else if (!_disposed)
            Interlocked.And(ref _c->Pending, ~(int)PendingEvents.Interrupt);
    }

    public void RaiseNmi() => Post(PendingEvents.Nmi);

    public void RaiseSmi() => Post(PendingEvents.Smi);

    public void RaiseInit()
    {
        // What came before INIT dies with it. A SIPI that follows at once must not: so it is not for the vCPU to clear.
        if (!_disposed)
            Interlocked.And(ref _c->Pending, ~(int)PendingEvents.Startup);
        Post(PendingEvents.Init);
    }

    public void RaiseStartup(byte vector)
    {
        Volatile.Write(ref _startupVector, vector);
        Post(PendingEvents.Startup);
    }

    public CpuState GetState()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        var state = _c->Arch;
        state.Rflags = Flags.Get(_c);
        return state;
    }

    public void SetState(in CpuState state)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _c->Arch = state;
        Flags.SetArithmetic(_c, state.Rflags);
        _c->Arch.Rflags = (state.Rflags & ~Rflags.Arithmetic) | Rflags.Reserved1;
        _c->Arch.Mxcsr &= MxcsrMask; // a thunk loads it into the host's, which would fault
        _c->X87Live = 0;
        _debugHeld = false;
        _c->Cpl = (byte)state.Segments[SS].Dpl; // as the SDM has it (vol. 3, 5.5); in real and virtual-8086 mode it is fixed
        if (IsParavirtual)
        {
            // Kernel and programs are in ring 3, and neither can change IF or IOPL.
            _c->Cpl = 3;
            SetGuestFlags(state.Rflags);
        }

        FlushTlb(global: true);
        UpdateMode();
    }

    public virtual void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        GC.SuppressFinalize(this);
        _blocks.Dispose();
        _tlb.Dispose();
        _decoder.Dispose();
        _sleep.Dispose();
        _self.Free();
        HostMemory.Release(_c, (ulong)sizeof(CpuContext) + (JumpEntries * (ulong)sizeof(JumpEntry)) + 8192);
    }

    /// <summary>Raises an exception from a handler.</summary>
    [DoesNotReturn]
    [MethodImpl(MethodImplOptions.NoInlining)]
    internal static void Fault(CpuContext* c, Op* op, int vector, uint error)
    {
        c->CurrentOp = op;
        Of(c).Raise(vector, error);
    }

    /// <summary>Raises an exception of the guest at <see cref="CpuContext.CurrentOp"/>.</summary>
    [DoesNotReturn]
    internal void Raise(int vector, uint error = 0)
    {
        _c->FaultVector = vector;
        _c->FaultError = error;
        throw _fault;
    }

    private static nint StaleHandler => (nint)(delegate*<CpuContext*, Op*, void>)&StaleExit;

    /// <summary>What the operations of a dropped block become: leave, and look the rest up again.</summary>
    private static void StaleExit(CpuContext* c, Op* op)
    {
        var block = c->CurrentBlock;
        c->InstructionCount -= block->Count - (op - block->Ops);
        if (op->Offset == 0)
            c->JumpCache[JumpIndex(c->Arch.Rip)].Key = ulong.MaxValue;
        c->Arch.Rip += op->Offset;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int JumpIndex(ulong rip) => (int)(rip ^ (rip >> 14)) & (JumpEntries - 1);

    private void Post(PendingEvents events)
    {
        // A device or a debugger may know the processor for longer than it lives.
        if (_disposed)
            return;
        Interlocked.Or(ref _c->Pending, (int)events);
        Volatile.Write(ref _c->Translator.Attention, 1);
        if (!_inGuest)
            _sleep.Wake();
    }

    private bool HasWork()
    {
        var pending = (PendingEvents)Volatile.Read(ref _c->Pending);
        if ((pending & (PendingEvents.Kick | PendingEvents.Init)) != 0)
            return true;
        return _c->Arch.Activity switch
        {
            ActivityState.Active => true,
            ActivityState.Halted => IsInterruptDue(pending),
            ActivityState.WaitForSipi => (pending & PendingEvents.Startup) != 0,
            _ => false,
        };
    }

    private bool IsInterruptDue(PendingEvents pending) =>
        ((pending & PendingEvents.Interrupt) != 0 && (_c->Arch.Rflags & Rflags.IF) != 0) || ((pending & PendingEvents.Nmi) != 0 && !_c->Arch.NmiBlocked);

    /// <summary>Executes blocks until something else is due or the budget is used up.</summary>
    private protected virtual void Execute(long limit)
    {
        var c = _c;
        while (c->InstructionCount < limit)
        {
            // INTR (bit 0) counts only with EFLAGS.IF (bit 9).
            if (c->HasEvents && CanServePending())
                return;
            if (c->Slow != 0)
            {
                SlowStep();
                if (c->Arch.Activity != ActivityState.Active)
                    return;
                continue;
            }

            ExecuteBlock(BlockAt(c->Arch.Rip));
            if (c->Arch.Activity != ActivityState.Active)
                return;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private protected Block* BlockAt(ulong rip)
    {
        var entry = _c->JumpCache + JumpIndex(rip);
        return entry->Rip == rip && entry->Key == _c->LookupKey ? entry->Block : Lookup(rip, entry);
    }

    /// <summary>The block at a place if it was the last that was looked up for this entry of the jump cache, else null.</summary>
    private protected Block* KnownBlock(ulong rip)
    {
        var entry = _c->JumpCache + JumpIndex(rip);
        return entry->Rip == rip && entry->Key == _c->LookupKey ? entry->Block : null;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private protected void ExecuteBlock(Block* block)
    {
        _c->CurrentBlock = block;
        _c->InstructionCount += block->Count;
        ((delegate*<CpuContext*, Op*, void>)block->Ops->Fn)(_c, block->Ops);
    }

    /// <summary>Brings the lazy flags up to date, where an engine keeps them elsewhere.</summary>
    private protected virtual void Synchronize()
    {
    }

    /// <summary>Whether something is pending that need not wait: interrupts do in a shadow, NMIs until IRET.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private protected bool CanServePending()
    {
        var pending = (PendingEvents)Volatile.Read(ref _c->Pending);
        if ((pending & ~(PendingEvents.Interrupt | PendingEvents.Nmi)) != 0)
            return true;
        return !_c->Arch.InterruptShadow && !HoldsInterrupts && IsInterruptDue(pending);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private Block* Lookup(ulong rip, JumpEntry* entry)
    {
        var block = FindBlock(rip, _c->Mode);
        if (_c->Is64 == 0 && rip + block->Length - 1 > _c->Arch.Segments[CS].Limit)
            block = FindBlock(rip, _c->Mode | (uint)BlockMode.Single); // only the instructions before the limit
        entry->Rip = rip;
        entry->Key = _c->LookupKey;
        entry->Block = block;
        return block;
    }

    private protected Block* FindBlock(ulong rip, uint mode)
    {
        var c = _c;
        c->CurrentOp = _decoder.FetchOp;
        ulong linear;
        if (c->Is64 != 0)
        {
            if (!IsCanonical(rip))
                Raise(Vectors.GP, 0);
            linear = rip;
        }
        else
        {
            if (rip > c->Arch.Segments[1].Limit)
                Raise(Vectors.GP, 0);
            linear = (uint)(c->Arch.Segments[1].Base + rip);
        }

        if (_points.HasBreakpoints && StopsAt(linear))
            return _decoder.NoBlock(StaleHandler);
        var physical = TranslateFetch(linear);
        var block = _blocks.Find(physical, mode);
        if (block != null && block->SecondPage != ulong.MaxValue)
        {
            var second = TranslateFetch(NextPage(linear));
            while (block != null && block->SecondPage != second)
                block = _blocks.Find(physical, mode, block);
        }

        if (block == null)
            block = Decode(rip, linear, physical, mode);
        if (c->Is64 == 0 && block->Count == 1 && rip + block->Length - 1 > c->Arch.Segments[CS].Limit)
            Raise(Vectors.GP, 0); // the instruction runs over the limit
        return block;
    }

    private Block* Decode(ulong rip, ulong linear, ulong physical, uint mode)
    {
        if (_blocks.IsFull || _decoder.Builder.IsFull)
        {
            _blocks.Clear();
            _decoder.Builder.Clear();
            NewEpoch();
        }

        var block = _decoder.Decode(this, _blocks, rip, linear, physical, mode);
        if (block == null)
        {
            // The bytes changed meanwhile. The run loop looks for what is pending before it tries again: a guest that
            // writes there for ever must not keep this vCPU from anything.
            return _decoder.NoBlock(StaleHandler);
        }

        _blocks.Add(block);
        if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.InAsm) != 0)
            trace.Write(DescribeBlock(block, rip));
        return block;
    }

    /// <summary>Guest-physical address of code; raises #PF.</summary>
    internal ulong TranslateFetch(ulong linear)
    {
        ref var entry = ref _fetchTlb[(linear >> 12) & (FetchEntries - 1)];
        var key = _c->LookupKey & ~0xFFUL;
        if (entry.Page == linear >> 12 && entry.Key == key && key != 0)
            return entry.Physical | (linear & 0xFFF);
        if (!TryWalk(linear, AccessKind.Fetch, IsUserCode ? 0 : 2, out var walk))
        {
            _c->Arch.Cr2 = linear;
            Raise(Vectors.PF, walk.ErrorCode);
        }

        if (_memory.TryGetPointer(walk.Physical) == null)
        {
            // Code in a device or in nothing: as a chipset that aborts the fetch.
            _environment.Errors.Report("cpu", "code fetched outside of RAM", $"at 0x{walk.Physical:x}");
            Raise(Vectors.GP, 0);
        }

        NoteFetch(linear, in walk);
        if (_points.HasArmed)
            GuardPage(linear, walk.Physical);
        entry = new FetchEntry(linear >> 12, key, walk.Physical & ~0xFFFUL);
        return walk.Physical;
    }

    /// <summary>
    /// The host address of code. Another processor may have taken the memory away since the page was looked up: then the
    /// bytes are FFh, as on a bus where nobody answers.
    /// </summary>
    internal byte* HostPointer(ulong physical)
    {
        var p = _memory.TryGetPointer(physical);
        return p != null ? p : _memory.Nothing + (physical & 0xFFF);
    }

    /// <summary>Serves what other threads or the APIC posted. An exit, or null to go on executing.</summary>
    private VcpuExit? HandlePending()
    {
        var c = _c;
        var pending = (PendingEvents)Volatile.Read(ref c->Pending);
        if ((pending & PendingEvents.Code) != 0)
            ServeCodeRequests();
        if ((pending & PendingEvents.Debug) != 0 && EndDebugEvent())
            return VcpuExit.Debug;
        if ((pending & PendingEvents.Init) != 0)
        {
            Interlocked.And(ref c->Pending, ~(int)(PendingEvents.Init | PendingEvents.Nmi | PendingEvents.Smi));
            pending &= ~(PendingEvents.Nmi | PendingEvents.Smi);
            ResetState(init: true);
        }

        if ((pending & PendingEvents.Startup) != 0)
        {
            Interlocked.And(ref c->Pending, ~(int)PendingEvents.Startup);
            if (c->Arch.Activity == ActivityState.WaitForSipi)
            {
                if (IsParavirtual)
                    StartParavirtual();
                else
                    StartUp((byte)Volatile.Read(ref _startupVector));
                TellRunning();
            }
        }

        if ((pending & PendingEvents.Smi) != 0)
        {
            Interlocked.And(ref c->Pending, ~(int)PendingEvents.Smi);
            _environment.Errors.Report("cpu", "SMI ignored: there is no SMM");
        }

        if ((pending & PendingEvents.Kick) != 0)
        {
            Interlocked.And(ref c->Pending, ~(int)PendingEvents.Kick);
            return VcpuExit.Kicked;
        }

        if (c->Arch.Activity == ActivityState.Shutdown)
            return VcpuExit.Shutdown;
        if (HoldsInterrupts)
        {
            // They wait, but they end a HLT: what follows it is stepped over first.
            if (c->Arch.Activity == ActivityState.Halted && IsInterruptDue(pending))
                c->Arch.Activity = ActivityState.Active;
        }
        else if (c->Arch.Activity != ActivityState.WaitForSipi && !c->Arch.InterruptShadow)
        {
            c->CurrentOp = _decoder.FetchOp;
            if ((pending & PendingEvents.Nmi) != 0 && !c->Arch.NmiBlocked)
            {
                Interlocked.And(ref c->Pending, ~(int)PendingEvents.Nmi);
                c->Arch.Activity = ActivityState.Active;
                c->Arch.NmiBlocked = true;
                DeliverInterrupt(Vectors.NMI);
                EndStep();
            }
            else if ((pending & PendingEvents.Interrupt) != 0 && IsParavirtual)
            {
                if (DeliverEvents())
                    EndStep();
            }
            else if ((pending & PendingEvents.Interrupt) != 0 && (c->Arch.Rflags & Rflags.IF) != 0)
            {
                int vector;
                using (_environment.Gate.Enter())
                    vector = _apic.AcknowledgeInterrupt();
                if (vector >= 0)
                {
                    c->Arch.Activity = ActivityState.Active;
                    DeliverInterrupt(vector);
                    EndStep();
                }
            }
        }

        return c->Arch.Activity switch
        {
            ActivityState.Active => null,
            ActivityState.Shutdown => VcpuExit.Shutdown,
            ActivityState.WaitForSipi => VcpuExit.Off,
            _ => VcpuExit.Halted,
        };
    }

    private readonly record struct FetchEntry(ulong Page, ulong Key, ulong Physical);
}
