using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Tests.Robustness;

/// <summary>The modes a random guest starts in.</summary>
public enum GuestMode
{
    Real,
    Protected16,
    Protected32,
    Virtual8086,
    Paging32,
    Pae,
    Long,
    Compatibility,
}

/// <summary>
/// A guest that jumps into the void: random code, registers, tables and page tables, with addresses of devices, of
/// nothing, and of the ends of things among them. The seed says it all.
/// </summary>
internal sealed class RandomGuest(int seed)
{
    private const uint CodePage = 0x10000, StackTop = 0x18000, Gdt = 0x6000, Idt = 0x7000, Tss = 0x9000, Handlers = 0xA000, Tables = 0x100000;
    private const uint RamSize = 64 << 20;

    private static readonly ulong[] s_places =
    [
        0, 1, 0xFFF, 0x1000, 0x7C00, CodePage, CodePage + 0xFF8, StackTop, Gdt, Idt, Tss, Tables, 0x9FFFC, 0xA0000, 0xBFFFF, 0xC0000, 0xFFFFE,
        0x100000, RamSize - 8, RamSize - 1, RamSize, 0xC0000000, 0xE0000000, 0xFEC00000, 0xFEC00010, 0xFED00000, 0xFED000F0, 0xFEE00000, 0xFEE00300,
        0xFEE00FF8, 0xFEE00FFF, 0xFFFFFFF0, 0xFFFFFFFF, 0x1_0000_0000, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_F000, ulong.MaxValue,
    ];

    private static readonly byte[] s_prefixes = [0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65];

    /// <summary>Opcodes that do what only kernels do, more often than chance would have them.</summary>
    private static readonly byte[][] s_system =
    [
        [0x0F, 0x22, 0xC0], [0x0F, 0x22, 0xD8], [0x0F, 0x22, 0xE0], [0x0F, 0x30], [0x0F, 0x32], [0x0F, 0x01], [0x0F, 0x00], [0x0F, 0x23], [0x8E], [0xCF], [0xCD],
        [0xEA], [0x9A], [0xCB], [0xFF, 0x28], [0xFF, 0x18], [0x0F, 0xAE], [0x0F, 0xC7], [0xF3, 0xA4], [0xF3, 0xAB], [0xF3, 0x48, 0xA5], [0xF3, 0x6C], [0xF3, 0x6F],
        [0xE6], [0xE4], [0xEE], [0xEC], [0xEF], [0xED], [0x9D], [0x0F, 0x05], [0x0F, 0x07], [0x0F, 0x34], [0x0F, 0x35], [0xC8], [0xFB, 0xF4], [0x0F, 0x01, 0xD1],
        [0xF0, 0x0F, 0xB1], [0xF0, 0x0F, 0xC7, 0x0F], [0x48, 0x0F, 0xAE, 0x21], [0x0F, 0xAE, 0x2B], [0xC4], [0xC5], [0x62], [0x0F, 0x38], [0x0F, 0x3A], [0xD9], [0xDB], [0xDD],
    ];

    private readonly Random _random = new(seed);

    public GuestMode Mode { get; } = (GuestMode)(new Random(seed).Next() % 8);

    public void Place(GuestMemory memory)
    {
        WriteCode(memory, CodePage, 4096 + 512);
        WriteCode(memory, 0x7C00, 64);
        WriteCode(memory, RamSize - 64, 64);
        WriteCode(memory, Handlers, 256);
        if (OneIn(3)) // a handler that returns, one that halts
            memory.TryWrite(Handlers, [0x48, 0xCF]);
        WriteDescriptors(memory);
        WritePageTables(memory);
        for (var i = 0; i < 256; i++)
            memory.TryWrite((ulong)(i * 4), OneIn(2) ? Handlers >> 4 << 16 : (uint)_random.Next());
    }

