// The code of the option ROM: 16-bit, entered by firmware's far call at the boot entry vector. DS is the ROM, ES memory
// from 0 on. Until the first DMA request nothing of firmware's is touched, so that a failure returns to it and it tries
// the next boot device.
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Boot.BootRom;

internal sealed class KernelRomCode
{
    // Memory of our own, in pages that a BootPlan leaves free for it: a DMA request, then variables.
    private const ushort Request = (ushort)BootLayout.RomScratch, MapEnd = Request + 16, LowerKiB = Request + 20, TableRegister = Request + 24, Rsdp = Request + 32;
    private const ushort StackTop = (ushort)BootLayout.StackTop;

    private const ushort Info = (ushort)BootLayout.StartInfo;
    private const int MapEntrySize = MultibootInfo.MapEntrySize;
    private const ushort MapLimit = (ushort)BootLayout.MemoryMap + (MaximumMapEntries * MapEntrySize);
    private const int MaximumMapEntries = 128;
    private const uint Smap = 0x534D4150, E820Function = 0xE820, E820EntrySize = 20;

    private const ushort DmaHighPort = 0x514, DmaLowPort = 0x518, SystemControlPortA = 0x92, DebugPort = 0x402;
    private const uint DmaErrorAnswer = 0x01000000; // bit 0, big-endian

    private readonly Assembler _c = new(16);
    private readonly BootPlan _plan;
    private readonly RomTables _tables;

    // A map entry begins with its size for multiboot only.
    private readonly ushort _mapStart;

    private Label _giveUp, _print;

    private KernelRomCode(BootPlan plan, RomTables tables)
    {
        _plan = plan;
        _tables = tables;
        _mapStart = (ushort)(BootLayout.MemoryMap + (IsMultiboot ? 4u : 0));
        _giveUp = _c.CreateLabel();
        _print = _c.CreateLabel();
    }

    private bool IsMultiboot => _plan.Kind == KernelKind.Multiboot;

    /// <param name="offset">Of the code in the ROM.</param>
    public static byte[] Assemble(BootPlan plan, RomTables tables, int offset)
    {
        var rom = new KernelRomCode(plan, tables);
        rom.Begin();
        rom.ReadMemoryMap();
        rom.CheckRanges();
        rom.AskFirmware();
        rom.Load();
        rom.CompleteInfo();
        rom.Enter();
        rom.GiveUp();
        rom.Print();
        using var code = new MemoryStream();
        rom._c.Assemble(new StreamCodeWriter(code), (ulong)offset);
        return code.ToArray();
    }

    /// <summary>Leaves firmware's stack where it is, and its address on ours.</summary>
    private void Begin()
    {
        _c.cld();
        _c.cli();
        _c.mov(cx, ss);
        _c.mov(bx, sp);
        _c.xor(ax, ax);
        _c.mov(ss, ax);
        _c.mov(sp, StackTop);
        _c.push(cx);
        _c.push(bx);
        _c.push(cs);
        _c.pop(ds);
        _c.mov(es, ax);
        _c.sti();
    }

    private void ReadMemoryMap()
    {
        var next = _c.CreateLabel();
        var end = _c.CreateLabel();
        var found = _c.CreateLabel();
        _c.mov(di, _mapStart);
        _c.xor(ebx, ebx);
        _c.Label(ref next);
        _c.mov(eax, E820Function);
        _c.mov(ecx, E820EntrySize);
        _c.mov(edx, Smap);
        _c.@int(0x15);
        _c.jc(end);
        _c.cmp(eax, Smap);
        _c.jne(end);
        if (IsMultiboot)
            _c.mov(__dword_ptr.es[di - 4], MultibootInfo.MapEntryContent);
        else
            _c.mov(__dword_ptr.es[di + (int)E820EntrySize], 0);
        _c.add(di, MapEntrySize);
        _c.cmp(di, MapLimit);
        _c.jae(end);
        _c.test(ebx, ebx);
        _c.jne(next);
        _c.Label(ref end);
        _c.mov(__word_ptr.es[MapEnd], di);
        _c.cmp(di, _mapStart);
        _c.jne(found);
        _c.mov(si, (ushort)_tables.NoMapMessage);
        _c.jmp(_giveUp);
        _c.Label(ref found);
    }

