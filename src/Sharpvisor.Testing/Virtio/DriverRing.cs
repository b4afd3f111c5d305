using System.Runtime.InteropServices;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Testing.Virtio;

/// <summary>A piece of guest memory.</summary>
public readonly record struct GuestBuffer(ulong Address, uint Length);

/// <summary>The driver's side of a virtqueue (VIRTIO 1.2, 2.6): makes buffers available and takes them back used.</summary>
public abstract class DriverRing(GuestMemory memory, GuestAllocator allocator, int size, bool hasEventIndex)
{
    public int Size => size;

    /// <summary>Makes of a guest-physical address the one that the device is told; the same if there is nothing to make.</summary>
    public Func<ulong, ulong> DeviceAddress { get; set; } = address => address;

    /// <summary>Where the parts lie, as the device is told.</summary>
    public abstract ulong DescriptorArea { get; }

    public abstract ulong DriverArea { get; }

    public abstract ulong DeviceArea { get; }

    /// <summary>Descriptors that nobody uses.</summary>
    public abstract int FreeDescriptors { get; }

    /// <summary>Asks the device for no interrupts, or for one with the next used buffer.</summary>
    public abstract void SuppressInterrupts(bool suppress);

    /// <summary>Whether the device wants to be notified of what was added since this was asked last.</summary>
    public abstract bool NeedsNotification();

    /// <summary>Makes a buffer available.</summary>
    /// <param name="indirect">Its descriptors lie in a table of their own.</param>
    /// <returns>By what <see cref="TakeUsed"/> calls it.</returns>
    public abstract int Add(IReadOnlyList<GuestBuffer> readable, IReadOnlyList<GuestBuffer> writable, bool indirect = false);

    /// <summary>Takes a buffer back: which, and how many bytes the device has written. Null: none is used yet.</summary>
    public abstract (int Id, uint Written)? TakeUsed();

    protected bool HasEventIndex => hasEventIndex;

    protected GuestAllocator Allocator => allocator;

    protected GuestMemory Memory => memory;

    protected static bool HasPassed(ushort waitsFor, ushort now, ushort before) => (ushort)(now - waitsFor - 1) < (ushort)(now - before);

    protected ushort Read16(ulong address) => memory.TryRead<ushort>(address, out var value) ? value : throw new InvalidOperationException($"no memory at 0x{address:x}");

    protected uint Read32(ulong address) => memory.TryRead<uint>(address, out var value) ? value : throw new InvalidOperationException($"no memory at 0x{address:x}");

    protected void Write<T>(ulong address, T value) where T : unmanaged
    {
        if (!memory.TryWrite(address, value))
            throw new InvalidOperationException($"no memory at 0x{address:x}");
    }

    protected void WriteDescriptor(ulong address, GuestBuffer buffer, ushort third, ushort fourth) =>
        Write(address, new RawDescriptor { Address = DeviceAddress(buffer.Address), Length = buffer.Length, Third = third, Fourth = fourth });

    [StructLayout(LayoutKind.Sequential)]
    private struct RawDescriptor
    {
        public ulong Address;
        public uint Length;
        public ushort Third, Fourth;
    }
}

/// <summary>Gives out guest memory, zeroed and never twice.</summary>
public sealed class GuestAllocator(GuestMemory memory, ulong start, ulong end)
{
    private ulong _next = start;

    /// <param name="alignment">A power of two.</param>
    public ulong Allocate(ulong length, ulong alignment = 16)
    {
        var at = (_next + alignment - 1) & ~(alignment - 1);
        _next = at + length;
        if (_next > end || (length > 0 && !memory.TryWrite(at, new byte[length])))
            throw new InvalidOperationException("no guest memory left");
        return at;
    }
}
