// A block device: requests of a header, data and a status, over a drive.
// Follows: VIRTIO 1.2, 5.2 (5.2.4 configuration, 5.2.6 requests); offered features and limits as QEMU's virtio-blk.
// Leaves out: SCSI pass-through of before 1.0, secure erase, zoned devices, lifetime metrics.

using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Ide;

namespace Sharpvisor.Devices.Virtio;

/// <summary>A disk. All requests of all queues are with the drive at the same time.</summary>
public sealed class VirtioBlk : VirtioDevice
{
    private const int SegMax = 2, Geometry = 4, ReadOnly = 5, BlkSize = 6, Flush = 9, Topology = 10, ConfigWce = 11, MultiQueue = 12, Discard = 13, WriteZeroes = 14;
    private const int ConfigLength = 60, WceOffset = 32;
    private const int HeaderLength = 16, RangeLength = 16, IdLength = 20;
    private const uint MaximumRangeSectors = int.MaxValue / IBlockImage.SectorSize;
    private const uint UnmapFlag = 1;

    private readonly IBlockDrive _drive;
    private readonly VirtioBlkOptions _options;
    private readonly byte[] _id = new byte[IdLength];
    private readonly bool _initialWriteCache;
    private readonly Stack<Request> _idle = new();

    public VirtioBlk(IBlockDrive drive, VirtioBlkOptions options, GuestErrorLog errors)
        : base("virtio-blk", VirtioDeviceType.Block, ConfigLength, Enumerable.Repeat(options.QueueSize, options.QueueCount), errors)
    {
        _drive = drive;
        _options = options;
        _initialWriteCache = drive.WriteCache;
        Encoding.ASCII.GetBytes(options.Serial.AsSpan(0, Math.Min(options.Serial.Length, IdLength)), _id);
        Describe(options.Geometry ?? DiskGeometry.Of(drive.SectorCount));
    }

    /// <summary>VIRTIO_BLK_T_*.</summary>
    private enum Operation : uint
    {
        In = 0,
        Out = 1,
        Flush = 4,
        GetId = 8,
        Discard = 11,
        WriteZeroes = 13,
    }

    /// <summary>VIRTIO_BLK_S_*.</summary>
    private enum Result : byte
    {
        Ok = 0,
        IoError = 1,
        Unsupported = 2,
    }

    protected override ulong Features => Bit(SegMax) | Bit(Geometry) | Bit(BlkSize) | Bit(Flush) | Bit(Topology) | Bit(ConfigWce) | Bit(Discard) | Bit(WriteZeroes)
        | (_drive.IsReadOnly ? Bit(ReadOnly) : 0) | (Queues.Count > 1 ? Bit(MultiQueue) : 0);

    protected override void OnQueueNotify(Virtqueue queue)
    {
        while (true)
        {
            var request = _idle.TryPop(out var idle) ? idle : new Request(this);
            if (!queue.TryPop(request.Chain))
            {
                _idle.Push(request);
                return;
            }

            request.Queue = queue;
            Start(request);
        }
    }

    protected override void OnDriverReady()
    {
        // Who can't choose has a cache when he can flush it, and none otherwise (5.2.5.2).
        if (!Has(ConfigWce))
            SetWriteCache(Has(Flush));
    }

    protected override void OnReset()
    {
        _drive.Drain();
        SetWriteCache(_initialWriteCache);
    }

    protected override void OnConfigurationWritten(int offset, byte value)
    {
        if (offset == WceOffset)
            SetWriteCache((value & 1) != 0);
    }

    private static ulong Bit(int feature) => 1UL << feature;

    private void Describe(DiskGeometry geometry)
    {
        var config = Configuration;
        var block = _options.LogicalBlockSize;
        BinaryPrimitives.WriteInt64LittleEndian(config, _drive.SectorCount);
        BinaryPrimitives.WriteInt32LittleEndian(config[12..], _options.QueueSize - 2); // segments of a request beside header and status
        BinaryPrimitives.WriteUInt16LittleEndian(config[16..], (ushort)geometry.Cylinders);
        config[18] = (byte)geometry.Heads;
        config[19] = (byte)geometry.Sectors;
        BinaryPrimitives.WriteInt32LittleEndian(config[20..], block);
        config[24] = (byte)int.Log2(Math.Max(1, _options.PhysicalBlockSize / block));
        BinaryPrimitives.WriteUInt16LittleEndian(config[26..], (ushort)(_options.MinimumIoSize / block));
        BinaryPrimitives.WriteInt32LittleEndian(config[28..], _options.OptimalIoSize / block);
        BinaryPrimitives.WriteUInt16LittleEndian(config[34..], (ushort)Queues.Count);
        BinaryPrimitives.WriteUInt32LittleEndian(config[36..], MaximumRangeSectors); // of a discard, in one range
        BinaryPrimitives.WriteUInt32LittleEndian(config[40..], 1);
        BinaryPrimitives.WriteInt32LittleEndian(config[44..], block / IBlockImage.SectorSize);
        BinaryPrimitives.WriteUInt32LittleEndian(config[48..], MaximumRangeSectors); // of zeroes
        BinaryPrimitives.WriteUInt32LittleEndian(config[52..], 1);
        config[56] = 1; // zeroes may unmap
    }

