// Code that changes. A translation whose guest code was stored to, or may have been, is not thrown away: nobody gets into
// it until somebody needs the code there again, and then it is as good as before if the bytes are the same, or if they
// differ only in immediates that the host's instructions have too. Stores of this vCPU itself that change no more than
// that do not even make it stale.
using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

internal unsafe partial class TranslatorVcpu
{
    /// <summary>Bytes of the longest block: of 64 instructions of up to 15.</summary>
    private const int LongestBlock = BlockTranslator.MaxInstructions * 15;

    /// <summary>The guest's bytes as they were when they were compared.</summary>
    private readonly byte* _now = (byte*)NativeMemory.AllocZeroed(LongestBlock);

    private protected override ulong UpdateCode(ulong page, ulong lines)
    {
        if (Rehearsal is not null)
            return base.UpdateCode(page, lines); // the store will be undone
        base.DropCode(page, lines);
        if (!_pages.TryGetValue(page, out var translations))
            return lines;
        ulong kept = 0;
        for (var i = translations.Count - 1; i >= 0; i--)
        {
            var translation = translations[i];
            var own = LinesOf(translation, page);
            if ((own & lines) == 0)
                continue;
            if (TryUpdate(translation))
            {
                kept |= own;
                Statistics.Updated++;
            }
            else
            {
                Drop(translation);
            }
        }

        return lines & ~kept;
    }

    /// <summary>The guest code may have changed: nobody gets in before it has been looked at. Whoever is in it leaves at its end.</summary>
    private void Drop(Translation translation)
    {
        if (translation.SecondPage == ulong.MaxValue)
            Suspend(translation);
        else
            Forget(translation);
        Statistics.Dropped++;
    }

    /// <summary>Links that lead to it stay, and lead to its way out.</summary>
    private void Suspend(Translation translation)
    {
        translation.Stale = true;
        RemoveFromPage(translation.Physical >> 12, translation);
        if (translation.SecondPage != ulong.MaxValue)
            RemoveFromPage(translation.SecondPage >> 12, translation);
        Bar(translation);
    }

    /// <summary>Whoever is about to enter a stale translation, or to begin its next round, is led out.</summary>
    private void Bar(Translation translation)
    {
        translation.EntryCode = *(ulong*)_cache.Hot.Writable(translation.Entry);
        if (translation.LoopEntry != 0)
            translation.LoopCode = *(ulong*)_cache.Hot.Writable(translation.LoopEntry);
        _cache.Hot.PatchJump(translation.Entry, _exits[translation.HeadExit].Stub);
        if (translation.LoopEntry != 0)
            _cache.Hot.PatchJump(translation.LoopEntry, translation.LoopExit);
    }

    private void Unbar(Translation translation)
    {
        _cache.Hot.UnpatchJump(translation.Entry, translation.EntryCode);
        if (translation.LoopEntry != 0)
            _cache.Hot.UnpatchJump(translation.LoopEntry, translation.LoopCode);
    }

    /// <summary>Patches a direct exit. In a short translation its jump may lie where the way in is barred.</summary>
    private void Redirect(ref ExitInfo exit, ulong target)
    {
        var block = exit.Block;
        if (block.Stale)
            Unbar(block);
        _cache.Hot.Patch(exit.Patch, target);
        if (block.Stale)
            Bar(block);
    }

    private void RemoveFromPage(ulong page, Translation translation)
    {
        if (!_pages.TryGetValue(page, out var list) || list.LastIndexOf(translation) is var i && i < 0)
            return;
        list[i] = list[^1];
        list.RemoveAt(list.Count - 1);
    }

    /// <summary>From here on stores to a stale translation's code are noticed. False: there was one meanwhile.</summary>
    private bool TryMark(Translation translation)
    {
        var lines = LinesOf(translation, translation.Physical >> 12);
        _coherence.MarkCode(this, translation.Physical, lines);
        return _coherence.IsMarked(translation.Physical, lines);
    }