    public CpuState State(CpuState start)
    {
        var s = start;
        for (var i = 0; i < 16; i++)
            s.Gpr[i] = Value();
        s.Gpr[4] = OneIn(3) ? Value() : StackTop;
        s.Rip = OneIn(6) ? Value() : CodePage + (ulong)_random.Next(OneIn(4) ? 4096 : 64);
        s.Rflags = 2 | ((ulong)_random.Next() & 0x244FD5 & ~(OneIn(3) ? 0UL : 0x100));
        s.Cr0 = 0x10;
        s.Cr2 = s.Cr3 = s.Cr4 = s.Efer = 0;
        s.Xcr0 = 7;
        s.Activity = ActivityState.Active;
        s.InterruptShadow = OneIn(8);
        s.NmiBlocked = OneIn(8);
        s.Mxcsr = OneIn(2) ? 0x1F80 : (uint)_random.Next(0x10000);
        s.Gdtr = new TableRegister { Base = OneIn(8) ? Value() : Gdt, Limit = OneIn(8) ? (uint)_random.Next(0x10000) : 0x7F };
        s.Idtr = new TableRegister { Base = OneIn(8) ? Value() : Idt, Limit = OneIn(8) ? (uint)_random.Next(0x10000) : 0xFFF };
        s.Ldtr = new SegmentRegister { Selector = 0, Base = Value(), Limit = (uint)_random.Next(0x10000), Attributes = 0x82 };
        s.Tr = new SegmentRegister { Selector = 0x28, Base = OneIn(8) ? Value() : Tss, Limit = OneIn(8) ? (uint)_random.Next(256) : 0x2067, Attributes = 0x8B };
        s.Lstar = s.Cstar = Handlers;
        s.Star = 0x0013_0008_0000_0000;
        s.SysenterCs = 8;
        s.SysenterEip = Handlers;
        s.SysenterEsp = Value();
        var user = OneIn(4);
        for (var i = 0; i < 8; i++)
            s.Dr[i] = i < 4 && OneIn(4) ? Value() : 0;
        s.Dr[6] = 0xFFFF0FF0;
        s.Dr[7] = OneIn(6) ? (uint)_random.Next() & 0xFFFF03FF | 0x400u : 0x400;
        Segments(ref s, user);
        return s;
    }

    private void Segments(ref CpuState s, bool user)
    {
        var privilege = (ushort)(user ? 0x60 : 0);
        var rpl = (ushort)(user ? 3 : 0);
        ushort code = 0x9B, data = 0x93;
        var limit = uint.MaxValue;
        switch (Mode)
        {
            case GuestMode.Real:
                limit = 0xFFFF;
                s.Rip &= 0xFFFF;
                break;
            case GuestMode.Protected16:
                s.Cr0 |= 1;
                limit = 0xFFFF;
                break;
            case GuestMode.Virtual8086:
                s.Cr0 |= 1;
                s.Rflags |= 0x20000;
                limit = 0xFFFF;
                privilege = 0x60;
                break;
            case GuestMode.Long:
                s.Cr0 |= 0x80000001;
                s.Efer = 0x501 | (OneIn(2) ? 0x800u : 0);
                s.Cr4 = 0x20;
                code |= 0x2000;
                break;
            case GuestMode.Compatibility:
                s.Cr0 |= 0x80000001;
                s.Efer = 0x501;
                s.Cr4 = 0x20;
                code |= 0x4000;
                data |= 0x4000;
                break;
            default:
                s.Cr0 |= Mode == GuestMode.Protected32 ? 1 : 0x80000001u;
                s.Cr4 = Mode == GuestMode.Pae ? 0x20u : 0;
                code |= 0x4000;
                data |= 0x4000;
                break;
        }

        if (!OneIn(4))
            s.Cr4 |= 0x40600;
        if (OneIn(3))
            s.Cr4 |= (ulong)_random.Next() & 0x3308DC;
        if (OneIn(3))
            s.Cr0 |= (ulong)_random.Next() & 0x5002E;
        s.Cr3 = OneIn(10) ? Value() & 0xF_FFFF_FFFF : Tables + ((uint)Mode << 16);
        for (var i = 0; i < 6; i++)
        {
            var isCode = i == 1;
            s.Segments[i] = new SegmentRegister
            {
                Selector = (ushort)((isCode ? 8 : 16) | rpl),
                Base = Mode is GuestMode.Real or GuestMode.Virtual8086 ? isCode ? CodePage : (ulong)_random.Next(0x10000) << 4 : OneIn(6) ? Value() : 0,
                Limit = OneIn(8) ? (uint)_random.Next(0x20000) : limit,
                Attributes = (ushort)((isCode ? code : data) | privilege | (OneIn(12) ? 4 : 0)),
            };
        }
    }

