using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>
/// The code that all blocks of a vCPU share: the ways in and out, the refill of access slots from the TLB, and the
/// adapters between register maps.
/// </summary>
internal sealed unsafe class Routines
{
    /// <summary>A place that has been refilled this often computes the TLB index each time from then on.</summary>
    public const int MaximumMisses = 4096;

    private readonly CpuContext* _c;
    private readonly TranslatorContext* _t;
    private readonly CodeCache _cache;
    private readonly Tlb _tlb;
    private readonly ulong[] _exits = new ulong[256];
    private readonly ulong[] _enters = new ulong[256];
    private readonly Dictionary<(byte From, byte To, ulong Target), ulong> _adapters = [];
    private readonly ulong[] _refills = new ulong[2 * (Tlb.Kinds + 1)];

    private readonly ulong[] _repeats = new ulong[8 * (Tlb.Kinds + 1)];

    public Routines(CpuContext* c, CodeCache cache, Tlb tlb)
    {
        _c = c;
        _t = &c->Translator;
        _cache = cache;
        _tlb = tlb;
    }

    /// <summary>void enter(target): RDI. Loads all registers by the map and the flags, and jumps.</summary>
    public ulong Enter(byte mask)
    {
        ref var enter = ref _enters[mask];
        if (enter == 0)
            enter = MakeEnter(RegisterMap.Of(mask));
        return enter;
    }

    /// <summary>Where a block jumps to leave, with <see cref="TranslatorContext.Exit"/> set and the flags saved.</summary>
    public ulong Exit(byte mask)
    {
        ref var exit = ref _exits[mask];
        if (exit == 0)
            exit = MakeExit(RegisterMap.Of(mask));
        return exit;
    }

    /// <summary>
    /// Called with a linear address in T0 and a slot's address in T1. ZF: the slot was filled from the TLB. Else
    /// nothing has changed. Other registers are kept.
    /// </summary>
    public ulong Refill(int kind, bool write)
    {
        ref var refill = ref _refills[(kind * 2) + (write ? 1 : 0)];
        if (refill == 0)
            refill = MakeRefill(kind, write);
        return refill;
    }

    /// <summary>See <see cref="MakeRepeat"/>.</summary>
    public ulong Repeat(int kind, bool move, int sizeLog)
    {
        ref var repeat = ref _repeats[(((kind * 2) + (move ? 1 : 0)) * 4) + sizeLog];
        if (repeat == 0)
            repeat = MakeRepeat(kind, move, sizeLog);
        return repeat;
    }

    /// <summary>Code that goes from one register map to another and jumps to the target.</summary>
    public ulong Adapter(byte from, byte to, ulong target)
    {
        if (from == to)
            return target;
        if (_adapters.TryGetValue((from, to, target), out var adapter))
            return adapter;
        var e = _cache.Cold;
        adapter = e.Address;
        Adapt(e, from, to);
        e.Jump(target);
        _adapters.Add((from, to, target), adapter);
        return adapter;
    }

    /// <summary>Moves registers so that they lie as another map says. Keeps flags and scratch registers.</summary>
    public void Adapt(CodeEmitter e, byte from, byte to)
    {
        if (from == to)
            return;
        var source = RegisterMap.Of(from);
        var destination = RegisterMap.Of(to);
        for (var guest = 8; guest < 16; guest++)
        {
            if (source[guest] >= 0 && source[guest] != destination[guest])
                e.Store(Gpr(guest), source[guest]);
        }

        for (var guest = 8; guest < 16; guest++)
        {
            if (destination[guest] >= 0 && source[guest] != destination[guest])
                e.Load(destination[guest], Gpr(guest));
        }
    }

    public void Clear()
    {
        Array.Clear(_exits);
        Array.Clear(_enters);
        Array.Clear(_refills);
        Array.Clear(_repeats);
        _adapters.Clear();
    }

    public void* Gpr(int guest) => (ulong*)&_c->Arch.Gpr + guest;

    private void* Ymm(int n) => (YmmValue*)&_c->Arch.Ymm + n;

    private ulong MakeEnter(sbyte[] map)
    {
        var e = _cache.Cold;
        e.Align(16);
        var start = e.Address;
        e.Raw(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); // push rbx, rbp, r12 to r15
        e.Raw(0x48, 0x83, 0xEC, 0x08); // sub rsp, 8: aligned for calls, though none of ours needs it
        e.Store(&_t->HostStack, Host.Rsp);
        e.Raw(0x57); // push rdi: the target

        // MXCSR: STMXCSR is much cheaper than LDMXCSR, and it is rarely another one.
        e.Raw(0x0F, 0xAE);
        e.Absolute(3, &_t->PresentMxcsr);
        e.Load32(Host.Rax, &_t->PresentMxcsr);
        e.OnAbsolute(0x3B, Host.Rax, &_c->Arch.Mxcsr, false);
        var same = e.ShortJump(0x74);
        e.Raw(0x0F, 0xAE);
        e.Absolute(2, &_c->Arch.Mxcsr);
        e.Land(same);

        e.CompareByte(&_t->Upper, (byte)UpperHalves.Clean);
        e.Raw(0x0F, 0x85);
        e.Int32(0); // jne
        var used = e.Address;
        e.Raw(0xC5, 0xF8, 0x77); // vzeroupper
        for (var i = 0; i < 16; i++)
            MoveVector(e, 0x6F, i, wide: false);
        var loaded = e.LongJump();
        e.LandLong(used);
        for (var i = 0; i < 16; i++)
            MoveVector(e, 0x6F, i, wide: true);
        e.LandLong(loaded);
        foreach (var guest in (ReadOnlySpan<int>)[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0])
        {
            if (map[guest] >= 0)
                e.Load(map[guest], Gpr(guest));
        }

        e.Raw(0xC3); // ret: to the target
        return start;
    }

