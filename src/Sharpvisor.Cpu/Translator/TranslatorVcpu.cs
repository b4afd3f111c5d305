using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>
/// A processor that executes translated code where there is some, and is the interpreter everywhere else: code that
/// has run a few times only, single steps, and every instruction that is not translated.
/// </summary>
/// <remarks>
/// Generated code calls nothing. Whatever it can't do it leaves for, with all registers in the state and the number of
/// the exit; this class does it and enters again, so that guest exceptions are plain .NET exceptions here too.
/// </remarks>
internal unsafe partial class TranslatorVcpu : InterpreterVcpu
{
    private const long UncountedBudget = 1L << 38;
    private const int MaximumGroupFailures = 16;
    private const int KeyNumbers = 256, KeyProbes = 4;

    /// <summary>The bits of a key that are not the look-up key's.</summary>
    private const uint KeyMask = 0xFC00;
    private const int ProbeExecutions = 64;

    /// <summary>For decoded blocks, most of which are executed a few times only: when that is full, what is cold is decoded again.</summary>
    private const ulong BlockArenaSize = 40 << 20;

    /// <summary>For what translations keep: operations for the interpreter, and the guest's bytes.</summary>
    private const ulong OperationsSize = 64 << 20;

    /// <summary>More than the operations of one translation can need.</summary>
    private const int ArenaMargin = 64 << 10;

    /// <summary>A page whose translations are often no good any more has a threshold up to this power of two higher.</summary>
    private const int MaximumPatience = 6;

    private protected readonly TranslatorContext* _t;
    private readonly CodeCache _cache;
    private readonly AccessSlots _slots;
    private readonly JumpTable _jumps = new();
    private readonly Routines _routines;
    private readonly OpBuilder _opBuilder;
    private readonly BlockCache _arena = new(OperationsSize);
    private readonly BlockTranslator _translator;
    private readonly ExitTable _exits = new();
    private readonly Dictionary<ulong, Translation> _translations = [];
    private readonly List<Translation?> _numbered = [null];
    private readonly Dictionary<nint, (ulong Page, int Executions, int Changes)> _probes = [];
    private readonly Dictionary<ulong, List<Translation>> _pages = [];
    private readonly HashSet<(ulong Physical, uint Key)> _ungrouped = [];
    private readonly (ulong Key, uint Number)[] _keyNumbers = new (ulong, uint)[KeyNumbers];
    private readonly PerfMap? _perfMap;
    private uint _lastKeyNumber;

    /// <summary>The key that the interpreter's state goes with, and the epochs that the others were made of.</summary>
    private ulong _adoptedKey;
    private uint _keyGeneration;

    /// <summary>How often code of a page was another when it was needed again.</summary>
    private readonly Dictionary<ulong, int> _unstable = [];
    private readonly int _threshold;
    private bool _flagsSaved;
    private Block* _lastInterpreted;
    private protected bool _counted;
    private int _generation;
    private bool _disposed;

    /// <summary>The interpreter was at work: whether upper halves are in use has to be looked at.</summary>
    private bool _mayHaveChangedVectors;

    internal TranslatorVcpu(int index, CpuEnvironment environment, ILocalInterruptController apic, IReadOnlyList<IMsrDevice> msrs, CodeCoherence coherence, int threshold, ulong codeCacheSize, PerfMap? perfMap = null)
        : base(index, environment, apic, msrs, coherence, BlockArenaSize)
    {
        _perfMap = perfMap;
        _t = &_c->Translator;
        _t->HostMxcsr = 0x1F80;
        _threshold = threshold;
        _cache = new CodeCache(codeCacheSize);
        _slots = new AccessSlots(_tlb.Kind(Tlb.EmptyKind), _cache.Size / 8);
        _routines = new Routines(_c, _cache, _tlb);
        _opBuilder = new OpBuilder(environment.Model);
        _translator = new BlockTranslator(_c, _cache, _routines, _slots, _tlb, _jumps, _opBuilder, _arena, _exits, environment);
        _jumps.Clear();
    }

    internal TranslatorStatistics Statistics { get; } = new();

