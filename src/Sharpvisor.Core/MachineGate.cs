namespace Sharpvisor.Core;

/// <summary>
/// The one lock of a machine's devices. Whoever enters a device (a bus access of a vCPU, an expired timer, input
/// from the host) holds it, so that a device needs no lock of its own and sees one caller at a time.
/// </summary>
/// <remarks>
/// Re-entrant on one thread: a device may touch another one. Never wait for the host while holding it: what takes a
/// moment of the host's time is left to <see cref="AfterLeave"/>.
/// </remarks>
public sealed class MachineGate
{
    private readonly Lock _lock = new();
    private readonly Stack<Queue<(IGateWork Work, object Item)>> _spareQueues = new();

    /// <summary>Of the thread that holds the gate.</summary>
    private Queue<(IGateWork Work, object Item)> _work = new();
    private int _depth;

    /// <summary>True when the calling thread holds the gate.</summary>
    public bool IsHeld => _lock.IsHeldByCurrentThread;

    /// <summary>Enters the gate until the result is disposed: <c>using (gate.Enter()) { … }</c>.</summary>
    public Scope Enter()
    {
        _lock.Enter();
        _depth++;
        return new Scope(this);
    }

    /// <summary>
    /// Leaves work to this thread for the moment at which it leaves the gate, before it does anything else.
    /// </summary>
    public void AfterLeave(IGateWork work, object item)
    {
        if (!IsHeld)
            throw new InvalidOperationException("the gate is not held");
        _work.Enqueue((work, item));
    }

    private void Leave()
    {
        try
        {
            while (_depth == 1 && _work.Count > 0)
                DoWork();
        }
        finally
        {
            _depth--;
            _lock.Exit();
        }
    }

    private void DoWork()
    {
        // Whoever enters meanwhile has a queue of its own: what a thread was given it does itself.
        var work = _work;
        _work = _spareQueues.TryPop(out var spare) ? spare : new();
        while (work.TryDequeue(out var next))
        {
            bool isDone;
            _depth = 0;
            _lock.Exit();
            try
            {
                isDone = next.Work.TryPerform(next.Item);
            }
            finally
            {
                _lock.Enter();
                _depth = 1;
            }

            if (isDone)
                next.Work.OnPerformed(next.Item);
        }

        _spareQueues.Push(work);
    }

    /// <summary>Leaves the gate once.</summary>
    public readonly ref struct Scope
    {
        private readonly MachineGate _gate;

        internal Scope(MachineGate gate)
        {
            _gate = gate;
        }

        public void Dispose() => _gate.Leave();
    }
}

/// <summary>What a backend does on the thread of whoever asked for it, where handing it to another one would take longer.</summary>
public interface IGateWork
{
    /// <summary>Called without the gate.</summary>
    /// <returns>False: it is over, or someone else goes on with it; <see cref="OnPerformed"/> is not called.</returns>
    bool TryPerform(object item);

    /// <summary>Called with the gate held, by the same thread.</summary>
    void OnPerformed(object item);
}
