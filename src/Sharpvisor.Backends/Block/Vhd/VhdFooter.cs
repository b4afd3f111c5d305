// The footer of a VHD: the last sector of its file, and of one that grows the first as well.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format" and the appendix on
// CHS; QEMU for which creators mean the geometry, not the size, to be what the guest sees.
using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

internal enum VhdType
{
    Fixed = 2,
    Dynamic = 3,
    Differencing = 4,
}

internal sealed class VhdFooter
{
    public const int Length = 512;
    public const string XenCreator = "tap\0", SizedCreator = "qem2";
    public const ulong NoOffset = ulong.MaxValue;

    private const int ChecksumAt = 64;
    private static readonly byte[] Cookie = [.. "conectix"u8];
    private static readonly DateTimeOffset Epoch = new(2000, 1, 1, 0, 0, 0, TimeSpan.Zero);

    private readonly byte[] _bytes;

    private VhdFooter(byte[] bytes)
    {
        _bytes = bytes;
    }

    public ulong DataOffset => U64(16);

    public uint Timestamp => U32(24);

    /// <summary>Four characters.</summary>
    public string Creator => Encoding.Latin1.GetString(_bytes, 28, 4);

    public uint CreatorVersion => U32(32);

    public ulong CurrentSize => U64(48);

    public (int Cylinders, int Heads, int Sectors) Geometry => (BinaryPrimitives.ReadUInt16BigEndian(_bytes.AsSpan(56)), _bytes[58], _bytes[59]);

    public VhdType Type => (VhdType)U32(60);

    public ReadOnlyMemory<byte> UniqueId => _bytes.AsMemory(68, 16);

    public Memory<byte> Bytes => _bytes;

    /// <summary>
    /// What the guest sees, in bytes. Virtual PC and QEMU make the disk as long as its geometry says, unless that is the
    /// largest there is; others as the size says.
    /// </summary>
    public ulong DiskSize
    {
        get
        {
            var (cylinders, heads, sectors) = Geometry;
            var bySize = !(Creator is "vpc " or "qemu") || (cylinders, heads, sectors) == (65535, 16, 255) || cylinders * heads * sectors == 0;
            var byGeometry = (ulong)cylinders * (ulong)heads * (ulong)sectors * Length;
            return bySize || byGeometry > CurrentSize ? CurrentSize : byGeometry;
        }
    }

    /// <summary>It differs in what changes, at most: the length, the time.</summary>
    public bool IsOfSameDisk(VhdFooter other) => Type == other.Type && DataOffset == other.DataOffset && UniqueId.Span.SequenceEqual(other.UniqueId.Span);

    /// <summary>A footer that is one, with the right checksum; null otherwise.</summary>
    public static VhdFooter? TryParse(ReadOnlySpan<byte> sector)
    {
        if (sector.Length < Length || !sector.StartsWith(Cookie))
            return null;
        var bytes = sector[..Length].ToArray();
        return BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(ChecksumAt)) == VhdBytes.Checksum(bytes, ChecksumAt) ? new VhdFooter(bytes) : null;
    }

    /// <param name="size">In bytes.</param>
    public static VhdFooter Create(VhdType type, long size, string creator, Guid id)
    {
        var bytes = new byte[Length];
        Cookie.CopyTo(bytes, 0);
        var footer = new VhdFooter(bytes);
        footer.Put32(8, 2); // reserved, always set
        footer.Put32(12, 0x0001_0000);
        footer.Put64(16, type == VhdType.Fixed ? NoOffset : Length);
        footer.Put32(24, (uint)Math.Max(0, (DateTimeOffset.UtcNow - Epoch).TotalSeconds));
        Encoding.Latin1.GetBytes(creator, bytes.AsSpan(28));
        footer.Put32(32, creator == XenCreator ? 0x0001_0003u : 0x0005_0003);
        Encoding.Latin1.GetBytes("Wi2k", bytes.AsSpan(36));
        footer.Put64(40, (ulong)size);
        footer.Put32(60, (uint)type);
        id.TryWriteBytes(bytes.AsSpan(68), bigEndian: true, out _);
        footer.SetSize(size);
        return footer;
    }

    /// <summary>Another length of the disk, with its geometry.</summary>
    public void SetSize(long size)
    {
        Put64(48, (ulong)size);
        var (cylinders, heads, sectors) = GeometryOf(size / Length);
        BinaryPrimitives.WriteUInt16BigEndian(_bytes.AsSpan(56), (ushort)cylinders);
        (_bytes[58], _bytes[59]) = ((byte)heads, (byte)sectors);
        Put32(ChecksumAt, VhdBytes.Checksum(_bytes, ChecksumAt));
    }

    /// <summary>Whether a file ends like a fixed disk, whose data nothing else tells from any other file's.</summary>
    public static bool EndsFixedDisk(ImageFile file)
    {
        try
        {
            var sector = new byte[Length];
            return file.Length >= 2 * Length && file.Read(file.Length - Length, new BlockBuffers(sector)) == Length && TryParse(sector) is { Type: VhdType.Fixed };
        }
        catch (BlockException)
        {
            return false;
        }
    }

    private static (int Cylinders, int Heads, int Sectors) GeometryOf(long total)
    {
        if (total > 65535L * 16 * 255)
            total = 65535L * 16 * 255;
        if (total >= 65535L * 16 * 63)
            return ((int)(total / 255 / 16), 16, 255);
        var sectors = 17;
        var perHead = total / 17;
        var heads = (int)Math.Max(4, (perHead + 1023) / 1024);
        if (perHead >= heads * 1024L || heads > 16)
        {
            (sectors, heads) = (31, 16);
            perHead = total / 31;
        }

        if (perHead >= heads * 1024L)
        {
            (sectors, heads) = (63, 16);
            perHead = total / 63;
        }

        return ((int)(perHead / heads), heads, sectors);
    }

    private uint U32(int at) => BinaryPrimitives.ReadUInt32BigEndian(_bytes.AsSpan(at));

    private ulong U64(int at) => BinaryPrimitives.ReadUInt64BigEndian(_bytes.AsSpan(at));

    private void Put32(int at, uint value) => BinaryPrimitives.WriteUInt32BigEndian(_bytes.AsSpan(at), value);

    private void Put64(int at, ulong value) => BinaryPrimitives.WriteUInt64BigEndian(_bytes.AsSpan(at), value);
}
