namespace Sharpvisor.Cpu.Debugging;

/// <summary>
/// The places in one physical page of code that some linear address with an armed breakpoint leads to: blocks begin there,
/// so that nobody gets past without a look-up by linear address.
/// </summary>
internal sealed class PageGuards
{
    private readonly HashSet<ulong> _linears = [];
    private readonly ulong[] _offsets = new ulong[4096 / 64];

    public bool IsEmpty => _linears.Count == 0;

    /// <returns>False: it is known already.</returns>
    public bool Add(ulong linear)
    {
        if (!_linears.Add(linear))
            return false;
        _offsets[(linear & 0xFFF) >> 6] |= 1UL << (int)(linear & 63);
        return true;
    }

    /// <summary>Whether an instruction at this offset has to begin a block. Offsets in the page behind have no guards.</summary>
    public bool Contains(int offset) => offset < 4096 && (_offsets[offset >> 6] >> (offset & 63) & 1) != 0;

    public bool ContainsAny(int start, int end)
    {
        for (var offset = start; offset < Math.Min(end, 4096); offset++)
        {
            if (Contains(offset))
                return true;
        }

        return false;
    }

    /// <summary>The 64-byte lines with such places.</summary>
    public ulong Lines
    {
        get
        {
            ulong lines = 0;
            for (var i = 0; i < _offsets.Length; i++)
                lines |= _offsets[i] != 0 ? 1UL << i : 0;
            return lines;
        }
    }

    /// <summary>Keeps what is armed still.</summary>
    /// <returns>False: that is all.</returns>
    public bool KeepOnly(DebugPoints points)
    {
        if (_linears.RemoveWhere(l => !points.IsArmed(l)) == 0)
            return false;
        Array.Clear(_offsets);
        foreach (var linear in _linears)
            _offsets[(linear & 0xFFF) >> 6] |= 1UL << (int)(linear & 63);
        return true;
    }
}
