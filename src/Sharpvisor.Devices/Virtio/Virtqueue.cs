// A virtqueue as a device sees it: chains of descriptors come, and go back used. Which layout the rings have, and who
// carries notifications, the device does not see.
// Follows: VIRTIO 1.2, 2.6. What a driver does wrong breaks the device (2.1.1): it has to be reset.
// Leaves out: VIRTIO_F_RING_RESET, VIRTIO_F_NOTIFICATION_DATA.
using Sharpvisor.Core.Tracing;

namespace Sharpvisor.Devices.Virtio;

/// <summary>One of a device's queues. Used with the machine's gate held.</summary>
public sealed class Virtqueue
{
    private readonly VirtioDevice _device;
    private VirtqueueRing? _ring;
    private int _inFlight;
    private bool _hasNews;

    internal Virtqueue(VirtioDevice device, int index, int maximumSize)
    {
        _device = device;
        Index = index;
        Size = MaximumSize = maximumSize;
    }

    public int Index { get; }

    /// <summary>As many descriptors as the device offers, a power of two.</summary>
    public int MaximumSize { get; }

    /// <summary>As many as the driver has chosen.</summary>
    public int Size { get; private set; }

    /// <summary>The driver has said that it is set up.</summary>
    public bool IsEnabled { get; private set; }

    /// <summary>Guest-physical: the descriptor table of a split ring, the ring of a packed one.</summary>
    internal ulong DescriptorArea { get; set; }

    /// <summary>The available ring, or the driver's event suppression.</summary>
    internal ulong DriverArea { get; set; }

    /// <summary>The used ring, or the device's event suppression.</summary>
    internal ulong DeviceArea { get; set; }

    /// <summary>Takes the next chain that the driver has made available, to be given back by <see cref="Push"/>.</summary>
    /// <returns>False: there is none; the device is notified when there is one.</returns>
    public bool TryPop(DescriptorChain chain)
    {
        if (!IsEnabled || !_device.MayUseQueues || (_ring ??= TryCreateRing()) is not { } ring)
            return false;
        if (!ring.TryPop(chain))
        {
            if (ring.Fault is { } fault)
                _device.Break(fault, $"queue {Index}");
            return false;
        }

        if (_inFlight == Size)
        {
            _device.Break("more buffers than its queue has room for", $"queue {Index}");
            return false;
        }

        _inFlight++;
        chain.Ring = ring;
        Trace(isDone: false, (ulong)(chain.ReadableLength + chain.WritableLength));
        return true;
    }

    /// <summary>A chain was taken from this queue, and since then neither given back nor forgotten by a reset.</summary>
    public bool Has(DescriptorChain chain) => chain.Ring is not null && chain.Ring == _ring;

    /// <summary>The driver still waits for a chain: nothing was reset or broken since it was taken, and memory can be reached.</summary>
    public bool IsWaitingFor(DescriptorChain chain) => Has(chain) && _device.MayUseQueues;

    /// <summary>Gives a chain back. One of before a reset does not get to the driver.</summary>
    /// <param name="written">Bytes that the device has written, from the start of the chain's writable part.</param>
    /// <param name="more">It belongs together with the next one: the driver sees both at once.</param>
    public void Push(DescriptorChain chain, int written, bool more = false)
    {
        if (chain.Ring is null)
            throw new InvalidOperationException("the chain was not taken from a queue, or was given back");
        var ring = chain.Ring == _ring ? _ring : null;
        chain.Ring = null;
        chain.MarkWritten(_device.Memory, written); // after a reset, too: the bytes are there
        chain.Release(); // before the driver sees that it has it again
        if (ring is null)
            return;
        _inFlight--;
        if (!_device.MayUseQueues)
            return;
        ring.Push(chain, written, more);
        _hasNews = true;
        Trace(isDone: true, (ulong)written);
    }

    /// <summary>Interrupts the driver, if it wants that, for what was pushed since the last time.</summary>
    public void Interrupt()
    {
        if (_ring is null || !_hasNews || !_device.MayUseQueues)
            return;
        _hasNews = false;
        var isForced = _inFlight == 0 && _device.Has(VirtioFeature.NotifyOnEmpty) && _ring.IsEmpty;
        if (_ring.WantsInterrupt() || isForced)
            _device.Transport.InterruptQueue(Index);
    }

    /// <summary>Gives a chain back and says so.</summary>
    public void Complete(DescriptorChain chain, int written)
    {
        Push(chain, written);
        Interrupt();
    }

    /// <summary>Chooses the size, unless it is out of range or the queue is in use already.</summary>
    internal void SetSize(int size)
    {
        if (!IsEnabled && size > 0 && size <= MaximumSize)
            Size = size;
        else
            _device.ReportError("a queue size that can't be chosen", $"queue {Index}: {size}");
    }

    internal void Enable() => IsEnabled = true;

    internal void Reset()
    {
        _ring = null;
        _inFlight = 0;
        _hasNews = false;
        IsEnabled = false;
        Size = MaximumSize;
        DescriptorArea = DriverArea = DeviceArea = 0;
    }

    private void Trace(bool isDone, ulong bytes)
    {
        if (_device.Points is { } points && points.Wants(TraceKind.Virtio))
            points.Write(new TraceEvent(TraceKind.Virtio, -1, (ulong)Index, bytes, isDone ? 1UL : 0, Device: _device.Name));
    }

    /// <summary>When it is used first: only then the features are certain, however old the driver is.</summary>
    private VirtqueueRing? TryCreateRing()
    {
        var hasEventIndex = _device.Has(VirtioFeature.EventIndex);
        var addresses = _device.Transport.Addresses;
        VirtqueueRing? ring = _device.Has(VirtioFeature.PackedRing)
            ? PackedRing.TryCreate(_device.Memory, addresses, hasEventIndex, Size, DescriptorArea, DriverArea, DeviceArea)
            : SplitRing.TryCreate(_device.Memory, addresses, hasEventIndex, Size, DescriptorArea, DriverArea, DeviceArea);
        if (ring is null)
            _device.Break("a ring that does not lie in memory as it should", $"queue {Index}: {Size} at 0x{DescriptorArea:x}, 0x{DriverArea:x}, 0x{DeviceArea:x}");
        return ring;
    }
}
