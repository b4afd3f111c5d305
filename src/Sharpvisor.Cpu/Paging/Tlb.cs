using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Cpu.Paging;

/// <summary>One translation of a 4 KiB page of linear addresses to host memory.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct TlbEntry
{
    /// <summary>The page's linear address if it may be read by the fast path, else one that no guest can think of.</summary>
    public ulong ReadTag;

    /// <summary>The same for writes: pages that are clean, read-only or hold decoded code never match.</summary>
    public ulong WriteTag;

    /// <summary>What is added to a linear address of the page to make a host address.</summary>
    public ulong Delta;

    /// <summary>The guest-physical address of the page; bit 0: the translation is global; and <see cref="WritesHeld"/>.</summary>
    public ulong Physical;

    /// <summary>In <see cref="Physical"/>: it may be written, and only because it holds code <see cref="WriteTag"/> does not match.</summary>
    public const ulong WritesHeld = 4;

    /// <summary>Where generated code finds things.</summary>
    public const int DeltaOffset = 16, SizeLog = 5;

    public static int TagOffset(bool write) => write ? 8 : 0;
}

/// <summary>
/// A software TLB for data: direct mapped, one array for each kind of access right (user; kernel; kernel that may
/// touch user pages), so that a look-up compares one tag.
/// </summary>
/// <remarks>
/// Slots filled since the last flush are listed: it costs what was used, not what could be. Not thread safe;
/// each vCPU has its own.
/// </remarks>
internal sealed unsafe partial class Tlb : IDisposable
{
    public const int Bits = 12;

    public const int Entries = 1 << Bits;

    /// <summary>User, kernel with SMAP in force, kernel without.</summary>
    public const int Kinds = 3;

    /// <summary><see cref="TlbEntry.Physical"/> of an empty entry.</summary>
    private const ulong NoPage = 2;

    /// <summary>A kind that is never filled: every access takes the slow path.</summary>
    public const int EmptyKind = Kinds;

    private const int ListLimit = 2048;

    private readonly TlbEntry* _entries;
    private readonly byte* _dummy;
    private readonly ulong _nowhere;
    private readonly int[] _filled = new int[ListLimit];
    private readonly int[] _filledGlobal = new int[ListLimit];
    private int _filledCount, _filledGlobalCount;

    /// <summary>For each physical page: 1 + the only entry with a write tag for it, 0 for none, or <see cref="Many"/>.</summary>
    private ushort[] _writers = new ushort[1 << 16];

    private const ushort Many = ushort.MaxValue;

    public Tlb()
    {
        // What does not match must match no address that a guest can think of, and if it did, must lead nowhere in the
        // host: a page of the non-canonical hole that changes from run to run, and a page for it that nobody uses.
        _dummy = (byte*)HostMemory.Reserve(8192, hugePages: false);
        _nowhere = 0x4000_0000_0000_0000 | ((ulong)RandomNumberGenerator.GetInt32(int.MaxValue) << 26) | ((ulong)RandomNumberGenerator.GetInt32(int.MaxValue) << 13);
        _nowhere &= ~0xFFFUL;
        _entries = (TlbEntry*)HostMemory.ReserveLow((Kinds + 1) * Entries * (ulong)sizeof(TlbEntry));
        for (var i = 0; i < (Kinds + 1) * Entries; i++)
            Invalidate(i);
    }

    public long Fills { get; private set; }

    /// <summary>The array of one kind: 0 user, 1 kernel, 2 kernel with access to user pages.</summary>
    public TlbEntry* Kind(int kind) => _entries + (kind * Entries);

    /// <summary>Plain low bits: generated code that looks up waits for each step of a better hash, and no fewer fills were counted with two of them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Index(ulong linear) => (int)(linear >> 12) & (Entries - 1);

    /// <summary>Drops everything, global pages too.</summary>
    public void FlushAll()
    {
        DropSpaces();
        if (_filledCount >= ListLimit || _filledGlobalCount >= ListLimit)
        {
            for (var i = 0; i < Kinds * Entries; i++)
                Invalidate(i);
        }
        else
        {
            for (var i = 0; i < _filledCount; i++)
                Invalidate(_filled[i]);
            for (var i = 0; i < _filledGlobalCount; i++)
                Invalidate(_filledGlobal[i]);
        }

        _filledCount = _filledGlobalCount = 0;
    }

    /// <summary>Drops everything but global pages, in every address space.</summary>
    public void FlushNonGlobal()
    {
        DropSpaces();
        InvalidateNonGlobal();
    }