    public override string DescribeEngine()
    {
        var text = new StringBuilder();
        Statistics.Describe(text, Index);
        text.AppendLine(CultureInfo.InvariantCulture, $"code cache      {_cache.Hot.Position >> 10} KiB of blocks, {(_cache.Used - _cache.Hot.Position) >> 10} KiB of exits, of {_cache.Size >> 10} KiB; slots {_slots.Used >> 10} KiB");
        text.AppendLine(CultureInfo.InvariantCulture, $"TLB             {_tlb.Fills} fills, {_tlb.Restored} entries restored by PCID");
        text.AppendLine(CultureInfo.InvariantCulture, $"interpreter     {_blocks.BlocksMade} blocks decoded, {_blocks.BlocksDropped} dropped, {Statistics.Interpreted} executed");
        text.AppendLine("hottest blocks by the ticks that found the processor there:");
        foreach (var block in _translations.Values.Where(t => t.Samples > 0).OrderByDescending(t => t.Samples).Take(8))
        {
            text.AppendLine(CultureInfo.InvariantCulture, $"  {block.Samples} at physical {block.Physical:x}, key {block.Key:x}, {block.End - block.EntryWithFlags} bytes of host code");
            if (HostPointer(block.Physical) is var code && code != null)
            {
                var length = Math.Min(block.Length, 4096 - (int)block.PageOffset);
                foreach (var line in Disassembly.Lines(new ReadOnlySpan<byte>(code, length).ToArray(), block.Physical, 16 << (int)(block.Key & (uint)BlockMode.CodeMask)))
                    text.AppendLine("    " + line);
            }
        }

        return text.ToString();
    }