    /// <summary>Makes a stale translation what it was. False: its code is another one now.</summary>
    private bool TryRevive(Translation translation)
    {
        Unbar(translation); // first: an immediate may lie where the jump was written
        if (!TryUpdate(translation))
        {
            Bar(translation);
            return false;
        }

        translation.Stale = false;
        AddToPage(translation.Physical >> 12, translation);
        Statistics.Revived++;
        return true;
    }

    /// <summary>Gives a translation the immediates that its code has now. False, with nothing changed: something else differs.</summary>
    private bool TryUpdate(Translation translation)
    {
        var length = translation.Length;
        if (translation.SecondPage != ulong.MaxValue)
            return false;

        // Another vCPU may be writing there: what was compared has to be what is used.
        var now = _now;
        Unsafe.CopyBlockUnaligned(now, HostPointer(translation.Physical), (uint)length);
        if (new ReadOnlySpan<byte>(now, length).SequenceEqual(new ReadOnlySpan<byte>(translation.Bytes, length)))
            return true;
        if (translation.FieldCount == 0 || !DiffersInFieldsOnly(translation, now))
            return false;
        var code = _cache.Hot.Writable(translation.EntryWithFlags);
        for (var i = 0; i < translation.FieldCount; i++)
        {
            ref var field = ref translation.Fields[i];
            var from = now + field.Offset;
            var to = code + field.HostOffset;
            switch (field.Size)
            {
                case 1: *to = *from; break;
                case 2: *(ushort*)to = *(ushort*)from; break;
                case 4: *(uint*)to = *(uint*)from; break;
                default: *(ulong*)to = *(ulong*)from; break;
            }
        }

        Unsafe.CopyBlockUnaligned(translation.Bytes, now, (uint)length);
        return true;
    }

    private static bool DiffersInFieldsOnly(Translation translation, byte* now)
    {
        translation.FixedBytes ??= FixedBytesOf(translation);
        fixed (byte* mask = translation.FixedBytes)
        {
            var i = 0;
            var differences = Vector<byte>.Zero;
            for (; i <= translation.Length - Vector<byte>.Count; i += Vector<byte>.Count)
                differences |= (Unsafe.ReadUnaligned<Vector<byte>>(now + i) ^ Unsafe.ReadUnaligned<Vector<byte>>(translation.Bytes + i)) & Unsafe.ReadUnaligned<Vector<byte>>(mask + i);
            var rest = 0;
            for (; i < translation.Length; i++)
                rest |= (now[i] ^ translation.Bytes[i]) & mask[i];
            return differences == Vector<byte>.Zero && rest == 0;
        }
    }

    private static byte[] FixedBytesOf(Translation translation)
    {
        var mask = new byte[translation.Length];
        Array.Fill(mask, (byte)0xFF);
        foreach (ref readonly var field in new ReadOnlySpan<ImmediateField>(translation.Fields, translation.FieldCount))
            mask.AsSpan(field.Offset, field.Size).Clear();
        return mask;
    }

    /// <summary>The code at a place is another one than it was: it has to prove again that it is worth a translation.</summary>
    private void NoteUnstable(ulong rip, ulong physical)
    {
        if (_threshold == 0)
            return;
        BlockAt(rip)->Heat = 0;
        CollectionsMarshal.GetValueRefOrAddDefault(_unstable, physical >> 12, out _)++;
    }

    /// <summary>Someone came to a stale translation. False: the interpreter, or an event, is next.</summary>
    private bool LookAgain(ref ExitInfo exit, out ulong code, out byte map)
    {
        var c = _c;
        var stale = exit.Block;
        c->Arch.Rip = (_t->PageBase + (ulong)exit.Offset) & c->RipMask;
        var next = FindCode(c->Arch.Rip, exit.Map);
        if (next != stale)
        {
            var entry = _jumps.Find(c->Arch.Rip);
            entry->Rip = c->Arch.Rip ^ 1;
        }

        if (next is not null)
            return GoOn(next, out code, out map);
        Synchronize();
        code = 0;
        map = 0;
        return false;
    }
}
