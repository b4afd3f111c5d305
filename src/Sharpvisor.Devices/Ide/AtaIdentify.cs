// What drives say of themselves.
// Follows: ATA/ATAPI-7, 6.17 (IDENTIFY DEVICE) and 6.18 (IDENTIFY PACKET DEVICE).

using System.Buffers.Binary;

namespace Sharpvisor.Devices.Ide;

/// <summary>The 256 words that IDENTIFY DEVICE and IDENTIFY PACKET DEVICE answer (ATA/ATAPI-7, 6.17 and 6.18).</summary>
internal ref struct IdentifyData
{
    public const int Length = 512;

    private readonly Span<byte> _data;

    public IdentifyData(Span<byte> data)
    {
        _data = data[..Length];
        _data.Clear();
    }

    public readonly ushort this[int word]
    {
        set => BinaryPrimitives.WriteUInt16LittleEndian(_data[(2 * word)..], value);
    }

    /// <summary>A number of two or four words, the low one first.</summary>
    public void Set(int word, int words, long value)
    {
        for (var i = 0; i < words; i++)
            this[word + i] = (ushort)(value >> (16 * i));
    }

    /// <summary>Text padded with spaces, its first character in the upper byte of each word.</summary>
    public readonly void SetText(int word, int words, string text)
    {
        for (var i = 0; i < 2 * words; i++)
            _data[(2 * word) + (i ^ 1)] = i < text.Length && char.IsAscii(text[i]) ? (byte)text[i] : (byte)' ';
    }
}

/// <summary>The transfer modes of a device: what it can do and what SET FEATURES has chosen.</summary>
internal struct TransferModes
{
    private const byte SingleWordDma = 0x02, MultiwordDma = 0x04, UltraDma = 0x08;

    private byte _single, _multi, _ultra;

    public void SetDefault() => (_single, _multi, _ultra) = (0, 0, 1 << 5);

    /// <summary>SET FEATURES 03h; false for a mode that it has not.</summary>
    public bool TrySelect(byte mode)
    {
        var number = mode & 7;
        switch (mode >> 3)
        {
            case 0: // PIO default
            case 1: // PIO with flow control
                return mode <= 1 || (mode >= 8 && number <= 4);
            case SingleWordDma when number <= 2:
                (_single, _multi, _ultra) = ((byte)(1 << number), 0, 0);
                return true;
            case MultiwordDma when number <= 2:
                (_single, _multi, _ultra) = (0, (byte)(1 << number), 0);
                return true;
            case UltraDma when number <= 5:
                (_single, _multi, _ultra) = (0, 0, (byte)(1 << number));
                return true;
            default:
                return false;
        }
    }

    /// <summary>Words 62 to 68 and 88.</summary>
    public readonly void Describe(ref IdentifyData data)
    {
        data[62] = (ushort)(0x07 | (_single << 8)); // single word DMA 0 to 2
        data[63] = (ushort)(0x07 | (_multi << 8)); // multiword DMA 0 to 2
        data[64] = 0x03; // PIO 3 and 4
        for (var word = 65; word <= 68; word++)
            data[word] = 120; // ns a cycle
        data[88] = (ushort)(0x3F | (_ultra << 8)); // Ultra DMA 0 to 5
    }
}
