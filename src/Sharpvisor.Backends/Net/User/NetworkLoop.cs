// The order of work of a user-mode network: frames, timers, tasks, sockets. No specification.
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User;

/// <summary>What is to be done on the network's thread, and when.</summary>
internal sealed class NetworkLoop : IDisposable
{
    private readonly Queue<NetworkTask> _work = new(), _waitingForRoom = new();
    private readonly TimerHeap _timers = new();

    public NetworkLoop(SocketPoller poller)
    {
        Poller = poller;
    }

    public SocketPoller Poller { get; }

    /// <summary>Of this round, on the clock of <see cref="Environment.TickCount64"/>.</summary>
    public long NowMs { get; private set; } = Environment.TickCount64;

    public bool HasWork => _work.Count > 0;

    /// <summary>Has <see cref="NetworkTask.Work"/> called in this or the next round.</summary>
    public void Schedule(NetworkTask task)
    {
        if (task.IsScheduled)
            return;
        task.IsScheduled = true;
        _work.Enqueue(task);
    }

    /// <summary>The same, as soon as the guest takes frames again.</summary>
    public void ScheduleWhenGuestHasRoom(NetworkTask task)
    {
        if (task.AwaitsRoom)
            return;
        task.AwaitsRoom = true;
        _waitingForRoom.Enqueue(task);
    }

    public void OnGuestHasRoom()
    {
        while (_waitingForRoom.TryDequeue(out var task))
        {
            task.AwaitsRoom = false;
            Schedule(task);
        }
    }

    public void SetTimer(NetworkTask task, long dueMs) => _timers.Set(task, dueMs);

    public void CancelTimer(NetworkTask task) => _timers.Cancel(task);

    /// <summary>Runs what is due, then all work that was there at the beginning.</summary>
    public void RunDue()
    {
        NowMs = Environment.TickCount64;
        _timers.Run(NowMs);
        for (var left = _work.Count; left > 0 && _work.TryDequeue(out var task); left--)
        {
            task.IsScheduled = false;
            task.Work();
        }
    }

    /// <summary>Serves ready sockets; waits for them if there is nothing else to do.</summary>
    public void Wait(bool hasMore)
    {
        var next = _timers.NextMs;
        var wait = hasMore || HasWork ? 0 : next == long.MaxValue ? -1 : (int)Math.Clamp(next - Environment.TickCount64, 0, 1 << 30);
        Poller.Wait(wait);
    }

    public void Dispose() => Poller.Dispose();
}
