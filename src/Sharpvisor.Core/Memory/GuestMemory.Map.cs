using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Memory;

/// <summary>Memory beside RAM, and what lies over the first megabyte of RAM.</summary>
public sealed unsafe partial class GuestMemory
{
    /// <summary>Where guest-physical addresses end for mappings: 40 bits, as processors here have them.</summary>
    public const ulong MapLimit = 1UL << 40;

    private readonly List<MemoryRegion> _regions = [];
    private MemoryMap _map;

    /// <summary>Raised when other memory than before is seen at a range, with its first address and length.</summary>
    public event Action<ulong, ulong>? MapChanged;

    /// <summary>RAM below the PCI hole: an offset in it is a guest-physical address.</summary>
    public MemoryRegion Ram { get; }

    /// <summary>What is mapped, in the order of <see cref="Map"/>.</summary>
    public IReadOnlyList<MemoryMapping> Mappings => Volatile.Read(ref _map).Mappings;

    /// <summary>Makes zeroed memory that the guest does not see yet.</summary>
    /// <param name="size">Bytes; rounded up to whole pages.</param>
    public MemoryRegion AddRegion(string name, ulong size)
    {
        ArgumentOutOfRangeException.ThrowIfZero(size);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(size, FourGiB);
        size = (size + PageSize - 1) & ~(ulong)(PageSize - 1);
        var region = new MemoryRegion(this, name, (byte*)HostMemory.Reserve(size, hugePages: false), size);
        lock (_regions)
            _regions.Add(region);
        return region;
    }

    /// <summary>
    /// Shows regions at an address: in the first megabyte instead of RAM or the VGA window, above where
    /// there is no RAM (RAM from 1 MiB on is never hidden). Where several mappings overlap, the first one is seen,
    /// or one that is on top.
    /// </summary>
    /// <param name="gpa">A multiple of 4 KiB.</param>
    /// <param name="length">A multiple of 4 KiB.</param>
    /// <param name="reads">What is read and executed; null: reads go to the MMIO bus.</param>
    /// <param name="writes">What is written, the same for memory that can be written; null: writes go to the MMIO bus.</param>
    /// <param name="isOnTop">Hides all that is there, now and later.</param>
    /// <exception cref="ArgumentException">The range is not of whole pages below <see cref="MapLimit"/>, or goes beyond a region's end.</exception>
    /// <remarks>Called with the machine's gate held. CPU engines drop what they remember of the range.</remarks>
    public MemoryMapping Map(ulong gpa, ulong length, MemoryRegion? reads, ulong readOffset, MemoryRegion? writes, ulong writeOffset, bool isOnTop = false)
    {
        if (((gpa | length | readOffset | writeOffset) & (PageSize - 1)) != 0 || length == 0 || gpa >= MapLimit || length > MapLimit - gpa)
            throw new ArgumentException($"0x{gpa:x}+0x{length:x} is not a range of whole pages below 0x{MapLimit:x}", nameof(gpa));
        Check(reads, readOffset, length);
        Check(writes, writeOffset, length);
        var mapping = new MemoryMapping(gpa, length, reads, readOffset, writes, writeOffset);
        Replace(isOnTop ? [mapping, .. _map.Mappings] : [.. _map.Mappings, mapping], mapping);
        return mapping;
    }

    /// <summary>The same for one region that can be read and, unless it is a ROM, written.</summary>
    public MemoryMapping Map(ulong gpa, MemoryRegion region, bool isRom = false) => Map(gpa, region.Size, region, 0, isRom ? null : region, 0);

    /// <summary>Takes a mapping away again; one that is gone already is ignored.</summary>
    public void Unmap(MemoryMapping mapping) => Replace([.. _map.Mappings.Where(m => !ReferenceEquals(m, mapping))], mapping);

    internal void MarkWritten(MemoryRegion region, ulong offset, ulong length)
    {
        if (region == Ram)
        {
            MarkWritten(offset, length);
            return;
        }

        foreach (var mapping in Volatile.Read(ref _map).Mappings)
        {
            if (mapping.Reads != region)
                continue;
            var start = Math.Max(offset, mapping.ReadOffset);
            var end = Math.Min(offset + length, mapping.ReadOffset + mapping.Length);
            if (start < end)
                MarkLines(mapping.Start + (start - mapping.ReadOffset), end - start);
        }
    }

    private static void Check(MemoryRegion? region, ulong offset, ulong length)
    {
        if (region is not null && (offset > region.Size || length > region.Size - offset))
            throw new ArgumentException($"0x{offset:x}+0x{length:x} goes beyond the end of {region.Name}", nameof(offset));
    }

