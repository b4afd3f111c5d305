// Which machine frames a paravirtual domain has, and where Xen's own memory lies beside them. "Machine addresses" are the
// guest-physical addresses of GuestMemory. The domain's frames 0, 1, ... (pfn) are the machine frames (mfn) of RAM from
// 1 MiB on, over the PCI hole, so that no frame has the same number as both.

using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>The domain's frames at its start.</summary>
public sealed class PvLayout
{
    /// <summary>Machine address of the pages of Xen's own that the domain may map: shared_info first, then grant table frames.</summary>
    public const ulong SharedPages = 0xFE00_0000;

    /// <summary>How many there is room for.</summary>
    public const int SharedPageCount = 128;

    /// <summary>Machine address of the machine-to-physical table.</summary>
    public const ulong MachineToPhysical = 1UL << 39;

    /// <summary>The first frame of the domain: what is below is Xen's.</summary>
    public const ulong FirstFrame = (1UL << 20) / GuestMemory.PageSize;

    private const ulong HighFrame = (1UL << 32) / GuestMemory.PageSize;

    private readonly ulong _low, _high;

    /// <param name="below4G">Bytes of RAM from 0 on.</param>
    /// <param name="above4G">Bytes of RAM from 4 GiB on.</param>
    public PvLayout(ulong below4G, ulong above4G)
    {
        _low = (below4G / GuestMemory.PageSize) - FirstFrame;
        _high = above4G / GuestMemory.PageSize;
        MachineFrames = _high > 0 ? HighFrame + _high : FirstFrame + _low;
    }

    /// <summary>Pages of the domain.</summary>
    public ulong PageCount => _low + _high;

    /// <summary>The highest machine frame of the domain, and one.</summary>
    public ulong MachineFrames { get; }

    /// <summary>From a frame of the domain on, how many follow each other in the machine.</summary>
    public ulong Contiguous(ulong pfn) => pfn < _low ? _low - pfn : PageCount - pfn;

    /// <param name="pfn">Below <see cref="PageCount"/>.</param>
    public ulong ToMachine(ulong pfn) => pfn < _low ? FirstFrame + pfn : HighFrame + (pfn - _low);

    /// <summary>Whether a machine frame is RAM that the domain may have.</summary>
    public bool IsDomainRam(ulong mfn) => mfn - FirstFrame < _low || mfn - HighFrame < _high;

    /// <param name="mfn">Of which <see cref="IsDomainRam"/> holds.</param>
    public ulong ToPhysical(ulong mfn) => mfn >= HighFrame ? mfn - HighFrame + _low : mfn - FirstFrame;
}
