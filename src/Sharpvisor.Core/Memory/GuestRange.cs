namespace Sharpvisor.Core.Memory;

/// <summary>A piece of guest-physical address space, in bytes.</summary>
public readonly record struct GuestRange(ulong Start, ulong Length)
{
    /// <summary>The first address behind it.</summary>
    public ulong End => Start + Length;
}
