using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Paging;

/// <summary>What a page walk found, or the error code of the #PF to raise.</summary>
internal struct PageWalk
{
    /// <summary>Guest-physical address of the byte asked for.</summary>
    public ulong Physical;

    /// <summary>log2 of the page size: 12, 21, 22 or 30.</summary>
    public int PageShift;

    /// <summary>Writes through this translation need no further walk: writable, and the dirty bit is set.</summary>
    public bool Writable;

    public bool Global;
    public uint ErrorCode;

    /// <summary>Within the walker: walk again from the top.</summary>
    internal bool Changed;
}

/// <summary>The kind of access whose rights a walk checks.</summary>
[Flags]
internal enum AccessKind
{
    Read = 0,
    Write = 2,

    /// <summary>By CPL 3 code.</summary>
    User = 4,
    Fetch = 16,

    /// <summary>Supervisor access that SMAP must not stop: CR4.SMAP clear, or explicit with EFLAGS.AC.</summary>
    UserPagesAllowed = 32,
}

/// <summary>
/// Page walks as in SDM vol. 3, chapter 4: 32-bit, PAE and 4-level paging with PSE, NX, WP, SMEP, SMAP and
/// accessed and dirty bits. Leaves out: 5-level paging, protection keys, shadow stacks.
/// </summary>
internal static unsafe class PageWalker
{
    private const ulong Present = 1, ReadWrite = 2, User = 4, Accessed = 0x20, Dirty = 0x40, LargePage = 0x80, GlobalPage = 0x100, NoExecute = 1UL << 63;

    private const uint ErrorPresent = 1, ErrorReserved = 8;

    /// <summary>Translates a canonical (or 32-bit) linear address. False: raise #PF with <see cref="PageWalk.ErrorCode"/>.</summary>
    public static bool Walk(in CpuState s, GuestMemory memory, int physicalBits, ulong linear, AccessKind access, out PageWalk walk) =>
        Walk(in s, s.Cr3, memory, physicalBits, linear, access, out walk);

    /// <summary>The same by other tables than those of CR3.</summary>
    public static bool Walk(in CpuState s, ulong cr3, GuestMemory memory, int physicalBits, ulong linear, AccessKind access, out PageWalk walk)
    {
        walk = default;
        if ((s.Cr0 & ControlRegisters.PG) == 0)
        {
            walk.Physical = (uint)linear;
            walk.PageShift = 12;
            walk.Writable = true;
            return true;
        }

        var nxe = (s.Efer & ControlRegisters.NXE) != 0;
        walk.ErrorCode = (uint)(access & (AccessKind.Write | AccessKind.User));
        if ((access & AccessKind.Fetch) != 0 && ((nxe && (s.Cr4 & ControlRegisters.PAE) != 0) || (s.Cr4 & ControlRegisters.SMEP) != 0))
            walk.ErrorCode |= (uint)AccessKind.Fetch;
        while (true)
        {
            var found = (s.Cr4 & ControlRegisters.PAE) != 0
                ? Walk64(in s, cr3, memory, physicalBits, linear, access, nxe, ref walk)
                : Walk32(in s, cr3, memory, linear, access, ref walk);
            if (!walk.Changed)
                return found;
            walk.Changed = false;
        }
    }

