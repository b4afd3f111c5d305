// The threads of one drive that wait in preadv, pwritev and fsync, so that no vCPU does. Leaves out io_uring.
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
    private int _idle;
    private bool _stopping;

    public void Add(T item)
    {
        lock (_lock)
        {
            _queue.Enqueue(item);
            if (_idle >= _queue.Count)
            {
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
                    _idle++;
                    Monitor.Wait(_lock);
                    _idle--;
                }

                item = _queue.Dequeue();
            }

            work(item);
        }
    }
}
