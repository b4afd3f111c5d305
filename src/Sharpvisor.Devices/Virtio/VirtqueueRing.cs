using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

/// <summary>The memory behind a virtqueue while a driver uses it, in one of two layouts.</summary>
/// <param name="addresses">Where addresses in it lie; null: they are guest-physical.</param>
internal abstract class VirtqueueRing(GuestMemory memory, IVirtioAddresses? addresses, bool hasEventIndex)
{
    private byte[] _table = [];

    /// <summary>What is wrong with the ring; null: nothing, so far.</summary>
    public string? Fault { get; private set; }

    protected GuestMemory Memory => memory;

    protected IVirtioAddresses? Addresses => addresses;

    protected bool HasEventIndex => hasEventIndex;

    /// <summary>Takes the next chain. False: there is none, and the driver will say when there is one, or there is a <see cref="Fault"/>.</summary>
    public abstract bool TryPop(DescriptorChain chain);

    /// <summary>Gives a chain back.</summary>
    /// <param name="more">The driver sees it only with the next one.</param>
    public abstract void Push(DescriptorChain chain, int written, bool more);

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
        return (addresses is null ? Memory.TrySlice(descriptor.Address, (int)descriptor.Length, out table) : TryCopyTable(addresses, descriptor, out table))
            || Fail("an indirect table outside of memory");
    }

    /// <summary>Copies a table whose pages need not be neighbours.</summary>
    private bool TryCopyTable(IVirtioAddresses addresses, in Descriptor descriptor, out Memory<byte> table)
    {
        table = default;
        if (descriptor.Length > DescriptorChain.MaximumParts * Descriptor.Size)
            return false;
        if (_table.Length < descriptor.Length)
            _table = new byte[DescriptorChain.MaximumParts * Descriptor.Size];
        table = _table.AsMemory(0, (int)descriptor.Length);
        for (var done = 0; done < table.Length;)
        {
            var length = table.Length - done;
            if (!addresses.TryAcquire(descriptor.Address + (ulong)done, isWritable: false, ref length, out var at, out var use))
                return false;
            var isRead = Memory.TryRead(at, table.Span.Slice(done, length));
            addresses.Release(use);
            if (!isRead)
                return false;
            done += length;
        }

        return true;
    }
}
