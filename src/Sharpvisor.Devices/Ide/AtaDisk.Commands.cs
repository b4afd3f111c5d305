// The commands of a disk that move no sectors: identification, settings, power, flush, trim.
// Follows: as AtaDisk.cs.

using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Ide;

public sealed partial class AtaDisk
{
    private const byte PowerActive = 0xFF, PowerIdle = 0x80, PowerStandby = 0x00;
    private const long Lba28Limit = 0x0FFF_FFFF;
    private const ushort PioMode2 = 0x0200;
    private const int TrimEntrySize = 8;
    private const byte TrimFeature = 1;

    private int _trimAt, _trimEnd;

    private void ExecuteOther(byte command)
    {
        switch (command)
        {
            case 0xEC: // IDENTIFY DEVICE
                Identify();
                PioIn(0, IdentifyData.Length, SucceedQuietly);
                break;
            case 0xEF: // SET FEATURES
                SetFeatures();
                break;
            case 0xE7 or 0xEA: // FLUSH CACHE, FLUSH CACHE EXT
                Flush(_powerMode);
                break;
            case 0xC6: // SET MULTIPLE MODE
                SetMultiple(Registers.SectorCount & 0xFF);
                break;
            case 0x91: // INITIALIZE DEVICE PARAMETERS
                InitializeParameters();
                break;
            case 0xF8: // READ NATIVE MAX ADDRESS
                Registers.Device |= 0x40;
                ShowAddress(Math.Min(Drive.SectorCount, Lba28Limit) - 1, isExt: false);
                Succeed();
                break;
            case 0x27: // READ NATIVE MAX ADDRESS EXT
                ShowAddress(Drive.SectorCount - 1, isExt: true);
                Succeed();
                break;
            case 0xB0: // SMART
                Smart();
                break;
            case 0xE1 or 0x95 or 0xE3 or 0x97: // IDLE IMMEDIATE, IDLE
                _powerMode = PowerIdle;
                Succeed();
                break;
            case 0xE0 or 0x94 or 0xE2 or 0x96 or 0xE6 or 0x99: // STANDBY IMMEDIATE, STANDBY, SLEEP
                Flush(PowerStandby);
                break;
            case 0xE5 or 0x98: // CHECK POWER MODE
                Registers.SectorCount = _powerMode;
                Succeed();
                break;
            default: // NOP (00h) among them, which always fails
                Abort();
                break;
        }
    }

    private void SucceedQuietly() => Registers.Status = AtaStatus.Drdy | AtaStatus.Dsc;

    private void Identify()
    {
        var data = new IdentifyData(Buffer);
        var total = Drive.SectorCount;
        data[0] = 0x0040; // fixed
        data[1] = (ushort)Geometry.Cylinders;
        data[3] = (ushort)Geometry.Heads;
        data[4] = (ushort)(SectorSize * Geometry.Sectors);
        data[5] = SectorSize;
        data[6] = (ushort)Geometry.Sectors;
        data.SetText(10, 10, _identity.Serial);
        data[20] = 3; // a dual-ported buffer with look-ahead
        data[21] = ChunkSectors;
        data[22] = 4;
        data.SetText(23, 4, _identity.Firmware);
        data.SetText(27, 20, _identity.Model);
        data[47] = 0x8000 | MaximumMultiple;
        data[48] = 1; // 32-bit data port
        data[49] = (1 << 11) | (1 << 9) | (1 << 8); // IORDY, LBA, DMA
        data[50] = 0x4000;
        data[51] = PioMode2;
        data[52] = PioMode2;
        data[53] = 7; // words 54 to 58, 64 to 70 and 88 are valid
        var cylinders = (int)Math.Min(total / (_heads * _sectors), 0xFFFF);
        data[54] = (ushort)cylinders;
        data[55] = (ushort)_heads;
        data[56] = (ushort)_sectors;
        data.Set(57, 2, (long)cylinders * _heads * _sectors);
        data[59] = (ushort)(_multiple == 0 ? 0 : 0x100 | _multiple);
        data.Set(60, 2, Math.Min(total, Lba28Limit));
        _modes.Describe(ref data);
        data[80] = 0x00F0; // ATA/ATAPI-4 to 7
        data[81] = 0x0016;
        data[82] = (1 << 14) | (1 << 5) | (1 << 3) | 1; // NOP, write cache, power management, SMART
        data[83] = (1 << 14) | (1 << 13) | (1 << 12) | (1 << 10); // FLUSH CACHE EXT, FLUSH CACHE, LBA48
        data[84] = (1 << 14) | (1 << 6); // FUA
        data[85] = (ushort)((1 << 14) | (1 << 3) | (Drive.WriteCache ? 1 << 5 : 0) | (_smart.IsEnabled ? 1 : 0));
        data[86] = (1 << 13) | (1 << 12) | (1 << 10);
        data[87] = (1 << 14) | (1 << 6);
        data[93] = 0x6001; // reset passed, 80-conductor cable
        data.Set(100, 4, total);
        if (Drive.CanDiscard)
        {
            data[69] = 1 << 14; // a trimmed sector reads the same each time
            data[105] = 1; // a sector of ranges at a time
            data[169] = 1; // TRIM
        }
    }

