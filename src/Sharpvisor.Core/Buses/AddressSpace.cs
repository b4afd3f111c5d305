using System.Runtime.CompilerServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Tracing;

namespace Sharpvisor.Core.Buses;

/// <summary>
/// One bus: the ranges of devices by address. The port space and the MMIO space of a machine are one each.
/// An access outside of every range reads all ones and is counted, as on a PC's bus.
/// </summary>
/// <remarks>
/// Lookups are lock-free on an immutable sorted array; mapping and unmapping replace the array. The device is called
/// with the machine's gate held. An access that crosses the start or end of what is seen of a range is split into bytes.
/// <para>
/// What a board places by <see cref="Map"/> never overlaps. What a guest places (PCI) can lie anywhere: an
/// <see cref="Overlay"/> has a priority, and of two that are equal the later one is seen.
/// </para>
/// </remarks>
public sealed class AddressSpace
{
    private readonly MachineGate _gate;
    private readonly GuestErrorLog _errors;
    private Mapping[] _mappings = [];
    private Section[] _sections = [];
    private long _unassignedAccesses;

    /// <param name="name">Shown in messages: "io" or "mmio".</param>
    /// <param name="limit">The first address behind the space, a power of two: 0x10000 for ports.</param>
    public AddressSpace(string name, ulong limit, MachineGate gate, GuestErrorLog errors)
    {
        Name = name;
        Limit = limit;
        _gate = gate;
        _errors = errors;
    }

    /// <summary>Who is told of each access, with <see cref="TraceKind"/>.</summary>
    public (TracePoints Points, TraceKind Kind)? Trace { get; init; }

    public string Name { get; }

    public ulong Limit { get; }

    /// <summary>How many accesses hit no device.</summary>
    public long UnassignedAccesses => Interlocked.Read(ref _unassignedAccesses);

    /// <summary>The ranges in use, in the order in which they were mapped.</summary>
    public IReadOnlyList<Mapping> Mappings => Volatile.Read(ref _mappings);

    /// <summary>What is seen where: without overlaps, by ascending address.</summary>
    public IReadOnlyList<Section> Sections => Volatile.Read(ref _sections);

    /// <summary>Gives <paramref name="length"/> addresses from <paramref name="start"/> to a device.</summary>
    /// <exception cref="InvalidOperationException">The range is empty, too large, or overlaps another one.</exception>
    public Mapping Map(ulong start, ulong length, IBusDevice device, string name)
    {
        if (!Fits(start, length))
            throw new InvalidOperationException($"{name}: {Name} range 0x{start:x}+0x{length:x} does not fit in 0x{Limit:x}");
        using (_gate.Enter())
        {
            foreach (var other in _mappings)
            {
                if (!other.IsOverlay && start < other.End && other.Start < start + length)
                {
                    throw new InvalidOperationException(
                        $"{Name} ranges overlap: {name} at 0x{start:x}-0x{start + length - 1:x} and {other.Name} at 0x{other.Start:x}-0x{other.End - 1:x}");
                }
            }

            return Add(new Mapping(start, length, device, name));
        }
    }

    /// <summary>Places a device where a guest wants it, over or under others.</summary>
    /// <param name="priority">The highest is seen; what the board mapped has 0. Of equal ones the last to come is seen.</param>
    /// <returns>Null when the range is empty or does not fit in the space: there is nothing to see of it.</returns>
    public Mapping? Overlay(ulong start, ulong length, IBusDevice device, string name, int priority)
    {
        if (!Fits(start, length))
            return null;
        using (_gate.Enter())
            return Add(new Mapping(start, length, device, name) { IsOverlay = true, Priority = priority });
    }

    public void Unmap(Mapping mapping)
    {
        using (_gate.Enter())
            Replace([.. _mappings.Where(m => !ReferenceEquals(m, mapping))]);
    }

    /// <summary>Reads 1, 2, 4 or 8 bytes.</summary>
    public ulong Read(ulong address, int size)
    {
        var section = Find(address);
        if (section is null)
            return TouchesOther(address, size) ? ReadSplit(address, size) : Unassigned(address, size, 0, write: false);
        if (address + (ulong)size > section.End)
            return ReadSplit(address, size);
        var mapping = section.Mapping;
        ulong value;
        using (_gate.Enter())
            value = mapping.Device.Read((uint)(address - mapping.Start), size) & Mask(size);
        if (Trace is { } trace && trace.Points.Wants(trace.Kind))
            trace.Points.Write(new TraceEvent(trace.Kind, -1, address, value, (ulong)size, Device: mapping.Name));
        return value;
    }

