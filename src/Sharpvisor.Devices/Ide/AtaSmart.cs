// The self-monitoring of a disk that never wears.
// Follows: ATA/ATAPI-7 volume 1, 6.54 "SMART"; the attribute table as vendors have it since SFF-8035i (not in the
// standard). Self-tests end at once and pass. Byte 362 of the data shows autosave, as QEMU has it.
// Leaves out: WRITE LOG, automatic off-line data collection (there is nothing to collect), vendor logs.

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Ide;

internal sealed class AtaSmart
{
    /// <summary>LBA Mid 4Fh, LBA High C2h: what makes a SMART command valid.</summary>
    public const ushort Signature = 0xC24F;

    private const int TestEntries = 21, TestEntrySize = 24;
    private const ushort Revision = 0x0010;

    private static readonly (byte Id, byte Flags, byte Value, byte Threshold, long Raw)[] Attributes =
    [
        (1, 0x03, 100, 6, 0), // raw read error rate
        (3, 0x03, 100, 0, 16), // spin-up time
        (4, 0x02, 100, 20, 100), // start and stop count
        (5, 0x03, 100, 36, 0), // reallocated sectors
        (9, 0x03, 100, 0, 1), // power-on hours
        (12, 0x03, 100, 0, 0), // power cycles
        (190, 0x03, 69, 50, 31), // airflow temperature, Celsius
    ];

    private readonly List<byte> _tests = [];
    private bool _savesAutomatically;

    public enum Answer
    {
        Error,
        Done,

        /// <summary>A sector was written to the buffer.</summary>
        Data,
    }

    public bool IsEnabled { get; private set; } = true;

    public void PowerOn()
    {
        IsEnabled = true;
        _savesAutomatically = true;
    }

    /// <param name="feature">The subcommand.</param>
    /// <param name="count">Sector Count: autosave off (00h) or on (F1h).</param>
    /// <param name="argument">LBA Low: the self-test or the log.</param>
    public Answer Execute(byte feature, byte count, byte argument, Span<byte> buffer)
    {
        if (!IsEnabled && feature != 0xD8)
            return Answer.Error;
        switch (feature)
        {
            case 0xD0: // READ DATA
                WriteData(buffer);
                return Answer.Data;
            case 0xD1: // READ THRESHOLDS
                WriteThresholds(buffer);
                return Answer.Data;
            case 0xD2 when count is 0x00 or 0xF1: // ATTRIBUTE AUTOSAVE
                _savesAutomatically = count != 0;
                return Answer.Done;
            case 0xD3: // SAVE ATTRIBUTE VALUES
                return Answer.Done;
            case 0xD4: // EXECUTE OFF-LINE IMMEDIATE
                return Test(argument);
            case 0xD5: // READ LOG
                return TryWriteLog(argument, buffer) ? Answer.Data : Answer.Error;
            case 0xD8: // ENABLE OPERATIONS
                IsEnabled = true;
                return Answer.Done;
            case 0xD9: // DISABLE OPERATIONS
                IsEnabled = false;
                return Answer.Done;
            case 0xDA: // RETURN STATUS: the registers stay at the signature, no threshold is exceeded
                return Answer.Done;
            default:
                return Answer.Error;
        }
    }

    private Answer Test(byte test)
    {
        // 0: off-line collection; 1, 2: short and extended self-test; with bit 7 while the host waits; 7Fh: abort.
        if ((test & 0x7F) is not (0 or 1 or 2 or 0x7F))
            return Answer.Error;
        if ((test & 0x7F) is 1 or 2)
        {
            if (_tests.Count == TestEntries)
                _tests.RemoveAt(0);
            _tests.Add(test);
        }

        return Answer.Done;
    }

    private void WriteData(Span<byte> buffer)
    {
        Begin(buffer);
        for (var i = 0; i < Attributes.Length; i++)
        {
            var (id, flags, value, _, raw) = Attributes[i];
            var entry = buffer.Slice(2 + (12 * i), 12);
            entry[0] = id;
            entry[1] = flags;
            entry[3] = entry[4] = value; // now and worst
            BinaryPrimitives.WriteUInt32LittleEndian(entry[5..], (uint)raw);
        }

        buffer[362] = (byte)(_savesAutomatically ? 0x82 : 0x02); // off-line collection has completed
        BinaryPrimitives.WriteUInt16LittleEndian(buffer[364..], 288); // seconds it would take
        buffer[367] = 0x1B; // off-line immediate, abort, self-tests
        buffer[368] = 0x03; // attributes are saved
        buffer[370] = 0x01; // error log
        buffer[372] = 2; // minutes of a short self-test
        buffer[373] = 48; // and of an extended one
        End(buffer);
    }

    private static void WriteThresholds(Span<byte> buffer)
    {
        Begin(buffer);
        for (var i = 0; i < Attributes.Length; i++)
        {
            buffer[2 + (12 * i)] = Attributes[i].Id;
            buffer[3 + (12 * i)] = Attributes[i].Threshold;
        }

        End(buffer);
    }

    private bool TryWriteLog(byte log, Span<byte> buffer)
    {
        switch (log)
        {
            case 0: // directory: a sector of each log
                Begin(buffer);
                buffer[0] = 1;
                buffer[1] = 0;
                buffer[2] = 1;
                buffer[12] = 1;
                return true;
            case 1: // summary of errors: none
                Begin(buffer);
                BinaryPrimitives.WriteUInt16LittleEndian(buffer, 1);
                End(buffer);
                return true;
            case 6: // self-tests
                Begin(buffer);
                BinaryPrimitives.WriteUInt16LittleEndian(buffer, 1);
                for (var i = 0; i < _tests.Count; i++)
                    buffer[2 + (TestEntrySize * i)] = _tests[i]; // it completed without an error, in the first hour
                buffer[508] = (byte)_tests.Count;
                End(buffer);
                return true;
            default:
                return false;
        }
    }

    private static void Begin(Span<byte> buffer)
    {
        buffer[..512].Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(buffer, Revision);
    }

    /// <summary>The sum of all bytes is zero.</summary>
    private static void End(Span<byte> buffer)
    {
        byte sum = 0;
        foreach (var value in buffer[..511])
            sum += value;
        buffer[511] = (byte)-sum;
    }
}
