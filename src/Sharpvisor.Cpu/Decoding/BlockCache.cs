using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Decoding;

/// <summary>
/// The decoded blocks of one vCPU, by guest-physical address and mode, so that they outlive address-space switches.
/// Blocks live in one bounded arena; when it is full all are dropped.
/// </summary>
internal sealed unsafe class BlockCache : IDisposable
{
    private readonly ulong _arenaSize;
    private const int Buckets = 1 << 17;
    private const int HeatEntries = 1 << 12;

    private readonly byte* _arena;
    private readonly Block** _buckets = (Block**)NativeMemory.AllocZeroed(Buckets, (nuint)sizeof(Block*));
    private readonly Dictionary<ulong, List<nint>> _pages = [];

    /// <summary>How often dropped blocks were executed, by a hash: code that changes is worth a translation too.</summary>
    private readonly ushort[] _heats = new ushort[HeatEntries];
    private ulong _used;

    /// <param name="arenaSize">Bytes for all blocks and their operations.</param>
    public BlockCache(ulong arenaSize)
    {
        _arenaSize = arenaSize;
        _arena = (byte*)HostMemory.Reserve(arenaSize, hugePages: false);
    }

    public long BlocksMade { get; private set; }

    public long BlocksDropped { get; private set; }

    public int Clears { get; private set; }

    /// <summary>True when there is no room for another block of any length: <see cref="Clear"/> before decoding.</summary>
    public bool IsFull => !HasRoomFor(16384);

    /// <summary>The next block of this place and mode after <paramref name="previous"/>, or the first if that is null.</summary>
    /// <remarks>There are several where an instruction runs over into a page that was not always the same.</remarks>
    public Block* Find(ulong physical, uint mode, Block* previous = null)
    {
        var block = previous == null ? _buckets[Hash(physical, mode)] : previous->HashNext;
        while (block != null && (block->Physical != physical || block->Mode != mode))
            block = block->HashNext;
        return block;
    }

    public bool HasRoomFor(ulong bytes) => _arenaSize - _used >= bytes;

    /// <summary>Bytes of the arena in use.</summary>
    public ulong Used => _used;

    /// <summary>Gives back what was allocated since <see cref="Used"/> was read, for a block that came to nothing.</summary>
    public void Release(ulong used) => _used = used;

    /// <summary>Bytes of the arena for what a block refers to.</summary>
    public void* Allocate(int size)
    {
        var p = _arena + _used;
        _used += (ulong)(size + 15) & ~15UL;
        return p;
    }

    public void Add(Block* block)
    {
        BlocksMade++;
        ref var bucket = ref _buckets[Hash(block->Physical, block->Mode)];
        block->Heat = HeatOf(block);
        block->HashNext = bucket;
        bucket = block;
        AddToPage(block->Physical >> 12, block);
        if (block->SecondPage != ulong.MaxValue && block->SecondPage >> 12 != block->Physical >> 12)
            AddToPage(block->SecondPage >> 12, block);
    }

    /// <summary>Drops the blocks with an instruction in the given 64-byte lines of a page.</summary>
    /// <param name="staleExit">The handler that each operation of a dropped block becomes.</param>
    public void Drop(ulong page, ulong lines, nint staleExit)
    {
        if (!_pages.TryGetValue(page, out var blocks))
            return;
        for (var i = blocks.Count - 1; i >= 0; i--)
        {
            var block = (Block*)blocks[i];
            if ((Lines(block, page) & lines) == 0)
                continue;
            blocks[i] = blocks[^1];
            blocks.RemoveAt(blocks.Count - 1);
            var other = block->SecondPage == ulong.MaxValue ? page : block->Physical >> 12 == page ? block->SecondPage >> 12 : block->Physical >> 12;
            if (other != page && _pages.TryGetValue(other, out var others))
                others.Remove((nint)block);
            Unlink(block);
            MakeStale(block, staleExit);
        }
    }

    /// <summary>Drops all blocks. Unlike <see cref="Clear"/> while one is executing.</summary>
    public void DropAll(nint staleExit)
    {
        for (var i = 0; i < Buckets; i++)
        {
            for (var block = _buckets[i]; block != null; block = block->HashNext)
                MakeStale(block, staleExit);
            _buckets[i] = null;
        }

        _pages.Clear();
    }

    /// <summary>Drops everything. No block may be executing.</summary>
    public void Clear()
    {
        NativeMemory.Clear(_buckets, Buckets * (nuint)sizeof(Block*));
        _pages.Clear();
        _used = 0;
        Clears++;
    }

    public void Dispose()
    {
        HostMemory.Release(_arena, _arenaSize);
        NativeMemory.Free(_buckets);
    }

    /// <summary>The lines of a page that a block covers.</summary>
    public static ulong Lines(Block* block, ulong page)
    {
        var start = (int)(block->Physical & 0xFFF);
        var end = start + block->Length;
        ulong lines = 0;
        if (block->Physical >> 12 == page)
            lines = LinesBetween(start, Math.Min(end, 4096));
        if (block->SecondPage >> 12 == page) // may be the same page mapped twice
            lines |= LinesBetween(0, end - 4096);
        return lines;
    }

    internal static ulong LinesBetween(int start, int end)
    {
        var first = start >> 6;
        var last = (Math.Max(end, start + 1) - 1) >> 6;
        return (ulong.MaxValue >> (63 - (last - first))) << first;
    }

    private void MakeStale(Block* block, nint staleExit)
    {
        for (var op = 0; op <= block->Count; op++)
            block->Ops[op].Fn = staleExit;
        block->Stale = true;
        HeatOf(block) = block->Heat;
        BlocksDropped++;
    }

    private ref ushort HeatOf(Block* block) => ref _heats[Hash(block->Physical, block->Mode) & (HeatEntries - 1)];

    private static int Hash(ulong physical, uint mode) => (int)(((physical * 0x9E37_79B9_7F4A_7C15) >> 40) ^ (mode * 977)) & (Buckets - 1);

    private void AddToPage(ulong page, Block* block)
    {
        if (!_pages.TryGetValue(page, out var blocks))
            _pages.Add(page, blocks = []);
        blocks.Add((nint)block);
    }

    private void Unlink(Block* block)
    {
        var link = &_buckets[Hash(block->Physical, block->Mode)];
        while (*link != null && *link != block)
            link = &(*link)->HashNext;
        if (*link != null)
            *link = block->HashNext;
    }
}
