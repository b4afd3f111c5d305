// The packets of a CD-ROM drive.
// Follows: SCSI SPC-3 (INQUIRY, REQUEST SENSE, MODE SENSE, PREVENT), MMC-5 (the others). Which of them there are, and
// what happens around a change of the medium, is as in QEMU.
// Leaves out: MODE SELECT, READ SUB-CHANNEL, all of audio and writing.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Ide;

public sealed partial class AtapiCdrom
{
    // Sense keys, and additional sense codes.
    private const byte NotReady = 2, MediumError = 3, IllegalRequest = 5, UnitAttention = 6;

    private const byte UnrecoveredReadError = 0x11, InvalidOpcode = 0x20, LbaOutOfRange = 0x21, InvalidField = 0x24, MediumMayHaveChanged = 0x28,
        SavingNotSupported = 0x39, MediumNotPresent = 0x3A, RemovalPrevented = 0x53;

    private const byte LeadOutTrack = 0xAA;

    private byte _senseKey, _senseCode;
    private Change _change;
    private bool _isNewMedium, _isEjectRequested;

    /// <summary>What the host has been told of a new medium.</summary>
    private enum Change
    {
        None,
        Unseen,
        SeenAbsent,
    }

    private Span<byte> Packet => _packet;

    private int Allocation16(int at) => BinaryPrimitives.ReadUInt16BigEndian(Packet[at..]);

    private uint Number32(int at) => BinaryPrimitives.ReadUInt32BigEndian(Packet[at..]);

    private void ExecutePacket()
    {
        var opcode = _packet[0];
        // What may be asked whatever has happened, and does not end it.
        var isAlways = opcode is 0x12 or 0x03 or 0x46 or 0x4A;
        if (!isAlways && _senseKey == UnitAttention)
        {
            Fail(_senseKey, _senseCode);
            return;
        }

        if (!isAlways)
            ClearSense();

        if (!isAlways && _change != Change.None && IsReady)
        {
            // Hosts that don't ask for events find out by an absence between two media.
            if (_change == Change.Unseen)
            {
                _change = Change.SeenAbsent;
                Fail(NotReady, MediumNotPresent);
            }
            else
            {
                _change = Change.None;
                Fail(UnitAttention, MediumMayHaveChanged);
            }

            return;
        }

        var needsMedium = opcode is 0x00 or 0x25 or 0x28 or 0x2B or 0x2F or 0x43 or 0x51 or 0x52 or 0xA8 or 0xAD or 0xB9 or 0xBE;
        if (needsMedium && !IsReady)
            Fail(NotReady, MediumNotPresent);
        else
            ExecutePacket(opcode);
    }

    private void ExecutePacket(byte opcode)
    {
        switch (opcode)
        {
            case 0x00: // TEST UNIT READY
            case 0xBB: // SET CD SPEED
            case 0xB6: // SET STREAMING
            case 0x35: // SYNCHRONIZE CACHE
                Complete();
                break;
            case 0x03: // REQUEST SENSE
                RequestSense();
                break;
            case 0x12: // INQUIRY
                Inquire();
                break;
            case 0x1B: // START STOP UNIT
                StartStop();
                break;
            case 0x1E: // PREVENT ALLOW MEDIUM REMOVAL
                IsLocked = (_packet[4] & 1) != 0;
                Complete();
                break;
            case 0x1A: // MODE SENSE (6)
                SenseMode(isShort: true);
                break;
            case 0x5A: // MODE SENSE (10)
                SenseMode(isShort: false);
                break;
            case 0x25: // READ CAPACITY
                BinaryPrimitives.WriteUInt32BigEndian(Buffer, (uint)(BlockCount - 1));
                BinaryPrimitives.WriteUInt32BigEndian(Buffer.AsSpan(4), CdSector.DataSize);
                Reply(8, 8);
                break;
            case 0x28: // READ (10)
                ReadBlocks(Number32(2), Allocation16(7), 0, CdSector.DataSize);
                break;
            case 0xA8: // READ (12)
                ReadBlocks(Number32(2), Number32(6), 0, CdSector.DataSize);
                break;
            case 0x2B: // SEEK (10)
            case 0x2F: // VERIFY (10)
                var count = opcode == 0x2F ? Allocation16(7) : 1;
                if (Number32(2) > BlockCount - count)
                    Fail(IllegalRequest, LbaOutOfRange);
                else
                    Complete();
                break;
            case 0xBE: // READ CD
                ReadCd(Number32(2), Number32(5) & 0xFFFFFF);
                break;
            case 0xB9: // READ CD MSF
                var start = TimeAt(3);
                ReadCd(start, Math.Max(0, TimeAt(6) - start));
                break;
            case 0x43: // READ TOC/PMA/ATIP
                ReadToc();
                break;
            case 0x46: // GET CONFIGURATION
                GetConfiguration();
                break;
            case 0x4A: // GET EVENT STATUS NOTIFICATION
                GetEvent();
                break;
            case 0x51: // READ DISC INFORMATION
                ReadDiscInformation();
                break;
            case 0x52: // READ TRACK INFORMATION
                ReadTrackInformation();
                break;
            case 0xAD: // READ DISC STRUCTURE
                ReadDiscStructure();
                break;
            case 0xBD: // MECHANISM STATUS
                Clear(8);
                Buffer[1] = (byte)(IsTrayOpen ? 0x10 : 0); // door open
                Buffer[5] = 1; // slot
                Reply(8, Allocation16(8));
                break;
            default:
                Fail(IllegalRequest, InvalidOpcode);
                break;
        }
    }

