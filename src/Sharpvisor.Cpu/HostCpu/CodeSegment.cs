using Sharpvisor.Core.Host;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>
/// A piece of executable memory that thunks are written to, one behind the other. It is released when neither the
/// cache nor a decoded block refers to a thunk in it.
/// </summary>
internal sealed unsafe class CodeSegment
{
    public const int Size = 1 << 20;

    private readonly byte* _start;
    private int _used;

    public CodeSegment()
    {
        _start = (byte*)HostMemory.ReserveExecutable(Size);
    }

    ~CodeSegment()
    {
        HostMemory.Release(_start, Size);
    }

    /// <summary>Copies code in, or returns null when the segment is full.</summary>
    public byte* TryAdd(ReadOnlySpan<byte> code)
    {
        var aligned = (_used + 31) & ~31;
        if (aligned + code.Length > Size)
            return null;
        code.CopyTo(new Span<byte>(_start + aligned, code.Length));
        _used = aligned + code.Length;
        return _start + aligned;
    }
}