    /// <summary>Each range of the plan must lie in one range of RAM.</summary>
    private void CheckRanges()
    {
        var range = _c.CreateLabel();
        var entry = _c.CreateLabel();
        var nextEntry = _c.CreateLabel();
        var outside = _c.CreateLabel();
        var inside = _c.CreateLabel();
        _c.mov(si, (ushort)_tables.Ranges);
        _c.mov(bp, (ushort)_tables.RangeCount);
        _c.Label(ref range);
        _c.mov(eax, __dword_ptr[si]);
        _c.mov(edx, __dword_ptr[si + 4]);
        _c.mov(bx, _mapStart);
        _c.Label(ref entry);
        _c.cmp(bx, __word_ptr.es[MapEnd]);
        _c.jae(outside);
        _c.cmp(__dword_ptr.es[bx + 16], (int)E820Type.Ram);
        _c.jne(nextEntry);
        _c.cmp(__dword_ptr.es[bx + 4], 0);
        _c.jne(nextEntry);
        _c.mov(ecx, __dword_ptr.es[bx]);
        _c.cmp(eax, ecx);
        _c.jb(nextEntry);
        _c.mov(edi, __dword_ptr.es[bx + 12]);
        _c.add(ecx, __dword_ptr.es[bx + 8]);
        _c.adc(edi, 0);
        _c.jne(inside);
        _c.cmp(edx, ecx);
        _c.jbe(inside);
        _c.Label(ref nextEntry);
        _c.add(bx, MapEntrySize);
        _c.jmp(entry);

        _c.Label(ref outside);
        _c.push(eax);
        _c.mov(si, (ushort)_tables.NoMemoryMessage);
        _c.call(_print);
        _c.pop(edx);
        PrintHex();
        _c.jmp(_giveUp);

        _c.Label(ref inside);
        _c.add(si, 8);
        _c.dec(bp);
        _c.jne(range);
    }

    /// <summary>What else only firmware knows, before its memory is overwritten.</summary>
    private void AskFirmware()
    {
        _c.mov(ax, 0x2401); // A20 on
        _c.@int(0x15);
        _c.@in(al, (byte)SystemControlPortA);
        _c.or(al, 2);
        _c.and(al, 0xFE);
        _c.@out((byte)SystemControlPortA, al);
        if (IsMultiboot)
        {
            _c.@int(0x12);
            _c.movzx(eax, ax);
            _c.mov(__dword_ptr.es[LowerKiB], eax);
        }

        if (_plan.Kind != KernelKind.Pvh)
            return;
        // The RSDP is somewhere from E0000h on, at a multiple of 16.
        var paragraph = _c.CreateLabel();
        var next = _c.CreateLabel();
        var end = _c.CreateLabel();
        _c.mov(__dword_ptr.es[Rsdp], 0);
        _c.mov(ax, 0xE000);
        _c.Label(ref paragraph);
        _c.mov(fs, ax);
        _c.cmp(__dword_ptr.fs[0], 0x20445352); // "RSD "
        _c.jne(next);
        _c.cmp(__dword_ptr.fs[4], 0x20525450); // "PTR "
        _c.jne(next);
        _c.movzx(eax, ax);
        _c.shl(eax, 4);
        _c.mov(__dword_ptr.es[Rsdp], eax);
        _c.jmp(end);
        _c.Label(ref next);
        _c.inc(ax);
        _c.jne(paragraph);
        _c.Label(ref end);
    }

    /// <summary>Has fw_cfg copy the segments. There is no way back from here.</summary>
    private void Load()
    {
        var request = _c.CreateLabel();
        var wait = _c.CreateLabel();
        var done = _c.CreateLabel();
        var stop = _c.CreateLabel();
        _c.cli();
        _c.mov(si, (ushort)_tables.Loads);
        _c.mov(bp, (ushort)_tables.LoadCount);
        _c.Label(ref request);
        _c.mov(di, Request);
        _c.mov(cx, 4);
        _c.rep.movsd();
        _c.xor(eax, eax);
        _c.mov(dx, DmaHighPort);
        _c.@out(dx, eax);
        _c.mov(eax, (uint)System.Buffers.Binary.BinaryPrimitives.ReverseEndianness((int)Request));
        _c.mov(dx, DmaLowPort);
        _c.@out(dx, eax);
        _c.Label(ref wait);
        _c.mov(eax, __dword_ptr.es[Request]);
        _c.test(eax, eax);
        _c.je(done);
        _c.cmp(eax, DmaErrorAnswer);
        _c.jne(wait);
        _c.mov(si, (ushort)_tables.NoDataMessage);
        _c.call(_print);
        _c.Label(ref stop);
        _c.hlt();
        _c.jmp(stop);
        _c.Label(ref done);
        _c.dec(bp);
        _c.jne(request);
    }

