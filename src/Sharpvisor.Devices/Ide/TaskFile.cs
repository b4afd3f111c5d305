// The registers of one parallel ATA device.
// Follows: ATA/ATAPI-7 volume 1, 5.
namespace Sharpvisor.Devices.Ide;

/// <summary>Bits of the status register (ATA/ATAPI-7, 5.14).</summary>
internal static class AtaStatus
{
    public const byte Bsy = 0x80, Drdy = 0x40, Df = 0x20, Dsc = 0x10, Drq = 0x08, Err = 0x01;
}

/// <summary>Bits of the error register (ATA/ATAPI-7, 5.12).</summary>
internal static class AtaError
{
    public const byte Unc = 0x40, Idnf = 0x10, Abrt = 0x04, DiagnosticPassed = 0x01;
}

/// <summary>
/// The command block registers of one device. Those from Features to LBA High hold the value written last and, in the
/// upper byte, the one before it: the commands with 48-bit addresses take both.
/// </summary>
internal sealed class TaskFile
{
    private const byte AlwaysOne = 0xA0;
    private const byte Lba = 0x40;

    public ushort Features, SectorCount, LbaLow, LbaMid, LbaHigh;
    public byte Device = AlwaysOne, Status, Error;

    /// <summary>The address is an LBA, not cylinder, head and sector.</summary>
    public bool IsLba => (Device & Lba) != 0;

    public int Head => Device & 0x0F;

    public uint Lba28 => (uint)((LbaLow & 0xFF) | ((LbaMid & 0xFF) << 8) | ((LbaHigh & 0xFF) << 16) | (Head << 24));

    public int Cylinder => (LbaMid & 0xFF) | ((LbaHigh & 0xFF) << 8);

    public long Lba48
    {
        get => (uint)((LbaLow & 0xFF) | ((LbaMid & 0xFF) << 8) | ((LbaHigh & 0xFF) << 16) | ((LbaLow >> 8) << 24))
            | ((long)(LbaMid >> 8) << 32) | ((long)(LbaHigh >> 8) << 40);
        set
        {
            LbaLow = (ushort)((value & 0xFF) | ((value >> 16) & 0xFF00));
            LbaMid = (ushort)(((value >> 8) & 0xFF) | ((value >> 24) & 0xFF00));
            LbaHigh = (ushort)(((value >> 16) & 0xFF) | ((value >> 32) & 0xFF00));
        }
    }

    /// <summary>The byte count of a PACKET command's transfer (ATA/ATAPI-7, 6.24).</summary>
    public ushort ByteCount
    {
        get => (ushort)Cylinder;
        set
        {
            LbaMid = (byte)value;
            LbaHigh = (byte)(value >> 8);
        }
    }

    /// <summary>A host's write of register 1 to 6.</summary>
    public void Write(uint register, byte value)
    {
        switch (register)
        {
            case 1:
                Push(ref Features, value);
                break;
            case 2:
                Push(ref SectorCount, value);
                break;
            case 3:
                Push(ref LbaLow, value);
                break;
            case 4:
                Push(ref LbaMid, value);
                break;
            case 5:
                Push(ref LbaHigh, value);
                break;
            case 6:
                Device = (byte)(value | AlwaysOne);
                break;
        }
    }

    /// <summary>A host's read of register 1 to 6.</summary>
    /// <param name="previous">HOB: the bytes written before the last ones.</param>
    public byte Read(uint register, bool previous)
    {
        var shift = previous ? 8 : 0;
        return register switch
        {
            1 => previous ? (byte)(Features >> 8) : Error,
            2 => (byte)(SectorCount >> shift),
            3 => (byte)(LbaLow >> shift),
            4 => (byte)(LbaMid >> shift),
            5 => (byte)(LbaHigh >> shift),
            _ => Device,
        };
    }

    /// <summary>What tells hosts after a reset which kind of device it is (ATA/ATAPI-7, 5.17).</summary>
    public void SetSignature(byte lbaMid, byte lbaHigh)
    {
        Device = AlwaysOne;
        SectorCount = LbaLow = 1;
        LbaMid = lbaMid;
        LbaHigh = lbaHigh;
        Error = AtaError.DiagnosticPassed;
    }

    private static void Push(ref ushort register, byte value) => register = (ushort)((register << 8) | value);
}
