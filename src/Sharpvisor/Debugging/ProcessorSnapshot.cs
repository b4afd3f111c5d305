using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging;

/// <summary>
/// Processors as they were, and memory as it is: to look for what does not change, such as a kernel, while the guest runs.
/// </summary>
public sealed class ProcessorSnapshot : IGuestView
{
    private readonly IGuestView _view;
    private readonly CpuState[] _states;

    /// <param name="view">A guest that stands still now.</param>
    public ProcessorSnapshot(IGuestView view)
        : this(view, [.. Enumerable.Range(0, view.ProcessorCount).Select(view.GetState)])
    {
    }

    internal ProcessorSnapshot(IGuestView view, CpuState[] states)
    {
        _view = view;
        _states = states;
    }

    public int ProcessorCount => _states.Length;

    public CpuState GetState(int processor) => _states[processor];

    public int ReadPhysical(ulong physical, Span<byte> destination) => _view.ReadPhysical(physical, destination);
}
