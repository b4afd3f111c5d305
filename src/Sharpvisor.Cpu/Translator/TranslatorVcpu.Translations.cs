using System.Diagnostics;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <content>The translations that there are: made, found, replaced, and thrown away.</content>
internal unsafe partial class TranslatorVcpu
{
    /// <summary>
    /// The translation of the code at RIP, made now if it is worth it. Null: let the interpreter have it once more.
    /// Raises #PF and #GP of the fetch.
    /// </summary>
    private protected Translation? FindCode(ulong rip, byte predecessor)
    {
        var c = _c;
        var key = TranslationKeyAt(rip);
        var known = KnownBlock(rip);
        if (known != null)
        {
            // Most of what comes here either has a translation or is cold still: no need to look far for that.
            if (known->Translation != 0 && known->Translation < _numbered.Count && _numbered[known->Translation] is { Stale: false, SecondPage: ulong.MaxValue } direct
                && direct.Physical == known->Physical && direct.Key == key)
                return Fits(rip, direct) ? direct : null;
            if (known->Translation == 0 && known->Heat != 0 && known->Heat < _threshold)
                return null;
        }

        if (HasBreakpointAt(rip))
            return null; // before a fault of the fetch
        c->CurrentOp = _decoder.FetchOp;
        var physical = TranslateRip(rip, out var linear);
        if (_translations.TryGetValue(IdOf(physical, key), out var found))
        {
            if (found.Stale && !TryMark(found))
                return null; // another vCPU is writing there
            if (found.Stale ? TryRevive(found) : found.SecondPage == ulong.MaxValue || found.SecondPage == TranslateFetch(NextPage(linear)))
            {
                if (known != null)
                    known->Translation = found.Number;
                return Fits(rip, found) ? found : null;
            }

            // Its bytes are others now, or the page behind is.
            var changed = found.Stale;
            Forget(found);
            if (changed)
                NoteUnstable(rip, physical);
        }

        _translator.Guards = GuardsOf(physical >> 12);
        if (_translator.Guards?.Contains((int)(physical & 0xFFF)) == true)
            return null; // the interpreter looks whether there is a breakpoint
        var isLongLoop = true;
        if (_threshold > 0)
        {
            var block = BlockAt(rip);
            if (block->Heat < _threshold)
                return null;
            if (_unstable.TryGetValue(physical >> 12, out var drops) && block->Heat < Math.Min(_threshold << Math.Min(drops, MaximumPatience), ushort.MaxValue))
                return null; // code that is written over again and again is not worth as much
            isLongLoop = block->Repeats * 8 >= block->Heat * 7;
        }

        return Translate(rip, linear, physical, key, predecessor, isLongLoop) is { } made && Fits(rip, made) ? made : null;
    }

    /// <summary>Place and key in one number: guest-physical addresses end below 2^48.</summary>
    private static ulong IdOf(ulong physical, uint key) => physical | ((ulong)key << 48);

    private ulong TranslateRip(ulong rip, out ulong linear)
    {
        if (_c->Is64 != 0 ? !IsCanonical(rip) : rip > _c->Arch.Segments[1].Limit)
            Raise(Vectors.GP);
        linear = _c->Is64 != 0 ? rip : (uint)(_c->Arch.Segments[1].Base + rip);
        return TranslateFetch(linear);
    }