    private void SetWriteCache(bool isOn)
    {
        _drive.WriteCache = isOn;
        Configuration[WceOffset] = isOn ? (byte)1 : (byte)0;
    }

    private void Start(Request request)
    {
        const uint barrier = 1u << 31; // legacy, without effect
        var chain = request.Chain;
        if (chain.ReadableLength < HeaderLength || chain.WritableLength < 1)
        {
            Break("a request without header or status");
            return;
        }

        Span<byte> header = stackalloc byte[HeaderLength];
        chain.Readable.Slice(0, HeaderLength).CopyTo(header);
        var sector = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        switch ((Operation)(BinaryPrimitives.ReadUInt32LittleEndian(header) & ~barrier))
        {
            case Operation.In when TryLocate(sector, chain.WritableLength - 1, out var offset):
                _drive.Submit(request.Block.Read(offset, chain.Writable.Slice(0, chain.WritableLength - 1)));
                break;
            case Operation.Out when TryLocate(sector, chain.ReadableLength - HeaderLength, out var offset) && !_drive.IsReadOnly:
                _drive.Submit(request.Block.Write(offset, chain.Readable.Slice(HeaderLength)));
                break;
            case Operation.In or Operation.Out:
                Finish(request, Result.IoError);
                break;
            case Operation.Flush:
                _drive.Submit(request.Block.Flush());
                break;
            case Operation.GetId:
                chain.Writable.Slice(0, Math.Min(IdLength, chain.WritableLength - 1)).CopyFrom(_id.AsSpan(0, Math.Min(IdLength, chain.WritableLength - 1)));
                Finish(request, Result.Ok);
                break;
            case Operation.Discard:
                StartRange(request, isDiscard: true);
                break;
            case Operation.WriteZeroes:
                StartRange(request, isDiscard: false);
                break;
            default:
                Finish(request, Result.Unsupported);
                break;
        }
    }

    /// <summary>Discards, or writes zeroes to, the one range that a request names.</summary>
    private void StartRange(Request request, bool isDiscard)
    {
        var chain = request.Chain;
        if (chain.ReadableLength != HeaderLength + RangeLength)
        {
            Finish(request, Result.Unsupported); // more than the one that the configuration allows
            return;
        }

        Span<byte> range = stackalloc byte[RangeLength];
        chain.Readable.Slice(HeaderLength).CopyTo(range);
        var sector = BinaryPrimitives.ReadUInt64LittleEndian(range);
        var count = BinaryPrimitives.ReadUInt32LittleEndian(range[8..]);
        var flags = BinaryPrimitives.ReadUInt32LittleEndian(range[12..]);
        if ((flags & ~(isDiscard ? 0 : UnmapFlag)) != 0)
            Finish(request, Result.Unsupported);
        else if (count > MaximumRangeSectors || _drive.IsReadOnly || !TryLocate(sector, (long)count * IBlockImage.SectorSize, out var offset))
            Finish(request, Result.IoError);
        else if (isDiscard)
            _drive.Submit(request.Block.Discard(offset, (long)count * IBlockImage.SectorSize));
        else
            _drive.Submit(request.Block.WriteZeroes(offset, (long)count * IBlockImage.SectorSize, (flags & UnmapFlag) != 0));
    }

    /// <summary>False: not whole blocks, or behind the end.</summary>
    private bool TryLocate(ulong sector, long length, out long offset)
    {
        offset = 0;
        var sectors = (ulong)_drive.SectorCount;
        if (sector > sectors || (ulong)length / IBlockImage.SectorSize > sectors - sector)
            return false;
        offset = (long)sector * IBlockImage.SectorSize;
        return ((offset | length) & (_options.LogicalBlockSize - 1)) == 0;
    }

    private void OnDone(Request request) => Finish(request, request.Block.Error == BlockError.None ? Result.Ok : Result.IoError);

    private void Finish(Request request, Result result)
    {
        var (queue, chain) = (request.Queue!, request.Chain);
        if (queue.IsWaitingFor(chain))
            chain.Writable.Slice(chain.WritableLength - 1).CopyFrom([(byte)result]);
        queue.Complete(chain, chain.WritableLength);
        _idle.Push(request);
    }

    /// <summary>Used again and again: its chain, and what it asks of the drive.</summary>
    private sealed class Request
    {
        public Request(VirtioBlk owner)
        {
            Block = new BlockRequest(_ => owner.OnDone(this));
        }

        public DescriptorChain Chain { get; } = new();

        public BlockRequest Block { get; }

        public Virtqueue? Queue { get; set; }
    }
}
