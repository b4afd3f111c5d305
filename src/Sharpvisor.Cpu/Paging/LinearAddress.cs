// Translation of linear addresses for whoever looks at a guest from outside: SDM vol. 3, chapter 4, with 32-bit (PSE), PAE
// and 4-level paging. Checks no rights and sets no accessed or dirty bits. Leaves out 5-level paging.
using System.Buffers.Binary;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Paging;

/// <summary>Reads guest-physical memory without side effects.</summary>
/// <returns>How many bytes from the start could be read: memory may have holes.</returns>
public delegate int PhysicalReader(ulong physical, Span<byte> destination);

/// <summary>What a linear address leads to.</summary>
/// <param name="Physical">Guest-physical address of the byte.</param>
/// <param name="PageShift">log2 of the page's size: 12, 21, 22 or 30.</param>
/// <param name="Flags">The bits of all levels that count together, as in an entry: R/W and U/S where every level has them, XD where one has it; A, D, G of the last.</param>
public readonly record struct LinearMapping(ulong Physical, int PageShift, ulong Flags);

/// <summary>Page walks that leave no trace.</summary>
public static class LinearAddress
{
    private const ulong Present = 1, ReadWrite = 2, User = 4, LargePage = 0x80, NoExecute = 1UL << 63, AddressMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>Translates with the paging mode, CR3 and CR4 of <paramref name="state"/>. False: not mapped.</summary>
    public static bool TryTranslate(in CpuState state, PhysicalReader memory, ulong linear, out LinearMapping mapping)
    {
        const ulong Pg = 1UL << 31, Pse = 1 << 4, Pae = 1 << 5, Lma = 1 << 10;
        mapping = default;
        if ((state.Cr0 & Pg) == 0)
        {
            mapping = new LinearMapping((uint)linear, 12, Present | ReadWrite | User);
            return true;
        }

        if ((state.Cr4 & Pae) == 0)
            return Walk32((uint)state.Cr3, (state.Cr4 & Pse) != 0, memory, (uint)linear, out mapping);
        if ((state.Efer & Lma) == 0)
            return Walk64(state.Cr3 & 0xFFFF_FFE0, 30, memory, (uint)linear, out mapping);
        return (ulong)((long)(linear << 16) >> 16) == linear && Walk64(state.Cr3 & AddressMask, 39, memory, linear, out mapping);
    }

    private static bool Walk64(ulong table, int shift, PhysicalReader memory, ulong linear, out LinearMapping mapping)
    {
        mapping = default;
        var rights = ReadWrite | User;
        ulong noExecute = 0;
        for (var legacyPointers = shift == 30; ; shift -= 9, legacyPointers = false)
        {
            var index = (linear >> shift) & (legacyPointers ? 3UL : 511UL);
            if (!TryRead(memory, table + (index * 8), 8, out var entry) || (entry & Present) == 0)
                return false;
            if (!legacyPointers)
            {
                rights &= entry;
                noExecute |= entry & NoExecute;
            }

            if (shift == 12 || (!legacyPointers && shift is 21 or 30 && (entry & LargePage) != 0))
            {
                var offset = (1UL << shift) - 1;
                mapping = new LinearMapping((entry & AddressMask & ~offset) | (linear & offset), shift, (entry & 0xFF9) | rights | noExecute);
                return true;
            }

            table = entry & AddressMask;
        }
    }

    private static bool Walk32(uint cr3, bool pageSizeExtensions, PhysicalReader memory, uint linear, out LinearMapping mapping)
    {
        mapping = default;
        if (!TryRead(memory, (cr3 & 0xFFFF_F000) + ((linear >> 22) * 4), 4, out var directory) || (directory & Present) == 0)
            return false;
        var rights = directory & (ReadWrite | User);
        if (pageSizeExtensions && (directory & LargePage) != 0)
        {
            // PSE-36: bits 13 to 20 of the entry are bits 32 to 39 of the address.
            var large = (directory & 0xFFC0_0000) | ((directory & 0x1F_E000) << 19);
            mapping = new LinearMapping(large | (linear & 0x3F_FFFF), 22, (directory & 0xFF9) | rights);
            return true;
        }

        if (!TryRead(memory, (directory & 0xFFFF_F000) + (((linear >> 12) & 1023) * 4), 4, out var entry) || (entry & Present) == 0)
            return false;
        mapping = new LinearMapping((entry & 0xFFFF_F000) | (linear & 0xFFF), 12, (entry & 0xFF9) | (entry & rights));
        return true;
    }

    private static bool TryRead(PhysicalReader memory, ulong physical, int size, out ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        var read = memory(physical, bytes[..size]);
        value = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        return read == size;
    }
}
