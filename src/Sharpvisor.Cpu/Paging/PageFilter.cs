namespace Sharpvisor.Cpu.Paging;

/// <summary>A set of page numbers by a hash: it may say that it has one that was never added, never the reverse.</summary>
internal sealed class PageFilter
{
    private const int Bits = 12;

    private readonly ulong[] _bits = new ulong[(1 << Bits) / 64];
    private bool _any;

    public void Add(ulong page)
    {
        _any = true;
        _bits[Index(page) >> 6] |= 1UL << (Index(page) & 63);
    }

    public bool MayHave(ulong page) => _any && (_bits[Index(page) >> 6] >> (Index(page) & 63) & 1) != 0;

    public void Clear()
    {
        if (_any)
            Array.Clear(_bits);
        _any = false;
    }

    private static int Index(ulong page) => (int)((page * 0x9E37_79B9_7F4A_7C15) >> (64 - Bits));
}
