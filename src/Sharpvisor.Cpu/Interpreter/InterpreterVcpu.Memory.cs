using System.Runtime.CompilerServices;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Debugging;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Memory behind the fast path: TLB fills, page crossings, MMIO, watched pages and pages with code.</summary>
public unsafe partial class InterpreterVcpu
{
    private bool _holdsSplitLock;

    /// <summary>Set while instructions are executed only to see what they do: their writes are undone afterwards.</summary>
    private protected Rehearsal? Rehearsal { get; set; }

    private protected readonly Tlb _tlb = new();

    /// <summary>CR0.AM, EFLAGS.AC and CPL 3.</summary>
    private protected bool _alignmentCheck;

    /// <summary>Regions of 2 MiB that small translations of larger pages were made in, and whether any was larger still.</summary>
    private const int LargeShift = 21;
    private readonly PageFilter _large = new();
    private int _largestShift = LargeShift;

    /// <summary>Reads 1 to 8 bytes with the rights of the current privilege level.</summary>
    internal ulong ReadLinear(ulong linear, int size)
    {
        CheckAlignment(linear, size);
        return Read(linear, size, CurrentKind);
    }

    internal void WriteLinear(ulong linear, int size, ulong value)
    {
        CheckAlignment(linear, size);
        Write(linear, size, value, CurrentKind);
    }

    /// <summary>#AC for an operand of 2, 4, 8 or 10 bytes that is not aligned (SDM vol. 3, table 6-7); larger ones are not checked.</summary>
    internal void CheckAlignment(ulong linear, int size)
    {
        if (_alignmentCheck && size <= 10 && (linear & (size >= 8 ? 7UL : (ulong)(size - 1))) != 0)
            Raise(Vectors.AC, 0);
    }

    /// <summary>A read that the processor makes for itself (descriptor tables, TSS): always supervisor, SMAP not lifted by AC.</summary>
    internal ulong ReadSystem(ulong linear, int size) => Read(linear, size, SystemKind);

    internal void WriteSystem(ulong linear, int size, ulong value) => Write(linear, size, value, SystemKind);

    /// <summary>Opens an operand for reading and writing; see <see cref="Access.Open{T}"/>.</summary>
    internal byte* OpenLinear(ulong linear, int size)
    {
        CheckCanonical(linear, size);
        CheckAlignment(linear, size);
        CheckWatch(linear, size, DataAccess.Read | DataAccess.Write);
        if ((linear & 0xFFF) + (ulong)size <= 4096)
        {
            var p = Translate(linear, AccessKind.Write, CurrentKind, out var physical);
            if (p != null)
            {
                // The write comes after this: blocks that it changes are dropped now, and on other vCPUs again at
                // the end of the block, for what they decode in between.
                _coherence.OnRmw(this, physical, size);
                return p;
            }
        }
        else
        {
            // Two pages that follow each other in host memory too: the host can do it atomically.
            var rest = 4096 - (int)(linear & 0xFFF);
            var first = Translate(linear, AccessKind.Write, CurrentKind, out var physical1);
            var second = Translate(WrapLinear(linear + (ulong)rest), AccessKind.Write, CurrentKind, out var physical2);
            if (first != null && second == first + rest)
            {
                _coherence.OnRmw(this, physical1, rest);
                _coherence.OnRmw(this, physical2, size - rest);
                return first;
            }
        }

        EnterSplitLock(); // until CommitLinear, or the fault that comes instead
        var value = ReadChecked(linear, size, CurrentKind, forWrite: true);
        Width.WriteRaw<ulong>(&_c->Bounce, value);
        return (byte*)&_c->Bounce;
    }

    /// <summary>Writes back what <see cref="OpenLinear"/> put into the bounce buffer.</summary>
    internal void CommitLinear(ulong linear, int size)
    {
        WriteLinear(linear, size, ReadSized((byte*)&_c->Bounce, size));
        ReleaseSplitLock();
    }

    /// <summary>False: there is no one to exclude, or it is held already.</summary>
    private bool EnterSplitLock()
    {
        if (_environment.ProcessorCount == 1 || _holdsSplitLock)
            return false;
        _coherence.SplitLock.Enter();
        _holdsSplitLock = true;
        return true;
    }

    private void ReleaseSplitLock()
    {
        if (!_holdsSplitLock)
            return;
        _holdsSplitLock = false;
        _coherence.SplitLock.Exit();
    }

