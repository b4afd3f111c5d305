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

    /// <summary>New blocks after which the table is written even if nobody flushes.</summary>
    public const int NewBlockLimit = 64;

    private const int SectorSize = 512, CachedBytes = 32 << 20, DataAlignment = 4096;

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
    private long _end;
    private bool _isModified;

    public VhdTable(ImageFile file, VhdHeader header, VhdFooter footer, bool isWritable, ILogger logger)
    {
        (_file, _header, _footer) = (file, header, footer);
        _isDifferencing = footer.Type == VhdType.Differencing;
        _whole = new byte[header.BitmapBytes];
        _whole.AsSpan().Fill(0xFF);
        _entries = ReadEntries(file, header);
        _bitmaps = new byte[]?[_entries.Length];
        if (VhdBatmap.MayHave(footer))
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
        foreach (var entry in _entries)
        {
            if (entry != Unused)
                _end = Math.Max(_end, EndOf(entry));
        }
    }

    public bool HasBatmap => _batmap is not null;

    public bool HasBadBatmap { get; }

    public int NewBlocks => _dirtyEntries.Count;

    public IReadOnlyList<uint> Entries => _entries;

    public VhdBatmap? Batmap => _batmap;

    public static uint[] ReadEntries(ImageFile file, VhdHeader header)
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

    /// <summary>The first block that lies over a header, a table or another block, and would destroy it when it is written to; -1: none.</summary>
    public int FirstOverlap()
    {
        var starts = new List<(long Start, int Block)>();
        for (var i = 0; i < _entries.Length; i++)
        {
            if (_entries[i] != Unused)
                starts.Add((_entries[i] * (long)SectorSize, i));
        }

        starts.Sort();
        var used = _header.Offset + VhdHeader.Length;
        var (tableStart, tableEnd) = (_header.TableOffset, _batmap?.End ?? (_header.TableOffset + _header.TableBytes));
        foreach (var (start, block) in starts)
        {
            var end = start + _header.BitmapBytes + _header.BlockSize;
            if (start < used || (start < tableEnd && end > tableStart))
                return block;
            used = Math.Max(used, end);
        }

        return -1;
    }

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
        Modify();
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
        Modify();
        var start = AlignData(_end);
        var data = start + _header.BitmapBytes;
        if (start / SectorSize >= Unused)
            throw new BlockException(BlockError.NoSpace, "its file has 2 TiB, which is all that a VHD can have");
        var old = _end;
        try
        {
            // The new footer before anything goes over the old one. What lies between is a hole.
            _file.Write(data + _header.BlockSize, _footer.Bytes);
            _file.Write(start, _isDifferencing ? new byte[_header.BitmapBytes] : _whole);
            if (start > old)
                _file.Clear(old, Math.Min(start - old, SectorSize));
        }
        catch (BlockException)
        {
            Restore(old);
            throw;
        }

        _end = data + _header.BlockSize;
        _cached++;
        Volatile.Write(ref _bitmaps[block], _isDifferencing ? new byte[_header.BitmapBytes] : _whole);
        if (!_isDifferencing && _batmap is not null)
            _batmap[block] = true;
        _dirtyEntries.Add(block);
        Volatile.Write(ref _entries[block], (uint)(start / SectorSize));
        return data;
    }

    /// <summary>Writes what has changed, after what it stands for.</summary>
    public void Write(Action sync)
    {
        if (_dirtyEntries.Count + _dirtyBitmaps.Count == 0 && _batmap is not { IsDirty: true })
            return;
        sync();
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
        if (_batmap is { IsDirty: true })
            _batmap.Write(_file);
    }

    /// <summary>Whether the bitmap of a block has all its sectors, whatever the batmap says.</summary>
    public bool HasAllSectors(int block) => Bitmap(block) == _whole;

    /// <summary>Writes both footers, and a batmap in place of a damaged one.</summary>
    public void Repair() => Modify();

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
    public void Grow(int entries, Action sync)
    {
        if (entries <= _entries.Length)
            return;
        Write(sync);
        Modify();
        var old = _entries.Length;
        Array.Resize(ref _entries, entries);
        Array.Resize(ref _bitmaps, entries);
        _entries.AsSpan(old).Fill(Unused);
        var fits = entries * 4L <= _header.TableBytes;
        var at = fits ? _header.TableOffset : _end;
        var bytes = new byte[((entries * 4) + 511) & ~511];
        bytes.AsSpan().Fill(0xFF);
        for (var i = 0; i < entries; i++)
            BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(i * 4), _entries[i]);
        if (!fits)
        {
            var end = at + bytes.Length + (_batmap is null ? 0 : VhdBatmap.LengthFor(entries));
            _file.Write(end, _footer.Bytes);
            _end = end;
            if (_batmap is { } batmap)
            {
                _batmap = VhdBatmap.Create(at + bytes.Length, entries);
                for (var i = 0; i < old; i++)
                    _batmap[i] = batmap[i];
                _batmap.Write(_file);
            }
        }

        _file.Write(at, bytes);
        sync();
        _header.SetTable(at, entries);
        _file.Write(_header.Offset, _header.Bytes);
        sync();
    }

    /// <summary>Writes the footer and its copy with another length of the disk.</summary>
    public void SetSize(long size)
    {
        _footer.SetSize(size);
        _file.Write(_end, _footer.Bytes);
        _file.Write(0, _footer.Bytes);
    }

    private long _knownEnd;

    /// <summary>Where a block can begin so that its data begin where the host's pages do.</summary>
    private long AlignData(long at) => ((at + _header.BitmapBytes + DataAlignment - 1) & -DataAlignment) - _header.BitmapBytes;

    private long EndOf(uint entry) => (entry * (long)SectorSize) + _header.BitmapBytes + _header.BlockSize;

    /// <summary>Once before the first change: the footer may be missing from the end, or its copy from the start.</summary>
    private void Modify()
    {
        if (_isModified)
            return;
        _isModified = true;
        if (HasBadBatmap)
            (_batmap = VhdBatmap.Create(_header.TableOffset + _header.TableBytes, _entries.Length)).Write(_file);
        _file.Write(_end, _footer.Bytes);
        _file.Write(0, _footer.Bytes);
    }

    private void Restore(long end)
    {
        try
        {
            _file.SetLength(end);
            _file.Write(end, _footer.Bytes);
        }
        catch (BlockException)
        {
            // The copy at the start is there.
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
            if (_bitmaps[i] is not null && !_dirtyBitmaps.Contains(i) && !_dirtyEntries.Contains(i))
                Volatile.Write(ref _bitmaps[i], null);
        }

        _cached = 0;
    }
}