    private void SetSense(byte key, byte code) => (_senseKey, _senseCode) = (key, code);

    /// <summary>It is of the command before only; a unit attention stays until it has been told.</summary>
    private void ClearSense() => SetSense(0, 0);

    private Span<byte> Clear(int length)
    {
        var span = Buffer.AsSpan(0, length);
        span.Clear();
        return span;
    }

    private long TimeAt(int at) => ((((_packet[at] * 60L) + _packet[at + 1]) * 75) + _packet[at + 2]) - CdSector.LeadIn;

    private void RequestSense()
    {
        var data = Clear(18);
        data[0] = 0x70; // current, fixed format
        data[2] = _senseKey;
        data[7] = 10; // more bytes
        data[12] = _senseCode;
        ClearSense();
        Reply(18, _packet[4]);
    }

    private void Inquire()
    {
        if ((_packet[1] & 1) != 0)
        {
            InquireProductData(_packet[2]);
            return;
        }

        if (_packet[2] != 0)
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        var data = Clear(36);
        data[0] = 0x05; // CD-ROM
        data[1] = 0x80; // removable
        data[3] = 0x21; // ATAPI
        data[4] = 31; // more bytes
        SetText(data[8..16], "SHARPVIS");
        SetText(data[16..32], _identity.Model);
        SetText(data[32..36], _identity.Firmware);
        Reply(36, Allocation16(3));
    }

    private void InquireProductData(byte page)
    {
        var data = Clear(64);
        data[0] = 0x05;
        data[1] = page;
        var length = 0;
        switch (page)
        {
            case 0x00: // supported pages
                data[5] = 0x80;
                data[6] = 0x83;
                length = 3;
                break;
            case 0x80: // serial number
                SetText(data[4..24], _identity.Serial);
                length = 20;
                break;
            case 0x83: // a designator of the drive's own: ASCII
                data[4] = 2;
                data[7] = 20;
                SetText(data[8..28], _identity.Serial);
                length = 24;
                break;
            default:
                Fail(IllegalRequest, InvalidField);
                return;
        }

        data[3] = (byte)length;
        Reply(4 + length, Allocation16(3));
    }

    private static void SetText(Span<byte> field, string text)
    {
        for (var i = 0; i < field.Length; i++)
            field[i] = i < text.Length && char.IsAscii(text[i]) ? (byte)text[i] : (byte)' ';
    }

    private void StartStop()
    {
        var isStart = (_packet[4] & 1) != 0;
        var movesTray = (_packet[4] & 2) != 0;
        if ((_packet[4] & 0xF0) != 0 || !movesTray)
        {
            Complete(); // power conditions and the motor say nothing here
            return;
        }

        if (!isStart && !IsTrayOpen && IsLocked)
        {
            Fail(Drive.HasMedium ? NotReady : IllegalRequest, RemovalPrevented);
            return;
        }

        IsTrayOpen = !isStart;
        Complete();
    }

    private void SenseMode(bool isShort)
    {
        var page = (byte)(_packet[2] & 0x3F);
        switch (_packet[2] >> 6)
        {
            case 1: // which values can be changed: none
                Fail(IllegalRequest, InvalidField);
                return;
            case 3:
                Fail(IllegalRequest, SavingNotSupported);
                return;
        }

        var header = isShort ? 4 : 8;
        var data = Clear(128);
        var length = header;
        foreach (var each in (ReadOnlySpan<byte>)[0x01, 0x0E, 0x2A])
        {
            if (page == each || page == 0x3F)
                length += WriteModePage(each, data[length..]);
        }

        if (length == header)
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        var medium = (byte)(IsTrayOpen ? 0x71 : IsReady ? 0x01 : 0x70); // door open, data disc, none
        if (isShort)
        {
            data[0] = (byte)(length - 1);
            data[1] = medium;
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(data, (ushort)(length - 2));
            data[2] = medium;
        }

        Reply(length, isShort ? _packet[4] : Allocation16(7));
    }

    private int WriteModePage(byte page, Span<byte> data)
    {
        data[0] = page;
        switch (page)
        {
            case 0x01: // read error recovery
                data[1] = 6;
                data[3] = 5; // retries
                break;
            case 0x0E: // audio control
                data[1] = 14;
                break;
            default: // capabilities and mechanical status
                data[1] = 18;
                data[2] = 0x3B; // reads CD-R, CD-RW, method 2, DVD-ROM, DVD-R
                data[4] = 0x70; // mode 2 forms 1 and 2, multisession
                data[5] = 0x00; // no audio
                data[6] = (byte)(0x29 | (IsLocked ? 2 : 0)); // tray, ejects, locks
                BinaryPrimitives.WriteUInt16BigEndian(data[8..], 8467); // KB/s at most
                BinaryPrimitives.WriteUInt16BigEndian(data[10..], 2); // volume levels
                BinaryPrimitives.WriteUInt16BigEndian(data[12..], 512); // KiB of buffer
                BinaryPrimitives.WriteUInt16BigEndian(data[14..], 8467); // KB/s now
                break;
        }

        return 2 + data[1];
    }

    private void ReadCd(long block, long count)
    {
        var flags = (byte)(_packet[9] & 0xF8);
        var size = CdSector.SizeOf(flags);
        if (size < 0 || (_packet[9] & 0x07) != 0 || (_packet[10] & 0x07) != 0)
            Fail(IllegalRequest, InvalidField);
        else
            ReadBlocks(block, count, size == CdSector.DataSize ? (byte)0 : flags, size);
    }
}