    /// <summary>The host address of up to one page's rest, for writing; null if it is not RAM. The caller says afterwards what it wrote by <see cref="WroteRam"/>.</summary>
    internal byte* TranslateForWrite(ulong linear, out ulong physical) => Translate(linear, AccessKind.Write, CurrentKind, out physical);

    internal void WroteRam(ulong physical, int length)
    {
        if (Volatile.Read(ref _memory.CodeLines(physical)) == 0)
            return;
        _storedAt = physical;
        var line = (int)(physical >> 6) & 63;
        if (_environment.ProcessorCount == 1 && (physical & 63) + (ulong)length <= 64)
            _memory.OnCodeWritten(physical, 1UL << line); // who decodes is on this thread: no barrier is needed
        else
            _memory.MarkWritten(physical, (ulong)length);
    }

    /// <summary>Copies bytes in with full checks, any length; used for operands of more than 8 bytes.</summary>
    internal void ReadBytes(ulong linear, byte* destination, int length)
    {
        CheckCanonical(linear, length);
        CheckWatch(linear, length, DataAccess.Read);
        for (var done = 0; done < length;)
        {
            var at = WrapLinear(linear + (ulong)done);
            var part = Math.Min(length - done, 4096 - (int)(at & 0xFFF));
            var p = Translate(at, AccessKind.Read, CurrentKind, out var physical);
            if (p != null)
            {
                Unsafe.CopyBlockUnaligned(destination + done, p, (uint)part);
            }
            else
            {
                for (var i = 0; i < part;)
                {
                    var step = part - i >= 8 && ((physical + (ulong)i) & 7) == 0 ? 8 : 1;
                    var value = ReadPhysical(physical + (ulong)i, step);
                    if (step == 8)
                        Width.WriteRaw<ulong>(destination + done + i, value);
                    else
                        destination[done + i] = (byte)value;
                    i += step;
                }
            }

            done += part;
        }
    }

    /// <summary>Checks that all bytes may be written, without writing.</summary>
    internal void CheckWrite(ulong linear, int length)
    {
        CheckCanonical(linear, length);
        for (var at = linear; at < linear + (ulong)length; at = (at | 0xFFF) + 1)
            Translate(WrapLinear(at), AccessKind.Write, CurrentKind, out _);
    }

    internal void WriteBytes(ulong linear, byte* source, int length)
    {
        CheckWrite(linear, length);
        CheckWatch(linear, length, DataAccess.Write);
        for (var done = 0; done < length;)
        {
            var at = WrapLinear(linear + (ulong)done);
            var part = Math.Min(length - done, 4096 - (int)(at & 0xFFF));
            var p = Translate(at, AccessKind.Write, CurrentKind, out var physical);
            if (p != null)
            {
                Unsafe.CopyBlockUnaligned(p, source + done, (uint)part);
                WroteRam(physical, part);
            }
            else
            {
                for (var i = 0; i < part;)
                {
                    var step = part - i >= 8 && ((physical + (ulong)i) & 7) == 0 ? 8 : 1;
                    WritePhysical(physical + (ulong)i, step, step == 8 ? Width.ReadRaw<ulong>(source + done + i) : source[done + i]);
                    i += step;
                }
            }

            done += part;
        }
    }

    internal ulong ReadPhysical(ulong physical, int size)
    {
        var p = _memory.TryGetPointer(physical);
        if (p != null && (physical & 0xFFF) + (ulong)size <= 4096)
            return ReadSized(p, size);
        if (Rehearsal is not null)
        {
            Rehearsal.Outside = true;
            return 0;
        }

        if ((physical & ~0xFFFUL) == _apic.MmioBase)
        {
            using (_environment.Gate.Enter())
                return _apic.Read((uint)(physical & 0xFFF), size);
        }

        return _environment.Mmio.Read(physical, size);
    }

    internal void WritePhysical(ulong physical, int size, ulong value)
    {
        var p = _memory.TryGetWritable(physical);
        if (p != null && (physical & 0xFFF) + (ulong)size <= 4096)
        {
            WriteSized(p, size, value);
            WroteRam(physical, size);
        }
        else if (Rehearsal is not null)
        {
            Rehearsal.Outside = true;
        }
        else if ((physical & ~0xFFFUL) == _apic.MmioBase)
        {
            using (_environment.Gate.Enter())
                _apic.Write((uint)(physical & 0xFFF), size, value);
        }
        else
        {
            _environment.Mmio.Write(physical, size, value);
        }
    }