    private static bool Walk64(in CpuState s, ulong cr3, GuestMemory memory, int physicalBits, ulong linear, AccessKind access, bool nxe, ref PageWalk walk)
    {
        var longMode = (s.Efer & ControlRegisters.LMA) != 0;
        var addressMask = ((1UL << physicalBits) - 1) & ~0xFFFUL;
        var reserved = (((1UL << 52) - 1) & ~addressMask & ~0xFFFUL) | (nxe ? 0 : NoExecute);
        if (!longMode)
            reserved |= 0x7FF0_0000_0000_0000;
        ulong rights = ReadWrite | User, table;
        bool execute = true;
        int shift;
        if (longMode)
        {
            table = cr3 & addressMask;
            shift = 39;
        }
        else
        {
            // The four PDPTEs have no R/W, U/S or A bits. They are read at each walk rather than at CR3 loads.
            var pdpte = ReadEntry64(memory, (cr3 & 0xFFFF_FFE0) + (((linear >> 30) & 3) * 8));
            if ((pdpte & Present) == 0)
                return false;
            if ((pdpte & (reserved | NoExecute | 0x1E6)) != 0)
                return Fail(ref walk, ErrorPresent | ErrorReserved);
            table = pdpte & addressMask;
            shift = 21;
        }

        while (true)
        {
            var address = table + (((linear >> shift) & 0x1FF) * 8);
            var entry = ReadEntry64(memory, address);
            if ((entry & Present) == 0)
                return false;
            var large = shift > 12 && (entry & LargePage) != 0;
            if ((entry & reserved) != 0 || (large && (shift == 39 || (entry & ((1UL << shift) - 1) & ~0x1FFFUL) != 0)))
                return Fail(ref walk, ErrorPresent | ErrorReserved);
            rights &= entry;
            execute &= (entry & NoExecute) == 0;
            if (shift == 12 || large)
            {
                if (!Allowed(in s, rights, execute, access))
                    return Fail(ref walk, ErrorPresent);
                var update = Accessed | ((access & AccessKind.Write) != 0 ? Dirty : 0);
                if ((entry & update) != update && !SetBits64(memory, address, entry, update))
                    return Changed(ref walk);
                entry |= update;

                walk.PageShift = shift;
                walk.Physical = (entry & addressMask & ~((1UL << shift) - 1)) | (linear & ((1UL << shift) - 1));
                walk.Global = (entry & GlobalPage) != 0 && (s.Cr4 & ControlRegisters.PGE) != 0;
                walk.Writable = (entry & Dirty) != 0 && WriteAllowed(in s, rights, access);
                return true;
            }

            if ((entry & Accessed) == 0 && !SetBits64(memory, address, entry, Accessed))
                return Changed(ref walk);

            table = entry & addressMask;
            shift -= 9;
        }
    }

    private static bool Walk32(in CpuState s, ulong cr3, GuestMemory memory, ulong linear, AccessKind access, ref PageWalk walk)
    {
        var pdeAddress = (cr3 & 0xFFFF_F000) + (((linear >> 22) & 0x3FF) * 4);
        var pde = ReadEntry32(memory, pdeAddress);
        if ((pde & Present) == 0)
            return false;
        ulong rights = pde & (ReadWrite | User);
        var update = (uint)(Accessed | ((access & AccessKind.Write) != 0 ? Dirty : 0));
        if ((pde & LargePage) != 0 && (s.Cr4 & ControlRegisters.PSE) != 0)
        {
            if ((pde & (1u << 21)) != 0)
                return Fail(ref walk, ErrorPresent | ErrorReserved);
            if (!Allowed(in s, rights, true, access))
                return Fail(ref walk, ErrorPresent);
            if ((pde & update) != update && !SetBits32(memory, pdeAddress, pde, update))
                return Changed(ref walk);
            pde |= update;
            walk.PageShift = 22;
            walk.Physical = (pde & 0xFFC0_0000) | ((ulong)(pde >> 13 & 0xFF) << 32) | (linear & 0x3F_FFFF); // PSE-36
            walk.Global = (pde & GlobalPage) != 0 && (s.Cr4 & ControlRegisters.PGE) != 0;
            walk.Writable = (pde & Dirty) != 0 && WriteAllowed(in s, rights, access);
            return true;
        }

        if ((pde & Accessed) == 0 && !SetBits32(memory, pdeAddress, pde, (uint)Accessed))
            return Changed(ref walk);
        var pteAddress = (pde & 0xFFFF_F000UL) + (((linear >> 12) & 0x3FF) * 4);
        var pte = ReadEntry32(memory, pteAddress);
        if ((pte & Present) == 0)
            return false;
        rights &= pte;
        if (!Allowed(in s, rights, true, access))
            return Fail(ref walk, ErrorPresent);
        if ((pte & update) != update && !SetBits32(memory, pteAddress, pte, update))
            return Changed(ref walk);
        pte |= update;
        walk.PageShift = 12;
        walk.Physical = (pte & 0xFFFF_F000) | (linear & 0xFFF);
        walk.Global = (pte & GlobalPage) != 0 && (s.Cr4 & ControlRegisters.PGE) != 0;
        walk.Writable = (pte & Dirty) != 0 && WriteAllowed(in s, rights, access);
        return true;
    }

