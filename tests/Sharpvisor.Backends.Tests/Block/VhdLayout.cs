using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>
/// A VHD by the tables of Microsoft's specification 1.0, and Xen's batmap by vhd.h of blktap: another reading of them than
/// the one under test, which knows nothing of that. It asserts what they demand.
/// </summary>
internal sealed class VhdLayout
{
    private const int Sector = 512;

    private readonly byte[] _file;
    private readonly VhdLayout? _parent;
    private readonly int _table, _entries;

    /// <param name="parent">Of a differencing one.</param>
    public VhdLayout(byte[] file, VhdLayout? parent = null)
    {
        (_file, _parent) = (file, parent);
        Assert.Equal(0, file.Length % Sector);
        CheckFooter(file.Length - Sector, parent is null ? 3u : 4u);
        Assert.Equal(file[..Sector], file[^Sector..]);
        var header = (int)U64(16);
        Size = (long)U64(48);
        Id = file[68..84];

        Assert.Equal("cxsparse", Encoding.ASCII.GetString(file, header, 8));
        Assert.Equal(ulong.MaxValue, U64(header + 8));
        Assert.Equal(0x0001_0000u, U32(header + 24));
        CheckSum(header, 1024, 36);
        (_table, _entries, BlockSize) = ((int)U64(header + 16), (int)U32(header + 28), (int)U32(header + 32));
        Assert.Equal(0, _table % Sector);
        Assert.True(System.Numerics.BitOperations.IsPow2(BlockSize));
        Assert.True((long)_entries * BlockSize >= Size);
        Assert.All(file[(header + 768)..(header + 1024)], b => Assert.Equal(0, b));
        CheckParent(header);

        var areas = new List<(long Start, long End)> { (0, Sector), (header, header + 1024), (_table, _table + Up(_entries * 4)), (file.Length - Sector, file.Length) };
        if (Encoding.ASCII.GetString(file, 28, 4) == "tap\0")
        {
            Assert.True(U32(32) > 1, "programs of that version made no batmaps");
            CheckBatmap(_table + Up(_entries * 4), areas);
        }

        foreach (var (offset, length) in Enumerable.Range(0, 8).Select(i => header + 576 + (i * 24)).Where(at => U32(at) != 0).Select(at => ((long)U64(at + 16), Up((int)U32(at + 8)))))
            areas.Add((offset, offset + length));
        for (var block = 0; block < _entries; block++)
        {
            if (StartOf(block) is { } start)
            {
                areas.Add((start, start + BitmapBytes + BlockSize));
                if (parent is null)
                    Assert.True(Enumerable.Range(0, BlockSize / Sector).All(s => HasSector(block, s)), $"block {block} of a dynamic disk lacks a sector");
            }
        }

        for (var at = _table + (_entries * 4); at < _table + Up(_entries * 4); at++)
            Assert.Equal(0xFF, file[at]);
        areas.Sort();
        for (var i = 1; i < areas.Count; i++)
            Assert.True(areas[i].Start >= areas[i - 1].End, $"0x{areas[i - 1].Start:x} to 0x{areas[i - 1].End:x} lies over 0x{areas[i].Start:x}");
        Assert.Equal(file.Length, areas[^1].End);
    }

    public long Size { get; }

    public int BlockSize { get; }

    public byte[] Id { get; }

    /// <summary>Paths of the parent as the locators have them, by their platform code.</summary>
    public Dictionary<string, string> Locators { get; } = [];

    public string ParentName { get; private set; } = "";

    /// <summary>Blocks that the batmap calls whole; null without one.</summary>
    public HashSet<int>? Whole { get; private set; }

    public int AllocatedBlocks => Enumerable.Range(0, _entries).Count(b => StartOf(b) is not null);

    /// <summary>Blocks that have a sector bitmap of ones.</summary>
    public IEnumerable<int> FullBlocks => Enumerable.Range(0, _entries).Where(b => StartOf(b) is not null && Enumerable.Range(0, BlockSize / Sector).All(s => HasSector(b, s)));

    private int BitmapBytes => Up(BlockSize / Sector / 8);