    /// <summary>Writes 1, 2, 4 or 8 bytes.</summary>
    public void Write(ulong address, int size, ulong value)
    {
        var section = Find(address);
        if (section is null && !TouchesOther(address, size))
        {
            Unassigned(address, size, value, write: true);
            return;
        }

        if (section is null || address + (ulong)size > section.End)
        {
            for (var i = 0; i < size; i++)
                Write((address + (ulong)i) & (Limit - 1), 1, (value >> (8 * i)) & 0xff);
            return;
        }

        var mapping = section.Mapping;
        if (Trace is { } trace && trace.Points.Wants(trace.Kind))
            trace.Points.Write(new TraceEvent(trace.Kind, -1, address, value & Mask(size), (ulong)size, IsWrite: true, Device: mapping.Name));
        using (_gate.Enter())
            mapping.Device.Write((uint)(address - mapping.Start), size, value & Mask(size));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Mask(int size) => ulong.MaxValue >> (64 - (8 * size));

    private bool Fits(ulong start, ulong length) => length != 0 && start < Limit && length <= Limit - start;

    private Mapping Add(Mapping mapping)
    {
        Replace([.. _mappings, mapping]);
        return mapping;
    }

    private void Replace(Mapping[] mappings)
    {
        // From the lowest to the highest; the sort is stable, so that of equal ones the last to come is on top.
        var sections = new List<Section>(mappings.Length);
        foreach (var mapping in mappings.OrderBy(m => m.Priority))
        {
            for (var i = sections.Count - 1; i >= 0; i--)
            {
                var under = sections[i];
                if (under.Start >= mapping.End || mapping.Start >= under.End)
                    continue;
                sections.RemoveAt(i);
                if (under.Start < mapping.Start)
                    sections.Add(under with { End = mapping.Start });
                if (under.End > mapping.End)
                    sections.Add(under with { Start = mapping.End });
            }

            sections.Add(new Section(mapping.Start, mapping.End, mapping));
        }

        Volatile.Write(ref _mappings, mappings);
        Volatile.Write(ref _sections, [.. sections.OrderBy(s => s.Start)]);
    }

    private Section? Find(ulong address)
    {
        var sections = Volatile.Read(ref _sections);
        int low = 0, high = sections.Length - 1;
        while (low <= high)
        {
            var middle = (low + high) >> 1;
            var section = sections[middle];
            if (address < section.Start)
                high = middle - 1;
            else if (address >= section.End)
                low = middle + 1;
            else
                return section;
        }

        return null;
    }

    /// <summary>For an access whose first byte hits nothing: whether a later one hits a device.</summary>
    private bool TouchesOther(ulong address, int size)
    {
        if (address >= Limit)
            return false;
        for (var i = 1; i < size; i++)
        {
            if (Find((address + (ulong)i) & (Limit - 1)) is not null)
                return true;
        }

        return false;
    }

    private ulong ReadSplit(ulong address, int size)
    {
        ulong value = 0;
        for (var i = 0; i < size; i++)
            value |= Read((address + (ulong)i) & (Limit - 1), 1) << (8 * i);
        return value;
    }

    private ulong Unassigned(ulong address, int size, ulong value, bool write)
    {
        Interlocked.Increment(ref _unassignedAccesses);
        if (Trace is { } trace && trace.Points.Wants(trace.Kind))
            trace.Points.Write(new TraceEvent(trace.Kind, -1, address, write ? value : Mask(size), (ulong)size, IsWrite: write, Device: "none"));
        _errors.Unassigned(Name, address, size, write);
        return Mask(size);
    }

    /// <summary>A range of addresses and the device behind it.</summary>
    public sealed record Mapping(ulong Start, ulong Length, IBusDevice Device, string Name)
    {
        /// <summary>The first address behind the range.</summary>
        public ulong End => Start + Length;

        public bool IsOverlay { get; init; }

        public int Priority { get; init; }
    }

    /// <summary>A part of a mapping that no other one hides.</summary>
    public sealed record Section(ulong Start, ulong End, Mapping Mapping);
}
