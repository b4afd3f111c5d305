using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;

namespace Sharpvisor;

/// <summary>One thread for each vCPU, and the rendezvous that stops them all between two instructions.</summary>
internal sealed class VcpuThreads
{
    // Nothing depends on its size: a kick ends a run early. It bounds how long an engine's own loop stays away from here.
    private const long Budget = 1L << 40;

    private readonly object _lock = new();
    private readonly IReadOnlyList<IVcpu> _vcpus;
    private readonly bool[] _isSampleDue;
    private Action<IVcpu>? _sampler;
    private readonly Action<IVcpu> _onShutdown, _onDebug;
    private readonly Action<Exception, string> _onError;
    private readonly Action<int, ProcessorActivity>? _onActivity;
    private readonly Thread[] _threads;
    private volatile bool _park = true, _end;
    private volatile IReadOnlySet<int> _staying = new HashSet<int>();
    private int _parked, _ended;

    /// <param name="onShutdown">A vCPU took a triple fault; it waits until the next <see cref="Park"/>.</param>
    /// <param name="onDebug">A vCPU stopped for a debugger; the same.</param>
    /// <param name="onError">A vCPU's thread ended by an exception.</param>
    /// <param name="onActivity">A vCPU begins to do something else, on its thread; null: nobody wants to know.</param>
    public VcpuThreads(IReadOnlyList<IVcpu> vcpus, Action<IVcpu> onShutdown, Action<IVcpu> onDebug, Action<Exception, string> onError, Action<int, ProcessorActivity>? onActivity)
    {
        _vcpus = vcpus;
        _isSampleDue = new bool[vcpus.Count];
        _onShutdown = onShutdown;
        _onDebug = onDebug;
        _onError = onError;
        _onActivity = onActivity;
        _threads = [.. vcpus.Select(v => new Thread(() => Run(v)) { IsBackground = true, Name = $"vcpu{v.Index}" })];
    }

    /// <summary>Starts the threads; they wait for <see cref="Release"/>.</summary>
    public void Start()
    {
        foreach (var thread in _threads)
            thread.Start();
    }

    /// <summary>
    /// Lets no vCPU execute another instruction once it is between two: for a device that asks for a reset. Returns at
    /// once; a <see cref="Release"/> follows, or the end.
    /// </summary>
    public void Hold()
    {
        lock (_lock)
        {
            _park = true;
            Monitor.PulseAll(_lock);
        }

        foreach (var vcpu in _vcpus)
            vcpu.Kick();
    }

    /// <summary>Returns when no vCPU runs. Not with the gate held: a vCPU may be waiting for it.</summary>
    public void Park()
    {
        Hold();
        lock (_lock)
        {
            while (_parked + _ended < _threads.Length)
                Monitor.Wait(_lock);
        }
    }

    /// <summary>Who looks at a vCPU between two instructions, on its own thread, after <see cref="RequestSamples"/>; null: nobody.</summary>
    public Action<IVcpu>? Sampler
    {
        get => Volatile.Read(ref _sampler);
        set => Volatile.Write(ref _sampler, value);
    }

    /// <summary>Shows each vCPU to <see cref="Sampler"/> soon. They need not stop together, and those that are parked do not.</summary>
    public void RequestSamples()
    {
        for (var i = 0; i < _vcpus.Count; i++)
        {
            Volatile.Write(ref _isSampleDue[i], true);
            _vcpus[i].Kick();
        }
    }

    /// <summary>All may run but those that stay, as said by <see cref="SetStaying"/>.</summary>
    public void Release()
    {
        lock (_lock)
        {
            _park = false;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Says which vCPUs stay parked when the others are released, until it is called again. While all are parked.</summary>
    public void SetStaying(IReadOnlySet<int> indices) => _staying = indices;

    /// <summary>Ends the threads, parked or not.</summary>
    public void End()
    {
        lock (_lock)
        {
            _end = true;
            Monitor.PulseAll(_lock);
        }

        foreach (var vcpu in _vcpus)
            vcpu.Kick();
        foreach (var thread in _threads)
        {
            if (thread.ThreadState.HasFlag(ThreadState.Unstarted))
                continue;
            thread.Join();
        }
    }

    private void Run(IVcpu vcpu)
    {
        try
        {
            var waitForPark = false;
            while (MayRun(vcpu.Index, waitForPark))
            {
                waitForPark = false;
                if (Volatile.Read(ref _isSampleDue[vcpu.Index]))
                {
                    Volatile.Write(ref _isSampleDue[vcpu.Index], false);
                    Sampler?.Invoke(vcpu);
                }

                switch (vcpu.Run(Budget))
                {
                    case VcpuExit.Halted:
                        _onActivity?.Invoke(vcpu.Index, vcpu.TakesInterrupts ? ProcessorActivity.Halted : ProcessorActivity.Off);
                        vcpu.WaitForWork();
                        _onActivity?.Invoke(vcpu.Index, ProcessorActivity.Running);
                        break;
                    case VcpuExit.Off: // the engine tells when it is started: it may only have been kicked
                        _onActivity?.Invoke(vcpu.Index, ProcessorActivity.Off);
                        vcpu.WaitForWork();
                        break;
                    case VcpuExit.Shutdown:
                        _onShutdown(vcpu);
                        waitForPark = true;
                        break;
                    case VcpuExit.Debug:
                        _onDebug(vcpu);
                        waitForPark = true;
                        break;
                }
            }
        }
        catch (Exception e)
        {
            _onError(e, $"vCPU {vcpu.Index}");
        }
        finally
        {
            lock (_lock)
            {
                _ended++;
                Monitor.PulseAll(_lock);
            }
        }
    }

    /// <summary>Parks when asked to; false when the thread shall end.</summary>
    private bool MayRun(int index, bool waitForPark)
    {
        if (!_park && !_end && !waitForPark && !_staying.Contains(index))
            return true;
        lock (_lock)
        {
            while (waitForPark && !_park && !_end)
                Monitor.Wait(_lock);
            if (_park || _staying.Contains(index))
            {
                // Who has not woken up yet when all are to park again has not run, and is parked still.
                _parked++;
                Monitor.PulseAll(_lock);
                while ((_park || _staying.Contains(index)) && !_end)
                    Monitor.Wait(_lock);
                _parked--;
            }

            return !_end;
        }
    }
}
