// A hard disk of the ATA command set.
// Follows: ATA/ATAPI-7 volume 1 (T13 1532D), 6 "Command descriptions", general feature set with LBA48, power management,
// SMART, flush, write cache; DATA SET MANAGEMENT of ATA8-ACS. READ VERIFY looks at the address only, as in QEMU.
// Leaves out: security, host protected area (SET MAX), device configuration overlay, streaming, READ and WRITE LONG,
// the CFA commands, READ and WRITE BUFFER, NCQ (which needs AHCI).

using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Ide;

/// <summary>A disk on a channel.</summary>
public sealed partial class AtaDisk : IdeDevice
{
    private const int SectorSize = IBlockImage.SectorSize;
    private const int MaximumMultiple = 16;

    /// <summary>By PIO the image is read and written in pieces of this many sectors.</summary>
    private const int ChunkSectors = 256;

    private readonly IdeIdentity _identity;
    private readonly AtaSmart _smart = new();
    private readonly Action _onBlockRead, _onBlockWritten;
    private readonly Action<BlockError> _onChunkRead, _onChunkWritten;
    private readonly Action<BlockBuffers> _readByDma, _writeByDma;
    private TransferModes _modes;
    private int _heads, _sectors, _multiple;
    private byte _powerMode;

    // The command under way: the next sector, how many are left, how many the buffer has and how many of them are moved.
    private long _lba;
    private int _left, _inBuffer, _moved, _block;
    private bool _isExt, _isSafe;

    public AtaDisk(IBlockDrive drive, DiskGeometry geometry, IdeIdentity identity) : base(drive, ChunkSectors * SectorSize)
    {
        Geometry = geometry;
        _identity = identity;
        _onBlockRead = OnBlockRead;
        _onBlockWritten = OnBlockWritten;
        _onChunkRead = OnChunkRead;
        _onChunkWritten = OnChunkWritten;
        _readByDma = ReadByDma;
        _writeByDma = WriteByDma;
    }

    public DiskGeometry Geometry { get; }

    internal override bool IsPacketDevice => false;

    private protected override byte ReadyAfterReset => AtaStatus.Drdy | AtaStatus.Dsc;

    internal override void PowerOn()
    {
        (_heads, _sectors) = (Geometry.Heads, Geometry.Sectors);
        _multiple = MaximumMultiple;
        _modes.SetDefault();
        _smart.PowerOn();
        _powerMode = PowerActive;
    }

    private protected override void OnReset()
    {
        Registers.SetSignature(0, 0);
        _powerMode = PowerActive;
    }

    private protected override void Execute(byte command)
    {
        switch (command)
        {
            case 0x06: // DATA SET MANAGEMENT
                ManageDataSet();
                break;
            case >= 0x10 and <= 0x1F: // RECALIBRATE
                Succeed();
                break;
            case 0x20 or 0x21: // READ SECTOR(S)
                ReadByPio(isExt: false, 1);
                break;
            case 0x24: // READ SECTOR(S) EXT
                ReadByPio(isExt: true, 1);
                break;
            case 0xC4: // READ MULTIPLE
                ReadByPio(isExt: false, _multiple);
                break;
            case 0x29: // READ MULTIPLE EXT
                ReadByPio(isExt: true, _multiple);
                break;
            case 0x30 or 0x31 or 0x3C: // WRITE SECTOR(S), WRITE VERIFY
                WriteByPio(isExt: false, 1);
                break;
            case 0x34: // WRITE SECTOR(S) EXT
                WriteByPio(isExt: true, 1);
                break;
            case 0xC5: // WRITE MULTIPLE
                WriteByPio(isExt: false, _multiple);
                break;
            case 0x39: // WRITE MULTIPLE EXT
                WriteByPio(isExt: true, _multiple);
                break;
            case 0xCE: // WRITE MULTIPLE FUA EXT
                WriteByPio(isExt: true, _multiple, isSafe: true);
                break;
            case 0xC8 or 0xC9: // READ DMA
                StartDma(isExt: false, isWrite: false);
                break;
            case 0x25: // READ DMA EXT
                StartDma(isExt: true, isWrite: false);
                break;
            case 0xCA or 0xCB: // WRITE DMA
                StartDma(isExt: false, isWrite: true);
                break;
            case 0x35: // WRITE DMA EXT
                StartDma(isExt: true, isWrite: true);
                break;
            case 0x3D: // WRITE DMA FUA EXT
                StartDma(isExt: true, isWrite: true, isSafe: true);
                break;
            case 0x40 or 0x41: // READ VERIFY SECTOR(S)
                if (TryDecode(isExt: false))
                    Succeed();
                break;
            case 0x42: // READ VERIFY SECTOR(S) EXT
                if (TryDecode(isExt: true))
                    Succeed();
                break;
            case >= 0x70 and <= 0x7F: // SEEK
                Registers.SectorCount = 1;
                if (TryDecode(isExt: false))
                    Succeed();
                break;
            default:
                ExecuteOther(command);
                break;
        }
    }

