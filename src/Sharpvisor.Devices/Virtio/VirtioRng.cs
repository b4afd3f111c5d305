// An entropy device: fills what the driver gives it with random bytes.
// Follows: VIRTIO 1.2, 5.4.
// Leaves out: limits on how much a guest takes; a request gets 64 KiB at most, which the specification allows.

using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Virtio;

/// <summary>One queue of writable buffers.</summary>
public sealed class VirtioRng : VirtioDevice
{
    private const int QueueSize = 8, LimitOfRequest = 64 << 10;

    private readonly Action<Memory<byte>> _fill;
    private readonly DescriptorChain _chain = new();

    /// <param name="fill">The source: fills memory with bytes that nobody can guess.</param>
    public VirtioRng(Action<Memory<byte>> fill, GuestErrorLog errors)
        : base("virtio-rng", VirtioDeviceType.Entropy, configurationLength: 0, [QueueSize], errors)
    {
        _fill = fill;
    }

    protected override ulong Features => 0;

    protected override void OnQueueNotify(Virtqueue queue)
    {
        while (queue.TryPop(_chain))
        {
            var length = Math.Min(_chain.WritableLength, LimitOfRequest);
            foreach (var part in _chain.Writable.Slice(0, length))
                _fill(part);
            queue.Push(_chain, length);
        }

        queue.Interrupt();
    }
}
