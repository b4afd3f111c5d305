// The page tables of a processor as info mem and info tlb show them, in QEMU's form.
// Follows: Intel SDM vol. 3, chapter 5 (paging modes and entries). Leaves out: what five levels would add.
using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Monitor;

internal static class PageTables
{
    /// <summary>A guest can make tables that lead to each other: of those only the beginning is shown.</summary>
    private const int MaximumTables = 100_000, MaximumLines = 100_000;

    private const ulong Paging = 1UL << 31, Pse = 1 << 4, Pae = 1 << 5, Lma = 1 << 10;
    private const ulong Present = 1, Writable = 2, User = 4, WriteThrough = 8, CacheDisable = 16, Accessed = 32, Dirty = 64, Large = 128, Global = 256;
    private const ulong NoExecute = 1UL << 63, AddressMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>Ranges of the same rights.</summary>
    public static string DescribeRanges(IGuestView view, in CpuState state)
    {
        if ((state.Cr0 & Paging) == 0)
            return "PG disabled";
        var text = new StringBuilder();
        var digits = (state.Efer & Lma) != 0 ? 16 : 8;
        (ulong Start, ulong End, ulong Rights)? range = null;
        void Flush()
        {
            if (range is not var (start, end, rights))
                return;
            text.Append(Hex(start, digits)).Append('-').Append(Hex(end, digits)).Append(' ').Append(Hex(unchecked(end - start), digits)).Append(' ');
            text.Append((rights & User) != 0 ? 'u' : '-').Append('r').Append((rights & Writable) != 0 ? 'w' : '-').Append('\n');
        }

        var lines = 0;
        var isComplete = Walk(view, state, page =>
        {
            var rights = page.Rights & (User | Writable);
            if (range is var (start, end, before) && end == page.Linear && before == rights)
            {
                range = (start, unchecked(page.Linear + page.Size), rights);
                return true;
            }

            Flush();
            range = (page.Linear, unchecked(page.Linear + page.Size), rights);
            return ++lines < MaximumLines;
        });
        Flush();
        return isComplete ? text.ToString() : text.Append("... and more\n").ToString();
    }

    /// <summary>Each page.</summary>
    public static string DescribePages(IGuestView view, in CpuState state)
    {
        if ((state.Cr0 & Paging) == 0)
            return "PG disabled";
        var text = new StringBuilder();
        var digits = (state.Efer & Lma) != 0 ? 16 : 8;
        var lines = 0;
        var isComplete = Walk(view, state, page =>
        {
            var entry = page.Entry;
            char Flag(ulong bit, char letter) => (entry & bit) != 0 ? letter : '-';
            text.Append(Hex(page.Linear, digits)).Append(": ").Append(Hex(page.Physical, digits)).Append(' ');
            text.Append(Flag(NoExecute, 'X')).Append(Flag(Global, 'G')).Append(page.Size > 4096 ? 'P' : '-').Append(Flag(Dirty, 'D')).Append(Flag(Accessed, 'A'));
            text.Append(Flag(CacheDisable, 'C')).Append(Flag(WriteThrough, 'T')).Append(Flag(User, 'U')).Append(Flag(Writable, 'W')).Append('\n');
            return ++lines < MaximumLines;
        });
        return isComplete ? text.ToString() : text.Append("... and more\n").ToString();
    }

    private static string Hex(ulong value, int digits) => (digits == 8 ? (uint)value : value).ToString($"x{digits}", CultureInfo.InvariantCulture);

    private readonly record struct Page(ulong Linear, ulong Size, ulong Physical, ulong Entry, ulong Rights);

    /// <param name="visit">False: no more.</param>
    /// <returns>Whether all were visited.</returns>
    private static bool Walk(IGuestView view, in CpuState state, Func<Page, bool> visit)
    {
        var tables = 0;
        if ((state.Cr4 & Pae) == 0)
            return Walk32(view, (uint)state.Cr3 & 0xFFFF_F000, 22, 0, User | Writable, (state.Cr4 & Pse) != 0, visit, ref tables);
        return (state.Efer & Lma) != 0
            ? Walk64(view, state.Cr3 & AddressMask, 39, 512, 0, User | Writable, visit, ref tables)
            : Walk64(view, state.Cr3 & 0xFFFF_FFE0, 30, 4, 0, User | Writable, visit, ref tables);
    }

    private static bool Walk64(IGuestView view, ulong table, int shift, int count, ulong linear, ulong rights, Func<Page, bool> visit, ref int tables)
    {
        if (++tables > MaximumTables)
            return false;
        var entries = new byte[8 * count];
        var present = view.ReadPhysical(table, entries) / 8;
        for (var i = 0; i < present; i++)
        {
            var entry = BinaryPrimitives.ReadUInt64LittleEndian(entries.AsSpan(8 * i));
            if ((entry & Present) == 0)
                continue;
            var at = linear + ((ulong)i << shift);
            if (shift == 39 && i >= 256)
                at |= 0xFFFF_0000_0000_0000;
            var isPointer = count == 4; // the four of PAE have no rights
            var mine = isPointer ? rights : rights & entry;
            if (shift == 12 || (shift < 39 && !isPointer && (entry & Large) != 0))
            {
                var size = 1UL << shift;
                if (!visit(new Page(at, size, entry & AddressMask & ~(size - 1), entry, mine)))
                    return false;
            }
            else if (!Walk64(view, entry & AddressMask, shift - 9, 512, at, mine, visit, ref tables))
            {
                return false;
            }
        }

        return true;
    }

    private static bool Walk32(IGuestView view, ulong table, int shift, ulong linear, ulong rights, bool hasLarge, Func<Page, bool> visit, ref int tables)
    {
        if (++tables > MaximumTables)
            return false;
        var entries = new byte[4096];
        var present = view.ReadPhysical(table, entries) / 4;
        for (var i = 0; i < present; i++)
        {
            ulong entry = BinaryPrimitives.ReadUInt32LittleEndian(entries.AsSpan(4 * i));
            if ((entry & Present) == 0)
                continue;
            var at = linear + ((ulong)i << shift);
            if (shift == 12 || (hasLarge && (entry & Large) != 0))
            {
                // Bits 13 to 20 of a large page's entry are bits 32 to 39 of its address (PSE-36).
                var physical = shift == 12 ? entry & 0xFFFF_F000 : (entry & 0xFFC0_0000) | ((entry >> 13 & 0xFF) << 32);
                if (!visit(new Page(at, 1UL << shift, physical, entry, rights & entry)))
                    return false;
            }
            else if (!Walk32(view, entry & 0xFFFF_F000, 12, at, rights & entry, hasLarge, visit, ref tables))
            {
                return false;
            }
        }

        return true;
    }
}