    /// <summary>Another processor changed an entry between the look at it and the setting of its accessed or dirty bit.</summary>
    private static bool Changed(ref PageWalk walk)
    {
        walk.Changed = true;
        return false;
    }

    private static bool Fail(ref PageWalk walk, uint bits)
    {
        walk.ErrorCode |= bits;
        return false;
    }

    /// <summary>SDM vol. 3, 4.6.1.</summary>
    private static bool Allowed(in CpuState s, ulong rights, bool execute, AccessKind access)
    {
        var userPage = (rights & User) != 0;
        if ((access & AccessKind.User) != 0)
            return userPage && ((access & AccessKind.Write) == 0 || (rights & ReadWrite) != 0) && ((access & AccessKind.Fetch) == 0 || execute);
        if ((access & AccessKind.Fetch) != 0)
            return execute && !(userPage && (s.Cr4 & ControlRegisters.SMEP) != 0);
        if (userPage && (access & AccessKind.UserPagesAllowed) == 0)
            return false;
        return (access & AccessKind.Write) == 0 || WriteAllowed(in s, rights, access);
    }

    private static bool WriteAllowed(in CpuState s, ulong rights, AccessKind access) =>
        (rights & ReadWrite) != 0 || ((access & AccessKind.User) == 0 && (s.Cr0 & ControlRegisters.WP) == 0);

    /// <summary>Reads a table entry; outside of RAM the bus floats high.</summary>
    private static ulong ReadEntry64(GuestMemory memory, ulong address)
    {
        var p = (ulong*)memory.TryGetPointer(address);
        return p == null ? ulong.MaxValue : *p;
    }

    private static uint ReadEntry32(GuestMemory memory, ulong address)
    {
        var p = (uint*)memory.TryGetPointer(address);
        return p == null ? uint.MaxValue : *p;
    }

    private static bool SetBits64(GuestMemory memory, ulong address, ulong entry, ulong bits)
    {
        var p = (ulong*)memory.TryGetWritable(address);
        if (p == null || p != memory.TryGetPointer(address))
            return true; // nothing there to update
        if (Interlocked.CompareExchange(ref *p, entry | bits, entry) != entry)
            return false;
        memory.OnCodeWritten(address, 1UL << (int)((address >> 6) & 63));
        return true;
    }

    private static bool SetBits32(GuestMemory memory, ulong address, uint entry, uint bits)
    {
        var p = (uint*)memory.TryGetWritable(address);
        if (p == null || p != memory.TryGetPointer(address))
            return true;
        if (Interlocked.CompareExchange(ref *p, entry | bits, entry) != entry)
            return false;
        memory.OnCodeWritten(address, 1UL << (int)((address >> 6) & 63));
        return true;
    }
}

/// <summary>Bits of CR0, CR4 and EFER.</summary>
internal static class ControlRegisters
{
    public const ulong PE = 1, MP = 2, EM = 4, TS = 8, ET = 0x10, NE = 0x20, WP = 0x10000, AM = 0x40000, NW = 1 << 29, CD = 1 << 30, PG = 1UL << 31;

    public const ulong VME = 1, PVI = 2, TSD = 4, DE = 8, PSE = 0x10, PAE = 0x20, MCE = 0x40, PGE = 0x80, PCE = 0x100, OSFXSR = 0x200, OSXMMEXCPT = 0x400,
        UMIP = 0x800, FSGSBASE = 0x10000, PCIDE = 0x20000, OSXSAVE = 0x40000, SMEP = 0x100000, SMAP = 0x200000;

    public const ulong SCE = 1, LME = 0x100, LMA = 0x400, NXE = 0x800;
}
