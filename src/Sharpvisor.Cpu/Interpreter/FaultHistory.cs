namespace Sharpvisor.Cpu.Interpreter;

/// <summary>The last exceptions of a vCPU, to explain a triple fault.</summary>
internal sealed class FaultHistory
{
    private const int Capacity = 16;
    private readonly Queue<Entry> _entries = new(Capacity);

    public IReadOnlyCollection<Entry> Entries => _entries;

    public void Add(int vector, int error, ulong cr2, ushort cs, ulong rip, long instruction)
    {
        if (_entries.Count == Capacity)
            _entries.Dequeue();
        _entries.Enqueue(new Entry(vector, error, cr2, cs, rip, instruction));
    }

    public void Clear() => _entries.Clear();

    /// <param name="Error">-1: the exception has no error code.</param>
    internal readonly record struct Entry(int Vector, int Error, ulong Cr2, ushort Cs, ulong Rip, long Instruction);
}
