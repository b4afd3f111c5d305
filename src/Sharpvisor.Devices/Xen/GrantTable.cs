// The grant table of one domain, version 1: by its entries the domain allows others to reach single pages.
// Follows: Xen's public header grant_table.h (grant_entry_v1) and common/grant_table.c's behaviour.
// Leaves out: version 2 (refused, as Linux accepts), transitive and sub-page grants, transfer of pages.

using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen;

/// <summary>A page that a domain has granted and a back end uses.</summary>
/// <param name="Page">Guest-physical address of memory.</param>
/// <param name="Life">Which table it is of: a reset makes another one, in which nothing is in use.</param>
/// <param name="IsGranted">False: the domain has named it without a grant.</param>
public readonly record struct GrantedPage(uint Reference, bool IsWritable, ulong Page, int Life, bool IsGranted = true);

/// <summary>Who knows which frames of memory are the domain's, and what it uses them for.</summary>
public interface IDomainFrames
{
    /// <summary>Takes a machine frame in use: it stays the domain's, and is no page table while it is written.</summary>
    bool TryAcquire(ulong mfn, bool writable);

    /// <summary>The end of <see cref="TryAcquire"/>.</summary>
    void Release(ulong mfn, bool writable);
}

/// <summary>Used with the machine's gate held.</summary>
public sealed class GrantTable
{
    /// <summary>As many frames as Xen allows a domain by default.</summary>
    public const int MaximumFrames = 64;

    public const int EntriesPerFrame = GuestMemory.PageSize / EntrySize;

    private const int EntrySize = 8, PageShift = 12;

    // GTF_*: the low 16 bits of an entry; then who may (domid), then the frame.
    private const ulong TypeMask = 3, PermitAccess = 1, ReadOnly = 4, Reading = 8, Writing = 16;

    private readonly GuestMemory _memory;
    private readonly GuestErrorLog _errors;
    private readonly ulong[] _frames = new ulong[MaximumFrames];

    /// <summary>Uses of each reference; of a frame's from the moment on at which it is laid.</summary>
    private readonly Use[]?[] _uses = new Use[]?[MaximumFrames];
    private int _life;

    public GrantTable(GuestMemory memory, GuestErrorLog errors)
    {
        _memory = memory;
        _errors = errors;
    }

    /// <summary>Of a domain that has page tables by Xen; null: all of memory is the domain's at all times.</summary>
    public IDomainFrames? Frames { get; set; }

    /// <summary>Frames that the domain has asked for.</summary>
    public int FrameCount { get; private set; }

    /// <summary>Uses of grants that have not ended.</summary>
    public int UseCount { get; private set; }

    /// <summary>Lays a frame of the table at a page of the domain; with it, those before it exist, too.</summary>
    /// <param name="page">Guest-physical address of memory. What is there becomes the table: cleared at first, and as it was elsewhere then.</param>
    public XenError SetFrame(int index, ulong page)
    {
        var contents = new byte[GuestMemory.PageSize];
        if (index is >= 0 and < MaximumFrames && PageOf(index) is not 0 and var before)
            _memory.TryRead(before, contents);
        if (index is < 0 or >= MaximumFrames || page % GuestMemory.PageSize != 0 || !_memory.TryWrite(page, contents))
            return XenError.EINVAL;
        _frames[index] = page;
        _uses[index] ??= new Use[EntriesPerFrame];
        FrameCount = Math.Max(FrameCount, index + 1);

        return XenError.None;
    }

    /// <summary>Where a frame lies, a guest-physical address; 0: the domain has not laid it anywhere.</summary>
    public ulong PageOf(int index) => _frames[index];

    /// <summary>Makes as many frames as the domain asks for, wherever it lays them then.</summary>
    /// <returns>False: more than there are.</returns>
    public bool TryGrow(uint count)
    {
        if (count > MaximumFrames)
            return false;
        FrameCount = Math.Max(FrameCount, (int)count);
        return true;
    }

    /// <summary>A reset of the machine: nothing is granted or in use any more.</summary>
    public void Reset()
    {
        Array.Clear(_frames);
        Array.Clear(_uses);
        FrameCount = UseCount = 0;
        _life++;
    }

