namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>What a frame is in use as (PGT_*): one at a time, while its type count is not 0.</summary>
public enum PvFrameType : byte
{
    None = 0,
    Level1 = 1,
    Level2 = 2,
    Level3 = 3,
    Level4 = 4,

    /// <summary>Descriptors of a GDT or an LDT.</summary>
    Segments = 5,

    /// <summary>Mapped writable.</summary>
    Writable = 7,
}

/// <summary>A frame of the domain as Xen sees it.</summary>
/// <param name="TypeCount">0: the type is what it was last.</param>
/// <param name="References">0: the frame is free.</param>
/// <param name="IsPinned">A table by the domain's wish.</param>
/// <param name="IsAllocated">A part of the domain's reservation.</param>
/// <param name="Linear">Positive: entries that refer to tables of its own level; negative: how often it is referred to so.</param>
public readonly record struct PvFrameInfo(PvFrameType Type, uint TypeCount, uint References, bool IsPinned, bool IsAllocated, int Linear);

[Flags]
internal enum PvFrameFlags : byte
{
    None = 0,

    /// <summary>What the frame holds was checked, and what it refers to is referenced.</summary>
    Validated = 1,

    /// <summary>A reference as its type is held by the domain's wish.</summary>
    Pinned = 2,

    /// <summary>It is a part of the domain's reservation, which is one reference.</summary>
    Allocated = 4,
}

/// <summary>What Xen knows of a frame of the domain.</summary>
internal struct PvFrame
{
    /// <summary>Reasons for it to stay: 0, it is free.</summary>
    public uint References;

    /// <summary>Those among them that need it to be of its type.</summary>
    public uint TypeCount;

    /// <summary>The time of the flush clock when the type count became 0 last.</summary>
    public uint Stamp;

    /// <summary>Positive: entries of this table that refer to tables of its own level. Negative: how often it is referred to so.</summary>
    public short Linear;

    public PvFrameType Type;
    public PvFrameFlags Flags;
}