    private void Replace(MemoryMapping[] mappings, MemoryMapping changed)
    {
        Volatile.Write(ref _map, MemoryMap.Of(this, mappings));
        MapChanged?.Invoke(changed.Start, changed.Length);
    }

    /// <summary>An immutable table of the mappings, replaced as a whole: readers take no lock.</summary>
    private sealed class MemoryMap
    {
        private const int LowPages = (int)(OneMiB / PageSize);
        private const ulong VgaStart = 0xA0000, VgaEnd = 0xC0000;

        private readonly GuestMemory _owner;
        private readonly nint[] _lowReads = new nint[LowPages];
        private readonly nint[] _lowWrites = new nint[LowPages];
        private readonly MemoryMapping[] _high;

        /// <summary>For each page of each region that was ever asked for: its lines with code.</summary>
        private readonly Dictionary<MemoryRegion, ulong[]> _lines;
        private ulong _noLines;

        private MemoryMap(GuestMemory owner, MemoryMapping[] mappings, Dictionary<MemoryRegion, ulong[]> lines)
        {
            _owner = owner;
            _lines = lines;
            Mappings = mappings;
            _high = [.. mappings.Where(m => m.Start + m.Length > OneMiB)];
            for (var page = 0; page < LowPages; page++)
            {
                var gpa = (ulong)page * PageSize;
                var mapping = mappings.FirstOrDefault(m => m.Contains(gpa));
                var ram = gpa is >= VgaStart and < VgaEnd ? null : owner._ram + gpa;
                _lowReads[page] = (nint)(mapping is null ? ram : mapping.Pointer(gpa, write: false));
                _lowWrites[page] = (nint)(mapping is null ? ram : mapping.Pointer(gpa, write: true));
            }
        }

        public MemoryMapping[] Mappings { get; }

        public static MemoryMap Of(GuestMemory owner, MemoryMapping[] mappings)
        {
            // The masks of lines outlive the mappings: a vCPU may still hold a reference while they change.
            var lines = owner._map?._lines ?? [];
            foreach (var region in mappings.Select(m => m.Reads ?? m.Writes).OfType<MemoryRegion>())
            {
                if (region != owner.Ram && !lines.ContainsKey(region))
                    lines = new(lines) { [region] = new ulong[region.Size / PageSize] };
            }

            return new MemoryMap(owner, mappings, lines);
        }

        public byte* Find(ulong gpa, bool write)
        {
            if (gpa < OneMiB)
            {
                var page = (byte*)(write ? _lowWrites : _lowReads)[gpa / PageSize];
                return page == null ? null : page + (gpa & (PageSize - 1));
            }

            var mapping = Find(gpa);
            return mapping is null ? null : mapping.Pointer(gpa, write);
        }

        /// <summary>The host address of a range that can be read and written in one piece, or null.</summary>
        public byte* FindRange(ulong gpa, ulong length)
        {
            if (length > ulong.MaxValue - gpa)
                return null;
            if (gpa >= OneMiB)
                return Find(gpa) is { IsPlain: true, Reads: not null } mapping && length <= mapping.Length - (gpa - mapping.Start) ? mapping.Pointer(gpa, write: true) : null;
            var start = Find(gpa, write: true);
            for (var at = gpa & ~(ulong)(PageSize - 1); start != null && at < Math.Min(gpa + Math.Max(length, 1), OneMiB); at += PageSize)
            {
                var expected = start + ((long)at - (long)gpa);
                if (Find(at, write: true) != expected || Find(at, write: false) != expected)
                    return null;
            }

            // Across the first megabyte's end: only RAM goes on there.
            return gpa + length <= OneMiB || (gpa + length <= _owner.Below4G && start == _owner._ram + gpa) ? start : null;
        }

        public ref ulong CodeLines(ulong gpa)
        {
            if (Find(gpa) is { } mapping && (mapping.Reads ?? mapping.Writes) is { } region && _lines.TryGetValue(region, out var lines))
                return ref lines[(gpa - mapping.Start + (mapping.Reads is null ? mapping.WriteOffset : mapping.ReadOffset)) / PageSize];
            return ref _noLines;
        }

        /// <summary>The mapping that is seen at an address behind the first megabyte.</summary>
        private MemoryMapping? Find(ulong gpa)
        {
            foreach (var mapping in _high)
            {
                if (mapping.Contains(gpa))
                    return mapping;
            }

            return null;
        }
    }
}
