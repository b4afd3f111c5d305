// A memory balloon: the driver takes pages from its system and names them, the host has them until the driver wants them
// back. Beside it the driver tells statistics, and which pages nobody uses at the moment (free page reporting).
// Follows: VIRTIO 1.2, 5.5. The queue for reports has the number that QEMU and Linux give it, that of the first one which
// is left, not 4; as QEMU's, the device reports nothing free to the host where the driver fills free pages with a pattern.
// Leaves out: VIRTIO_BALLOON_F_MUST_TELL_HOST and VIRTIO_BALLOON_F_FREE_PAGE_HINT (which is for migration).

using System.Buffers.Binary;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Virtio;

/// <summary>Gives memory of the guest back to the host. The board asks for it by <see cref="TargetPages"/>.</summary>
public sealed class VirtioBalloon : VirtioDevice
{
    /// <summary>Bytes of a page, whatever the guest's or the host's have.</summary>
    public const int PageSize = 1 << PageShift;

    /// <summary>More pages of one list stay with the guest: a list of a real driver has 1024 at most.</summary>
    public const int MaximumPagesOfList = 4096;

    private const int PageShift = 12;
    private const int StatsVq = 1, DeflateOnOom = 2, PagePoison = 4, Reporting = 5;
    private const int InflateQueue = 0, DeflateQueue = 1, StatsQueue = 2;
    private const int QueueSize = 128, ReportingQueueSize = 32;
    private const int NumPages = 0, Actual = 4, PoisonVal = 12, ConfigLength = 16;

    private readonly VirtioBalloonOptions _options;
    private readonly DescriptorChain _chain = new();
    private readonly uint[] _pages = new uint[MaximumPagesOfList];
    private readonly byte[] _statistics = new byte[BalloonStatistics.MaximumLength];
    private readonly List<Action<BalloonStatistics?>> _waiting = [];
    private DescriptorChain _held = new(), _next = new();
    private bool _isAsking;

    public VirtioBalloon(VirtioBalloonOptions options, GuestErrorLog errors)
        : base("virtio-balloon", VirtioDeviceType.Balloon, ConfigLength, QueueSizes(options), errors)
    {
        _options = options;
    }

    /// <summary>How many pages the host wants; the driver gives them as it can.</summary>
    public uint TargetPages
    {
        get => BinaryPrimitives.ReadUInt32LittleEndian(Configuration[NumPages..]);
        set
        {
            BinaryPrimitives.WriteUInt32LittleEndian(Configuration[NumPages..], value);
            OnConfigurationChanged();
        }
    }

    /// <summary>How many pages the host has, as the driver says.</summary>
    public uint ActualPages => BinaryPrimitives.ReadUInt32LittleEndian(Configuration[Actual..]);

    /// <summary>The driver has said another <see cref="ActualPages"/>, or a part of it: it may write byte by byte. Raised with the gate held.</summary>
    public event Action? ActualChanged;

    /// <summary>Pages that were given back because the driver reported that nobody uses them.</summary>
    public ulong ReportedPages { get; private set; }

    protected override ulong Features => (1UL << StatsVq) | (1UL << PagePoison)
        | (_options.DeflatesOnOom ? 1UL << DeflateOnOom : 0) | (_options.ReportsFreePages ? 1UL << Reporting : 0);

    private uint Poison => Has(PagePoison) ? BinaryPrimitives.ReadUInt32LittleEndian(Configuration[PoisonVal..]) : 0;

    /// <summary>Asks the driver how the guest's memory is used.</summary>
    /// <param name="onAnswer">Called with the gate held; with null when there is no driver that answers, or none any more.</param>
    public void RequestStatistics(Action<BalloonStatistics?> onAnswer)
    {
        if ((Status & VirtioStatus.DriverOk) == 0 || !Has(StatsVq))
        {
            onAnswer(null);
            return;
        }

        _waiting.Add(onAnswer);
        AskForStatistics();
    }

    protected override void OnQueueNotify(Virtqueue queue)
    {
        if (queue.Index == StatsQueue && Has(StatsVq))
        {
            TakeStatistics(queue);
            return;
        }

        while (queue.TryPop(_chain))
        {
            if (queue.Index == InflateQueue)
                Inflate(_chain.Readable);
            else if (queue.Index != DeflateQueue)
                Report();
            queue.Push(_chain, 0);
        }

        queue.Interrupt();
    }

    protected override void OnReset()
    {
        _isAsking = false;
        Configuration[Actual..].Clear(); // and the pattern: the next driver has given nothing yet
        Answer(null);
    }

    protected override void OnConfigurationWritten(int offset, byte value)
    {
        if (offset is not ((>= Actual and < Actual + 4) or (>= PoisonVal and < PoisonVal + 4)) || Configuration[offset] == value)
            return;
        Configuration[offset] = value;
        if (offset < Actual + 4)
            ActualChanged?.Invoke();
    }

    private static int[] QueueSizes(VirtioBalloonOptions options) =>
        options.ReportsFreePages ? [QueueSize, QueueSize, QueueSize, ReportingQueueSize] : [QueueSize, QueueSize, QueueSize];

    /// <summary>Gives pages back, neighbours at once.</summary>
    private void Inflate(BlockBuffers list)
    {
        var count = Math.Min(list.Length / sizeof(uint), MaximumPagesOfList);
        var pages = _pages.AsSpan(0, count);
        list.Slice(0, count * sizeof(uint)).CopyTo(System.Runtime.InteropServices.MemoryMarshal.AsBytes(pages));
        if (!BitConverter.IsLittleEndian)
            BinaryPrimitives.ReverseEndianness(pages, pages);
        pages.Sort();
        for (int first = 0, next; first < count; first = next)
        {
            for (next = first + 1; next < count && pages[next] - pages[next - 1] <= 1;)
                next++;
            Discard((ulong)pages[first] << PageShift, (ulong)(pages[next - 1] - pages[first] + 1) << PageShift);
        }
    }

    /// <summary>Gives free pages back; what they hold has to be zero afterwards, so not if the driver expects something else.</summary>
    private void Report()
    {
        for (var i = 0; i < _chain.WritableParts && Poison == 0; i++)
        {
            var (address, length) = _chain.WritablePlace(i);
            if (Discard(address, length))
                ReportedPages += length >> PageShift;
        }
    }

    private bool Discard(ulong address, ulong length)
    {
        if (Memory.TryDiscard(address, length))
            return true;
        ReportError("pages given back that are not RAM", $"0x{address:x}+0x{length:x}");
        return false;
    }

    /// <summary>A buffer with statistics stays here until others are wanted: giving it back asks for them.</summary>
    private void TakeStatistics(Virtqueue queue)
    {
        while (queue.TryPop(_next))
        {
            if (queue.Has(_held))
                queue.Complete(_held, 0); // one is enough
            (_held, _next) = (_next, _held);
            if (!_isAsking)
                continue;
            _isAsking = false;
            var length = Math.Min(_held.ReadableLength, _statistics.Length);
            _held.Readable.Slice(0, length).CopyTo(_statistics);
            Answer(BalloonStatistics.Parse(_statistics.AsSpan(0, length)));
        }

        AskForStatistics();
    }

    private void AskForStatistics()
    {
        if (_isAsking || !Queues[StatsQueue].Has(_held) || _waiting.Count == 0)
            return;
        _isAsking = true;
        Queues[StatsQueue].Complete(_held, 0);
    }

    private void Answer(BalloonStatistics? statistics)
    {
        Action<BalloonStatistics?>[] waiting = [.. _waiting];
        _waiting.Clear();
        foreach (var onAnswer in waiting)
            onAnswer(statistics);
    }
}
