// A CD-ROM and DVD-ROM drive behind the PACKET command.
// Follows: ATA/ATAPI-7 volume 1, 6.24 (PACKET), volume 2, 11.8 (its protocol); SFF-8020i, MMC-5 for the packets
// (AtapiCdrom.Packets.cs). How a change of the medium is told is as in QEMU: first "not present", then "may have changed".
// Leaves out: audio, writing, overlapped commands, media with more than one track.

using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Ide;

/// <summary>A drive for read-only discs on a channel.</summary>
public sealed partial class AtapiCdrom : IdeDevice
{
    private const int PacketSize = 12;
    private const int ChunkSectors = 32;
    private const int PerBlock = CdSector.DataSize / IBlockImage.SectorSize;

    // Interrupt reason, in the sector count register.
    private const byte ReasonCommand = 1, ReasonIn = 2;

    private const byte FeatureDma = 1, FeatureOverlap = 2;

    private readonly IdeIdentity _identity;
    private readonly Action _onPacket, _onPart;
    private readonly Action<BlockError> _onChunk;
    private readonly byte[] _packet = new byte[PacketSize];
    private readonly byte[] _raw = new byte[CdSector.RawSize];
    private TransferModes _modes;
    private bool _usesDma;
    private int _byteCountLimit;

    // The answer in the buffer, and the sectors that follow it.
    private int _position, _end;
    private long _block;
    private int _blocksLeft, _blocksInBuffer, _blockSize;
    private byte _parts;
    private BlockBuffers _memory;

    public AtapiCdrom(IBlockDrive drive, IdeIdentity identity) : base(drive, ChunkSectors * CdSector.RawSize)
    {
        _identity = identity;
        _onPacket = OnPacket;
        _onPart = OnPart;
        _onChunk = OnChunk;
        drive.MediumChanged += OnMediumChanged;
    }

    /// <summary>The guest wants the medium to stay.</summary>
    public bool IsLocked { get; private set; }

    public bool IsTrayOpen { get; private set; }

    internal override bool IsPacketDevice => true;

    private protected override byte ReadyAfterReset => 0; // a packet device is ready only after its first command

    private bool IsReady => !IsTrayOpen && Drive.HasMedium;

    private long BlockCount => Drive.SectorCount / PerBlock;

    /// <summary>The eject button: false when the guest has locked the tray and was asked to open it.</summary>
    public bool TryEject()
    {
        if (!IsLocked)
            return true;
        _isEjectRequested = true;
        return false;
    }

    /// <summary>The host opens or closes the tray; the guest is told so.</summary>
    public void MoveTray(bool open)
    {
        if (IsTrayOpen == open)
            return;
        IsTrayOpen = open;
        _isEjectRequested = false;
        if (!open && Drive.HasMedium)
            (_change, _isNewMedium) = (Change.Unseen, true);
    }

    internal override void PowerOn()
    {
        _modes.SetDefault();
        IsTrayOpen = false;
    }

    private protected override void OnReset()
    {
        Registers.SetSignature(0x14, 0xEB);
        IsLocked = false;
        ClearSense();
        _change = Change.None;
    }

    private protected override void Execute(byte command)
    {
        switch (command)
        {
            case 0xA0: // PACKET
                if ((Registers.Features & FeatureOverlap) != 0)
                {
                    Abort();
                    break;
                }

                _usesDma = (Registers.Features & FeatureDma) != 0;
                _byteCountLimit = Registers.ByteCount == 0xFFFF ? 0xFFFE : Registers.ByteCount;
                Registers.SectorCount = ReasonCommand;
                PioOut(0, PacketSize, interrupt: false, _onPacket);
                break;
            case 0xA1: // IDENTIFY PACKET DEVICE
                Identify();
                PioIn(0, IdentifyData.Length, () => Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc);
                break;
            case 0x08: // DEVICE RESET
                Reset();
                break;
            case 0xEC or 0x20 or 0x21: // IDENTIFY DEVICE, READ SECTOR(S): not for packet devices, which show themselves
                Registers.SetSignature(0x14, 0xEB);
                Abort();
                break;
            case 0xEF when (Registers.Features & 0xFF) == 0x03: // SET FEATURES, transfer mode
                if (_modes.TrySelect((byte)Registers.SectorCount))
                    Succeed();
                else
                    Abort();
                break;
            case 0xEF when (Registers.Features & 0xFF) is 0x66 or 0xCC:
            case 0xE0 or 0xE1 or 0xE2 or 0xE3 or 0xE6 or 0xE7 or 0xEA: // power, flush
                Succeed();
                break;
            case 0xE5: // CHECK POWER MODE
                Registers.SectorCount = 0xFF;
                Succeed();
                break;
            default:
                Abort();
                break;
        }
    }

    private void Identify()
    {
        var data = new IdentifyData(Buffer);
        data[0] = 0x85C0; // a removable CD-ROM; DRQ within 50 us of PACKET, 12 bytes
        data.SetText(10, 10, _identity.Serial);
        data[20] = 3;
        data[21] = ChunkSectors * PerBlock;
        data.SetText(23, 4, _identity.Firmware);
        data.SetText(27, 20, _identity.Model);
        data[48] = 1;
        data[49] = (1 << 11) | (1 << 9) | (1 << 8); // IORDY, LBA, DMA
        data[53] = 7;
        _modes.Describe(ref data);
        data[71] = 30; // ns from PACKET to the release of the bus, and from SERVICE
        data[72] = 30;
        data[80] = 0x001E;
        data[82] = (1 << 9) | (1 << 4); // DEVICE RESET, PACKET
        data[83] = 1 << 14;
        data[84] = 1 << 14;
        data[85] = (1 << 9) | (1 << 4);
        data[87] = 1 << 14;
        data[93] = 0x6001;
    }