    internal void FlushTlb(bool global)
    {
        if (global)
        {
            _tlb.FlushAll();
            _large.Clear();
            _largestShift = LargeShift;
            NewEpoch();
        }
        else
        {
            _tlb.FlushNonGlobal();
            NewUserEpoch(-1);
        }
    }

    /// <summary>Other memory is seen at some physical pages.</summary>
    internal void ForgetPages(ulong first, ulong count)
    {
        _tlb.FlushAll();
        for (var page = first; page < first + count; page++)
            DropCode(page, ulong.MaxValue);
    }

    internal void FlushTlbPage(ulong linear)
    {
        // A large page sits in the TLB as small ones: where there was any, all that it can have been go.
        if (_largestShift > LargeShift)
            _tlb.FlushRange(linear & ~((1UL << _largestShift) - 1), 1UL << _largestShift);
        else if (_large.MayHave(linear >> LargeShift))
            _tlb.FlushRange(linear & ~((1UL << LargeShift) - 1), 1UL << LargeShift);
        else
            _tlb.FlushPage(linear);
        ForgetCode(linear);
    }

    /// <summary>0 user, 1 kernel, 2 kernel that may touch user pages: the array of the TLB in use.</summary>
    private protected int CurrentKind => _c->Cpl == 3 ? (_isParavirtualKernel ? 2 : 0) : (_c->Arch.Cr4 & ControlRegisters.SMAP) == 0 || (_c->Arch.Rflags & Rflags.AC) != 0 ? 2 : 1;

    private int SystemKind => (_c->Arch.Cr4 & ControlRegisters.SMAP) == 0 && !IsParavirtual ? 2 : 1;

    private bool TryWalk(ulong linear, AccessKind access, int kind, out PageWalk walk) => IsParavirtual
        ? TryWalkParavirtual(linear, access, kind, out walk)
        : PageWalker.Walk(in _c->Arch, _memory, _physicalBits, linear, access | (kind == 0 ? AccessKind.User : kind == 2 ? AccessKind.UserPagesAllowed : 0), out walk);

    private static ulong ReadSized(byte* p, int size) => size switch
    {
        1 => *p,
        2 => Unsafe.ReadUnaligned<ushort>(p),
        4 => Unsafe.ReadUnaligned<uint>(p),
        _ => Unsafe.ReadUnaligned<ulong>(p),
    };

    private static void WriteSized(byte* p, int size, ulong value)
    {
        switch (size)
        {
            case 1: *p = (byte)value; break;
            case 2: Unsafe.WriteUnaligned(p, (ushort)value); break;
            case 4: Unsafe.WriteUnaligned(p, (uint)value); break;
            default: Unsafe.WriteUnaligned(p, value); break;
        }
    }

    /// <summary>
    /// The first linear address of the page after this one. Tables of the system may lie above 4 GiB while 32-bit code
    /// runs in long mode.
    /// </summary>
    internal ulong NextPage(ulong linear) => linear > uint.MaxValue ? (linear | 0xFFF) + 1 : WrapLinear((linear | 0xFFF) + 1);

    private ulong WrapLinear(ulong linear) => _c->Is64 != 0 ? linear : (uint)linear;

    private protected static bool IsCanonical(ulong linear) => (ulong)((long)(linear << 16) >> 16) == linear;

    /// <summary>#GP, or #SS for the stack segment, for a non-canonical address.</summary>
    private void CheckCanonical(ulong linear, int size)
    {
        if (_c->Is64 != 0 && (!IsCanonical(linear) || !IsCanonical(linear + (ulong)size - 1)))
            Raise(_c->CurrentOp != null && _c->CurrentOp->Segment == 2 ? Vectors.SS : Vectors.GP, 0);
    }

    private ulong Read(ulong linear, int size, int kind)
    {
        CheckCanonical(linear, size);
        CheckWatch(linear, size, DataAccess.Read);
        return ReadChecked(linear, size, kind, forWrite: false);
    }