    private ulong MakeExit(sbyte[] map)
    {
        var e = _cache.Cold;
        e.Align(16);
        var start = e.Address;
        for (var guest = 0; guest < 16; guest++)
        {
            if (map[guest] >= 0)
                e.Store(Gpr(guest), map[guest]);
        }

        e.Store(&_t->Scratch14, Host.T0);
        e.Store(&_t->Scratch15, Host.T1);
        e.CompareByte(&_t->Upper, (byte)UpperHalves.Clean);
        e.Raw(0x0F, 0x85);
        e.Int32(0); // jne
        var used = e.Address;
        for (var i = 0; i < 16; i++)
            MoveVector(e, 0x7F, i, wide: false);
        var stored = e.LongJump();
        e.LandLong(used);
        for (var i = 0; i < 16; i++)
            MoveVector(e, 0x7F, i, wide: true);
        e.Raw(0xC5, 0xF8, 0x77); // vzeroupper
        e.LandLong(stored);
        e.Raw(0x0F, 0xAE);
        e.Absolute(3, &_c->Arch.Mxcsr);

        // C# may run with exception flags set, but with no other rounding, no flushing and nothing unmasked.
        e.Load32(Host.Rax, &_c->Arch.Mxcsr);
        e.Immediate(4, Host.Rax, 0xFFC0, false);
        e.Immediate(7, Host.Rax, 0x1F80, false);
        var usual = e.ShortJump(0x74);
        e.Raw(0x0F, 0xAE);
        e.Absolute(2, &_t->HostMxcsr);
        e.Land(usual);
        e.Load(Host.Rsp, &_t->HostStack);
        e.Raw(0x48, 0x83, 0xC4, 0x08); // add rsp, 8
        e.Raw(0x41, 0x5F, 0x41, 0x5E, 0x41, 0x5D, 0x41, 0x5C, 0x5D, 0x5B, 0xC3);
        return start;
    }

    /// <summary>VMOVDQU of an XMM or YMM register from (6Fh) or to (7Fh) the state.</summary>
    private void MoveVector(CodeEmitter e, byte opcode, int n, bool wide)
    {
        e.Raw(0xC5, (byte)((n < 8 ? 0xFA : 0x7A) | (wide ? 4 : 0)), opcode);
        e.Absolute(n, Ymm(n));
    }

    private ulong MakeRefill(int kind, bool write)
    {
        // T0 linear, T1 slot; RAX, RCX and RDX are borrowed.
        var e = _cache.Cold;
        e.Align(16);
        var start = e.Address;
        var entries = (byte*)_tlb.Kind(kind);
        e.Raw(0x50, 0x51); // push rax, rcx
        EmitIndex(e, Host.Rax, Host.T0);
        e.Immediate(0, Host.Rax, checked((int)(long)entries), false); // rax = the TLB entry
        e.Move(Host.Rcx, Host.T0);
        e.OnMemory(0x33, Host.Rcx, Host.Rax, -1, TlbEntry.TagOffset(write), true); // xor: the offset in the page, if it is the right page
        e.Immediate(7, Host.Rcx, 4095);
        var miss = e.ShortJump(0x77); // ja
        e.OnMemory(0x3B, Host.Rax, Host.T1, -1, 0, false); // cmp eax, [slot]
        var crossing = e.ShortJump(0x74); // je: it is the right page already, so the access runs over its end
        e.Store(Host.T1, -1, 0, Host.Rax, false);
        e.Load(Host.Rcx, Host.T1, -1, AccessSlot.MissesOffset, false);
        e.Immediate(0, Host.Rcx, 1, false);
        e.Store(Host.T1, -1, AccessSlot.MissesOffset, Host.Rcx, false);
        e.Immediate(7, Host.Rcx, MaximumMisses, false);
        var often = e.ShortJump(0x74); // je: once
        e.Raw(0x59, 0x58); // pop rcx, rax
        e.Op(0x39, Host.Rsp, Host.Rsp); // ZF
        e.Raw(0xC3);
        e.Land(miss);
        e.Land(crossing);
        e.Land(often);
        e.Raw(0x59, 0x58);
        e.Op(0x85, Host.Rsp, Host.Rsp); // not ZF
        e.Raw(0xC3);
        return start;
    }