    /// <summary>Takes a granted page in use for a back end. The domain sees that, and must not take it back meanwhile.</summary>
    /// <returns>False: it is not granted so; counted as the domain's error.</returns>
    public bool TryAcquire(uint reference, bool writable, out GrantedPage granted)
    {
        granted = default;
        if (!TryEntry(reference, out var entry))
            return Refuse("a grant reference out of the table");
        var bits = writable ? Reading | Writing : Reading;
        ulong page;
        while (true)
        {
            if (!_memory.TryRead(entry, out ulong value))
                return Refuse("a grant table that is no memory");
            if ((value & TypeMask) != PermitAccess || (value >> 16 & 0xFFFF) != EventChannels.BackEnd)
                return Refuse("a grant that does not permit");
            if (writable && (value & ReadOnly) != 0)
                return Refuse("a grant to read that is written by");
            page = value >> 32 << PageShift;
            if (!_memory.IsRam(page, GuestMemory.PageSize))
                return Refuse("a grant of what is no memory");
            if (Frames?.TryAcquire(page >> PageShift, writable) == false)
                return Refuse("a grant of a frame that is not the domain's, or a page table");
            if (_memory.TryCompareExchange(entry, value | bits, value, out var old) && old == value)
                break;
            Frames?.Release(page >> PageShift, writable);
        }

        ref var use = ref UsesOf(reference);
        use = writable ? use with { Writers = use.Writers + 1 } : use with { Readers = use.Readers + 1 };
        UseCount++;
        granted = new GrantedPage(reference, writable, page, _life);
        return true;
    }

    /// <summary>Takes a page in use that the domain names and has not granted; it does not see that.</summary>
    /// <param name="page">Guest-physical address.</param>
    public bool TryAcquirePage(ulong page, bool writable, out GrantedPage granted)
    {
        granted = default;
        if (!_memory.IsRam(page, GuestMemory.PageSize) || Frames?.TryAcquire(page >> PageShift, writable) == false)
            return Refuse("a page that is not the domain's, or a page table");
        granted = new GrantedPage(0, writable, page, _life, IsGranted: false);
        return true;
    }

    /// <summary>Takes several in use, or none of them.</summary>
    /// <param name="granted">As long as <paramref name="references"/>.</param>
    public bool TryAcquire(ReadOnlySpan<uint> references, bool writable, Span<GrantedPage> granted)
    {
        for (var i = 0; i < references.Length; i++)
        {
            if (TryAcquire(references[i], writable, out granted[i]))
                continue;
            Release(granted[..i]);
            return false;
        }

        return true;
    }

    /// <summary>Ends one use. What was in use at a reset has ended with that.</summary>
    /// <exception cref="InvalidOperationException">There is none.</exception>
    public void Release(in GrantedPage granted)
    {
        if (granted.Life != _life)
            return;
        if (!granted.IsGranted)
        {
            Frames?.Release(granted.Page >> PageShift, granted.IsWritable);
            return;
        }

        ref var use = ref UsesOf(granted.Reference);
        if (granted.IsWritable ? use.Writers == 0 : use.Readers == 0)
            throw new InvalidOperationException("the grant is not in use that way");
        use = granted.IsWritable ? use with { Writers = use.Writers - 1 } : use with { Readers = use.Readers - 1 };
        UseCount--;
        Frames?.Release(granted.Page >> PageShift, granted.IsWritable);
        var bits = (use.Writers == 0 ? Writing : 0) | (use is { Writers: 0, Readers: 0 } ? Reading : 0);
        if (bits != 0 && TryEntry(granted.Reference, out var entry))
            _memory.TryClearBits(entry, bits, out _);
    }

    /// <summary>Ends several uses.</summary>
    public void Release(ReadOnlySpan<GrantedPage> granted)
    {
        foreach (ref readonly var page in granted)
            Release(page);
    }

    private bool TryEntry(uint reference, out ulong entry)
    {
        entry = 0;
        if (reference >= (uint)(FrameCount * EntriesPerFrame) || _frames[reference / EntriesPerFrame] is not (not 0 and var frame))
            return false;
        entry = frame + (reference % EntriesPerFrame * EntrySize);
        return true;
    }

    private ref Use UsesOf(uint reference)
    {
        if (reference >= MaximumFrames * EntriesPerFrame || _uses[reference / EntriesPerFrame] is not { } uses)
            throw new InvalidOperationException("the grant is not in use");
        return ref uses[reference % EntriesPerFrame];
    }

    private bool Refuse(string kind)
    {
        _errors.Report("xen", kind);
        return false;
    }

    private readonly record struct Use(int Readers, int Writers);
}