    private void WriteDescriptors(GuestMemory memory)
    {
        ulong[] gdt =
        [
            0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF, 0x00CFF3000000FFFF, 0x00008B0000002067 | ((ulong)Tss << 16), 0, 0x00AFFB000000FFFF,
            0x00008C0000080000 | Handlers, 0, 0x0000850000280000, 0x0000890000000067 | ((ulong)Tss << 16), 0x000082000000FFFF, 0, (ulong)_random.NextInt64(), (ulong)_random.NextInt64(),
        ];
        for (var i = 0; i < gdt.Length; i++)
            memory.TryWrite(Gdt + (ulong)(i * 8), OneIn(20) ? (ulong)_random.NextInt64() : gdt[i]);
        var wide = Mode is GuestMode.Long or GuestMode.Compatibility;
        for (var i = 0; i < 256; i++)
        {
            var gate = Handlers | ((Mode == GuestMode.Long || wide ? 8UL : 0x18) << 16) | (OneIn(10) ? 0x85UL : OneIn(8) ? 0xEFUL : 0x8EUL) << 40;
            if (OneIn(16))
                gate = (ulong)_random.NextInt64();
            memory.TryWrite(Idt + (ulong)(i * (wide ? 16 : 8)), gate);
            if (wide)
                memory.TryWrite(Idt + (ulong)(i * 16) + 8, OneIn(30) ? Value() : 0UL);
        }

        for (var i = 0; i < 0x2070; i += 4)
            memory.TryWrite(Tss + (ulong)i, i < 0x68 && !OneIn(5) ? StackTop : (uint)_random.Next());
    }

    /// <summary>Identity for 4 MiB, with entries here and there that lead anywhere.</summary>
    private void WritePageTables(GuestMemory memory)
    {
        var at = Tables + ((uint)Mode << 16);
        if (Mode == GuestMode.Paging32)
        {
            for (var i = 0u; i < 1024; i++)
            {
                memory.TryWrite(at + (i * 4), (uint)(i == 0 ? (at + 0x1000) | 7 : OneIn(3) ? Entry(i << 22) : (i << 22) | 0x87));
                memory.TryWrite(at + 0x1000 + (i * 4), (uint)(OneIn(40) ? Entry(i << 12) : (i << 12) | 7));
            }

            return;
        }

        var isLong = Mode is GuestMode.Long or GuestMode.Compatibility;
        var directory = at + (isLong ? 0x2000u : 0x1000u);
        if (isLong)
        {
            for (var i = 0u; i < 512; i++)
                memory.TryWrite(at + (i * 8), i == 0 ? (at + 0x1000) | 7UL : OneIn(4) ? Entry(0) : at | 7UL);
        }

        var pointers = isLong ? at + 0x1000 : at;
        for (var i = 0u; i < (isLong ? 512 : 4); i++)
            memory.TryWrite(pointers + (i * 8), i == 0 ? directory | (isLong ? 7UL : 1) : OneIn(2) ? Entry((ulong)i << 30) : ((ulong)i << 30) | 0x87);
        for (var i = 0u; i < 512; i++)
        {
            memory.TryWrite(directory + (i * 8), i < 2 ? (directory + 0x1000 + (i << 12)) | 7UL : OneIn(3) ? Entry(i << 21) : (i << 21) | 0x87UL);
            memory.TryWrite(directory + 0x1000 + (i * 8), OneIn(60) ? Entry(i << 12) : (i << 12) | 7UL);
            memory.TryWrite(directory + 0x2000 + (i * 8), OneIn(40) ? Entry((i + 512) << 12) : ((i + 512) << 12) | 7UL);
        }
    }

    private ulong Entry(ulong near) => OneIn(4)
        ? (ulong)_random.NextInt64()
        : ((OneIn(2) ? s_places[_random.Next(s_places.Length)] : near) & 0xF_FFFF_F000) | ((ulong)_random.Next(0x1000) & 0x1FF) | (OneIn(4) ? 1UL << 63 : 0);

    private void WriteCode(GuestMemory memory, uint at, int length)
    {
        var code = new byte[length];
        _random.NextBytes(code);
        for (var i = 0; i + 8 < length; i += _random.Next(1, 8))
        {
            if (OneIn(3))
                code[i] = s_prefixes[_random.Next(s_prefixes.Length)];
            else if (OneIn(3))
                s_system[_random.Next(s_system.Length)].CopyTo(code, i);
            else if (OneIn(4))
                code[i] = 0x0F;
            else if (OneIn(6))
                BitConverter.GetBytes((uint)Value()).CopyTo(code, i);
        }

        memory.TryWrite(at, code);
    }

    private ulong Value() => _random.Next(8) switch
    {
        0 => (ulong)_random.NextInt64() << 1,
        1 => (ulong)_random.Next(256),
        2 => 0x174 + (ulong)_random.Next(32),
        3 => 0xC0000080 + (ulong)_random.Next(8),
        _ => s_places[_random.Next(s_places.Length)] + (ulong)(OneIn(3) ? _random.Next(-16, 17) : 0),
    };

    private bool OneIn(int n) => _random.Next(n) == 0;
}
