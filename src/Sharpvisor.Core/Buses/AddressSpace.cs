using System.Runtime.CompilerServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Buses;

/// <summary>
/// One bus: the ranges of devices by address. The port space and the MMIO space of a machine are one each.
/// An access outside of every range reads all ones and is counted, as on a PC's bus.
/// </summary>
/// <remarks>
/// Lookups are lock-free on an immutable sorted array; mapping and unmapping replace the array. The device is called
/// with the machine's gate held. An access that crosses the start or end of a range is split into bytes.
/// </remarks>
public sealed class AddressSpace
{
    private readonly MachineGate _gate;
    private readonly GuestErrorLog _errors;
    private Mapping[] _mappings = [];
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

    public string Name { get; }

    public ulong Limit { get; }

    /// <summary>How many accesses hit no device.</summary>
    public long UnassignedAccesses => Interlocked.Read(ref _unassignedAccesses);

    /// <summary>The ranges in use, by ascending address.</summary>
    public IReadOnlyList<Mapping> Mappings => Volatile.Read(ref _mappings);

    /// <summary>Gives <paramref name="length"/> addresses from <paramref name="start"/> to a device.</summary>
    /// <exception cref="InvalidOperationException">The range is empty, too large, or overlaps another one.</exception>
    public Mapping Map(ulong start, ulong length, IBusDevice device, string name)
    {
        if (length == 0 || start >= Limit || length > Limit - start)
            throw new InvalidOperationException($"{name}: {Name} range 0x{start:x}+0x{length:x} does not fit in 0x{Limit:x}");
        var added = new Mapping(start, length, device, name);
        using (_gate.Enter())
        {
            foreach (var other in _mappings)
            {
                if (start < other.Start + other.Length && other.Start < start + length)
                {
                    throw new InvalidOperationException(
                        $"{Name} ranges overlap: {name} at 0x{start:x}-0x{start + length - 1:x} and {other.Name} at 0x{other.Start:x}-0x{other.Start + other.Length - 1:x}");
                }
            }

            Mapping[] next = [.. _mappings, added];
            Array.Sort(next, (a, b) => a.Start.CompareTo(b.Start));
            Volatile.Write(ref _mappings, next);
        }

        return added;
    }

    public void Unmap(Mapping mapping)
    {
        using (_gate.Enter())
            Volatile.Write(ref _mappings, [.. _mappings.Where(m => m != mapping)]);
    }

    /// <summary>Reads 1, 2, 4 or 8 bytes.</summary>
    public ulong Read(ulong address, int size)
    {
        var mapping = Find(address);
        if (mapping is null)
            return TouchesOther(address, size) ? ReadSplit(address, size) : Unassigned(address, size, write: false);
        if (address + (ulong)size > mapping.Start + mapping.Length)
            return ReadSplit(address, size);
        using (_gate.Enter())
            return mapping.Device.Read((uint)(address - mapping.Start), size) & Mask(size);
    }

    /// <summary>Writes 1, 2, 4 or 8 bytes.</summary>
    public void Write(ulong address, int size, ulong value)
    {
        var mapping = Find(address);
        if (mapping is null && !TouchesOther(address, size))
        {
            Unassigned(address, size, write: true);
            return;
        }

        if (mapping is null || address + (ulong)size > mapping.Start + mapping.Length)
        {
            for (var i = 0; i < size; i++)
                Write((address + (ulong)i) & (Limit - 1), 1, (value >> (8 * i)) & 0xff);
            return;
        }

        using (_gate.Enter())
            mapping.Device.Write((uint)(address - mapping.Start), size, value & Mask(size));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Mask(int size) => ulong.MaxValue >> (64 - (8 * size));

    private Mapping? Find(ulong address)
    {
        var mappings = Volatile.Read(ref _mappings);
        int low = 0, high = mappings.Length - 1;
        while (low <= high)
        {
            var middle = (low + high) >> 1;
            var mapping = mappings[middle];
            if (address < mapping.Start)
                high = middle - 1;
            else if (address - mapping.Start >= mapping.Length)
                low = middle + 1;
            else
                return mapping;
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

    private ulong Unassigned(ulong address, int size, bool write)
    {
        Interlocked.Increment(ref _unassignedAccesses);
        _errors.Unassigned(Name, address, size, write);
        return Mask(size);
    }

    /// <summary>A range of addresses and the device behind it.</summary>
    public sealed record Mapping(ulong Start, ulong Length, IBusDevice Device, string Name);
}
