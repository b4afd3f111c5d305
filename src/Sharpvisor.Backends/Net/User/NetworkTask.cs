// Tasks and deadlines of a user-mode network: a binary heap, in which most deadlines are put off before they come.
namespace Sharpvisor.Backends.Net.User;

/// <summary>What the network's loop serves: a connection, a flow, a listener. It has work now and then, and one deadline.</summary>
internal abstract class NetworkTask
{
    /// <summary>Place in the <see cref="TimerHeap"/>; -1: none.</summary>
    internal int HeapIndex { get; set; } = -1;

    /// <summary>Sorts the heap; not later than <see cref="DueMs"/>.</summary>
    internal long HeapKey { get; set; }

    internal long DueMs { get; set; } = long.MaxValue;

    /// <summary>Waits for its <see cref="Work"/>.</summary>
    internal bool IsScheduled { get; set; }

    /// <summary>Waits for the guest to take frames again.</summary>
    internal bool AwaitsRoom { get; set; }

    /// <summary>Waits for the <see cref="PacketPool"/>.</summary>
    internal bool AwaitsPool { get; set; }

    /// <summary>Does what it was scheduled for.</summary>
    public abstract void Work();

    /// <summary>The deadline has come; there is none until a new one is set.</summary>
    public abstract void OnTime(long nowMs);
}

/// <summary>Deadlines. To put one off, as each acknowledgement does, costs nothing: it moves when its old time comes.</summary>
internal sealed class TimerHeap
{
    private NetworkTask[] _heap = new NetworkTask[64];
    private int _count;

    /// <summary>Not later than the first deadline; <see cref="long.MaxValue"/>: there is none.</summary>
    public long NextMs => _count == 0 ? long.MaxValue : _heap[0].HeapKey;

    public void Set(NetworkTask task, long dueMs)
    {
        task.DueMs = dueMs;
        if (task.HeapIndex < 0)
        {
            if (_count == _heap.Length)
                Array.Resize(ref _heap, 2 * _count);
            task.HeapKey = dueMs;
            MoveUp(task, _count++);
        }
        else if (dueMs < task.HeapKey)
        {
            task.HeapKey = dueMs;
            MoveUp(task, task.HeapIndex);
        }
    }

    public void Cancel(NetworkTask task)
    {
        task.DueMs = long.MaxValue;
        if (task.HeapIndex >= 0)
            RemoveAt(task.HeapIndex);
    }

    public void Run(long nowMs)
    {
        while (_count > 0 && _heap[0].HeapKey <= nowMs)
        {
            var task = _heap[0];
            RemoveAt(0);
            var due = task.DueMs;
            if (due > nowMs)
            {
                Set(task, due);
                continue;
            }

            task.DueMs = long.MaxValue;
            task.OnTime(nowMs);
        }
    }

    private void RemoveAt(int index)
    {
        _heap[index].HeapIndex = -1;
        var last = _heap[--_count];
        _heap[_count] = null!;
        if (index == _count)
            return;
        MoveUp(last, index);
        MoveDown(last, last.HeapIndex);
    }

    private void MoveUp(NetworkTask task, int index)
    {
        while (index > 0 && _heap[(index - 1) / 2].HeapKey > task.HeapKey)
        {
            Place(_heap[(index - 1) / 2], index);
            index = (index - 1) / 2;
        }

        Place(task, index);
    }

    private void MoveDown(NetworkTask task, int index)
    {
        while (true)
        {
            var child = 2 * index + 1;
            if (child + 1 < _count && _heap[child + 1].HeapKey < _heap[child].HeapKey)
                child++;
            if (child >= _count || _heap[child].HeapKey >= task.HeapKey)
                break;
            Place(_heap[child], index);
            index = child;
        }

        Place(task, index);
    }

    private void Place(NetworkTask task, int index)
    {
        _heap[index] = task;
        task.HeapIndex = index;
    }
}
