// Samples of the guest's kernel in the folded form of flame graphs (flamegraph.pl): task;outer;...;inner COUNT.
using System.Globalization;
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging.Stacks;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Debugging.Profiling;

/// <summary>
/// Counts where the processors of a machine are, by task and call trace of the guest's kernel. Many times a second each
/// is stopped for some microseconds on its own; the guest's clock goes on.
/// </summary>
public sealed class Profiler : IAsyncDisposable
{
    public const int DefaultFrequency = 99;

    public const int MaximumFrequency = 1000;

    /// <summary>Different stacks that are told apart; all others are counted together.</summary>
    private const int MaximumStacks = 100_000;

    private static readonly TimeSpan KernelPeriod = TimeSpan.FromSeconds(1);

    private readonly Lock _lock = new();
    private readonly Machine _machine;
    private readonly VcpuThreads _threads;
    private readonly Dictionary<string, long> _stacks = new(StringComparer.Ordinal);
    private readonly CpuState?[] _states;
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _work;
    private KernelView? _kernel;
    private int _disposed;

    internal Profiler(Machine machine, VcpuThreads threads, int frequency)
    {
        if (frequency is < 1 or > MaximumFrequency)
            throw new ConfigurationException($"{frequency} samples a second: give 1 to {MaximumFrequency}");
        _machine = machine;
        _threads = threads;
        _states = new CpuState?[machine.Processors.Count];
        if (threads.Sampler is not null)
            throw new ConfigurationException("there is a profile already: end it first");
        threads.Sampler = Sample;
        _work = Task.Factory.StartNew(() => Run(TimeSpan.FromSeconds(1.0 / frequency)), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <summary>Samples so far.</summary>
    public long Count { get; private set; }

    /// <summary>
    /// Folded stacks, as flamegraph.pl takes them: "task;outermost;…;innermost count", the most frequent first. "[user]"
    /// stands for all of a process's own code, "[idle]" for HLT, "[unknown]" for what has no symbols.
    /// </summary>
    public string Fold()
    {
        var text = new StringBuilder();
        lock (_lock)
        {
            foreach (var (stack, count) in _stacks.OrderByDescending(s => s.Value).ThenBy(s => s.Key, StringComparer.Ordinal))
                text.Append(CultureInfo.InvariantCulture, $"{stack} {count}\n");
        }

        return text.ToString();
    }

    /// <summary>Ends it.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _threads.Sampler = null;
        await _stop.CancelAsync().ConfigureAwait(false);
        await _work.ConfigureAwait(false);
        _stop.Dispose();
    }

    private void Run(TimeSpan period)
    {
        var next = TimeSpan.Zero;
        for (var elapsed = System.Diagnostics.Stopwatch.StartNew(); !_stop.Token.WaitHandle.WaitOne(period) && !_machine.Exit.IsCompleted;)
        {
            _threads.RequestSamples();
            if (elapsed.Elapsed < next)
                continue;
            if (FindKernel())
                next = elapsed.Elapsed + KernelPeriod;
        }
    }

    /// <summary>The kernel is looked for while it runs; its modules and page tables are looked at anew each time.</summary>
    /// <returns>False: no processor has been seen yet.</returns>
    private bool FindKernel()
    {
        CpuState[] states;
        lock (_lock)
            states = [.. _states.OfType<CpuState>()];
        if (states.Length == 0)
            return false;
        var snapshot = new ProcessorSnapshot(_machine.Debugger, states);
        var view = _machine.Kernels.Find(snapshot) is { } kernel ? new KernelView(kernel, snapshot) : null;
        lock (_lock)
            _kernel = view;
        return true;
    }

    /// <summary>On the vCPU's thread.</summary>
    private void Sample(IVcpu vcpu)
    {
        var state = vcpu.GetState();
        if (state.Activity is ActivityState.WaitForSipi or ActivityState.Shutdown)
            return;
        lock (_lock)
        {
            _states[vcpu.Index] = state;
            var stack = state.Activity == ActivityState.Halted ? "[idle]" : Describe(in state);
            if (_stacks.Count >= MaximumStacks && !_stacks.ContainsKey(stack))
                stack = "[others]";
            _stacks[stack] = _stacks.GetValueOrDefault(stack) + 1;
            Count++;
        }
    }

    private string Describe(in CpuState state)
    {
        if (_kernel is not { } kernel)
            return "[unknown]";
        List<string> names = [];
        foreach (var frame in StackWalker.Walk(kernel, _machine.Debugger, in state).Where(f => f.Kind != FrameKind.Guess))
        {
            // A return address may be behind the function's end.
            var address = names.Count == 0 || frame.IsInterrupted ? frame.Address : frame.Address - 1;
            var name = frame.Kind == FrameKind.User ? "[user]" : kernel.TryFindFunction(address, out var function, out _) ? function.Name : "[unknown]";
            if (name[0] != '[' || names.Count == 0 || names[^1] != name)
                names.Add(name);
        }

        names.Add(kernel.TaskOf(in state) is { } task ? task.Name.Replace(';', '_').Replace(' ', '_') : "[unknown]");
        names.Reverse();
        return string.Join(';', names);
    }
}
