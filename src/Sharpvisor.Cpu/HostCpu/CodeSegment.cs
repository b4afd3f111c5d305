using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>
/// A piece of executable memory that thunks are written to, one behind the other. It is released when neither the
/// cache nor a decoded block refers to a thunk in it. All segments lie in one area, so that a signal handler can tell
/// a fault of a thunk by its address.
/// </summary>
internal sealed unsafe class CodeSegment
{
    public const int Size = 1 << 20;
    public const int AreaSize = Count * Size;

    private const int Count = 256;
    private static readonly Lock s_lock = new();
    private static readonly bool[] s_taken = new bool[Count];
    private static byte* s_area;

    private readonly int _index;
    private readonly byte* _start;
    private int _used;

    /// <exception cref="ConfigurationException">The host has no executable memory for it.</exception>
    public CodeSegment()
    {
        _index = Take();
        if (_index < 0)
        {
            // What dropped blocks referred to is free as soon as the collector has seen it.
            GC.Collect();
            GC.WaitForPendingFinalizers();
            _index = Take();
        }

        if (_index < 0)
        {
            GC.SuppressFinalize(this);
            throw new ConfigurationException($"more than {Count} MiB of thunks: run fewer processors in one process");
        }

        _start = s_area + ((long)_index * Size);
    }

    ~CodeSegment()
    {
        if (_start == null)
            return;
        HostMemory.Discard(_start, Size);
        lock (s_lock)
        {
            s_taken[_index] = false;
        }
    }

    /// <summary>Where the area of all segments begins: <see cref="AreaSize"/> bytes, below 2 GiB. Null before the first.</summary>
    public static byte* Area => s_area;

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

    private static int Take()
    {
        lock (s_lock)
        {
            if (s_area == null)
                s_area = (byte*)HostMemory.ReserveExecutable(AreaSize);
            var index = Array.IndexOf(s_taken, false);
            if (index >= 0)
                s_taken[index] = true;
            return index;
        }
    }
}
