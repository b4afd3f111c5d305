using System.Runtime.InteropServices;
using Conformance.Fuzzing;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;

namespace Conformance.Guests;

/// <summary>
/// The least of an operating system: page tables that show the arena at the host's addresses, Linux's segment
/// selectors, and an exception handler that is one HLT per vector. All of it lies, for the supervisor only, below 2 MiB.
/// </summary>
internal sealed class GuestTables
{
    public const ulong KernelStack = 0xC000;
    public const ulong Handlers = 0x8000;
    public const ushort UserCs64 = 0x33, UserCs32 = 0x23, UserData = 0x2B;

    private const ulong Root = 0x10000, Gdt = 0x6000, Idt = 0x7000, Tss = 0x9000, ArenaPhysical = 0x200000;
    private const ushort KernelCs = 0x10, TssSelector = 0x40;
    private const ulong Present = 1, Writable = 2, User = 4;

    private readonly GuestMemory _memory;
    private ulong _nextTable = Root + 0x1000;

    public GuestTables(GuestMemory memory, Arena arena)
    {
        _memory = memory;
        for (ulong page = 0; page < 0x200000; page += 0x1000)
            Map(page, page, Writable);
        CodePhysical = ArenaPhysical;
        ScratchPhysical = ArenaPhysical + 0x1000;
        Map(arena.CodeAddress, CodePhysical, Writable | User);
        for (ulong page = 0; page < Arena.ScratchSize; page += 0x1000)
            Map(arena.ScratchAddress + page, ScratchPhysical + page, Writable | User);
        var readOnly = ScratchPhysical + Arena.ScratchSize;
        Map(arena.ReadOnlyAddress, readOnly, User);
        unsafe
        {
            memory.TryWrite(readOnly, new ReadOnlySpan<byte>(arena.ReadOnly, Arena.PageSize));
        }

        WriteDescriptors();
    }

    public ulong CodePhysical { get; }

    public ulong ScratchPhysical { get; }

    /// <summary>User mode, as a Linux process has it, at <see cref="TestCase.Start"/>.</summary>
    public static CpuState StartState(TestCase test)
    {
        CpuState state = default;
        state.Cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
        state.Cr3 = Root;
        state.Cr4 = 0x40620; // OSXSAVE OSXMMEXCPT OSFXSR PAE
        state.Efer = 0xD01; // NXE LMA LME SCE
        state.Xcr0 = 7;
        state.Pat = 0x0007_0406_0007_0406;
        state.Dr[6] = 0xFFFF_0FF0;
        state.Dr[7] = 0x400;
        state.Gdtr = new TableRegister { Base = Gdt, Limit = TssSelector + 15 };
        state.Idtr = new TableRegister { Base = Idt, Limit = 0xFFF };
        state.Tr = new SegmentRegister { Selector = TssSelector, Base = Tss, Limit = 0x67, Attributes = 0x8B };
        state.Segments[1] = new SegmentRegister
        {
            Selector = test.Bitness == 64 ? UserCs64 : UserCs32,
            Limit = uint.MaxValue,
            Attributes = test.Bitness == 64 ? (ushort)0xA0FB : (ushort)0xC0FB,
        };
        var data = new SegmentRegister { Selector = UserData, Limit = uint.MaxValue, Attributes = 0xC0F3 };
        state.Segments[2] = data;
        if (test.Bitness == 32)
        {
            state.Segments[0] = data;
            state.Segments[3] = data;
        }

        if (test.Segments is { } segments)
        {
            for (var i = 0; i < SegmentSet.Count; i++)
                state.Segments[i] = segments[i];
        }

        state.Rip = test.Start;
        state.Rflags = test.Initial.Rflags;
        state.Gpr = test.Initial.Gpr;
        state.Ymm = test.Initial.Ymm;
        state.X87 = test.Initial.Fx;
        state.Mxcsr = test.Initial.Mxcsr;
        return state;
    }

    private void WriteDescriptors()
    {
        _memory.TryWrite(Gdt + 0x10, 0x00AF_9B00_0000_FFFFUL); // kernel code
        _memory.TryWrite(Gdt + 0x18, 0x00CF_9300_0000_FFFFUL); // kernel data
        _memory.TryWrite(Gdt + 0x20, 0x00CF_FB00_0000_FFFFUL); // user code, 32 bits
        _memory.TryWrite(Gdt + 0x28, 0x00CF_F300_0000_FFFFUL); // user data
        _memory.TryWrite(Gdt + 0x30, 0x00AF_FB00_0000_FFFFUL); // user code, 64 bits
        _memory.TryWrite(Gdt + TssSelector, 0x0000_8B00_0000_0067UL | (Tss << 16));
        _memory.TryWrite(Tss + 4, KernelStack);
        _memory.TryWrite(Tss + 0x66, (ushort)0x68); // no I/O permission bitmap
        for (ulong vector = 0; vector < 256; vector++)
        {
            var handler = Handlers + vector;
            var dpl = vector is 3 or 4 ? 3UL : 0;
            _memory.TryWrite(handler, (byte)0xF4);
            _memory.TryWrite(Idt + (16 * vector), (handler & 0xFFFF) | ((ulong)KernelCs << 16) | ((0x8E00UL | (dpl << 13)) << 32));
        }
    }

    /// <summary>Maps a page of 4 KiB by four levels.</summary>
    private void Map(ulong linear, ulong physical, ulong rights)
    {
        var table = Root;
        for (var shift = 39; shift > 12; shift -= 9)
        {
            var slot = table + (((linear >> shift) & 511) * 8);
            _memory.TryRead(slot, out ulong entry);
            if (entry == 0)
            {
                entry = _nextTable | Present | Writable | User;
                _nextTable += 0x1000;
                _memory.TryWrite(slot, entry);
            }

            table = entry & ~0xFFFUL;
        }

        _memory.TryWrite(table + (((linear >> 12) & 511) * 8), physical | Present | rights);
    }
}