    private void SetFeatures()
    {
        switch (Registers.Features & 0xFF)
        {
            case 0x02: // write cache on
                Drive.WriteCache = true;
                Succeed();
                break;
            case 0x82: // write cache off
                Drive.WriteCache = false;
                Flush(_powerMode);
                break;
            case 0x03: // transfer mode
                if (_modes.TrySelect((byte)Registers.SectorCount))
                    Succeed();
                else
                    Abort();
                break;
            case 0xAA or 0x55 // read look-ahead on and off
                or 0x66 or 0xCC: // a software reset keeps settings or not: there are none that it would change
                Succeed();
                break;
            default:
                Abort();
                break;
        }
    }

    private void Flush(byte powerMode) => Submit(Request.Flush(), error =>
    {
        if (error != BlockError.None)
        {
            Abort();
            return;
        }

        _powerMode = powerMode;
        Succeed();
    });

    private void SetMultiple(int count)
    {
        if (count > MaximumMultiple || !(count == 0 || int.IsPow2(count)))
        {
            Abort();
            return;
        }

        _multiple = count;
        Succeed();
    }

    private void InitializeParameters()
    {
        var sectors = Registers.SectorCount & 0xFF;
        if (sectors is 0 or > DiskGeometry.MaximumSectors)
        {
            Abort();
            return;
        }

        (_heads, _sectors) = (Registers.Head + 1, sectors);
        Succeed();
    }

    private void Smart()
    {
        if (Registers.ByteCount != AtaSmart.Signature)
        {
            Abort();
            return;
        }

        switch (_smart.Execute((byte)Registers.Features, (byte)Registers.SectorCount, (byte)Registers.LbaLow, Buffer))
        {
            case AtaSmart.Answer.Done:
                Succeed();
                break;
            case AtaSmart.Answer.Data:
                PioIn(0, SectorSize, SucceedQuietly);
                break;
            default:
                Abort();
                break;
        }
    }

    private void ManageDataSet()
    {
        if ((Registers.Features & 0xFF) != TrimFeature || !Drive.CanDiscard || Registers.SectorCount != 1)
        {
            Abort();
            return;
        }

        WaitForDma(SectorSize, memory =>
        {
            memory.CopyTo(Buffer);
            EndDma(toMemory: false);
            _trimAt = 0;
            _trimEnd = SectorSize;
            TrimNext(BlockError.None);
        });
    }

    /// <summary>The ranges one after the other, until one is behind the end or fails.</summary>
    private void TrimNext(BlockError error)
    {
        if (error != BlockError.None)
        {
            Abort();
            return;
        }

        while (_trimAt < _trimEnd)
        {
            var entry = BinaryPrimitives.ReadUInt64LittleEndian(Buffer.AsSpan(_trimAt));
            _trimAt += TrimEntrySize;
            var lba = (long)(entry & 0xFFFF_FFFF_FFFF);
            var count = (long)(entry >> 48);
            if (count == 0)
                continue;
            if (lba > Drive.SectorCount - count)
            {
                Fail(AtaError.Abrt | AtaError.Idnf);
                return;
            }

            Submit(Request.Discard(lba * SectorSize, count * SectorSize), TrimNext);
            return;
        }

        Succeed();
    }
}
