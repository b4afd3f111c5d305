// ELF64 core files (System V gABI, chapters 4 and 5; notes as in QEMU's dump): layout, holes, many program headers.
using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.Paging;

namespace Sharpvisor.Debugging.Cores;

/// <summary>Lays out a core file and writes it; see <see cref="GuestCore"/> for the format.</summary>
internal sealed class CoreWriter
{
    /// <summary>PT_LOADs with linear addresses: Linux needs some thousands; page tables made by an enemy may have any number.</summary>
    private const int MaximumLoads = 1 << 19;

    private const int PageSize = 4096, Chunk = 1 << 20;

    private readonly IGuestView _view;
    private readonly IReadOnlyList<GuestRange> _memory;
    private readonly bool _paging;

    public CoreWriter(IGuestView view, IReadOnlyList<GuestRange> memory, bool paging)
    {
        _view = view;
        _memory = [.. memory.Where(r => r.Length != 0)];
        _paging = paging;
    }

    public void WriteTo(FileStream file, IProgress<ulong>? progress, CancellationToken cancellation)
    {
        // The notes hold file offsets, which depend on their own length, which is known from a first try.
        var noteLength = CoreNotes.Write(_view, [.. _memory.Select(r => new CorePiece(r.Start, 0, r.Length))]).Length;
        var runs = _paging ? FindRuns() : [.. _memory.Select(r => new LinearRun(r.Start, r.Start, r.Length, 0))];
        var count = SplitByPiece(runs, []).Count() + 1;
        var hasSection = count >= GuestCore.ManyHeaders;
        var tableStart = GuestCore.HeaderSize + (hasSection ? GuestCore.SectionHeaderSize : 0);
        var noteStart = tableStart + ((long)count * GuestCore.ProgramHeaderSize);
        var offset = (ulong)Align(noteStart + noteLength);
        List<CorePiece> pieces = [];
        foreach (var range in _memory)
        {
            pieces.Add(new CorePiece(range.Start, offset, range.Length));
            offset += range.Length;
        }

        file.Write(Header(count, tableStart));
        if (hasSection)
            file.Write(Section(count));
        file.Write(ProgramHeader(GuestCore.TypeNote, (ulong)noteStart, 0, 0, (ulong)noteLength));
        using var table = new MemoryStream(count * GuestCore.ProgramHeaderSize);
        foreach (var (run, at) in SplitByPiece(runs, pieces))
            table.Write(ProgramHeader(GuestCore.TypeLoad, at, run.Linear, run.Physical, run.Length));
        file.Write(table.GetBuffer().AsSpan(0, (int)table.Length));
        file.Write(CoreNotes.Write(_view, pieces));
        file.SetLength((long)offset);
        ulong done = 0;
        var buffer = new byte[Chunk];
        foreach (var piece in pieces)
        {
            for (ulong inside = 0; inside < piece.Length; inside += Chunk)
            {
                cancellation.ThrowIfCancellationRequested();
                var part = buffer.AsSpan(0, (int)Math.Min(Chunk, piece.Length - inside));
                var read = _view.ReadPhysical(piece.Physical + inside, part);
                part[read..].Clear();
                WriteSparse(file, (long)(piece.Offset + inside), part);
                done += (ulong)part.Length;
                progress?.Report(done);
            }
        }
    }

    /// <summary>What the processors' page tables map to memory, by linear address.</summary>
    private List<LinearRun> FindRuns()
    {
        SortedDictionary<ulong, LinearRun> runs = [];
        HashSet<ulong> roots = [];
        for (var i = 0; i < _view.ProcessorCount; i++)
        {
            var state = _view.GetState(i);
            const ulong Pg = 1UL << 31;
            if ((state.Cr0 & Pg) == 0 || !roots.Add(state.Cr3 & ~0xFFFUL))
                continue;
            // Of several that map an address, the first processor's counts.
            var isWhole = LinearMappings.Visit(in state, _view.ReadPhysical, 0, ulong.MaxValue, run => runs.Count < MaximumLoads && (runs.TryAdd(run.Linear, run) || true));
            if (!isWhole)
                throw new ConfigurationException($"the page tables of processor {i} have more than {MaximumLoads} pieces: write the core file without paging");
        }

        if (roots.Count == 0)
            throw new ConfigurationException("no processor has paging on: write the core file without paging");
        return [.. runs.Values];
    }

