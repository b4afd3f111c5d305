using Sharpvisor.Core.Block;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Block;

/// <summary>A request, used again and again: what it holds of the domain's, and what it asks of the drive.</summary>
internal sealed class XenBlockRequest
{
    /// <summary>Pages that it has in use for itself alone.</summary>
    private readonly GrantedPage[] _pages = new GrantedPage[XenBlock.MaximumSegments];
    private readonly Memory<byte>[] _pieces = new Memory<byte>[XenBlock.MaximumSegments];
    private readonly (ulong Address, int Length)[] _runs = new (ulong, int)[XenBlock.MaximumSegments];
    private int _pageCount, _runCount;

    public XenBlockRequest(Action<XenBlockRequest> completed)
    {
        Block = new BlockRequest(_ => completed(this));
    }

    public BlockRequest Block { get; }

    public XenBlockConnection Connection { get; set; } = null!;

    public ulong Id { get; set; }

    public XenBlockOperation Operation { get; set; }

    /// <summary>In bytes.</summary>
    public long Offset { get; set; }

    /// <summary>In bytes.</summary>
    public long Length { get; set; }

    /// <summary>A flush goes before what it writes.</summary>
    public bool FlushesFirst { get; set; }

    public BlockBuffers Buffers => new(_pieces.AsMemory(0, _runCount));

    public void Clear()
    {
        _pageCount = _runCount = 0;
        Length = 0;
        FlushesFirst = false;
    }

    /// <summary>Its use of a page ends with it.</summary>
    public void Hold(in GrantedPage page) => _pages[_pageCount++] = page;

    /// <summary>Adds memory behind what there is. Neighbours become one piece.</summary>
    /// <returns>False: it is no memory any more.</returns>
    public bool TryAdd(GuestMemory memory, ulong address, int length)
    {
        Length += length;
        if (_runCount > 0 && _runs[_runCount - 1] is var last && last.Address + (ulong)last.Length == address && memory.TrySlice(last.Address, last.Length + length, out var both))
        {
            _runs[_runCount - 1] = (last.Address, last.Length + length);
            _pieces[_runCount - 1] = both;
            return true;
        }

        if (!memory.TrySlice(address, length, out _pieces[_runCount]))
            return false;
        _runs[_runCount++] = (address, length);
        return true;
    }

    /// <summary>The drive has filled it.</summary>
    public void MarkWritten(GuestMemory memory)
    {
        foreach (var (address, length) in _runs.AsSpan(0, _runCount))
            memory.MarkWritten(address, (ulong)length);
    }

    public void Release(GrantTable grants)
    {
        grants.Release(_pages.AsSpan(0, _pageCount));
        _pageCount = 0;
    }
}
