using System.Buffers.Binary;
using System.Text;
using Iced.Intel;
using Sharpvisor.Boot;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// A BIOS of 64 KiB that tells any memory map: it reads our option ROM from fw_cfg, checks its header, calls its boot entry
/// vector, and says on port 402h when that comes back, and with which stack.
/// </summary>
internal static class ScriptedBios
{
    private const int Size = 0x10000, ResetVector = 0xFFF0, Handlers = 0x800, HandlerSpacing = 0x100, Table = 0x1000, Return = 0x700, Name = 0x780, EntrySize = 20;
    private const ushort CodeSegment = 0xF000, RomSegment = 0x3000, EntryBuffer = 0x1000, Stack = 0x7000;
    private const string RomName = "genroms/sharpvisor-boot.rom";

    public static BootSource Build(IReadOnlyList<E820Entry> map)
    {
        var image = new byte[Size];
        Put(0, Start);
        Put(Return, Back);
        Put(Handlers, c => c.iret()); // INT 10h
        Put(Handlers + HandlerSpacing, c =>
        {
            c.mov(ax, 639); // INT 12h
            c.iret();
        });
        Put(Handlers + (2 * HandlerSpacing), c => MemoryMap(c, map.Count)); // INT 15h
        Encoding.ASCII.GetBytes(RomName + "\0").CopyTo(image, Name);
        for (var i = 0; i < map.Count; i++)
        {
            var entry = image.AsSpan(Table + (i * EntrySize));
            BinaryPrimitives.WriteUInt64LittleEndian(entry, map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)map[i].Type);
        }

        ((byte[])[0xEA, 0, 0, 0x00, 0xF0]).CopyTo(image, ResetVector); // jmp f000:0
        return BootSource.FromBytes(image, "bios");

        void Put(int offset, Action<Assembler> code)
        {
            var c = new Assembler(16);
            code(c);
            using var bytes = new MemoryStream();
            c.Assemble(new StreamCodeWriter(bytes), (ulong)offset);
            bytes.ToArray().CopyTo(image, offset);
        }
    }

    private static void Start(Assembler c)
    {
        Label file = c.CreateLabel(), sum = c.CreateLabel(), bad = c.CreateLabel();
        c.cli();
        c.cld();
        c.xor(ax, ax);
        c.mov(ss, ax);
        c.mov(sp, Stack);
        c.mov(es, ax);
        foreach (var (vector, index) in new[] { (0x10, 0), (0x12, 1), (0x15, 2) })
        {
            c.mov(__word_ptr.es[vector * 4], (ushort)(Handlers + (index * HandlerSpacing)));
            c.mov(__word_ptr.es[(vector * 4) + 2], CodeSegment);
        }

        c.mov(ax, cs);
        c.mov(ds, ax);
        Select(c, 0x19);
        c.mov(cx, 4); // the count of files: ours is among them
        c.mov(di, EntryBuffer);
        c.rep.insb();
        c.Label(ref file);
        c.mov(cx, 64);
        c.mov(di, EntryBuffer);
        c.rep.insb();
        c.mov(si, Name);
        c.mov(di, EntryBuffer + 8);
        c.mov(cx, (ushort)(RomName.Length + 1));
        c.repe.cmpsb();
        c.jne(file);
        c.mov(ax, __word_ptr.es[EntryBuffer + 4]);
        c.xchg(al, ah);
        c.mov(dx, 0x510);
        c.@out(dx, ax);
        c.mov(cx, __word_ptr.es[EntryBuffer + 2]);
        c.xchg(cl, ch);
        c.mov(bp, cx);
        c.mov(ax, RomSegment);
        c.mov(es, ax);
        c.mov(ds, ax);
        c.xor(di, di);
        c.mov(dx, 0x511);
        c.rep.insb();

        c.cmp(__word_ptr[0], 0xAA55);
        c.jne(bad);
        c.movzx(ax, __byte_ptr[2]);
        c.shl(ax, 9);
        c.cmp(ax, bp);
        c.jne(bad);
        c.mov(bx, __word_ptr[0x1A]);
        c.cmp(__dword_ptr[bx], 0x506E5024); // "$PnP"
        c.jne(bad);
        c.xor(si, si);
        c.mov(cx, bp);
        c.xor(ah, ah);
        c.Label(ref sum);
        c.lodsb();
        c.add(ah, al);
        c.dec(cx);
        c.jne(sum);
        c.test(ah, ah);
        c.jne(bad);
        c.mov(ax, __word_ptr[bx + 0x1A]);
        c.push(cs);
        c.push(Return);
        c.push(ds);
        c.push(ax);
        c.retf(); // the call

        c.Label(ref bad);
        Stop(c, "bad ROM\n");
    }

    /// <summary>The boot entry vector has returned.</summary>
    private static void Back(Assembler c)
    {
        Label bad = c.CreateLabel();
        c.cmp(sp, Stack);
        c.jne(bad);
        c.mov(ax, ss);
        c.test(ax, ax);
        c.jne(bad);
        Stop(c, "back\n");
        c.Label(ref bad);
        Stop(c, "back with a wrong stack\n");
    }

    private static void Select(Assembler c, int key)
    {
        c.mov(dx, 0x510);
        c.mov(ax, (ushort)key);
        c.@out(dx, ax);
        c.mov(dx, 0x511);
    }

    private static void Stop(Assembler c, string text)
    {
        c.mov(dx, 0x402);
        foreach (var character in text)
        {
            c.mov(al, (byte)character);
            c.@out(dx, al);
        }

        c.cli();
        c.hlt();
    }

    private static void MemoryMap(Assembler c, int count)
    {
        Label isMap = c.CreateLabel(), last = c.CreateLabel(), fail = c.CreateLabel();
        c.cmp(eax, 0xE820);
        c.je(isMap);
        c.clc();
        c.retf(2);
        c.Label(ref isMap);
        c.cmp(ebx, count);
        c.jae(fail);
        c.push(ds);
        c.push(si);
        c.push(di);
        c.push(cs);
        c.pop(ds);
        c.imul(si, bx, EntrySize);
        c.add(si, Table);
        c.mov(cx, EntrySize);
        c.rep.movsb();
        c.pop(di);
        c.pop(si);
        c.pop(ds);
        c.mov(ecx, EntrySize);
        c.mov(eax, edx);
        c.inc(ebx);
        c.cmp(ebx, count);
        c.jb(last);
        c.xor(ebx, ebx);
        c.Label(ref last);
        c.clc();
        c.retf(2);
        c.Label(ref fail);
        c.stc();
        c.retf(2);
    }
}