    /// <summary>Cuts runs where they leave a piece of memory, and leaves out what is none. Offsets in the file are given if the pieces are.</summary>
    private IEnumerable<(LinearRun Run, ulong Offset)> SplitByPiece(IEnumerable<LinearRun> runs, List<CorePiece> pieces)
    {
        ulong end = 0;
        var isFirst = true;
        foreach (var whole in runs)
        {
            var run = whole;
            if (!isFirst && run.Linear <= end)
            {
                // Covered by the one before, which began at another address.
                var covered = end - run.Linear + 1;
                if (covered >= run.Length)
                    continue;
                run = new LinearRun(run.Linear + covered, run.Physical + covered, run.Length - covered, run.Flags);
            }

            end = run.Linear + (run.Length - 1);
            isFirst = false;
            for (var i = 0; i < _memory.Count; i++)
            {
                var start = Math.Max(run.Physical, _memory[i].Start);
                var last = Math.Min(run.Physical + (run.Length - 1), _memory[i].End - 1);
                if (start > last)
                    continue;
                var part = new LinearRun(run.Linear + (start - run.Physical), start, last - start + 1, run.Flags);
                yield return (part, pieces.Count == 0 ? 0 : pieces[i].Offset + (start - _memory[i].Start));
            }
        }
    }

    private static void WriteSparse(FileStream file, long offset, ReadOnlySpan<byte> bytes)
    {
        for (var start = 0; start < bytes.Length;)
        {
            var page = bytes[start..Math.Min(bytes.Length, start + PageSize)];
            if (!page.ContainsAnyExcept((byte)0))
            {
                start += page.Length;
                continue;
            }

            var end = start + page.Length;
            while (end < bytes.Length && bytes[end..Math.Min(bytes.Length, end + PageSize)].ContainsAnyExcept((byte)0))
                end = Math.Min(bytes.Length, end + PageSize);
            RandomAccess.Write(file.SafeFileHandle, bytes[start..end], offset + start);
            start = end;
        }
    }

    private static byte[] Header(int count, int tableStart)
    {
        var header = new byte[GuestCore.HeaderSize];
        ReadOnlySpan<byte> ident = [0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];
        ident.CopyTo(header);
        U16(16, GuestCore.TypeCore);
        U16(18, GuestCore.MachineX86_64);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(20), 1);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(32), tableStart);
        U16(52, GuestCore.HeaderSize);
        U16(54, GuestCore.ProgramHeaderSize);
        U16(56, (ushort)Math.Min(count, GuestCore.ManyHeaders));
        if (count >= GuestCore.ManyHeaders)
        {
            BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(40), GuestCore.HeaderSize);
            U16(58, GuestCore.SectionHeaderSize);
            U16(60, 1);
        }

        return header;

        void U16(int at, int value) => BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(at), (ushort)value);
    }

    /// <summary>Section 0, whose sh_info is the number of program headers where e_phnum has no room for it (PN_XNUM).</summary>
    private static byte[] Section(int count)
    {
        var section = new byte[GuestCore.SectionHeaderSize];
        BinaryPrimitives.WriteInt32LittleEndian(section.AsSpan(44), count);
        return section;
    }

    private static byte[] ProgramHeader(uint type, ulong offset, ulong linear, ulong physical, ulong length)
    {
        const uint ReadWriteExecute = 7;
        var header = new byte[GuestCore.ProgramHeaderSize];
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(4), type == GuestCore.TypeLoad ? ReadWriteExecute : 0);
        ReadOnlySpan<ulong> values = [offset, linear, physical, length, length];
        for (var i = 0; i < values.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8 + (i * 8)), values[i]);
        return header;
    }

    private static long Align(long value) => (value + PageSize - 1) & -PageSize;
}
