namespace Sharpvisor.Core.Memory;

/// <summary>
/// Host memory that the guest sees where <see cref="GuestMemory.Map"/> puts it: a ROM, video memory, or RAM itself. It
/// lives as long as the machine.
/// </summary>
public sealed unsafe class MemoryRegion
{
    private readonly GuestMemory _owner;

    internal MemoryRegion(GuestMemory owner, string name, byte* start, ulong size)
    {
        _owner = owner;
        Name = name;
        Start = start;
        Size = size;
    }

    public string Name { get; }

    /// <summary>In bytes, whole pages of 4 KiB.</summary>
    public ulong Size { get; }

    internal byte* Start { get; }

    /// <summary>A part of it, for the device it belongs to. Who changes what a guest may execute says so by <see cref="MarkWritten"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It goes beyond the end.</exception>
    public Span<byte> Bytes(ulong offset, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Size);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)length, Size - offset);
        return new Span<byte>(Start + offset, length);
    }

    /// <summary>Tells the CPU engines that the device changed these bytes.</summary>
    public void MarkWritten(ulong offset, ulong length) => _owner.MarkWritten(this, offset, length);
}
