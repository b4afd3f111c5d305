// The block allocation table of a VHD, the sector bitmaps and the batmap in memory, and how they reach the file.
// Follows: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Block Allocation Table and Data Blocks".
using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Block;

namespace Sharpvisor.Backends.Block.Vhd;

/// <summary>Changed by one thread at a time; <see cref="DataOf"/> and <see cref="IsWhole"/> may be asked by others meanwhile.</summary>
internal sealed class VhdTable
{
    public const uint Unused = uint.MaxValue;

    private const int NewBlockLimit = 64, SectorSize = 512, CachedBytes = 32 << 20, DataAlignment = 4096;

    private readonly ImageFile _file;
    private readonly VhdHeader _header;
    private readonly VhdFooter _footer;
    private readonly bool _isDifferencing;
    private readonly byte[] _whole;
    private readonly HashSet<int> _dirtyEntries = [], _dirtyBitmaps = [];
    private uint[] _entries;
    private byte[]?[] _bitmaps;
    private VhdBatmap? _batmap;
    private int _cached;
    private long _end, _knownEnd;

    public VhdTable(ImageFile file, VhdHeader header, VhdFooter footer, bool isWritable, ILogger logger)
    {
        (_file, _header, _footer) = (file, header, footer);
        _isDifferencing = footer.Type == VhdType.Differencing;
        _whole = new byte[header.BitmapBytes];
        _whole.AsSpan().Fill(0xFF);
        _entries = ReadEntries(file, header);
        _bitmaps = new byte[]?[_entries.Length];
        // What a block has there is no batmap, whatever it begins with.
        var batmapAt = header.TableOffset + header.TableBytes;
        if (VhdBatmap.MayHave(footer) && !Blocks().Any(b => b.Start < batmapAt + VhdBatmap.LengthFor(header.MaximumEntries) && EndOf(_entries[b.Block]) > batmapAt))
        {
            _batmap = VhdBatmap.Read(file, header, out var problem);
            if (problem is not null)
            {
                logger.LogWarning("{Image}: {Problem}; it is not used, and sharpvisor image check -r all makes another one", file.Path, problem);
                HasBadBatmap = true;
            }
        }

        if (!isWritable)
            return;
        // Where the footer is now, or would be.
        _end = (file.Length + SectorSize - 1) & -SectorSize;
        var last = new byte[VhdFooter.Length];
        if (file.Read(file.Length - SectorSize, new BlockBuffers(last)) == SectorSize && file.Length % SectorSize == 0 && VhdFooter.TryParse(last) is not null)
            _end -= SectorSize;
        foreach (var (block, _) in Behind(_end))
            _end = Math.Max(_end, EndOf(_entries[block]));
    }

    public bool HasBatmap => _batmap is not null;

    public bool HasBadBatmap { get; }

    /// <summary>There is much to be written, even if nobody flushes.</summary>
    public bool NeedsWrite => _dirtyEntries.Count >= NewBlockLimit || _dirtyBitmaps.Count * (long)_header.BitmapBytes > CachedBytes;

    public IReadOnlyList<uint> Entries => _entries;

    public VhdBatmap? Batmap => _batmap;

    private static uint[] ReadEntries(ImageFile file, VhdHeader header)
    {
        var length = header.MaximumEntries * 4L;
        if (header.TableOffset > file.Length - length)
            throw new BlockException($"is truncated: its block allocation table at byte {header.TableOffset} needs {length} bytes, and the file has {file.Length}");
        var bytes = new byte[length];
        file.ReadWhole(header.TableOffset, bytes, "block allocation table");
        var entries = new uint[header.MaximumEntries];
        for (var i = 0; i < entries.Length; i++)
            entries[i] = BinaryPrimitives.ReadUInt32BigEndian(bytes.AsSpan(i * 4));
        return entries;
    }

    /// <summary>Where the data of a block begin, in bytes; 0: it is not there.</summary>
    /// <exception cref="BlockException">It lies outside of the file, or over the tables.</exception>
    public long DataOf(int block)
    {
        var entry = Volatile.Read(ref _entries[block]);
        if (entry == Unused)
            return 0;
        var place = (entry * (long)SectorSize) + _header.BitmapBytes;
        if (place < Volatile.Read(ref _knownEnd) && entry >= 3)
            return place;
        _knownEnd = _file.Length;
        if (entry < 3 || place >= _knownEnd)
            throw new BlockException($"is damaged or truncated: block {block} lies at sector {entry}, outside of the file's {_knownEnd} bytes; run sharpvisor image check");
        return place;
    }

