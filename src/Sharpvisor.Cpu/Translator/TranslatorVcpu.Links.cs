using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <content>Exits that are patched: links from one translation to the next, and slots of accesses.</content>
internal unsafe partial class TranslatorVcpu
{
    private void Fill(JumpTarget* entry, Translation translation)
    {
        entry->Rip = _c->Arch.Rip;
        entry->Key = _t->KeyNumber;
        entry->Code = checked((uint)translation.CanonicalEntry);
    }

    private void Link(int index, Translation target)
    {
        if (_cache.IsFull)
            return; // links may need code too; the next translation makes room

        ref var exit = ref _exits[index];
        if (exit.Kind == ExitKind.Direct)
        {
            if (exit.Block.Stale)
                return;
            if (target.SecondPage != ulong.MaxValue)
            {
                LinkOverPage(ref exit, index, target);
                return;
            }

            var entry = exit.FlagsInHost ? target.EntryWithFlags : target.Entry;
            _cache.Hot.Patch(exit.Patch, _routines.Adapter(exit.Map, target.Map, entry));
        }
        else
        {
            if (exit.Target != target)
                _cache.Cold.Patch(exit.Patch, _routines.Adapter(exit.Map, target.Map, target.Entry));
            exit.Link->PageBase = (_c->Arch.Rip - (ulong)exit.Offset) & _c->RipMask;
            exit.Link->Key = _t->Key;
        }

        if (exit.Target == target)
            return;
        exit.Target = target;
        target.Incoming.Add(index);
    }

    /// <summary>Links to a block that runs over into the next page, which has to be the same each time: by way of a checked jump.</summary>
    private void LinkOverPage(ref ExitInfo exit, int index, Translation target)
    {
        if (exit.Target == target)
        {
            exit.Link->PageBase = (_c->Arch.Rip - (ulong)exit.Offset) & _c->RipMask;
            exit.Link->Key = _t->Key;
            return;
        }

        if (_slots.IsFull || _cache.IsFull)
            return; // the next translation clears them
        var over = _translator.EmitCheckedJump(index, exit.FlagsInHost, exit.Map, _routines.Adapter(exit.Map, target.Map, target.Entry), out var link);
        link->PageBase = (_c->Arch.Rip - (ulong)exit.Offset) & _c->RipMask;
        link->Key = _t->Key;
        exit.Link = link;
        _cache.Hot.Patch(exit.Patch, over);
        exit.Target = target;
        target.Incoming.Add(index);
    }

    /// <summary>An access whose page is not in the TLB. False: RIP is set, something else goes on from there.</summary>
    private bool FillSlot(ref ExitInfo exit)
    {
        var c = _c;
        var start = _t->Scratch14;
        var linear = start + (ulong)exit.AccessDelta;
        if (c->Is64 == 0)
            linear = (uint)linear;
        c->Arch.Rip = (_t->PageBase + (ulong)exit.Offset) & c->RipMask;
        if ((start & 0xFFF) + (ulong)exit.Range > 4096 || (linear & (ulong)(exit.Alignment - 1)) != 0 || (c->Is64 != 0 && !IsCanonical(linear)))
        {
            Statistics.Crossings++;
            NoteGroupFailure(ref exit);
            Interpret();
            return false;
        }

        var kind = CurrentKind;
        if (!TryTranslate(linear, exit.Writes ? AccessKind.Write : AccessKind.Read, kind, out _, out var host))
        {
            if (exit.FaultInterpreted)
            {
                Interpret();
                return false;
            }

            c->CurrentOp = _decoder.FetchOp;
            HandleFault();
            return false;
        }

        var entry = _tlb.Kind(kind) + Tlb.Index(linear);
        var page = linear & ~0xFFFUL;
        if (host == null || (exit.NeedsWrite ? entry->WriteTag : entry->ReadTag) != page)
        {
            Statistics.Refused++;
            if (exit.NeedsWrite && !exit.Writes)
                NoteGroupFailure(ref exit);
            Interpret();
            return false;
        }

        if (exit.Slot != null)
        {
            if (exit.Slot->Misses >= Routines.MaximumMisses && !exit.Block.Stale && Probe(ref exit, page))
                return false;
            exit.Slot->Entry = (uint)(ulong)entry;
        }

        return true;
    }

    /// <summary>
    /// A place has missed often: whether it does so often enough for a look-up each time is found out by letting the
    /// interpreter have its next executions. True: RIP is where that goes on.
    /// </summary>
    private bool Probe(ref ExitInfo exit, ulong page)
    {
        var slot = exit.Slot;
        if (slot->Misses > Routines.MaximumMisses)
            return false; // found out before
        ref var probe = ref CollectionsMarshal.GetValueRefOrAddDefault(_probes, (nint)slot, out _);
        if (probe.Page != page)
            probe.Changes++;
        probe.Page = page;
        if (++probe.Executions < ProbeExecutions)
        {
            // The next one comes here again.
            slot->Entry = (uint)(ulong)_tlb.Kind(Tlb.EmptyKind);
            slot->Misses = Routines.MaximumMisses - 1;
            Interpret();
            return true;
        }

        slot->Misses = Routines.MaximumMisses + 1;
        if (probe.Changes <= ProbeExecutions / 16)
            return false;
        _translator.LookUpAt(exit.Block, exit.Offset);
        Replace(exit.Block);
        Interpret();
        return true;
    }

    /// <summary>A check covers more than the access that it is made for: when that fails often, each gets its own.</summary>
    private void NoteGroupFailure(ref ExitInfo exit)
    {
        if (exit.Range == exit.AccessSize && exit.NeedsWrite == exit.Writes)
            return;
        var block = exit.Block;
        if (++block.GroupFailures != MaximumGroupFailures || block.Stale)
            return;
        _ungrouped.Add((block.Physical, block.Key));
        Replace(block);
    }

    /// <summary>Whether x87 instructions can simply be executed, and whether upper halves of vectors are in use.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void UpdateAvailability()
    {
        const FpuTraps X87 = FpuTraps.X87NotAvailable | FpuTraps.MmxUndefined | FpuTraps.TaskSwitched | FpuTraps.WaitNotAvailable;
        var c = _c;
        var traps = (FpuTraps)c->FpuTrap;
        if (_mayHaveChangedVectors)
        {
            // Code that is done with AVX executes VZEROUPPER: then it is clean here too, after a look at all of them.
            _mayHaveChangedVectors = false;
            var ymm = (Vector128<ulong>*)&c->Arch.Ymm;
            var any = Vector128<ulong>.Zero;
            for (var i = 1; i < 32; i += 2)
                any |= ymm[i];
            _t->Upper = any == Vector128<ulong>.Zero ? UpperHalves.Clean : UpperHalves.Used;
        }

        _t->X87Slow = (byte)((traps & X87) != 0 || c->X87Live == 0 || (*(ushort*)&c->Arch.X87 & 0x3F) != 0x3F ? 1 : 0);
    }
}