    private void CompleteInfo()
    {
        if (_plan.Kind is not (KernelKind.Multiboot or KernelKind.Pvh))
            return;
        _c.movzx(eax, __word_ptr.es[MapEnd]);
        _c.sub(eax, _mapStart);
        if (_plan.Kind == KernelKind.Pvh)
        {
            _c.xor(edx, edx);
            _c.mov(ecx, PvhStartInfo.MapEntrySize);
            _c.div(ecx);
            _c.mov(__dword_ptr.es[Info + PvhStartInfo.MapEntries], eax);
            _c.mov(eax, __dword_ptr.es[Rsdp]);
            _c.mov(__dword_ptr.es[Info + PvhStartInfo.Rsdp], eax);
            return;
        }

        _c.mov(__dword_ptr.es[Info + MultibootInfo.MapLength], eax);
        _c.mov(eax, __dword_ptr.es[LowerKiB]);
        _c.mov(__dword_ptr.es[Info + MultibootInfo.MemLower], eax);
        // mem_upper: the KiB of RAM from 1 MiB on.
        var entry = _c.CreateLabel();
        var next = _c.CreateLabel();
        var end = _c.CreateLabel();
        _c.mov(bx, _mapStart);
        _c.Label(ref entry);
        _c.cmp(__dword_ptr.es[bx], (uint)E820.OneMiB);
        _c.jne(next);
        _c.cmp(__dword_ptr.es[bx + 4], 0);
        _c.jne(next);
        _c.cmp(__dword_ptr.es[bx + 16], (int)E820Type.Ram);
        _c.jne(next);
        _c.mov(eax, __dword_ptr.es[bx + 8]);
        _c.mov(edx, __dword_ptr.es[bx + 12]);
        _c.shrd(eax, edx, 10);
        _c.mov(__dword_ptr.es[Info + MultibootInfo.MemUpper], eax);
        _c.jmp(end);
        _c.Label(ref next);
        _c.add(bx, MapEntrySize);
        _c.cmp(bx, __word_ptr.es[MapEnd]);
        _c.jb(entry);
        _c.Label(ref end);
    }

    private void Enter()
    {
        if (_plan.Kind == KernelKind.LinuxRealMode)
            EnterRealMode();
        else
            EnterProtectedMode();
    }

    /// <summary>Linux: "Running the kernel" of its boot protocol. The setup code is entered 20h paragraphs up.</summary>
    private void EnterRealMode()
    {
        var segment = (ushort)(_plan.ParametersAddress >> 4);
        _c.mov(ax, segment);
        foreach (var register in new[] { ds, es, fs, gs, ss })
            _c.mov(register, ax);
        _c.mov(sp, (ushort)_plan.StackOffset);
        Jump(Code.Jmp_ptr1616, (ushort)(_plan.Entry >> 4), 0);
    }

    private void EnterProtectedMode()
    {
        const uint protectedModeExtension = 0x11; // PE, ET
        _c.mov(__word_ptr.es[TableRegister], EntryState.GdtLimit);
        _c.mov(__dword_ptr.es[TableRegister + 2], (uint)BootLayout.Gdt);
        _c.lgdt(__.es[TableRegister]);
        _c.xor(eax, eax);
        _c.mov(cr4, eax);
        _c.mov(eax, protectedModeExtension);
        _c.mov(cr0, eax);
        _c.mov(ax, EntryState.DataSelector);
        foreach (var register in new[] { ds, es, fs, gs, ss })
            _c.mov(register, ax);
        _c.mov(ax, EntryState.TssSelector);
        _c.ltr(ax);
        _c.mov(eax, IsMultiboot ? EntryState.MultibootMagic : 0);
        _c.mov(ebx, Info);
        Jump(Code.Jmp_ptr1632, EntryState.CodeSelector, (uint)_plan.Entry);
    }

    private void Jump(Code code, ushort selector, uint offset) => _c.AddInstruction(Instruction.CreateBranch(code, selector, offset));

    /// <summary>Prints the message at DS:SI and goes back to firmware, which finds its stack on ours.</summary>
    private void GiveUp()
    {
        _c.Label(ref _giveUp);
        _c.call(_print);
        _c.pop(bx);
        _c.pop(cx);
        _c.cli();
        _c.mov(ss, cx);
        _c.mov(sp, bx);
        _c.sti();
        _c.retf();
    }

    /// <summary>A function: writes the text at DS:SI to the screen and to firmware's debug port.</summary>
    private void Print()
    {
        var end = _c.CreateLabel();
        _c.Label(ref _print);
        _c.lodsb();
        _c.test(al, al);
        _c.je(end);
        PrintCharacter();
        _c.jmp(_print);
        _c.Label(ref end);
        _c.ret();
    }

    /// <summary>The eight digits of EDX and a new line; SI is then an empty text's.</summary>
    private void PrintHex()
    {
        var digit = _c.CreateLabel();
        var print = _c.CreateLabel();
        _c.mov(cx, 8);
        _c.Label(ref digit);
        _c.rol(edx, 4);
        _c.mov(al, dl);
        _c.and(al, 0x0F);
        _c.add(al, (byte)'0');
        _c.cmp(al, (byte)'9');
        _c.jbe(print);
        _c.add(al, (byte)('a' - '9' - 1));
        _c.Label(ref print);
        _c.push(edx);
        _c.push(cx);
        PrintCharacter();
        _c.pop(cx);
        _c.pop(edx);
        _c.dec(cx);
        _c.jne(digit);
        _c.mov(si, (ushort)_tables.NewLine);
    }

    private void PrintCharacter()
    {
        _c.push(si);
        _c.mov(dx, DebugPort);
        _c.@out(dx, al);
        _c.mov(ah, 0x0E); // INT 10h: teletype output
        _c.mov(bx, 7);
        _c.@int(0x10);
        _c.pop(si);
    }
}
