// The threads of one drive that wait in preadv, pwritev and fsync, so that no vCPU does. Leaves out io_uring.
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Block;

/// <summary>
/// Threads that may wait for the host, made when there is work and none is idle. Not those of the process's pool: a slow
/// disk would keep everything else there waiting.
/// </summary>
internal sealed class IoThreads<T>(string name, int limit, Action<T> work)
{
    private readonly object _lock = new();
    private readonly Queue<T> _queue = new();
    private readonly List<Thread> _threads = [];
    private PollBeforeSleep _poll;
    private int _queued, _idle;
    private bool _stopping, _isPolling;

    public void Add(T item)
    {
        lock (_lock)
        {
            _queue.Enqueue(item);
            Volatile.Write(ref _queued, _queue.Count);
            var awake = _isPolling ? 1 : 0;
            if (_idle + awake >= _queue.Count)
            {
                if (_queue.Count > awake)
                    Monitor.Pulse(_lock);
                return;
            }

            if (_threads.Count == limit)
                return;
            var thread = new Thread(Loop) { IsBackground = true, Name = $"{name} io{_threads.Count}" };
            _threads.Add(thread);
            thread.Start();
        }
    }

    /// <summary>Ends them when all work is done. Not with a lock held that the work takes.</summary>
    public void Stop()
    {
        lock (_lock)
        {
            _stopping = true;
            Monitor.PulseAll(_lock);
        }

        foreach (var thread in _threads)
            thread.Join();
    }

    private void Loop()
    {
        while (true)
        {
            T item;
            lock (_lock)
            {
                while (_queue.Count == 0)
                {
                    if (_stopping)
                        return;
                    if (_isPolling)
                        Wait();
                    else
                        PollAndWait();
                }

                item = _queue.Dequeue();
                Volatile.Write(ref _queued, _queue.Count);
            }

            work(item);
        }
    }

    /// <summary>One idle thread looks for work for a while, without the lock.</summary>
    private void PollAndWait()
    {
        _isPolling = true;
        Monitor.Exit(_lock);
        _poll.IsSet(ref _queued, out var since);
        Monitor.Enter(_lock);
        _isPolling = false;
        if (_queue.Count > 0 || _stopping)
            return;
        Wait();
        _poll.OnSlept(since);
    }

    private void Wait()
    {
        _idle++;
        Monitor.Wait(_lock);
        _idle--;
    }
}
