// Core files of a guest: ELF64, ET_CORE, as QEMU's dump-guest-memory writes them (docs/interop of its dump: one PT_NOTE,
// then PT_LOADs over the same bytes). Physical memory is in the file once; pages of zeroes are holes. Without paging each
// PT_LOAD has p_vaddr = p_paddr; with paging there is one for each run of linear addresses that a processor's page
// tables map, so that gdb reads memory where the guest has it. Leaves out compressed (kdump) formats and VMCOREINFO.
using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging.Cores;

/// <summary>A guest's memory and processors in a file: <see cref="Write"/> makes one, <see cref="Open"/> looks at one.</summary>
public sealed class GuestCore : IGuestView, IDisposable
{
    internal const int HeaderSize = 64, ProgramHeaderSize = 56, SectionHeaderSize = 64;
    internal const ushort TypeCore = 4, MachineX86_64 = 62, ManyHeaders = 0xFFFF;
    internal const uint TypeLoad = 1, TypeNote = 4;

    private const int MaximumNoteBytes = 16 << 20;
    private const uint MaximumHeaders = 1 << 20;
    private const int PageSize = 4096, CachedPages = 256;

    private readonly FileStream _file;
    private readonly CorePiece[] _pieces;
    private readonly List<CpuState> _states;
    private readonly Dictionary<ulong, byte[]> _pages = [];

    private GuestCore(FileStream file, List<CpuState> states, CorePiece[] pieces)
    {
        _file = file;
        _states = states;
        _pieces = pieces;
    }

    public int ProcessorCount => _states.Count;

    /// <summary>Which memory the file has, in order.</summary>
    public IReadOnlyList<GuestRange> Ranges => [.. _pieces.Select(p => new GuestRange(p.Physical, p.Length))];

    /// <summary>Writes a core file of a guest that stands still. A file of that name is replaced.</summary>
    /// <param name="memory">What of its memory, see <see cref="GuestMemory.Ranges"/>.</param>
    /// <param name="paging">Linear addresses, see above; else physical ones.</param>
    /// <param name="progress">Bytes of memory done.</param>
    /// <exception cref="ConfigurationException">The file cannot be written (no such folder, disk full); nothing is left of it.</exception>
    /// <exception cref="OperationCanceledException">Nothing is left of it, too.</exception>
    public static void Write(IGuestView view, IReadOnlyList<GuestRange> memory, string path, bool paging = false, IProgress<ulong>? progress = null, CancellationToken cancellation = default)
    {
        FileStream file;
        try
        {
            var options = new FileStreamOptions { Mode = FileMode.Create, Access = FileAccess.Write, BufferSize = 0 };
            if (!OperatingSystem.IsWindows())
                options.UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite; // it has the guest's secrets
            file = new FileStream(path, options);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new ConfigurationException($"{path}: the core file cannot be made: {e.Message}", e);
        }

        try
        {
            using (file)
                new CoreWriter(view, memory, paging).WriteTo(file, progress, cancellation);
        }
        catch (Exception e)
        {
            Remove(path);
            if (e is IOException)
                throw new ConfigurationException($"{path}: the core file cannot be written: {e.Message}; nothing is left of it, give another place", e);
            throw;
        }
    }

    /// <summary>Opens a core file of an x86-64 guest, written by <see cref="Write"/> or by QEMU.</summary>
    /// <exception cref="ConfigurationException">It is missing, damaged, or another kind of file.</exception>
    public static GuestCore Open(string path)
    {
        FileStream? file = null;
        try
        {
            file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);
            var (states, pieces) = Parse(file, path);
            return new GuestCore(file, states, pieces);
        }
        catch (Exception e)
        {
            file?.Dispose();
            if (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
                throw new ConfigurationException($"{path}: the core file cannot be read: {e.Message}", e);
            throw;
        }
    }

    public CpuState GetState(int processor) => _states[processor];

    public int ReadPhysical(ulong physical, Span<byte> destination)
    {
        for (var done = 0; done < destination.Length;)
        {
            var at = physical + (ulong)done;
            var part = (int)Math.Min((ulong)(destination.Length - done), PageSize - (at % PageSize));
            if (Page(at / PageSize) is not { } page || at % PageSize >= (ulong)page.Length)
                return done;
            var source = page.AsSpan((int)(at % PageSize));
            part = Math.Min(part, source.Length);
            source[..part].CopyTo(destination[done..]);
            done += part;
        }

        return destination.Length;
    }