    /// <summary>Whether a sector of the disk is in this image.</summary>
    public bool Has(long sector) => HasSector((int)(sector * Sector / BlockSize), (int)(sector * Sector % BlockSize / Sector));

    public byte[] ReadSector(long sector)
    {
        if (!Has(sector))
            return _parent?.ReadSector(sector) ?? new byte[Sector];
        var at = StartOf((int)(sector * Sector / BlockSize))!.Value + BitmapBytes + (int)(sector * Sector % BlockSize);
        return _file[at..(at + Sector)];
    }

    private static int Up(int bytes) => (bytes + Sector - 1) / Sector * Sector;

    private bool HasSector(int block, int sector) => StartOf(block) is { } start && (_file[start + (sector / 8)] >> (7 - (sector % 8)) & 1) != 0;

    private int? StartOf(int block) => U32(_table + (block * 4)) is not uint.MaxValue and var sector ? (int)sector * Sector : null;

    private void CheckFooter(int at, uint type)
    {
        Assert.Equal("conectix", Encoding.ASCII.GetString(_file, at, 8));
        Assert.Equal(2u, U32(at + 8) & 3); // reserved, always set; not temporary
        Assert.Equal(0x0001_0000u, U32(at + 12));
        Assert.Equal(type, U32(at + 60));
        Assert.Equal(0, _file[at + 84]); // no saved state
        Assert.All(_file[(at + 85)..(at + Sector)], b => Assert.Equal(0, b));
        CheckSum(at, Sector, 64);
    }

    private void CheckParent(int header)
    {
        ParentName = Encoding.BigEndianUnicode.GetString(_file, header + 64, 512).TrimEnd('\0');
        if (_parent is null)
        {
            Assert.All(_file[(header + 40)..(header + 60)], b => Assert.Equal(0, b));
            Assert.All(_file[(header + 64)..(header + 768)], b => Assert.Equal(0, b));
            return;
        }

        Assert.Equal(_parent.Id, _file[(header + 40)..(header + 56)]);
        Assert.Equal(_parent.U32(24), U32(header + 56));
        for (var at = header + 576; at < header + 768; at += 24)
        {
            if (U32(at) == 0)
                continue;
            var code = Encoding.ASCII.GetString(_file, at, 4);
            var (space, length, offset) = ((int)U32(at + 4), (int)U32(at + 8), (int)U64(at + 16));
            Assert.Equal(0u, U32(at + 12));
            Assert.Equal((0, Up(length) / Sector), (offset % Sector, space));
            var text = code == "MacX" ? Encoding.UTF8 : Encoding.Unicode;
            Locators.Add(code, text.GetString(_file, offset, length));
        }
    }

    private void CheckBatmap(int at, List<(long Start, long End)> areas)
    {
        Assert.Equal("tdbatmap", Encoding.ASCII.GetString(_file, at, 8));
        var (map, sectors) = ((int)U64(at + 8), (int)U32(at + 16));
        Assert.Equal(0x0001_0002u, U32(at + 20));
        Assert.True(sectors * Sector * 8 >= _entries);
        uint sum = 0;
        foreach (var value in _file.AsSpan(map, sectors * Sector))
            sum += value;
        Assert.Equal(~sum, U32(at + 24));
        areas.Add((at, at + Sector));
        areas.Add((map, map + (sectors * Sector)));
        Whole = [.. Enumerable.Range(0, sectors * Sector * 8).Where(b => (_file[map + (b / 8)] >> (7 - (b % 8)) & 1) != 0)];
    }

    private void CheckSum(int at, int length, int sumAt)
    {
        uint sum = 0;
        for (var i = 0; i < length; i++)
            sum += i >= sumAt && i < sumAt + 4 ? 0u : _file[at + i];
        Assert.Equal(~sum, U32(at + sumAt));
    }

    private uint U32(int at) => BinaryPrimitives.ReadUInt32BigEndian(_file.AsSpan(at));

    private ulong U64(int at) => BinaryPrimitives.ReadUInt64BigEndian(_file.AsSpan(at));
}