    private ulong ReadChecked(ulong linear, int size, int kind, bool forWrite)
    {
        var access = forWrite ? AccessKind.Write : AccessKind.Read;
        var within = (int)(linear & 0xFFF);
        if (within + size <= 4096)
        {
            var p = Translate(linear, access, kind, out var physical);
            return p != null ? ReadSized(p, size) : ReadPhysical(physical, size);
        }

        // Both pages are checked before a byte is read: a device must not see half of a faulting access.
        var first = 4096 - within;
        Translate(linear, access, kind, out var physical1);
        Translate(NextPage(linear), access, kind, out var physical2);
        ulong value = 0;
        for (var i = 0; i < size; i++)
            value |= ReadPhysical(i < first ? physical1 + (ulong)i : physical2 + (ulong)(i - first), 1) << (8 * i);
        return value;
    }

    private void Write(ulong linear, int size, ulong value, int kind)
    {
        CheckCanonical(linear, size);
        CheckWatch(linear, size, DataAccess.Write);
        var within = (int)(linear & 0xFFF);
        if (within + size <= 4096)
        {
            var p = Translate(linear, AccessKind.Write, kind, out var physical);
            if (p != null)
            {
                WriteSized(p, size, value);
                WroteRam(physical, size);
            }
            else
            {
                WritePhysical(physical, size, value);
            }

            return;
        }

        var first = 4096 - within;
        Translate(linear, AccessKind.Write, kind, out var physical1);
        Translate(NextPage(linear), AccessKind.Write, kind, out var physical2);

        // A plain store must not fall between the read and the write of another vCPU's locked access: it would be lost.
        var entered = EnterSplitLock();
        for (var i = 0; i < size; i++)
            WritePhysical(i < first ? physical1 + (ulong)i : physical2 + (ulong)(i - first), 1, (value >> (8 * i)) & 0xFF);
        if (entered)
            ReleaseSplitLock();
    }

    /// <summary>Looks up or walks; raises #PF. Null for what is not RAM.</summary>
    private byte* Translate(ulong linear, AccessKind access, int kind, out ulong physical)
    {
        if (!TryTranslate(linear, access, kind, out physical, out var host))
            throw _fault;
        if (Rehearsal is not null && host != null && (access & AccessKind.Write) != 0)
            Rehearsal.BeforeWrite(host);
        return host;
    }

    /// <summary>The same; false with #PF and CR2 noted.</summary>
    private protected bool TryTranslate(ulong linear, AccessKind access, int kind, out ulong physical, out byte* host)
    {
        var entry = _tlb.Kind(kind) + Tlb.Index(linear);
        var tag = (access & AccessKind.Write) != 0 ? entry->WriteTag : entry->ReadTag;
        if ((linear ^ tag) < 4096)
        {
            physical = (entry->Physical & ~0xFFFUL) | (linear & 0xFFF);
            host = (byte*)(entry->Delta + linear);
            return true;
        }

        if ((access & AccessKind.Write) != 0 && (linear ^ entry->ReadTag) < 4096 && (entry->Physical & TlbEntry.WritesHeld) != 0)
        {
            physical = (entry->Physical & ~0xFFFUL) | (linear & 0xFFF);
            host = (byte*)(entry->Delta + linear);
            if (Volatile.Read(ref _memory.CodeLines(physical)) == 0)
                _tlb.AllowWrites(entry);
            return true;
        }

        if (!TryWalk(linear, access, kind, out var walk))
        {
            if (IsOwnTableWrite(linear, access, kind, out physical))
            {
                host = _memory.TryGetPointer(physical);
                return true;
            }

            _c->Arch.Cr2 = linear;
            _c->FaultVector = Vectors.PF;
            _c->FaultError = walk.ErrorCode;
            physical = 0;
            host = null;
            return false;
        }

        physical = walk.Physical;
        host = _memory.TryGetPointer(physical);
        var isPlain = host == _memory.TryGetWritable(physical);
        if (!isPlain && (access & AccessKind.Write) != 0)
            host = null; // a ROM, or RAM that is written under one: WritePhysical knows
        if (host == null)
            return true;
        if (walk.PageShift > 12)
        {
            _large.Add(linear >> LargeShift);
            _largestShift = Math.Max(_largestShift, walk.PageShift);
        }

        var watched = IsWatchedPage(linear);
        var holdsCode = Volatile.Read(ref _memory.CodeLines(physical)) != 0;
        _tlb.Fill(kind, linear, host - (physical & 0xFFF), physical, walk.Global, !watched, walk.Writable && isPlain && !watched, holdsCode);
        return true;
    }
}