    /// <summary>The blocks that lie over a header, a table or another block, and would destroy it when they are written to.</summary>
    public IEnumerable<(int Block, long Start)> Overlaps()
    {
        var used = _header.Offset + VhdHeader.Length;
        var (tableStart, tableEnd) = (_header.TableOffset, _batmap?.End ?? (_header.TableOffset + _header.TableBytes));
        foreach (var (block, start) in Blocks().OrderBy(b => b.Start))
        {
            var end = EndOf(_entries[block]);
            if (start < used || (start < tableEnd && end > tableStart))
                yield return (block, start);
            used = Math.Max(used, end);
        }
    }

    /// <summary>The blocks that end behind a place in the file.</summary>
    public IEnumerable<(int Block, long Start)> Behind(long length) => Blocks().Where(b => EndOf(_entries[b.Block]) > length);

    /// <summary>All sectors of a block are there: no bitmap need be looked at.</summary>
    public bool IsWhole(int block) => Volatile.Read(ref _bitmaps[block]) is { } map ? map == _whole : _batmap?[block] == true;

    /// <summary>The sectors that a block has. Its bits change only from 0 to 1.</summary>
    public byte[] Bitmap(int block)
    {
        if (_bitmaps[block] is { } there)
            return there;
        if (_cached * (long)_header.BitmapBytes > CachedBytes)
            Forget();
        var map = new byte[_header.BitmapBytes];
        _file.ReadPadded(_entries[block] * (long)SectorSize, new BlockBuffers(map));
        _cached++;
        Volatile.Write(ref _bitmaps[block], IsFull(map) ? _whole : map);
        return _bitmaps[block]!;
    }

    public void SetBits(int block, int first, int count)
    {
        var map = Bitmap(block);
        if (map == _whole)
            return;
        var isChanged = false;
        for (var i = first; i < first + count; i++)
        {
            isChanged |= !VhdBytes.Test(map, i);
            VhdBytes.Set(map, i);
        }

        if (!isChanged)
            return;
        _dirtyBitmaps.Add(block);
        if (!IsFull(map))
            return;
        Volatile.Write(ref _bitmaps[block], _whole);
        if (_batmap is not null)
            _batmap[block] = true;
    }

    /// <summary>A block at the end of the file, which is empty: zeroes, or what the parent has.</summary>
    /// <returns>Where its data begin.</returns>
    public long MakeBlock(int block)
    {
        if (DataOf(block) is not 0 and var there)
            return there;
        var start = AlignData(_end);
        var data = start + _header.BitmapBytes;
        if (start / SectorSize >= Unused)
            throw new BlockException(BlockError.NoSpace, "its file has 2 TiB, which is all that a VHD can have");
        var map = _isDifferencing ? new byte[_header.BitmapBytes] : _whole;
        try
        {
            // The new footer before anything goes over the old one. What lies between is a hole.
            _file.Write(data + _header.BlockSize, _footer.Bytes);
            _file.Write(start, map);
            if (start > _end)
                _file.Clear(_end, SectorSize);
        }
        catch (BlockException)
        {
            RestoreFooter();
            throw;
        }

        _end = data + _header.BlockSize;
        _cached++;
        Volatile.Write(ref _bitmaps[block], map);
        if (!_isDifferencing && _batmap is not null)
            _batmap[block] = true;
        _dirtyEntries.Add(block);
        Volatile.Write(ref _entries[block], (uint)(start / SectorSize));
        return data;
    }

    /// <summary>Writes what has changed, after what it stands for.</summary>
    public void Write()
    {
        if (_dirtyEntries.Count + _dirtyBitmaps.Count == 0 && _batmap is not { IsDirty: true })
            return;
        _file.Sync();
        foreach (var block in _dirtyBitmaps)
            _file.Write(_entries[block] * (long)SectorSize, _bitmaps[block]!);
        _dirtyBitmaps.Clear();
        foreach (var block in _dirtyEntries)
        {
            var bytes = new byte[4];
            BinaryPrimitives.WriteUInt32BigEndian(bytes, _entries[block]);
            _file.Write(_header.TableOffset + (block * 4L), bytes);
        }

        _dirtyEntries.Clear();
        if (_batmap is not { IsDirty: true })
            return;
        _file.Sync();
        _batmap.Write(_file);
    }

    /// <summary>Whether the bitmap of a block has all its sectors, whatever the batmap says.</summary>
    public bool HasAllSectors(int block) => Bitmap(block) == _whole;