    /// <summary>Address and count of a command; false: it has failed.</summary>
    private bool TryDecode(bool isExt)
    {
        _powerMode = PowerActive;
        _isSafe = false;
        _moved = _inBuffer = 0;
        if (isExt)
        {
            _lba = Registers.Lba48;
            _left = Registers.SectorCount == 0 ? 0x10000 : Registers.SectorCount;
        }
        else
        {
            var count = Registers.SectorCount & 0xFF;
            _left = count == 0 ? 0x100 : count;
            var sector = Registers.LbaLow & 0xFF;
            var isPlace = Registers.IsLba || (sector >= 1 && sector <= _sectors && Registers.Head < _heads);
            _lba = !isPlace ? -1 : Registers.IsLba ? Registers.Lba28 : ((((long)Registers.Cylinder * _heads) + Registers.Head) * _sectors) + sector - 1;
        }

        if (_lba >= 0 && _lba <= Drive.SectorCount - _left)
            return true;
        if (_lba >= 0)
            ShowAddress(Math.Max(_lba, Drive.SectorCount), isExt);
        Fail(AtaError.Idnf);
        return false;
    }

    /// <summary>Where a command ended: in the registers as the host gave the address.</summary>
    private void ShowAddress(long lba, bool isExt)
    {
        if (isExt)
        {
            Registers.Lba48 = lba;
        }
        else if (Registers.IsLba)
        {
            Registers.LbaLow = (byte)lba;
            Registers.ByteCount = (ushort)(lba >> 8);
            Registers.Device = (byte)((Registers.Device & 0xF0) | (int)((lba >> 24) & 0x0F));
        }
        else
        {
            var track = lba / _sectors;
            Registers.LbaLow = (byte)((lba % _sectors) + 1);
            Registers.ByteCount = (ushort)(track / _heads);
            Registers.Device = (byte)((Registers.Device & 0xF0) | (int)(track % _heads));
        }
    }

    private void ReadByPio(bool isExt, int block)
    {
        if (block == 0)
        {
            Abort();
            return;
        }

        _block = block;
        _isExt = isExt;
        if (TryDecode(isExt))
            ReadChunk();
    }

    private void ReadChunk()
    {
        _inBuffer = Math.Min(_left, ChunkSectors);
        _moved = 0;
        Submit(Request.Read(_lba * SectorSize, new BlockBuffers(Buffer.AsMemory(0, _inBuffer * SectorSize))), _onChunkRead);
    }

    private void OnChunkRead(BlockError error)
    {
        if (error != BlockError.None)
            FailTransfer(AtaError.Unc);
        else
            NextBlockIn();
    }

    private void NextBlockIn() => PioIn(_moved * SectorSize, Math.Min(_block, _inBuffer - _moved) * SectorSize, _onBlockRead);

    private void OnBlockRead()
    {
        var count = Math.Min(_block, _inBuffer - _moved);
        _moved += count;
        _lba += count;
        _left -= count;
        if (_left == 0)
        {
            // The host has the last data and asks for no more: no interrupt.
            EndTransfer();
            Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc;
        }
        else if (_moved < _inBuffer)
        {
            NextBlockIn();
        }
        else
        {
            ReadChunk();
        }
    }

    private void WriteByPio(bool isExt, int block, bool isSafe = false)
    {
        if (block == 0 || Drive.IsReadOnly)
        {
            Abort();
            return;
        }

        _block = block;
        _isExt = isExt;
        if (!TryDecode(isExt))
            return;
        _isSafe = isSafe;
        _inBuffer = Math.Min(_left, ChunkSectors);
        NextBlockOut(interrupt: false);
    }

    private void NextBlockOut(bool interrupt) =>
        PioOut(_moved * SectorSize, Math.Min(_block, _inBuffer - _moved) * SectorSize, interrupt, _onBlockWritten);

    private void OnBlockWritten()
    {
        _moved += Math.Min(_block, _inBuffer - _moved);
        if (_moved < _inBuffer)
            NextBlockOut(interrupt: true);
        else
            Submit(Request.Write(_lba * SectorSize, new BlockBuffers(Buffer.AsMemory(0, _inBuffer * SectorSize)), _isSafe), _onChunkWritten);
    }

    private void OnChunkWritten(BlockError error)
    {
        if (error != BlockError.None)
        {
            FailTransfer(AtaError.Abrt);
            return;
        }

        _lba += _inBuffer;
        _left -= _inBuffer;
        _moved = 0;
        _inBuffer = Math.Min(_left, ChunkSectors);
        if (_left > 0)
        {
            NextBlockOut(interrupt: true);
            return;
        }

        EndTransfer();
        Succeed();
    }

    private void StartDma(bool isExt, bool isWrite, bool isSafe = false)
    {
        if (isWrite && Drive.IsReadOnly)
        {
            Abort();
            return;
        }

        _isExt = isExt;
        if (!TryDecode(isExt))
            return;
        _isSafe = isSafe;
        WaitForDma(_left * SectorSize, isWrite ? _writeByDma : _readByDma);
    }

    private void ReadByDma(BlockBuffers memory) => Submit(Request.Read(_lba * SectorSize, memory), error =>
    {
        EndDma(toMemory: true);
        OnDmaDone(error, AtaError.Unc);
    });

    private void WriteByDma(BlockBuffers memory) => Submit(Request.Write(_lba * SectorSize, memory, _isSafe), error =>
    {
        EndDma(toMemory: false);
        OnDmaDone(error, AtaError.Abrt);
    });

    private void OnDmaDone(BlockError error, byte code)
    {
        if (error != BlockError.None)
        {
            FailTransfer(code);
            return;
        }

        _lba += _left;
        _left = 0;
        EndTransfer();
        Succeed();
    }

    private void EndTransfer()
    {
        ShowAddress(_lba, _isExt);
        Registers.SectorCount = 0;
    }

    private void FailTransfer(byte code)
    {
        ShowAddress(_lba, _isExt);
        Fail(code);
    }
}
