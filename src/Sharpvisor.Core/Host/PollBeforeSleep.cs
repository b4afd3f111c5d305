using System.Diagnostics;

namespace Sharpvisor.Core.Host;

/// <summary>
/// Looks for a while before a thread sleeps: where the other side answers within microseconds, that takes less time, and
/// less of both processors, than to sleep and be woken. As long as sleeps turn out to be long it does not look at all.
/// </summary>
/// <remarks>The same as KVM's halt polling. With one processor there is nobody to wait for.</remarks>
public struct PollBeforeSleep
{
    /// <summary>
    /// Two threads that answer each other and both sleep wait for two wakes a round, of 50 µs each in a virtual machine: a
    /// limit below that would never notice that looking pays. KVM's is the same.
    /// </summary>
    private const long LongestNs = 200_000, FirstNs = 20_000;

    private static readonly bool _pays = Environment.ProcessorCount > 1;

    private long _windowNs;

    /// <summary>Looks whether <paramref name="flag"/> is no longer zero; false: not so far, the thread may sleep now.</summary>
    /// <param name="since">For <see cref="OnSlept"/>.</param>
    public readonly bool IsSet(ref int flag, out long since)
    {
        since = Stopwatch.GetTimestamp();
        if (Volatile.Read(ref flag) != 0)
            return true;
        if (_windowNs == 0)
            return false;
        do
        {
            Thread.SpinWait(8);
            if (Volatile.Read(ref flag) != 0)
                return true;
        }
        while (ElapsedNs(since) < _windowNs);
        return false;
    }

    /// <summary>For who looks at more than a flag: whether to go on looking, which began at <paramref name="since"/>.</summary>
    public readonly bool IsWorthIt(long since) => _windowNs != 0 && ElapsedNs(since) < _windowNs;

    /// <summary>To be called after the sleep: if it was short, to look would have been better, and the other way round.</summary>
    public void OnSlept(long since) => _windowNs = !_pays || ElapsedNs(since) > LongestNs ? 0 : Math.Min(LongestNs, Math.Max(FirstNs, 2 * _windowNs));

    private static long ElapsedNs(long since) => (Stopwatch.GetTimestamp() - since) * (1_000_000_000 / Stopwatch.Frequency);
}
