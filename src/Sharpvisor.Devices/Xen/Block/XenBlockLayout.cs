// Follows: Xen's public header io/blkif.h, as a 64-bit and as a 32-bit compiler lay its structures out.
namespace Sharpvisor.Devices.Xen.Block;

/// <summary>Where the fields of requests are; the others are at the same place in both.</summary>
/// <param name="EntrySize">Of the ring.</param>
/// <param name="Segments">Of a request with its segments in it.</param>
/// <param name="Pages">Of a request with its segments elsewhere: references of the pages that they are in.</param>
/// <param name="DiscardLength">Of a discard: its sectors.</param>
internal sealed record XenBlockLayout(int EntrySize, int Id, int Sector, int Segments, int Pages, int DiscardLength, int ResponseSize)
{
    /// <summary>Fields of a response.</summary>
    public const int ResponseOperation = 8, ResponseStatus = 10;

    public static XenBlockLayout X64 { get; } = new(EntrySize: 112, Id: 8, Sector: 16, Segments: 24, Pages: 28, DiscardLength: 24, ResponseSize: 16);

    public static XenBlockLayout X32 { get; } = new(EntrySize: 108, Id: 4, Sector: 12, Segments: 20, Pages: 24, DiscardLength: 20, ResponseSize: 12);

    /// <summary>By what a front end says; null: another processor's.</summary>
    public static XenBlockLayout? Of(string? protocol) => protocol switch
    {
        null or "x86_64-abi" => X64,
        "x86_32-abi" => X32,
        _ => null,
    };
}

/// <summary>BLKIF_OP_*.</summary>
internal enum XenBlockOperation : byte
{
    Read = 0,
    Write = 1,
    WriteBarrier = 2,
    FlushDiskCache = 3,
    Discard = 5,
    Indirect = 6,
}

/// <summary>BLKIF_RSP_*.</summary>
internal enum XenBlockStatus : short
{
    Okay = 0,
    Error = -1,
    Unsupported = -2,
}
