// Xen's batmap behind the block allocation table: a bit for each block that is whole, whose sector bitmap need not be read.
// Follows: Xen's blktap2, vhd(5) in its sources: "tdbatmap", version 1.2, in images that its tools have made.
using System.Buffers.Binary;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

internal sealed class VhdBatmap
{
    private const int HeaderLength = 512, ChecksumAt = 24;
    private const uint CurrentVersion = 0x0001_0002;
    private static readonly byte[] Cookie = [.. "tdbatmap"u8];

    private readonly byte[] _header;

    private VhdBatmap(byte[] header, long headerOffset, byte[] map)
    {
        _header = header;
        HeaderOffset = headerOffset;
        Map = map;
    }

    public byte[] Map { get; }

    public long HeaderOffset { get; }

    public long MapOffset => (long)BinaryPrimitives.ReadUInt64BigEndian(_header.AsSpan(8));

    public long End => MapOffset + Map.Length;

    public bool IsDirty { get; private set; }

    /// <summary>Whether an image can have one: only those of Xen's tools do, at a place that else holds something else.</summary>
    public static bool MayHave(VhdFooter footer) => footer.Creator == VhdFooter.XenCreator && footer.CreatorVersion > 1;

    /// <summary>How many bytes header and map take for a number of blocks.</summary>
    public static long LengthFor(int entries) => HeaderLength + MapBytes(entries);

    /// <param name="problem">What is wrong with it; null: nothing, or there is none.</param>
    /// <returns>Null: there is none that could be believed.</returns>
    public static VhdBatmap? Read(ImageFile file, VhdHeader header, out string? problem)
    {
        problem = null;
        var at = header.TableOffset + header.TableBytes;
        var bytes = new byte[HeaderLength];
        if (file.Read(at, new BlockBuffers(bytes)) < HeaderLength || !bytes.AsSpan().StartsWith(Cookie))
            return null;
        var version = BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(20));
        var length = BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(16)) * 512L;
        var offset = BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(8));
        if (version > CurrentVersion || length < (header.MaximumEntries + 7) / 8 || length > MapBytes(header.MaximumEntries) + 4096 || offset > (ulong)(file.Length - length) || offset % 512 != 0 || offset < (ulong)(at + HeaderLength))
        {
            problem = $"its batmap of version {version >> 16}.{version & 0xFFFF}, {length} bytes at byte 0x{offset:x}, can't be one";
            return null;
        }

        var map = new byte[length];
        file.ReadWhole((long)offset, map, "batmap");
        var batmap = new VhdBatmap(bytes, at, map);
        if (batmap.Checksum(version) == BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(ChecksumAt)))
            return batmap;
        problem = "its batmap has a wrong checksum";
        return null;
    }

    /// <summary>An empty one, which is always right.</summary>
    /// <param name="at">Behind the table.</param>
    public static VhdBatmap Create(long at, int entries)
    {
        var header = new byte[HeaderLength];
        Cookie.CopyTo(header, 0);
        BinaryPrimitives.WriteUInt64BigEndian(header.AsSpan(8), (ulong)(at + HeaderLength));
        BinaryPrimitives.WriteUInt32BigEndian(header.AsSpan(16), (uint)(MapBytes(entries) / 512));
        BinaryPrimitives.WriteUInt32BigEndian(header.AsSpan(20), CurrentVersion);
        return new VhdBatmap(header, at, new byte[MapBytes(entries)]) { IsDirty = true };
    }

    public bool this[int block]
    {
        get => VhdBytes.Test(Map, block);
        set
        {
            if (this[block] == value)
                return;
            if (value)
                VhdBytes.Set(Map, block);
            else
                VhdBytes.Clear(Map, block);
            IsDirty = true;
        }
    }

    /// <summary>Writes header and map, at once where they lie together.</summary>
    public void Write(ImageFile file)
    {
        BinaryPrimitives.WriteUInt32BigEndian(_header.AsSpan(20), CurrentVersion);
        BinaryPrimitives.WriteUInt32BigEndian(_header.AsSpan(ChecksumAt), Checksum(CurrentVersion));
        if (MapOffset == HeaderOffset + HeaderLength)
        {
            file.Write(HeaderOffset, new BlockBuffers(new Memory<byte>[] { _header, Map }));
        }
        else
        {
            file.Write(MapOffset, Map);
            file.Write(HeaderOffset, _header);
        }

        IsDirty = false;
    }

    private static int MapBytes(int entries) => Math.Max(512, (((entries + 7) / 8) + 511) & ~511);

    /// <summary>Version 1.1 added bytes with a sign.</summary>
    private uint Checksum(uint version)
    {
        uint sum = 0;
        foreach (var value in Map)
            sum += version == 0x0001_0001 ? (uint)(sbyte)value : value;
        return ~sum;
    }
}
