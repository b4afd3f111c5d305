// What a CD-ROM drive tells of its disc and of itself: table of contents, features, events, structures.
// Follows: MMC-5 (T10 1675D), 6.5 (GET CONFIGURATION), 6.6 (events), 6.22 (disc information), 6.23 (disc structure),
// 6.26 (TOC), 6.27 (track information); 5.3 for features.
// Leaves out: CD-TEXT, ATIP, more than one track and session.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Ide;

public sealed partial class AtapiCdrom
{
    private const ushort ProfileCd = 0x08, ProfileDvd = 0x10;
    private const byte ControlData = 0x14; // Q sub-channel with position; a data track
    private const byte EventEjectRequest = 1, EventNewMedium = 2;

    /// <summary>80 minutes: what holds more must be a DVD.</summary>
    private const long CdBlocks = 80 * 60 * 75;

    private ushort Profile => !IsReady ? (ushort)0 : BlockCount > CdBlocks ? ProfileDvd : ProfileCd;

    private void ReadToc()
    {
        var isTime = (_packet[1] & 2) != 0;
        var format = _packet[2] & 0x0F;
        if (format == 0)
            format = _packet[9] >> 6; // where SFF-8020i had it
        var first = _packet[6];
        var length = format switch
        {
            0 => WriteTracks(isTime, first),
            1 => WriteSessions(isTime),
            2 => WriteRawToc(),
            _ => -1,
        };
        if (length < 0)
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        BinaryPrimitives.WriteUInt16BigEndian(Buffer, (ushort)(length - 2));
        Reply(length, Allocation16(7));
    }

    /// <summary>Format 0: track 1 and the lead-out.</summary>
    private int WriteTracks(bool isTime, int first)
    {
        if (first > 1 && first != LeadOutTrack)
            return -1;
        var data = Clear(20);
        data[2] = data[3] = 1; // first and last track
        var length = 4;
        foreach (var (track, block) in (ReadOnlySpan<(byte, long)>)[(1, 0), (LeadOutTrack, BlockCount)])
        {
            if (first == LeadOutTrack && track != LeadOutTrack)
                continue;
            data[length + 1] = ControlData;
            data[length + 2] = track;
            WriteAddress(data[(length + 4)..], block, isTime);
            length += 8;
        }

        return length;
    }

    /// <summary>Format 1: the first track of the last session.</summary>
    private int WriteSessions(bool isTime)
    {
        var data = Clear(12);
        data[2] = data[3] = 1;
        data[5] = ControlData;
        data[6] = 1;
        WriteAddress(data[8..], 0, isTime);
        return 12;
    }

    /// <summary>Format 2: the points of the lead-in.</summary>
    private int WriteRawToc()
    {
        var data = Clear(4 + (4 * 11));
        data[2] = data[3] = 1;
        var at = 4;
        foreach (var point in (ReadOnlySpan<byte>)[0xA0, 0xA1, 0xA2, 1])
        {
            var entry = data.Slice(at, 11);
            entry[0] = 1; // session
            entry[1] = ControlData;
            entry[3] = point;
            if (point is 0xA0 or 0xA1)
                entry[8] = 1; // first and last track
            else
                CdSector.WriteTime(point == 1 ? 0 : BlockCount, entry[8..], isBcd: false);
            at += 11;
        }

        return at;
    }

    private static void WriteAddress(Span<byte> field, long block, bool isTime)
    {
        if (isTime)
            CdSector.WriteTime(block, field[1..], isBcd: false);
        else
            BinaryPrimitives.WriteUInt32BigEndian(field, (uint)block);
    }

    private void GetConfiguration()
    {
        var selection = _packet[1] & 3;
        var start = Allocation16(2);
        if (selection == 3)
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        var data = Clear(256);
        BinaryPrimitives.WriteUInt16BigEndian(data[6..], Profile);
        var length = 8;
        foreach (var code in (ReadOnlySpan<ushort>)[0, 1, 2, 3, 0x10, 0x1E, 0x1F])
        {
            if (selection == 2 ? code != start : code < start)
                continue;
            var size = WriteFeature(code, data[length..]);
            if (selection == 1 && (data[length + 2] & 1) == 0)
                data.Slice(length, size).Clear(); // only those that are current were asked for
            else
                length += size;
        }

        BinaryPrimitives.WriteUInt32BigEndian(data, (uint)(length - 4));
        Reply(length, Allocation16(7));
    }