    public void Dispose() => _file.Dispose();

    /// <summary>A page, or as much from its start as the file has; null: nothing. What is read once is read again soon: page tables are.</summary>
    private byte[]? Page(ulong number)
    {
        if (_pages.TryGetValue(number, out var page))
            return page;
        var physical = number * PageSize;
        var index = Array.FindIndex(_pieces, p => physical >= p.Physical && physical - p.Physical < p.Length);
        if (index < 0)
            return null;
        var inside = physical - _pieces[index].Physical;
        page = new byte[(int)Math.Min(PageSize, _pieces[index].Length - inside)];
        try
        {
            // What is cut off, or was a hole at the end, is zeroes.
            for (int done = 0, got; done < page.Length; done += got)
            {
                got = RandomAccess.Read(_file.SafeFileHandle, page.AsSpan(done), (long)(_pieces[index].Offset + inside) + done);
                if (got == 0)
                    break;
            }
        }
        catch (IOException)
        {
            return null;
        }

        if (_pages.Count >= CachedPages)
            _pages.Clear();
        return _pages[number] = page;
    }

    private static (List<CpuState> States, CorePiece[] Pieces) Parse(FileStream file, string path)
    {
        var header = Read(file, 0, HeaderSize);
        if (header.Length < HeaderSize || BinaryPrimitives.ReadUInt32BigEndian(header) != 0x7F454C46)
            throw new ConfigurationException($"{path}: is not a core file (no ELF header); give what dump-guest-memory wrote");
        if (header[4] != 2 || header[5] != 1 || U16(header, 16) != TypeCore || U16(header, 18) != MachineX86_64)
            throw new ConfigurationException($"{path}: is an ELF file, but no core file of an x86-64 guest; give what dump-guest-memory wrote");
        var offset = U64(header, 32);
        uint count = U16(header, 56);
        if (count == ManyHeaders && Read(file, U64(header, 40), SectionHeaderSize) is { Length: SectionHeaderSize } section)
            count = BinaryPrimitives.ReadUInt32LittleEndian(section.AsSpan(44));
        if (U16(header, 54) != ProgramHeaderSize || count is 0 or > MaximumHeaders)
            throw Damaged($"{count} program headers of {U16(header, 54)} bytes");
        var table = Read(file, offset, (int)count * ProgramHeaderSize);
        if (table.Length < count * ProgramHeaderSize)
            throw Damaged("its program headers are cut off");

        List<CorePiece> loads = [];
        byte[] notes = [];
        for (var i = 0; i < count; i++)
        {
            var p = table.AsSpan(i * ProgramHeaderSize);
            var start = U64(p, 8);
            var length = U64(p, 32);
            if (BinaryPrimitives.ReadUInt32LittleEndian(p) == TypeNote && notes.Length == 0 && length <= MaximumNoteBytes)
                notes = Read(file, start, (int)length);
            else if (BinaryPrimitives.ReadUInt32LittleEndian(p) == TypeLoad && length != 0)
                loads.Add(new CorePiece(U64(p, 24), start, length));
        }

        var (states, map) = CoreNotes.Read(notes);
        if (states.Count is 0 or > MachineOptions.MaximumProcessors)
            throw Damaged($"notes of {states.Count} processors");
        var pieces = (map.Count > 0 ? map : loads)
            .Where(p => p.Length != 0 && p.Physical + p.Length > p.Physical && p.Offset <= (ulong)file.Length && p.Length <= long.MaxValue - p.Offset)
            .Distinct().OrderBy(p => p.Physical).ToArray();
        return (states, pieces);

        ConfigurationException Damaged(string how) => new($"{path}: damaged core file: {how}; copy it again");
    }

    private static byte[] Read(FileStream file, ulong offset, int length)
    {
        if (offset >= (ulong)file.Length)
            return [];
        var bytes = new byte[(int)Math.Min((ulong)length, (ulong)file.Length - offset)];
        for (int done = 0, got; done < bytes.Length; done += got)
        {
            got = RandomAccess.Read(file.SafeFileHandle, bytes.AsSpan(done), (long)offset + done);
            if (got == 0)
                return bytes[..done];
        }

        return bytes;
    }

    private static void Remove(string path)
    {
        try
        {
            if (!path.StartsWith("/dev/", StringComparison.Ordinal))
                File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The error that led here says more.
        }
    }

    private static ushort U16(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[offset..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
