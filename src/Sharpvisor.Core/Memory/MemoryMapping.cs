namespace Sharpvisor.Core.Memory;

/// <summary>Whole pages of guest-physical addresses that lead elsewhere than to RAM, or nowhere: what <see cref="GuestMemory.Map"/> made.</summary>
/// <param name="Start">The first guest-physical address.</param>
/// <param name="Length">In bytes.</param>
/// <param name="Reads">Where reads and instruction fetches go; null: to the MMIO bus.</param>
/// <param name="ReadOffset">Of <paramref name="Start"/> in <paramref name="Reads"/>.</param>
/// <param name="Writes">Where writes go; null: to the MMIO bus.</param>
/// <param name="WriteOffset">Of <paramref name="Start"/> in <paramref name="Writes"/>.</param>
public sealed record MemoryMapping(ulong Start, ulong Length, MemoryRegion? Reads, ulong ReadOffset, MemoryRegion? Writes, ulong WriteOffset)
{
    internal bool Contains(ulong gpa) => gpa - Start < Length;

    internal bool IsPlain => Reads == Writes && ReadOffset == WriteOffset;

    internal unsafe byte* Pointer(ulong gpa, bool write) => write
        ? Writes is null ? null : Writes.Start + WriteOffset + (gpa - Start)
        : Reads is null ? null : Reads.Start + ReadOffset + (gpa - Start);
}