    private void OnPacket()
    {
        Buffer.AsSpan(0, PacketSize).CopyTo(_packet);
        _blocksLeft = 0;
        _position = _end = 0;
        Registers.Status = AtaStatus.Drdy | AtaStatus.Bsy;
        ExecutePacket();
    }

    /// <summary>Answers with the start of the buffer, as much as the host has room for.</summary>
    private void Reply(int length, int allocated)
    {
        _end = Math.Min(length, allocated);
        if (_end == 0)
        {
            Complete();
        }
        else if (!MayTransfer())
        {
            Abort();
        }
        else if (_usesDma)
        {
            WaitForDma(_end, memory =>
            {
                memory.CopyFrom(Buffer.AsSpan(0, _end));
                EndDma(toMemory: true);
                Complete();
            });
        }
        else
        {
            NextPart();
        }
    }

    /// <summary>Data by PIO need a limit of bytes for each interrupt.</summary>
    private bool MayTransfer() => _usesDma || _byteCountLimit != 0;

    private void NextPart()
    {
        var left = _end - _position;
        var count = left > _byteCountLimit ? Math.Max(2, _byteCountLimit & ~1) : left;
        count = Math.Min(count, left);
        Registers.ByteCount = (ushort)count;
        Registers.SectorCount = ReasonIn;
        PioIn(_position, count, _onPart);
    }

    private void OnPart()
    {
        _position += Registers.ByteCount;
        if (_position < _end)
            NextPart();
        else if (_blocksLeft > 0)
            ReadChunk();
        else
            Complete();
    }

    private void Complete()
    {
        Registers.SectorCount = ReasonIn | ReasonCommand;
        Succeed();
    }

    /// <summary>CHECK CONDITION: the host asks for the reason by REQUEST SENSE.</summary>
    private void Fail(byte key, byte code)
    {
        SetSense(key, code);
        Registers.SectorCount = ReasonIn | ReasonCommand;
        Fail((byte)(key << 4));
    }

    /// <summary>Reads blocks, each with the parts of a sector that <paramref name="parts"/> selects.</summary>
    private void ReadBlocks(long block, long count, byte parts, int size)
    {
        if (block < 0 || count < 0 || block > BlockCount - count)
        {
            Fail(IllegalRequest, LbaOutOfRange);
            return;
        }

        if (count == 0 || size == 0)
        {
            Complete();
            return;
        }

        // The most that a transfer can move is less than 2 GiB.
        if (!MayTransfer() || count * size > int.MaxValue)
        {
            Abort();
            return;
        }

        (_block, _blocksLeft, _parts, _blockSize) = (block, (int)count, parts, size);
        if (!_usesDma)
        {
            ReadChunk();
            return;
        }

        WaitForDma(_blocksLeft * size, memory =>
        {
            _memory = memory;
            if (size == CdSector.DataSize && parts == 0)
                Submit(Request.Read(_block * size, memory), OnReadToMemory);
            else
                ReadChunk();
        });
    }

    private void OnReadToMemory(BlockError error)
    {
        EndDma(toMemory: true);
        _memory = default;
        if (error == BlockError.None)
            Complete();
        else
            FailRead(error);
    }

    private void ReadChunk()
    {
        _blocksInBuffer = Math.Min(_blocksLeft, ChunkSectors);
        Submit(Request.Read(_block * CdSector.DataSize, new BlockBuffers(Buffer.AsMemory(0, _blocksInBuffer * CdSector.DataSize))), _onChunk);
    }

    private void OnChunk(BlockError error)
    {
        if (error != BlockError.None)
        {
            if (_usesDma)
                EndDma(toMemory: true);
            FailRead(error);
            return;
        }

        if (_parts != 0)
            SelectParts();
        _block += _blocksInBuffer;
        _blocksLeft -= _blocksInBuffer;
        _position = 0;
        _end = _blocksInBuffer * _blockSize;
        if (!_usesDma)
        {
            NextPart();
            return;
        }

        _memory.CopyFrom(Buffer.AsSpan(0, _end));
        _memory = _memory.Slice(_end);
        if (_blocksLeft > 0)
            ReadChunk();
        else
            OnReadToMemory(BlockError.None);
    }

    /// <summary>Makes of the blocks in the buffer what the host asked for: from the last one on where they grow.</summary>
    private void SelectParts()
    {
        for (var i = 0; i < _blocksInBuffer; i++)
        {
            var at = _blockSize > CdSector.DataSize ? _blocksInBuffer - 1 - i : i;
            CdSector.Build(_block + at, Buffer.AsSpan(at * CdSector.DataSize, CdSector.DataSize), _raw);
            CdSector.Select(_raw, _parts, Buffer.AsSpan(at * _blockSize));
        }
    }

    private void FailRead(BlockError error)
    {
        if (error == BlockError.NoMedium)
            Fail(NotReady, MediumNotPresent);
        else
            Fail(MediumError, UnrecoveredReadError);
    }

    private void OnMediumChanged()
    {
        IsTrayOpen = !Drive.HasMedium;
        _isEjectRequested = false;
        if (!Drive.HasMedium)
            return;
        _change = Change.Unseen;
        _isNewMedium = true;
    }
}
