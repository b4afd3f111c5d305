using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

/// <summary>The memory behind a virtqueue while a driver uses it, in one of two layouts.</summary>
internal abstract class VirtqueueRing(GuestMemory memory, bool hasEventIndex)
{
    /// <summary>What is wrong with the ring; null: nothing, so far.</summary>
    public string? Fault { get; private set; }

    protected GuestMemory Memory => memory;

    protected bool HasEventIndex => hasEventIndex;

    /// <summary>Takes the next chain. False: there is none, and the driver will say when there is one, or there is a <see cref="Fault"/>.</summary>
    public abstract bool TryPop(DescriptorChain chain);

    /// <summary>Gives a chain back.</summary>
    public abstract void Push(DescriptorChain chain, int written);

    /// <summary>Whether the driver wants an interrupt for what was pushed since this was asked last.</summary>
    public abstract bool WantsInterrupt();

    /// <summary>Whether no chain is available.</summary>
    public abstract bool IsEmpty { get; }

    /// <summary>Notes what is wrong; always false.</summary>
    protected bool Fail(string fault)
    {
        Fault = fault;
        return false;
    }

    /// <summary>Whether going from <paramref name="before"/> to <paramref name="now"/> passed the index that the driver waits for (2.7.7.2).</summary>
    protected static bool HasPassed(ushort waitsFor, ushort now, ushort before) => (ushort)(now - waitsFor - 1) < (ushort)(now - before);

    /// <summary>The table that an indirect descriptor leads to.</summary>
    protected bool TryMapTable(in Descriptor descriptor, out Memory<byte> table)
    {
        table = default;
        if (descriptor.Length == 0 || descriptor.Length % Descriptor.Size != 0 || descriptor.Length > int.MaxValue)
            return Fail("an indirect table of a wrong length");
        return Memory.TrySlice(descriptor.Address, (int)descriptor.Length, out table) || Fail("an indirect table outside of memory");
    }
}