    public override void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        if (_environment.Trace is { } trace && (trace.Kinds & TraceKinds.Jit) != 0)
            trace.Write(DescribeEngine());
        base.Dispose();
        _translator.Dispose();
        _arena.Dispose();
        _cache.Dispose();
        _slots.Dispose();
        _jumps.Dispose();
        NativeMemory.Free(_alone);
        NativeMemory.Free(_now);
    }

    // --- what the interpreter's parts tell ---

    internal override void DropCode(ulong page, ulong lines)
    {
        base.DropCode(page, lines);
        if (!_pages.TryGetValue(page, out var translations))
            return;
        for (var i = translations.Count - 1; i >= 0; i--)
        {
            var translation = translations[i];
            if ((LinesOf(translation, page) & lines) != 0)
                Drop(translation);
        }
    }

    private protected override void DropGuarded(ulong page, PageGuards guards)
    {
        base.DropGuarded(page, guards);
        foreach (var translation in _translations.Values.Where(t => t.Physical >> 12 == page && guards.ContainsAny((int)t.PageOffset, (int)t.PageOffset + t.Length)).ToArray())
            Forget(translation);
    }

    private protected override void KeepResumeFlag(bool keep) => _translator.KeepsResumeFlag = keep;

    private protected override void InterpretSystemCalls(bool all) => _translator.LeavesSystemCalls = all || IsParavirtual;

    private protected override void DropAllCode()
    {
        base.DropAllCode();
        foreach (var translation in _translations.Values.Where(t => !t.Stale).ToArray())
            Drop(translation);
    }

    private protected override void Synchronize()
    {
        if (!_flagsSaved)
            return;
        _flagsSaved = false;
        var saved = _t->SavedFlags;
        Flags.SetArithmetic(_c, ((saved >> 8) & 0xD5) | ((saved & 1) << 11));
    }

    private void SaveFlags()
    {
        if (_flagsSaved)
            return;
        _flagsSaved = true;
        var flags = Flags.Arithmetic(_c);
        _t->SavedFlags = ((flags & 0xD5) << 8) | (flags >> 11 & 1);
    }

    // --- execution ---

    private protected override void Execute(long limit)
    {
        var c = _c;
        _counted = limit - c->InstructionCount < UncountedBudget;
        while (c->InstructionCount < limit)
        {
            if (c->HasEvents && CanServePending())
                return;
            if (c->Slow != 0)
            {
                SlowStep();
                if (c->Arch.Activity != ActivityState.Active)
                    return;
                continue;
            }

            if (IsTranslatable && FindCode(c->Arch.Rip, RegisterMap.Canonical) is { } translation)
            {
                RunTranslated(translation, limit);
            }
            else
            {
                var block = BlockAt(c->Arch.Rip);
                if (block->Heat < ushort.MaxValue)
                {
                    block->Heat++;
                    block->Repeats += block == _lastInterpreted ? (ushort)1 : (ushort)0;
                }

                _lastInterpreted = block;
                Statistics.Interpreted++;
                ExecuteBlock(block);
            }

            if (c->Arch.Activity != ActivityState.Active)
                return;
        }
    }

    /// <summary>Not while alignment is checked.</summary>
    private protected bool IsTranslatable => !_alignmentCheck;

    /// <summary>Tells generated code under which key it runs, and which others a change of privilege leads to.</summary>
    private void UpdateKey()
    {
        var key = CurrentKey;
        if (key == _t->Key && _keyGeneration == EpochGeneration)
            return;
        _t->Privileges = default;
        if (_c->Mode == (uint)BlockMode.Code64 && !IsParavirtual)
        {
            for (var kind = 0; kind < Tlb.Kinds; kind++)
            {
                var other = KeyOf(LookupKeyOf((byte)(kind == 0 ? 3 : 0)), kind);
                _t->Privileges[kind] = new PrivilegeKey { Key = other, Number = NumberOf(other) };
            }
        }

        _keyGeneration = EpochGeneration;
        _t->Key = _adoptedKey = key;
        _t->KeyNumber = NumberOf(key);
    }

    private uint NumberOf(ulong key)
    {
        var first = (key * 0x9E37_79B9_7F4A_7C15) >> 56;
        for (var i = 0UL; i < KeyProbes; i++)
        {
            ref readonly var known = ref _keyNumbers[(first + i) % KeyNumbers];
            if (known.Key == key && known.Number != 0)
                return known.Number;
        }

        if (++_lastKeyNumber == 0)
        {
            _jumps.Clear();
            Array.Clear(_keyNumbers);
            _lastKeyNumber = 1;
        }

        _keyNumbers[(first + (_lastKeyNumber % KeyProbes)) % KeyNumbers] = (key, _lastKeyNumber);
        return _lastKeyNumber;
    }

    /// <summary>Generated code has changed privilege, or RFLAGS.AC: what is derived from them follows.</summary>
    private void AdoptKey()
    {
        _adoptedKey = _t->Key;
        AdoptLookupKey(_t->Key & ~(ulong)KeyMask);
    }

    private ulong KeyOf(ulong lookupKey, int kind) => lookupKey | ((ulong)kind << 10) | (_counted ? 1UL << 12 : 0) | ((ulong)VectorsAvailable << 13);

    private ulong CurrentKey => KeyOf(_c->LookupKey, CurrentKind);

    /// <summary>1: SSE, 2: AVX instructions can simply be executed.</summary>
    private uint VectorsAvailable
    {
        get
        {
            const FpuTraps Sse = FpuTraps.SseUndefined | FpuTraps.TaskSwitched;
            const FpuTraps Avx = FpuTraps.AvxUndefined | FpuTraps.TaskSwitched | FpuTraps.VexUndefined;
            var traps = (FpuTraps)_c->FpuTrap;
            return (_c->Arch.Mxcsr & 0x1F80) != 0x1F80 ? 0 : ((traps & Sse) == 0 ? 1u : 0) | ((traps & Avx) == 0 ? 2u : 0);
        }
    }

    private uint CurrentTranslationKey =>
        _c->Mode | ((uint)CurrentKind << TranslationKey.KindShift) | (_c->Cpl == 0 ? TranslationKey.Kernel : 0) | (_counted ? TranslationKey.Counted : 0)
        | (VectorsAvailable << TranslationKey.VectorShift);

    /// <summary>The same for code at a place.</summary>
    private uint TranslationKeyAt(ulong rip) => IsSegmented && IsEdge(rip) ? CurrentTranslationKey | TranslationKey.Edge : CurrentTranslationKey;

    private bool IsSegmented => (_c->Mode & (uint)(BlockMode.Code64 | BlockMode.Flat)) == 0;

    /// <summary>Whether a jump within the page of an instruction may leave the code segment.</summary>
    private bool IsEdge(ulong rip)
    {
        var cs = _c->Arch.Segments[1];
        var offset = (cs.Base + rip) & 0xFFF;
        var limit = (_c->Mode & (uint)BlockMode.CodeMask) == (uint)BlockMode.Code16 ? Math.Min(cs.Limit, ushort.MaxValue) : cs.Limit;
        return rip < offset || rip - offset + 0xFFF > limit;
    }

    /// <summary>Whether a block lies within the code segment up to its end.</summary>
    private bool Fits(ulong rip, Translation translation) => !IsSegmented || rip + (ulong)translation.Length - 1 <= _c->Arch.Segments[1].Limit;

    /// <summary>Enters generated code and serves its exits until the interpreter or an event is needed.</summary>
    private protected void RunTranslated(Translation translation, long limit)
    {
        var c = _c;
        var t = _t;
        UpdateKey();
        t->PageBase = (c->Arch.Rip - translation.PageOffset) & c->RipMask;
        Fill(_jumps.Find(c->Arch.Rip), translation);
        var code = translation.Entry;
        var map = translation.Map;
        SaveFlags();
        _mayHaveChangedVectors = true;
        if (_counted)
            t->Remaining = limit - c->InstructionCount;
        while (true)
        {
            UpdateAvailability();
            if (_keyGeneration != EpochGeneration)
                UpdateKey();
            ((delegate* unmanaged<ulong, void>)_routines.Enter(map))(code);
            if (t->Key != _adoptedKey)
                AdoptKey();
            if (_counted)
                c->InstructionCount = limit - t->Remaining;
            ref var exit = ref _exits[t->Exit];
            Statistics.Exits[(int)exit.Kind]++;
            switch (exit.Kind)
            {
                case ExitKind.Head when exit.Block.Stale:
                    if (!LookAgain(ref exit, out code, out map))
                        return;
                    continue;
                case ExitKind.Head:
                    LeaveAtHead(ref exit, limit);
                    return;
                case ExitKind.Direct or ExitKind.Far:
                    {
                        var target = (t->PageBase + (ulong)exit.Offset) & c->RipMask;
                        var wraps = exit.Wraps && target > ushort.MaxValue;
                        c->Arch.Rip = wraps ? (ushort)target : target;
                        if (c->Is64 == 0 && c->Arch.Rip > c->Arch.Segments[1].Limit && exit.Branch >= 0)
                        {
                            // The branch itself faults.
                            c->Arch.Rip = (t->PageBase + (ulong)exit.Branch) & c->RipMask;
                            Interpret();
                            return;
                        }

                        var index = t->Exit;
                        var generation = _generation;
                        if (FindCode(c->Arch.Rip, exit.Map) is not { } next)
                        {
                            Synchronize();
                            return;
                        }

                        if (generation == _generation && !wraps)
                            Link(index, next);
                        if (!GoOn(next, out code, out map))
                            return;
                        continue;
                    }

                case ExitKind.Indirect:
                    {
                        c->Arch.Rip = t->Scratch14;
                        if (c->Is64 != 0 ? !IsCanonical(c->Arch.Rip) : c->Arch.Rip > c->Arch.Segments[1].Limit)
                        {
                            // The branch itself faults, before it changes anything.
                            c->Arch.Rip = (t->PageBase + (ulong)exit.Offset) & c->RipMask;
                            SetStackPointer(c->Arch.Gpr[4] - (ulong)exit.StackAdjust);
                            Interpret();
                            return;
                        }

                        if (FindCode(c->Arch.Rip, RegisterMap.Canonical) is not { } next)
                        {
                            Synchronize();
                            return;
                        }

                        Fill(_jumps.Find(c->Arch.Rip), next);
                        if (!GoOn(next, out code, out map))
                            return;
                        continue;
                    }

                case ExitKind.Access:
                    {
                        var (block, resume) = (exit.Block, exit.Resume);
                        map = exit.Map;
                        if (!FillSlot(ref exit))
                            return;
                        if (block.Stale)
                        {
                            // A page walk wrote to it: where it would go on may be barred.
                            Synchronize();
                            return;
                        }

                        code = resume;
                        continue;
                    }

                case ExitKind.Interpret:
                    c->Arch.Rip = (t->PageBase + (ulong)exit.Offset) & c->RipMask;
                    Interpret();
                    return;
                case ExitKind.Fallback:
                    {
                        var resume = exit.Resume;
                        map = exit.Map;
                        var block = exit.Block;
                        var next = (t->PageBase + (ulong)exit.Offset) & c->RipMask;
                        Statistics.Calls[(int)exit.Mnemonic]++;
                        var usesFlags = exit.UsesFlags;
                        if (usesFlags)
                            Synchronize();
                        c->Arch.Rip = t->PageBase & c->RipMask;
                        c->CurrentBlock = _alone;
                        ((delegate*<CpuContext*, Op*, void>)exit.Op->Fn)(c, exit.Op);
                        if (resume == 0 || c->Arch.Rip != next || c->Slow != 0 || block.Stale || c->Arch.Activity != ActivityState.Active
                            || CurrentKey != t->Key || !IsTranslatable
                            || c->HasEvents)
                        {
                            if (resume == 0 && IsParavirtual && GoOnAfterCall(out code, out map))
                                continue;
                            Synchronize();
                            return;
                        }

                        SaveFlags();
                        _mayHaveChangedVectors = true;
                        code = resume;
                        continue;
                    }
            }
        }
    }

    /// <summary>
    /// Where to enter the next block. False: someone asks for attention. Blocks that only lead forward do not look for
    /// it, and 32-bit code that jumps over 4 GiB, or one page mapped everywhere, can go forward without an end.
    /// </summary>
    private bool GoOn(Translation next, out ulong code, out byte map)
    {
        _t->PageBase = (_c->Arch.Rip - next.PageOffset) & _c->RipMask;
        code = next.Entry;
        map = next.Map;
        if (Volatile.Read(ref _t->Attention) == 0)
            return true;
        _t->Attention = 0;
        Interlocked.MemoryBarrier(); // whoever posts sets Pending first
        Synchronize();
        return false;
    }

    /// <summary>
    /// Behind a hypercall or a trap of a paravirtual kernel, of which there are many: straight to the code of the next
    /// instruction if it has been there before. False: someone looks for it, or for what is due.
    /// </summary>
    private bool GoOnAfterCall(out ulong code, out byte map)
    {
        var c = _c;
        code = 0;
        map = RegisterMap.Canonical;
        if (c->Slow != 0 || c->Arch.Activity != ActivityState.Active || c->HasEvents || !IsTranslatable || c->Mode != (uint)BlockMode.Code64
            || Volatile.Read(ref _t->Attention) != 0)
        {
            return false;
        }

        if (CurrentKey != _t->Key || _keyGeneration != EpochGeneration)
            UpdateKey();
        var rip = c->Arch.Rip;
        var entry = _jumps.Find(rip);
        if (entry->Rip != rip || entry->Key != _t->KeyNumber)
            return false;
        SaveFlags();
        _mayHaveChangedVectors = true;
        _t->PageBase = rip & ~0xFFFUL;
        code = entry->Code;
        return true;
    }

    /// <summary>Stands for the block of an operation that is executed alone: it has no others that were counted.</summary>
    private readonly Block* _alone = (Block*)NativeMemory.AllocZeroed((nuint)sizeof(Block));

    private void LeaveAtHead(ref ExitInfo exit, long limit)
    {
        var c = _c;
        var t = _t;
        c->Arch.Rip = (t->PageBase + (ulong)exit.Offset) & c->RipMask;
        Synchronize();
        exit.Block.Samples++;
        t->Attention = 0;
        Interlocked.MemoryBarrier(); // whoever posts sets Pending first
        if (_counted && t->Remaining < 0)
        {
            // Not enough left for the whole block: the interpreter executes the rest, instruction by instruction.
            c->InstructionCount -= exit.Block.Instructions;
            if (c->InstructionCount < limit)
                ExecuteBlock(BlockAt(c->Arch.Rip));
        }
    }

    /// <summary>The interpreter executes one block from RIP on.</summary>
    private void Interpret()
    {
        Synchronize();
        _c->CurrentOp = _decoder.FetchOp;
        ExecuteBlock(BlockAt(_c->Arch.Rip));
    }
}