    private int WriteFeature(ushort code, Span<byte> data)
    {
        BinaryPrimitives.WriteUInt16BigEndian(data, code);
        const byte current = 1, persistent = 2;
        var version = 0;
        byte flags = current | persistent;
        var length = 0;
        switch (code)
        {
            case 0: // profile list
                WriteProfile(data[4..], ProfileDvd);
                WriteProfile(data[8..], ProfileCd);
                length = 8;
                break;
            case 1: // core
                version = 2;
                data[7] = 2; // ATAPI
                data[8] = 3; // device busy events
                length = 8;
                break;
            case 2: // morphing: events are asked for
                version = 1;
                length = 4;
                break;
            case 3: // removable medium
                data[4] = 0x29; // a tray that ejects and locks
                length = 4;
                break;
            case 0x10: // random readable
                flags = IsReady ? current : (byte)0;
                BinaryPrimitives.WriteUInt32BigEndian(data[4..], CdSector.DataSize);
                data[9] = 1; // blocks at a time
                length = 8;
                break;
            case 0x1E: // CD read
                version = 2;
                flags = Profile == ProfileCd ? current : (byte)0;
                length = 4;
                break;
            default: // 1Fh: DVD read
                flags = Profile == ProfileDvd ? current : (byte)0;
                length = 4;
                break;
        }

        data[2] = (byte)((version << 2) | flags);
        data[3] = (byte)length;
        return 4 + length;
    }

    private void WriteProfile(Span<byte> data, ushort profile)
    {
        BinaryPrimitives.WriteUInt16BigEndian(data, profile);
        data[2] = (byte)(Profile == profile ? 1 : 0);
    }

    private void GetEvent()
    {
        const byte classMedia = 4, none = 0x80;
        if ((_packet[1] & 1) == 0) // only polling
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        var data = Clear(8);
        data[3] = 1 << classMedia; // the classes that there are
        var length = 4;
        if ((_packet[4] & (1 << classMedia)) == 0)
        {
            data[2] = none;
        }
        else
        {
            data[1] = 4; // bytes of the event
            data[2] = classMedia;
            data[4] = TakeEvent();
            data[5] = (byte)(IsTrayOpen ? 1 : Drive.HasMedium ? 2 : 0);
            length = 8;
        }

        Reply(length, Allocation16(7));
    }

    private byte TakeEvent()
    {
        if (IsTrayOpen)
            return 0;
        if (_isNewMedium)
        {
            _isNewMedium = false;
            return EventNewMedium;
        }

        if (!_isEjectRequested)
            return 0;
        _isEjectRequested = false;
        return EventEjectRequest;
    }

    private void ReadDiscInformation()
    {
        if ((_packet[1] & 7) != 0)
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        var data = Clear(34);
        data[1] = 32; // more bytes
        data[2] = 0x0E; // the last session is complete, the disc finalized
        data[3] = data[4] = data[5] = data[6] = 1; // first track, sessions, first and last track of the last one
        data[7] = 0x20; // unrestricted use
        Reply(34, Allocation16(7));
    }

    private void ReadTrackInformation()
    {
        // By block (0), by track (1) or by session (2): there is one of each.
        var isThere = (_packet[1] & 3) switch
        {
            0 => Number32(2) < BlockCount,
            1 or 2 => Number32(2) == 1,
            _ => false,
        };
        if (!isThere)
        {
            Fail(IllegalRequest, InvalidField);
            return;
        }

        var data = Clear(36);
        data[1] = 34; // more bytes
        data[2] = data[3] = 1; // track, session
        data[5] = ControlData & 0x0F; // an uninterrupted data track
        data[6] = 1; // mode 1
        BinaryPrimitives.WriteUInt32BigEndian(data[24..], (uint)BlockCount);
        Reply(36, Allocation16(7));
    }

    private void ReadDiscStructure()
    {
        const byte incompatibleMedium = 0x30;
        var format = _packet[7];
        var layer = _packet[6];
        if (Profile != ProfileDvd && format != 0xFF)
        {
            Fail(IllegalRequest, incompatibleMedium);
            return;
        }

        int length;
        switch (format)
        {
            case 0x00 when layer == 0: // physical format
                length = 4 + 2048;
                var data = Clear(length);
                data[4] = 1; // DVD-ROM, version 1
                data[5] = 0x0F; // 12 cm, any rate
                data[6] = 1; // one layer, embossed
                BinaryPrimitives.WriteUInt32BigEndian(data[8..], 0x30000); // first sector of the data
                BinaryPrimitives.WriteUInt32BigEndian(data[12..], (uint)(0x30000 + BlockCount - 1));
                break;
            case 0x01: // copyright: none
                length = 4 + 4;
                Clear(length);
                break;
            case 0x04: // manufacturer
                length = 4 + 2048;
                Clear(length);
                break;
            case 0xFF: // what can be read
                length = 4 + (3 * 4);
                var list = Clear(length);
                foreach (var (index, each, size) in (ReadOnlySpan<(int, byte, ushort)>)[(0, 0x00, 2052), (1, 0x01, 8), (2, 0x04, 2052)])
                {
                    var entry = list[(4 + (4 * index))..];
                    entry[0] = each;
                    entry[1] = 0x40;
                    BinaryPrimitives.WriteUInt16BigEndian(entry[2..], size);
                }

                break;
            default:
                Fail(IllegalRequest, InvalidField);
                return;
        }

        BinaryPrimitives.WriteUInt16BigEndian(Buffer, (ushort)(length - 2));
        Reply(length, Allocation16(8));
    }
}
