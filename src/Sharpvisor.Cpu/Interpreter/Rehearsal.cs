using System.Runtime.InteropServices;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Keeps the pages of host memory that instructions write, so that they can be undone and looked at.</summary>
internal sealed unsafe class Rehearsal
{
    private const int PageSize = 4096;

    private readonly Dictionary<nint, byte[]> _pages = [];
    private readonly Stack<byte[]> _free = new();

    /// <summary>Something outside of RAM was touched: what was done since means nothing.</summary>
    public bool Outside { get; set; }

    public IEnumerable<nint> Pages => _pages.Keys;

    public void BeforeWrite(byte* host)
    {
        var page = (nint)host & ~(nint)(PageSize - 1);
        ref var copy = ref CollectionsMarshal.GetValueRefOrAddDefault(_pages, page, out var known);
        if (known)
            return;
        if (!_free.TryPop(out copy))
            copy = new byte[PageSize];
        new ReadOnlySpan<byte>((void*)page, PageSize).CopyTo(copy);
    }

    /// <summary>Puts everything back.</summary>
    public void Undo()
    {
        foreach (var (page, copy) in _pages)
            copy.CopyTo(new Span<byte>((void*)page, PageSize));
    }

    public void Clear()
    {
        foreach (var copy in _pages.Values)
            _free.Push(copy);
        _pages.Clear();
        Outside = false;
    }
}
