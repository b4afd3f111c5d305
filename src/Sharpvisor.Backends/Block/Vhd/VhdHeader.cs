// The header of a VHD that grows: where its block allocation table is, how large its blocks are, who its parent is.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Dynamic Disk Header Format".
using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

internal sealed class VhdHeader
{
    public const int Length = 1024, LocatorCount = 8, DefaultBlockSize = 2 << 20;

    private const int TableOffsetAt = 16, MaximumEntriesAt = 28, ChecksumAt = 36, LocatorsAt = 576, LocatorLength = 24;
    private const int MaximumBlockSize = 256 << 20, MaximumTableBytes = 64 << 20;
    private static readonly byte[] Cookie = [.. "cxsparse"u8];

    private VhdHeader(byte[] bytes, long offset)
    {
        Bytes = bytes;
        Offset = offset;
    }

    public byte[] Bytes { get; }

    /// <summary>In the file.</summary>
    public long Offset { get; }

    public long TableOffset => (long)U64(TableOffsetAt);

    public int MaximumEntries => (int)U32(MaximumEntriesAt);

    public int BlockSize => (int)U32(32);

    public ReadOnlyMemory<byte> ParentId => Bytes.AsMemory(40, 16);

    public string ParentName => Encoding.BigEndianUnicode.GetString(Bytes, 64, 512).Split('\0')[0];

    /// <summary>Of a block, with the sectors that it is filled up to.</summary>
    public int BitmapBytes => Math.Max(512, ((BlockSize / 512 / 8) + 511) & ~511);

    /// <summary>Of the table, with the sectors that it is filled up to.</summary>
    public long TableBytes => ((MaximumEntries * 4L) + 511) & ~511;

    /// <exception cref="BlockException">It is damaged.</exception>
    public static VhdHeader Read(ImageFile file, VhdFooter footer)
    {
        Require(footer.DataOffset is >= VhdFooter.Length and < long.MaxValue - Length && footer.DataOffset % 512 == 0, $"its dynamic header at byte 0x{footer.DataOffset:x}");
        var header = new VhdHeader(new byte[Length], (long)footer.DataOffset);
        file.ReadWhole(header.Offset, header.Bytes, "dynamic header");
        Require(header.Bytes.AsSpan().StartsWith(Cookie), "a dynamic header that does not begin with cxsparse");
        Require(header.U32(ChecksumAt) == VhdBytes.Checksum(header.Bytes, ChecksumAt), "a dynamic header with a wrong checksum");
        Require(header.U32(24) >> 16 == 1, $"a dynamic header of version {header.U32(24) >> 16}.{header.U32(24) & 0xFFFF}");
        var blockSize = header.U32(32);
        Require(blockSize is >= 512 and <= MaximumBlockSize && (blockSize & (blockSize - 1)) == 0, $"blocks of {blockSize} bytes");
        Require(header.U32(MaximumEntriesAt) <= MaximumTableBytes / 4, $"a block allocation table of {header.U32(MaximumEntriesAt)} entries");
        var isOverHeader = header.TableOffset < header.Offset + Length && header.TableOffset + header.TableBytes > header.Offset;
        Require(header.TableOffset >= VhdFooter.Length && header.TableOffset % 512 == 0 && !isOverHeader, $"its block allocation table at byte 0x{header.U64(TableOffsetAt):x}");
        Require(footer.DiskSize <= (ulong)header.MaximumEntries * blockSize, $"a disk of {footer.DiskSize} bytes, more than its table of {header.MaximumEntries} blocks");
        return header;
    }

    public static VhdHeader Create(long size, int blockSize)
    {
        var header = new VhdHeader(new byte[Length], VhdFooter.Length);
        Cookie.CopyTo(header.Bytes, 0);
        header.Put64(8, VhdFooter.NoOffset);
        header.Put32(24, 0x0001_0000);
        header.Put32(32, (uint)blockSize);
        header.SetTable(VhdFooter.Length + Length, (int)((size + blockSize - 1) / blockSize));
        return header;
    }

    public void SetTable(long offset, int entries)
    {
        Put64(TableOffsetAt, (ulong)offset);
        Put32(MaximumEntriesAt, (uint)entries);
        Seal();
    }

    public void SetParent(ReadOnlyMemory<byte> id, uint timestamp, string name)
    {
        id.CopyTo(Bytes.AsMemory(40));
        Put32(56, timestamp);
        Encoding.BigEndianUnicode.GetBytes(name.Length > 255 ? name[..255] : name, Bytes.AsSpan(64, 512));
        Seal();
    }

    public (uint Code, int Length, long Offset) Locator(int index)
    {
        var at = LocatorsAt + (index * LocatorLength);
        return (U32(at), (int)Math.Min(U32(at + 8), int.MaxValue), (long)Math.Min(U64(at + 16), long.MaxValue));
    }

    public void SetLocator(int index, uint code, int length, long offset)
    {
        var at = LocatorsAt + (index * LocatorLength);
        Put32(at, code);
        Put32(at + 4, (uint)(length + 511) / 512);
        Put32(at + 8, (uint)length);
        Put64(at + 16, (ulong)offset);
        Seal();
    }

    private static void Require(bool condition, string what)
    {
        if (!condition)
            throw new BlockException($"is damaged: its VHD footer or header says {what}; copy it again");
    }

    private void Seal() => Put32(ChecksumAt, VhdBytes.Checksum(Bytes, ChecksumAt));

    private uint U32(int at) => BinaryPrimitives.ReadUInt32BigEndian(Bytes.AsSpan(at));

    private ulong U64(int at) => BinaryPrimitives.ReadUInt64BigEndian(Bytes.AsSpan(at));

    private void Put32(int at, uint value) => BinaryPrimitives.WriteUInt32BigEndian(Bytes.AsSpan(at), value);

    private void Put64(int at, ulong value) => BinaryPrimitives.WriteUInt64BigEndian(Bytes.AsSpan(at), value);
}
