// A back end's end of a ring of requests and answers in pages that a domain has granted.
// Follows: Xen's public header io/ring.h (DEFINE_RING_TYPES and the macros of back rings).

using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Bus;

/// <summary>
/// One ring. Whatever the domain writes into it, indices of our own decide where requests are taken and answers put. A
/// request is copied before anybody looks at it: the domain may change it at any time.
/// </summary>
internal sealed class SharedRing
{
    private const int HeaderSize = 64;
    private const ulong RequestProducer = 0, RequestEvent = 4, ResponseProducer = 8, ResponseEvent = 12;

    private readonly GuestMemory _memory;
    private readonly GrantTable _grants;
    private readonly GrantedPage[] _pages;
    private readonly int _entrySize;
    private uint _requests, _responses, _pushed;

    private SharedRing(GuestMemory memory, GrantTable grants, GrantedPage[] pages, int entrySize)
    {
        _memory = memory;
        _grants = grants;
        _pages = pages;
        _entrySize = entrySize;
        Size = SizeOf(pages.Length, entrySize);
    }

    /// <summary>Entries, a power of two.</summary>
    public uint Size { get; }

    /// <summary>Entries that fit into so many pages.</summary>
    public static uint SizeOf(int pages, int entrySize) => 1u << int.Log2(((pages * GuestMemory.PageSize) - HeaderSize) / entrySize);

    /// <param name="references">Of the pages, 1 to 16.</param>
    /// <param name="entrySize">Bytes of the longer of request and answer.</param>
    /// <returns>Null: they are not granted, or no ring that can be gone on with.</returns>
    public static SharedRing? TryMap(GuestMemory memory, GrantTable grants, ReadOnlySpan<uint> references, int entrySize)
    {
        var pages = new GrantedPage[references.Length];
        if (!grants.TryAcquire(references, writable: true, pages))
            return null;
        var ring = new SharedRing(memory, grants, pages, entrySize);
        if (memory.TryRead(pages[0].Page + ResponseProducer, out uint responses))
        {
            ring._requests = ring._responses = ring._pushed = responses;
            if (ring.CountWaiting() >= 0)
                return ring;
        }

        ring.Unmap();
        return null;
    }

    public void Unmap() => _grants.Release(_pages);

    /// <summary>Requests that have not been taken; -1: an index that can't be.</summary>
    public int CountWaiting()
    {
        if (!_memory.TryRead(_pages[0].Page + RequestProducer, out uint producer) || producer - _responses > Size)
            return -1;
        Interlocked.MemoryBarrier(); // the index comes before the requests
        var waiting = producer - _requests;
        return waiting <= Size ? (int)waiting : -1; // taken back what was taken
    }

    /// <summary>Copies a request that waits, the next one or one behind it.</summary>
    /// <returns>False: the ring lies no more where it did.</returns>
    public bool TryPeek(int ahead, Span<byte> request) => Move(_requests + (uint)ahead, request, isWrite: false);

    public void Take(int count) => _requests += (uint)count;

    /// <summary>Has the domain tell of its next request.</summary>
    /// <param name="more">How many there have to be.</param>
    /// <returns>What <see cref="CountWaiting"/> finds then: something may have come meanwhile.</returns>
    public int Await(int more = 1)
    {
        _memory.TryWrite(_pages[0].Page + RequestEvent, _requests + (uint)more);
        Interlocked.MemoryBarrier();
        return CountWaiting();
    }

    /// <summary>Puts the next answer into the ring; the domain sees it with <see cref="Push"/>.</summary>
    public void Respond(Span<byte> response) => Move(_responses++, response, isWrite: true);

    /// <summary>Shows the domain all answers so far.</summary>
    /// <returns>True: it wants an event for it.</returns>
    public bool Push()
    {
        Interlocked.MemoryBarrier(); // the answers come before the index
        if (_pushed == _responses || !_memory.TryWrite(_pages[0].Page + ResponseProducer, _responses))
            return false;
        Interlocked.MemoryBarrier();
        var old = _pushed;
        _pushed = _responses;
        return _memory.TryRead(_pages[0].Page + ResponseEvent, out uint wanted) && _responses - wanted < _responses - old;
    }

    private bool Move(uint index, Span<byte> entry, bool isWrite)
    {
        var offset = HeaderSize + ((int)(index % Size) * _entrySize);
        while (entry.Length > 0)
        {
            var (page, inPage) = Math.DivRem(offset, GuestMemory.PageSize);
            var part = entry[..Math.Min(entry.Length, GuestMemory.PageSize - inPage)];
            var address = _pages[page].Page + (ulong)inPage;
            if (!(isWrite ? _memory.TryWrite(address, part) : _memory.TryRead(address, part)))
                return false;
            entry = entry[part.Length..];
            offset += part.Length;
        }

        return true;
    }
}
