// The processor as a kernel finds it at its entry. Linux: Documentation/arch/x86/boot.rst, "32-bit Boot Protocol" and
// "64-bit Boot Protocol" (flat segments 0x10 and 0x18, interrupts off, RSI or ESI = boot_params). PVH: Xen
// docs/misc/pvh.pandoc (flat segments, EBX = hvm_start_info, a 32-bit TSS of limit 0x67). Multiboot Specification 0.6.96,
// section 3.2 (flat segments, EAX = magic number, EBX = information).
using System.Buffers.Binary;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Boot;

internal static class EntryState
{
    public const ushort CodeSelector = 0x10, DataSelector = 0x18, TssSelector = 0x20;

    /// <summary>EAX of a kernel that multiboot has loaded.</summary>
    public const uint MultibootMagic = 0x2BADB002;

    public const ushort GdtLimit = 39;
    private const uint TssLimit = 0x67;

    // Type, S, DPL, P in the low byte; L is bit 13, D/B bit 14, G bit 15.
    private const ushort Code64 = 0xA09B, Code32 = 0xC09B, Data = 0xC093, Tss32 = 0x0089, BusyTss32 = 0x008B;
    private const ulong Cr0ProtectedMode = 0x11, Cr0Paging = 1UL << 31, Cr4Pae = 1UL << 5;
    private const ulong EferLongModeEnabledAndActive = 0x500;
    // IA32_MTRR_DEF_TYPE as firmware leaves it: E, write back. Off, a kernel takes all RAM for uncached.
    private const ulong MtrrEnabledWriteBack = 0x806;
    private const int Rax = 0, Rbx = 3, Rsp = 4, Rsi = 6;

    public static void SetLongMode(ref CpuState state, ulong entry, ulong bootParams)
    {
        SetFlat(ref state, entry, Code64);
        state.Cr0 = Cr0ProtectedMode | Cr0Paging;
        state.Cr3 = BootLayout.PageTables;
        state.Cr4 = Cr4Pae;
        state.Efer = EferLongModeEnabledAndActive;
        state.Gpr[Rsi] = bootParams;
        state.Gpr[Rsp] = BootLayout.StackTop;
    }

    public static void SetProtectedMode(ref CpuState state, KernelKind kind, ulong entry, ulong parameters)
    {
        SetFlat(ref state, entry, Code32);
        state.Cr0 = Cr0ProtectedMode;
        state.Gpr[kind == KernelKind.Linux32 ? Rsi : Rbx] = parameters;
        if (kind == KernelKind.Multiboot)
            state.Gpr[Rax] = MultibootMagic;
        else if (kind == KernelKind.Linux32)
            state.Gpr[Rsp] = BootLayout.StackTop;
    }

    /// <summary>How firmware leaves a sleep: the power-on state, in real mode at the guest's waking vector (ACPI 6.4, 5.2.10).</summary>
    /// <param name="vector">Below 1 MiB.</param>
    public static void SetRealMode(ref CpuState state, uint vector)
    {
        state.MtrrDefaultType = MtrrEnabledWriteBack;
        state.Segments[1].Selector = (ushort)(vector >> 4);
        state.Segments[1].Base = vector & ~15u;
        state.Rip = vector & 15;
    }

    /// <summary>The GDT in RAM that the selectors of the entry state come from.</summary>
    public static byte[] Gdt(bool longMode)
    {
        var gdt = new byte[GdtLimit + 1];
        BinaryPrimitives.WriteUInt64LittleEndian(gdt.AsSpan(CodeSelector), Descriptor(longMode ? Code64 : Code32));
        BinaryPrimitives.WriteUInt64LittleEndian(gdt.AsSpan(DataSelector), Descriptor(Data));
        BinaryPrimitives.WriteUInt64LittleEndian(gdt.AsSpan(TssSelector), TssLimit | ((ulong)Tss32 << 40));
        return gdt;
    }

    /// <summary>Page tables for <see cref="BootLayout.PageTables"/>: 4 GiB mapped to themselves.</summary>
    public static byte[] IdentityPageTables()
    {
        const ulong presentWritable = 3, largePage = 0x80;
        var tables = new byte[6 * 4096];
        Put(0, 0, BootLayout.PageTables + 0x1000 + presentWritable);
        for (var gib = 0; gib < 4; gib++)
        {
            Put(1, gib, BootLayout.PageTables + 0x2000 + ((ulong)gib * 0x1000) + presentWritable);
            for (var i = 0; i < 512; i++)
                Put(2 + gib, i, ((((ulong)gib * 512) + (ulong)i) << 21) | largePage | presentWritable);
        }

        return tables;

        void Put(int page, int index, ulong value) =>
            BinaryPrimitives.WriteUInt64LittleEndian(tables.AsSpan((page * 4096) + (index * 8)), value);
    }

    private static void SetFlat(ref CpuState state, ulong entry, ushort code)
    {
        state.MtrrDefaultType = MtrrEnabledWriteBack;
        state.Gpr = default;
        state.Rip = entry;
        state.Rflags = 2;
        for (var i = 0; i < 6; i++)
            state.Segments[i] = new SegmentRegister { Limit = uint.MaxValue, Selector = DataSelector, Attributes = Data };
        state.Segments[1] = new SegmentRegister { Limit = uint.MaxValue, Selector = CodeSelector, Attributes = code };
        state.Ldtr = default;
        state.Tr = new SegmentRegister { Limit = TssLimit, Attributes = BusyTss32 };
        state.Gdtr = new TableRegister { Base = BootLayout.Gdt, Limit = GdtLimit };
        state.Idtr = default;
        state.Cr2 = state.Cr3 = state.Cr4 = state.Efer = 0;
        state.Activity = ActivityState.Active;
        state.InterruptShadow = state.NmiBlocked = false;
    }

    private static ulong Descriptor(ushort attributes) =>
        0x000F_0000_0000_FFFF | ((ulong)attributes << 40);
}