    /// <summary>Before the first change: the footer may be missing from the end, or its copy from the start, and the batmap wrong.</summary>
    public void Repair()
    {
        if (HasBadBatmap && _batmap is null)
            _batmap = VhdBatmap.Create(_header.TableOffset + _header.TableBytes, _entries.Length);
        // A writer that was ended may have left the bit of a block that it could not name any more.
        for (var block = 0; _batmap is not null && block < _entries.Length; block++)
        {
            if (_entries[block] == Unused)
                _batmap[block] = false;
        }

        _file.Write(_end, _footer.Bytes);
        _file.Write(0, _footer.Bytes);
        if (_batmap is { IsDirty: true })
            _batmap.Write(_file);
        _file.Sync();
    }

    /// <summary>Drops a block; its room in the file is lost.</summary>
    public void Drop(int block)
    {
        if (_entries[block] == Unused)
            return;
        _entries[block] = Unused;
        _bitmaps[block] = null;
        _dirtyBitmaps.Remove(block);
        _dirtyEntries.Add(block);
        if (_batmap is not null)
            _batmap[block] = false;
    }

    /// <summary>Makes room for more blocks, in place or by a longer table at the end, which the header then names.</summary>
    public void Grow(int entries)
    {
        var old = _entries.Length;
        if (entries <= old)
            return;
        Write();
        var fits = entries * 4L <= _header.TableBytes;
        var (oldAt, at) = (_header.TableOffset, fits ? _header.TableOffset : _end);
        var bytes = new byte[((entries * 4) + 511) & ~511];
        bytes.AsSpan().Fill(0xFF);
        for (var i = 0; i < old; i++)
            BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(i * 4), _entries[i]);
        var batmap = _batmap;
        if (!fits)
        {
            var end = at + bytes.Length + (batmap is null ? 0 : VhdBatmap.LengthFor(entries));
            _file.Write(end, _footer.Bytes);
            _end = end;
            if (batmap is not null)
            {
                batmap = VhdBatmap.Create(at + bytes.Length, entries);
                for (var i = 0; i < old; i++)
                    batmap[i] = _batmap![i];
                batmap.Write(_file);
            }
        }

        _file.Write(at, bytes);
        _file.Sync();
        _header.SetTable(at, entries);
        try
        {
            _file.Write(_header.Offset, _header.Bytes);
        }
        catch (BlockException)
        {
            _header.SetTable(oldAt, old);
            throw;
        }

        Array.Resize(ref _entries, entries);
        Array.Resize(ref _bitmaps, entries);
        _entries.AsSpan(old).Fill(Unused);
        _batmap = batmap;
        _file.Sync();
    }

    /// <summary>Writes the footer and its copy with another length of the disk.</summary>
    public void SetSize(long size)
    {
        var old = (long)_footer.CurrentSize;
        _footer.SetSize(size);
        try
        {
            _file.Write(_end, _footer.Bytes);
            _file.Write(0, _footer.Bytes);
        }
        catch (BlockException)
        {
            _footer.SetSize(old);
            RestoreFooter();
            throw;
        }
    }

    /// <summary>Where a block can begin so that its data begin where the host's pages do.</summary>
    private long AlignData(long at) => ((at + _header.BitmapBytes + DataAlignment - 1) & -DataAlignment) - _header.BitmapBytes;

    private long EndOf(uint entry) => (entry * (long)SectorSize) + _header.BitmapBytes + _header.BlockSize;

    /// <summary>What was to be behind the end of the last block is not: the footer is there, and the file ends with it.</summary>
    private void RestoreFooter()
    {
        try
        {
            _file.Write(_end, _footer.Bytes);
            _file.SetLength(_end + SectorSize);
        }
        catch (BlockException)
        {
            // The copy at the start is there.
        }
    }

    private IEnumerable<(int Block, long Start)> Blocks()
    {
        for (var i = 0; i < _entries.Length; i++)
        {
            if (_entries[i] != Unused)
                yield return (i, _entries[i] * (long)SectorSize);
        }
    }

    private bool IsFull(byte[] map)
    {
        var sectors = _header.BlockSize / SectorSize;
        return sectors < 8 ? VhdBytes.RunLength(map, 0, sectors) == sectors && VhdBytes.Test(map, 0) : !map.AsSpan(0, sectors / 8).ContainsAnyExcept((byte)0xFF);
    }

    private void Forget()
    {
        for (var i = 0; i < _bitmaps.Length; i++)
        {
            if (_bitmaps[i] is not null && !_dirtyBitmaps.Contains(i))
                Volatile.Write(ref _bitmaps[i], null);
        }

        _cached = _dirtyBitmaps.Count;
    }
}