    private void InvalidateNonGlobal()
    {
        if (_filledCount >= ListLimit)
        {
            for (var i = 0; i < Kinds * Entries; i++)
            {
                if ((_entries[i].Physical & 1) == 0)
                    Invalidate(i);
            }
        }
        else
        {
            for (var i = 0; i < _filledCount; i++)
            {
                if ((_entries[_filled[i]].Physical & 1) == 0)
                    Invalidate(_filled[i]);
            }
        }

        _filledCount = 0;
    }

    /// <summary>Drops one page in every kind, global or not.</summary>
    public void FlushPage(ulong linear)
    {
        for (var kind = 0; kind < Kinds; kind++)
        {
            var i = (kind * Entries) + Index(linear);
            if (((_entries[i].ReadTag ^ linear) & ~0xFFFUL) == 0 || ((_entries[i].WriteTag ^ linear) & ~0xFFFUL) == 0)
                Invalidate(i);
        }
    }

    /// <summary>Drops all small pages that were filled from one large page; <paramref name="length"/> is a power of two.</summary>
    public void FlushRange(ulong start, ulong length)
    {
        if (length <= Entries * 4096UL)
        {
            for (var page = start; page < start + length; page += 4096)
                FlushPage(page);
            return;
        }

        for (var i = 0; i < Kinds * Entries; i++)
        {
            if (((_entries[i].ReadTag ^ start) & ~(length - 1)) == 0 || ((_entries[i].WriteTag ^ start) & ~(length - 1)) == 0)
                Invalidate(i);
        }
    }

    /// <summary>Takes a physical page out of the fast write path.</summary>
    public void ProtectPhysicalPage(ulong physical)
    {
        var number = (int)(physical >> 12);
        if (number >= _writers.Length || _writers[number] == 0)
            return;
        var writer = _writers[number];
        _writers[number] = 0;
        if (writer != Many)
        {
            HoldWrites(writer - 1, physical);
            return;
        }

        for (var i = 0; i < Kinds * Entries; i++)
            HoldWrites(i, physical);
    }

    /// <summary>The page of an entry with <see cref="TlbEntry.WritesHeld"/> has no code any more.</summary>
    public void AllowWrites(TlbEntry* entry)
    {
        entry->Physical &= ~TlbEntry.WritesHeld;
        entry->WriteTag = entry->ReadTag;
        NoteWriter((int)(entry - _entries));
    }

    /// <summary>Fills a slot.</summary>
    /// <param name="holdsCode">A page that may be written may not be by the fast path.</param>
    public void Fill(int kind, ulong linear, byte* host, ulong physical, bool global, bool readable, bool writable, bool holdsCode)
    {
        Fills++;
        var i = (kind * Entries) + Index(linear);
        var page = linear & ~0xFFFUL;
        ref var entry = ref _entries[i];
        entry.ReadTag = readable ? page : _nowhere;
        entry.WriteTag = writable && !holdsCode ? page : _nowhere;
        entry.Delta = (ulong)host - page;
        entry.Physical = (physical & ~0xFFFUL) | (global ? 1UL : 0) | (writable && holdsCode ? TlbEntry.WritesHeld : 0);
        if (writable && !holdsCode)
            NoteWriter(i);
        if (global && _filledGlobalCount < ListLimit)
            _filledGlobal[_filledGlobalCount++] = i;
        else if (!global && _filledCount < ListLimit)
            _filled[_filledCount++] = i;
    }

    public void Dispose()
    {
        HostMemory.Release(_entries, (Kinds + 1) * Entries * (ulong)sizeof(TlbEntry));
        HostMemory.Release(_dummy, 8192);
    }

    /// <summary>An entry was given a write tag.</summary>
    private void NoteWriter(int i)
    {
        var physical = _entries[i].Physical & ~0xFFFUL;
        var number = (int)(physical >> 12);
        if (number >= _writers.Length)
            Array.Resize(ref _writers, Math.Max(2 * _writers.Length, number + 1));
        ref var writer = ref _writers[number];
        if (writer == 0 || (writer != Many && !IsWriter(writer - 1, physical)))
            writer = (ushort)(i + 1);
        else if (writer != i + 1)
            writer = Many;
    }

    private bool IsWriter(int i, ulong physical) => (_entries[i].Physical & ~0xFFFUL) == physical && _entries[i].WriteTag != _nowhere;

    private void HoldWrites(int i, ulong physical)
    {
        if (!IsWriter(i, physical))
            return;
        _entries[i].WriteTag = _nowhere;
        _entries[i].Physical |= TlbEntry.WritesHeld;
    }

    private void Invalidate(int i)
    {
        ref var entry = ref _entries[i];
        entry.ReadTag = _nowhere;
        entry.WriteTag = _nowhere;
        entry.Delta = (ulong)_dummy - _nowhere;
        entry.Physical = NoPage;
    }
}
