namespace Sharpvisor.Cpu.Debugging;

/// <summary>What an instruction does to memory.</summary>
[Flags]
public enum DataAccess
{
    Write = 1,
    Read = 2,
}

/// <summary>Bytes that are watched, in linear addresses.</summary>
/// <param name="Length">In bytes; 1 or more. What would lie behind the last address is cut off.</param>
public readonly record struct WatchedRange(DataAccess Access, ulong First, ulong Length)
{
    public ulong Last => Length - 1 > ulong.MaxValue - First ? ulong.MaxValue : First + (Length - 1);

    internal bool Meets(ulong first, ulong last) => first <= Last && First <= last;
}

/// <summary>
/// Where a debugger wants processors to stop: one unchanging set for all of a machine. What is armed is watched for, and
/// costs a little at that place; what is active stops. A debugger takes its breakpoints out whenever it looks, and puts
/// them in again: those stay armed.
/// </summary>
public sealed class DebugPoints
{
    private readonly HashSet<ulong> _breakpoints;
    private readonly Dictionary<ulong, ulong[]> _armed;
    private readonly WatchedRange[] _watched, _armedRanges;

    /// <param name="breakpoints">Linear addresses of instructions: RIP + CS base.</param>
    /// <param name="armed">All of <paramref name="breakpoints"/>, and others.</param>
    /// <param name="armedRanges">All of <paramref name="watched"/>, and others.</param>
    public DebugPoints(IEnumerable<ulong> breakpoints, IEnumerable<ulong> armed, IEnumerable<WatchedRange> watched, IEnumerable<WatchedRange> armedRanges)
    {
        _breakpoints = [.. breakpoints];
        _armed = armed.Union(_breakpoints).GroupBy(a => a >> 12).ToDictionary(g => g.Key, g => g.ToArray());
        _watched = [.. watched];
        _armedRanges = [.. armedRanges.Union(_watched)];
        HasArmed = _armed.Count > 0;
        HasBreakpoints = _breakpoints.Count > 0;
        HasArmedRanges = _armedRanges.Length > 0;
    }

    public static DebugPoints None { get; } = new([], [], [], []);

    public IReadOnlyCollection<ulong> Breakpoints => _breakpoints;

    public IReadOnlyList<WatchedRange> Watched => _watched;

    internal bool HasArmed { get; }

    internal bool HasBreakpoints { get; }

    internal bool HasArmedRanges { get; }

    internal IEnumerable<ulong> Armed => _armed.Values.SelectMany(a => a);

    internal IReadOnlyList<WatchedRange> ArmedRanges => _armedRanges;

    internal bool IsBreakpoint(ulong linear) => _breakpoints.Contains(linear);

    internal bool IsArmed(ulong linear) => _armed.TryGetValue(linear >> 12, out var page) && page.Contains(linear);

    /// <summary>The armed addresses in a page of linear addresses.</summary>
    internal ReadOnlySpan<ulong> ArmedIn(ulong page) => _armed.GetValueOrDefault(page);

    /// <summary>Whether accesses to this page have to be looked at.</summary>
    internal bool WatchesPage(ulong linear)
    {
        var first = linear & ~0xFFFUL;
        foreach (var range in _armedRanges)
        {
            if (range.Meets(first, first | 0xFFF))
                return true;
        }

        return false;
    }

    /// <summary>Whether an access is one that is watched for.</summary>
    /// <param name="touched">The first watched byte of it.</param>
    internal bool Watches(ulong first, int size, DataAccess access, out ulong touched)
    {
        foreach (var range in _watched)
        {
            if ((range.Access & access) != 0 && range.Meets(first, first + (ulong)size - 1))
            {
                touched = Math.Max(first, range.First);
                return true;
            }
        }

        touched = 0;
        return false;
    }
}
