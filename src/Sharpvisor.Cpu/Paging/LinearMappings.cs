// All that the page tables map within a range of linear addresses, for whoever looks at a guest from outside: SDM vol. 3,
// chapter 4, with 32-bit (PSE), PAE and 4-level paging. Leaves out 5-level paging.
using System.Buffers.Binary;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Paging;

/// <summary>A run of linear addresses that leads to a run of physical ones.</summary>
/// <param name="Flags">The bits of all levels that count together, see <see cref="LinearMapping.Flags"/>.</param>
public readonly record struct LinearRun(ulong Linear, ulong Physical, ulong Length, ulong Flags);

/// <summary>Enumerates page tables, whatever the guest wrote into them.</summary>
public sealed class LinearMappings
{
    /// <summary>Tables that are read at most: page tables that refer to each other would never come to an end.</summary>
    public const int DefaultTableLimit = 1 << 18;

    private const ulong Present = 1, ReadWrite = 2, User = 4, LargePage = 0x80, NoExecute = 1UL << 63, AddressMask = 0x000F_FFFF_FFFF_F000;
    private const int EntriesPerTable = 512;

    private readonly PhysicalReader _memory;
    private readonly Func<LinearRun, bool> _visit;
    private readonly ulong _from, _last;
    private int _tablesLeft;
    private LinearRun _run;

    private LinearMappings(PhysicalReader memory, ulong from, ulong last, int tableLimit, Func<LinearRun, bool> visit)
    {
        _memory = memory;
        _from = from;
        _last = last;
        _tablesLeft = tableLimit;
        _visit = visit;
    }

    /// <summary>
    /// Visits what is mapped from <paramref name="from"/> to <paramref name="last"/>, both included, in ascending order;
    /// neighbours that go on in physical memory with the same flags are one run.
    /// </summary>
    /// <param name="visit">Returns false to stop.</param>
    /// <returns>False when <paramref name="visit"/> stopped it or the limit of tables was reached.</returns>
    public static bool Visit(in CpuState state, PhysicalReader memory, ulong from, ulong last, Func<LinearRun, bool> visit, int tableLimit = DefaultTableLimit)
    {
        const ulong Pg = 1UL << 31, Pse = 1 << 4, Pae = 1 << 5, Lma = 1 << 10;
        var mappings = new LinearMappings(memory, from, last, tableLimit, visit);
        bool isWhole;
        if ((state.Cr0 & Pg) == 0)
            return from > uint.MaxValue || visit(new LinearRun(from, from, Math.Min(last, uint.MaxValue) - from + 1, Present | ReadWrite | User));
        if ((state.Cr4 & Pae) == 0)
            isWhole = mappings.Walk32((uint)state.Cr3, (state.Cr4 & Pse) != 0);
        else if ((state.Efer & Lma) == 0)
            isWhole = mappings.Walk(state.Cr3 & 0xFFFF_FFE0, 30, 4, 0, ReadWrite | User, 0);
        else
            isWhole = mappings.Walk(state.Cr3 & AddressMask, 39, EntriesPerTable, 0, ReadWrite | User, 0);
        return isWhole && mappings.Flush();
    }

    private bool Walk(ulong table, int shift, int count, ulong linear, ulong rights, ulong noExecute)
    {
        if (_tablesLeft-- <= 0)
            return false;
        Span<byte> entries = stackalloc byte[EntriesPerTable * sizeof(ulong)];
        entries = entries[..(count * sizeof(ulong))];
        entries = entries[..(_memory(table, entries) & ~7)];
        var size = 1UL << shift;
        for (var i = 0; i < entries.Length / 8; i++)
        {
            var start = linear + ((ulong)i << shift);
            if (shift == 39)
                start = (ulong)((long)(start << 16) >> 16);
            if (start > _last || start + (size - 1) < _from)
                continue;
            var entry = BinaryPrimitives.ReadUInt64LittleEndian(entries[(i * 8)..]);
            if ((entry & Present) == 0)
                continue;
            var legacyPointer = count == 4;
            var allowed = legacyPointer ? rights : rights & entry;
            var barred = legacyPointer ? 0 : noExecute | (entry & NoExecute);
            var isPage = shift == 12 || (!legacyPointer && shift is 21 or 30 && (entry & LargePage) != 0);
            var goesOn = isPage
                ? Add(start, entry & AddressMask & ~(size - 1), size, Present | allowed | barred)
                : Walk(entry & AddressMask, shift - 9, EntriesPerTable, start, allowed, barred);
            if (!goesOn)
                return false;
        }

        return true;
    }

    private bool Walk32(uint cr3, bool pageSizeExtensions)
    {
        Span<byte> directory = stackalloc byte[4096], table = stackalloc byte[4096];
        directory = directory[..(_memory(cr3 & 0xFFFF_F000, directory) & ~3)];
        for (var i = 0; i < directory.Length / 4; i++)
        {
            var start = (ulong)i << 22;
            var entry = BinaryPrimitives.ReadUInt32LittleEndian(directory[(i * 4)..]);
            if (start > _last || start + 0x3F_FFFF < _from || (entry & Present) == 0)
                continue;
            if (pageSizeExtensions && (entry & LargePage) != 0)
            {
                if (!Add(start, (entry & 0xFFC0_0000) | ((entry & 0x1F_E000UL) << 19), 1 << 22, entry & (Present | ReadWrite | User)))
                    return false;
                continue;
            }

            var pages = table[..(_memory(entry & 0xFFFF_F000, table) & ~3)];
            for (var k = 0; k < pages.Length / 4; k++)
            {
                var page = BinaryPrimitives.ReadUInt32LittleEndian(pages[(k * 4)..]);
                if ((page & Present) != 0 && !Add(start + ((ulong)k << 12), page & 0xFFFF_F000, 4096, Present | (page & entry & (ReadWrite | User))))
                    return false;
            }
        }

        return true;
    }

    private bool Add(ulong linear, ulong physical, ulong size, ulong flags)
    {
        if (linear > _last || linear + (size - 1) < _from)
            return true;
        if (linear < _from)
        {
            physical += _from - linear;
            size -= _from - linear;
            linear = _from;
        }

        size = Math.Min(size - 1, _last - linear) + 1;
        if (_run.Length != 0 && _run.Linear + _run.Length == linear && _run.Physical + _run.Length == physical && _run.Flags == flags)
        {
            _run = _run with { Length = _run.Length + size };
            return true;
        }

        var goesOn = Flush();
        _run = new LinearRun(linear, physical, size, flags);
        return goesOn;
    }

    private bool Flush() => _run.Length == 0 || _visit(_run);
}
