// Follows: Xen's public header io/netif.h.
namespace Sharpvisor.Devices.Xen.Net;

/// <summary>Sizes and flags of the entries of both rings.</summary>
internal static class XenNetLayout
{
    /// <summary>Requests {u32 reference, u16 offset, u16 flags, u16 id, u16 size}; answers {u16 id, s16 status}.</summary>
    public const int TransmitEntry = 12, TransmitAnswer = 4;

    /// <summary>Requests {u16 id, u16, u32 reference}; answers {u16 id, u16 offset, u16 flags, s16 status}.</summary>
    public const int ReceiveEntry = 8;

    /// <summary>{u8 type, u8 flags, 6 bytes}, in the place of an entry.</summary>
    public const int ExtraSize = 8;

    /// <summary>NETTXF_* and NETRXF_*, which are the same.</summary>
    public const ushort TransmitChecksumBlank = 1, TransmitMoreData = 4, TransmitExtra = 8;
    public const ushort ReceiveValidated = 1, ReceiveChecksumBlank = 2, ReceiveMoreData = 4, ReceiveExtra = 8;

    /// <summary>XEN_NETIF_EXTRA_TYPE_*, and that another one follows.</summary>
    public const byte ExtraSegments = 1, ExtraAddGroup = 2, ExtraRemoveGroup = 3, ExtraHash = 4, ExtraMore = 1;

    /// <summary>XEN_NETIF_GSO_TYPE_*.</summary>
    public const byte SegmentsTcp4 = 1, SegmentsTcp6 = 2;

    /// <summary>NETIF_RSP_*.</summary>
    public const short Null = 1, Okay = 0, Error = -1;
}