    private Translation? Translate(ulong rip, ulong linear, ulong physical, uint key, byte predecessor, bool isLongLoop)
    {
        if (_cache.IsFull || _slots.IsFull || !_arena.HasRoomFor(ArenaMargin) || _opBuilder.IsFull)
            Clear();
        var began = Stopwatch.GetTimestamp();
        var code = HostPointer(physical);
        var translation = _translator.Translate(physical, key, rip, code, null, 0, predecessor, !_ungrouped.Contains((physical, key)), isLongLoop);
        byte* second = null;
        if (translation is null && (physical & 0xFFF) > 4096 - 15)
        {
            var secondPhysical = TranslateFetch(NextPage(linear));
            second = HostPointer(secondPhysical);
            translation = _translator.Translate(physical, key, rip, code, second, secondPhysical, predecessor, grouping: true, isLongLoop: false);
        }

        if (translation is null)
            return null;

        // From here on a store to these bytes is noticed; one that came before has to be seen now.
        var offset = (int)translation.PageOffset;
        var first = Math.Min(translation.Length, 4096 - offset);
        var lines = LinesOf(translation, physical >> 12);
        _coherence.MarkCode(this, physical, lines);
        if (!_coherence.IsMarked(physical, lines) || !new ReadOnlySpan<byte>(code, first).SequenceEqual(_translator.Bytes(offset, first)))
            return null;
        if (translation.SecondPage != ulong.MaxValue)
        {
            var secondLines = LinesOf(translation, translation.SecondPage >> 12);
            _coherence.MarkCode(this, translation.SecondPage, secondLines);
            if (!_coherence.IsMarked(translation.SecondPage, secondLines) || !_coherence.IsMarked(physical, lines)
                || !new ReadOnlySpan<byte>(second, translation.Length - first).SequenceEqual(_translator.Bytes(4096, translation.Length - first)))
                return null;
        }

        _translations.Add(IdOf(physical, key), translation);
        translation.Number = _numbered.Count;
        _numbered.Add(translation);
        AddToPage(physical >> 12, translation);
        if (translation.SecondPage != ulong.MaxValue && translation.SecondPage >> 12 != physical >> 12)
            AddToPage(translation.SecondPage >> 12, translation);
        _cache.Settle();
        Statistics.Translations++;
        Statistics.Instructions += translation.Instructions;
        Statistics.GuestBytes += translation.Length;
        Statistics.Ticks += Stopwatch.GetTimestamp() - began;
        _perfMap?.Add(translation.EntryWithFlags, translation.End - translation.EntryWithFlags, rip);
        return translation;
    }

    private static ulong LinesOf(Translation translation, ulong page)
    {
        var start = (int)translation.PageOffset;
        var end = start + translation.Length;
        ulong lines = 0;
        if (translation.Physical >> 12 == page)
            lines = BlockCache.LinesBetween(start, Math.Min(end, 4096));
        if (translation.SecondPage >> 12 == page)
            lines |= BlockCache.LinesBetween(0, end - 4096);
        return lines;
    }

    private void AddToPage(ulong page, Translation translation)
    {
        if (!_pages.TryGetValue(page, out var list))
            _pages.Add(page, list = []);
        list.Add(translation);
    }

    /// <summary>Not to be used again: whoever led to it looks for code there anew.</summary>
    private void Forget(Translation translation)
    {
        if (!translation.Stale)
            Suspend(translation);
        _translations.Remove(IdOf(translation.Physical, translation.Key));
        foreach (var incoming in translation.Incoming)
        {
            ref var exit = ref _exits[incoming];
            if (exit.Target == translation)
                Unlink(ref exit);
        }

        translation.Incoming.Clear();
    }

    /// <summary>The next look-up makes a better translation of the same code.</summary>
    private void Replace(Translation translation)
    {
        Forget(translation);
        Statistics.Replaced++;
    }

    private void Unlink(ref ExitInfo exit)
    {
        exit.Target = null;
        if (exit.Kind == ExitKind.Far)
            exit.Link->PageBase = AccessSlots.Unlinked;
        else
            Redirect(ref exit, exit.Stub);
    }

    /// <summary>Everything goes: the cache is full.</summary>
    private void Clear()
    {
        _generation++;
        Statistics.Clears++;
        _translations.Clear();
        _numbered.RemoveRange(1, _numbered.Count - 1);
        _ungrouped.Clear();
        _translator.Forget();
        _probes.Clear();
        _pages.Clear();
        _exits.Clear();
        _jumps.Clear();
        _slots.Clear();
        _routines.Clear();
        _cache.Clear();
        _arena.Clear();
        _opBuilder.Clear();
    }
}
