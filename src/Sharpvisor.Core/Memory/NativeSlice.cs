using System.Buffers;

namespace Sharpvisor.Core.Memory;

/// <summary>Native memory as <see cref="Memory{T}"/>.</summary>
internal sealed unsafe class NativeSlice(byte* start, int length) : MemoryManager<byte>
{
    public override Span<byte> GetSpan() => new(start, length);

    public override MemoryHandle Pin(int elementIndex = 0) => new(start + elementIndex);

    public override void Unpin()
    {
    }

    protected override void Dispose(bool disposing)
    {
    }
}