    /// <summary>The offset in its array of the TLB entry for a linear address; see <see cref="Tlb.Index"/>.</summary>
    public static void EmitIndex(CodeEmitter e, int to, int linear)
    {
        e.Move(to, linear);
        e.Shift(5, to, 12 - TlbEntry.SizeLog);
        e.Immediate(4, to, (Tlb.Entries - 1) << TlbEntry.SizeLog, false);
    }

    /// <summary>
    /// REP MOVS or STOS of 64-bit code, called with the guest's registers in place: page by page at the host's speed.
    /// ZF: done. Else the registers say what is left, and why it was left the interpreter finds out. T0 and T1 are used.
    /// </summary>
    private ulong MakeRepeat(int kind, bool move, int sizeLog)
    {
        var e = _cache.Cold;
        e.Align(16);
        var start = e.Address;
        var entries = checked((int)(long)_tlb.Kind(kind));
        e.Raw(0x53, 0x52, 0x50); // push rbx, rdx, rax
        e.Raw(0xF7, 0x04, 0x25); // test dword [Rflags], DF
        e.Int32(checked((int)(long)&_c->Arch.Rflags));
        e.Int32(0x400);
        e.Raw(0x0F, 0x85);
        e.Int32(0);
        var backwards = e.Address;
        var loop = e.Address;
        e.Op(0x85, Host.Rcx, Host.Rcx);
        e.Raw(0x0F, 0x84);
        e.Int32(0); // jz done
        var done = e.Address;
        e.ImmediateOnAbsolute(7, &_t->Attention, 0, wide: false);
        e.Raw(0x0F, 0x85);
        e.Int32(0);
        var attention = e.Address;
        EmitIndex(e, Host.Rdx, Host.Rdi);
        e.Load(Host.T0, Host.Rdx, -1, entries + TlbEntry.DeltaOffset);
        e.Load(Host.Rdx, Host.Rdx, -1, entries + TlbEntry.TagOffset(true));
        e.Op(0x31, Host.Rdx, Host.Rdi);
        e.Immediate(7, Host.Rdx, 4095);
        e.Raw(0x0F, 0x87);
        e.Int32(0); // ja
        var noTarget = e.Address;
        e.MoveImmediate(Host.Rbx, 4096);
        e.Op(0x29, Host.Rbx, Host.Rdx, false); // the rest of the page
        ulong noSource = 0;
        if (move)
        {
            EmitIndex(e, Host.Rdx, Host.Rsi);
            e.Load(Host.T1, Host.Rdx, -1, entries + TlbEntry.DeltaOffset);
            e.Load(Host.Rdx, Host.Rdx, -1, entries + TlbEntry.TagOffset(false));
            e.Op(0x31, Host.Rdx, Host.Rsi);
            e.Immediate(7, Host.Rdx, 4095);
            e.Raw(0x0F, 0x87);
            e.Int32(0);
            noSource = e.Address;
            e.Raw(0xF7, 0xDA); // neg edx
            e.Immediate(0, Host.Rdx, 4096, false);
            e.Op(0x39, Host.Rbx, Host.Rdx, false);
            e.Raw(0x0F, 0x47, 0xDA); // cmova ebx, edx
        }

        if (sizeLog > 0)
            e.Shift(5, Host.Rbx, sizeLog, false);
        e.Op(0x85, Host.Rbx, Host.Rbx, false);
        e.Raw(0x0F, 0x84);
        e.Int32(0); // jz: an element over the end of a page
        var crossing = e.Address;
        e.Op(0x39, Host.Rbx, Host.Rcx);
        e.Raw(0x48, 0x0F, 0x47, 0xD9); // cmova rbx, rcx
        e.Move(Host.Rdx, Host.Rcx);
        e.Op(0x29, Host.Rdx, Host.Rbx); // what is left after this run
        e.Move(Host.Rcx, Host.Rbx);
        e.Op(0x01, Host.Rdi, Host.T0);
        if (move)
            e.Op(0x01, Host.Rsi, Host.T1);
        if (sizeLog == 1)
            e.Raw(0x66);
        e.Raw(0xF3); // rep
        if (sizeLog == 3)
            e.Raw(0x48);
        e.Raw((byte)((move ? 0xA4 : 0xAA) + (sizeLog > 0 ? 1 : 0)));
        e.Op(0x29, Host.Rdi, Host.T0);
        if (move)
            e.Op(0x29, Host.Rsi, Host.T1);
        e.Move(Host.Rcx, Host.Rdx);
        e.Jump(loop);

        e.LandLong(done);
        e.Raw(0x58, 0x5A, 0x5B); // pop rax, rdx, rbx
        e.Op(0x39, Host.Rsp, Host.Rsp);
        e.Raw(0xC3);
        foreach (var failure in (ReadOnlySpan<ulong>)[backwards, attention, noTarget, noSource, crossing])
        {
            if (failure != 0)
                e.LandLong(failure);
        }

        e.Raw(0x58, 0x5A, 0x5B);
        e.Op(0x85, Host.Rsp, Host.Rsp);
        e.Raw(0xC3);
        return start;
    }
}
