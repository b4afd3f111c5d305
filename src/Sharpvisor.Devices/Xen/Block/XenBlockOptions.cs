namespace Sharpvisor.Devices.Xen.Block;

/// <summary>What a disk of a Xen domain says of itself.</summary>
public sealed record XenBlockOptions
{
    /// <summary>0: xvda.</summary>
    public int Index { get; init; }

    /// <summary>A CD-ROM drive, which can only be read.</summary>
    public bool IsCdrom { get; init; }

    /// <summary>Bytes that the medium writes at once: 512 or more, a power of two.</summary>
    public int PhysicalBlockSize { get; init; } = 512;

    /// <summary>
    /// Offers persistent grants. That spares a back end which has to map pages; here a grant costs nothing, and the guest
    /// would copy all data to pages that it keeps granted.
    /// </summary>
    public bool OffersPersistentGrants { get; init; }
}
