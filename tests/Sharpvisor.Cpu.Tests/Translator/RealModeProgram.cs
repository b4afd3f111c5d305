using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>A random real-mode program that ends with HLT: loops, calls, segment loads, strings, near and far.</summary>
internal sealed class RealModeProgram(Random random)
{
    private static readonly AssemblerRegister16[] s_words = [ax, cx, dx, bx, bp, si, di];
    private static readonly AssemblerRegister32[] s_doubles = [eax, ecx, edx, ebx, ebp, esi, edi];
    private static readonly AssemblerRegister8[] s_bytes = [al, cl, dl, bl, ah, ch, dh, bh];
    private static readonly AssemblerRegisterSegment[] s_data = [ds, es, fs, gs];

    private readonly Assembler _a = new(16);

    /// <param name="offset">Where it lies in its segment.</param>
    public byte[] Assemble(ulong offset)
    {
        var end = _a.CreateLabel();
        List<Label> routines = [];
        for (var i = 0; i < 3; i++)
            routines.Add(_a.CreateLabel());
        for (var i = 0; i < 12; i++)
        {
            var rounds = random.Next(3);
            if (rounds > 0)
            {
                _a.mov(__word_ptr.cs[(int)(ushort)(offset + 0x800)], rounds * 3);
                var again = _a.CreateLabel();
                _a.Label(ref again);
                Some(routines);
                _a.dec(__word_ptr.cs[(int)(ushort)(offset + 0x800)]);
                _a.jne(again);
            }
            else
            {
                Some(routines);
            }
        }

        _a.Label(ref end);
        _a.hlt();
        foreach (var routine in routines)
        {
            var label = routine;
            _a.Label(ref label);
            for (var n = random.Next(4); n >= 0; n--)
                One();
            _a.ret();
        }

        using var stream = new MemoryStream();
        _a.Assemble(new StreamCodeWriter(stream), offset);
        return stream.ToArray();
    }

    private void Some(List<Label> routines)
    {
        for (var n = random.Next(1, 6); n > 0; n--)
            One();
        if (random.Next(3) == 0)
            _a.call(routines[random.Next(routines.Count)]);
    }

    private AssemblerRegister16 Word() => s_words[random.Next(s_words.Length)];

    private AssemblerRegister32 Double() => s_doubles[random.Next(s_doubles.Length)];

    private AssemblerRegister8 Byte() => s_bytes[random.Next(s_bytes.Length)];

    private AssemblerMemoryOperand Memory(AssemblerMemoryOperandFactory factory)
    {
        factory = random.Next(5) switch { 0 => factory.es, 1 => factory.fs, 2 => factory.ss, _ => factory };
        var displacement = random.Next(-40, 0x300);
        return random.Next(9) switch
        {
            0 => factory[bx + si + displacement],
            1 => factory[bp + di + displacement],
            2 => factory[bx + displacement],
            3 => factory[bp + displacement],
            4 => factory[si],
            5 => factory[random.Next(0x8000)],
            _ => factory[di + displacement],
        };
    }

    private void One()
    {
        switch (random.Next(24))
        {
            case 0:
                _a.mov(Word(), Memory(__word_ptr));
                break;
            case 1:
                _a.mov(Memory(__word_ptr), Word());
                break;
            case 2:
                _a.add(Memory(__byte_ptr), Byte());
                break;
            case 3:
                _a.sub(Byte(), Memory(__byte_ptr));
                break;
            case 4:
                _a.adc(Word(), Word());
                break;
            case 5:
                _a.imul(Double(), Memory(__dword_ptr), 77);
                _a.add(al, 1); // some flags were undefined
                break;
            case 6:
                _a.mov(ax, (ushort)(0x4000 + (random.Next(16) * 0x123)));
                _a.mov(s_data[random.Next(4)], ax);
                break;
            case 7:
                _a.push(s_data[random.Next(4)]);
                One();
                _a.pop(s_data[random.Next(4)]);
                break;
            case 8:
                _a.push(Double());
                _a.pop(Double());
                break;
            case 9:
                _a.cld();
                _a.lodsb();
                _a.stosb();
                break;
            case 10:
                _a.mov(cx, (ushort)random.Next(40));
                if (random.Next(4) == 0)
                    _a.std();
                _a.rep.movsw();
                _a.cld();
                break;
            case 11:
                _a.mov(cx, (ushort)random.Next(40));
                _a.xor(ax, ax);
                _a.rep.stosb();
                break;
            case 12:
                _a.pushf();
                _a.cli();
                _a.popf();
                break;
            case 13:
                _a.les(bx, __dword_ptr.cs[0]); // some selector: the code's own bytes
                _a.mov(bx, 0x4321);
                _a.mov(es, bx);
                break;
            case 14:
                _a.mov(cx, (ushort)random.Next(1, 5));
                var again = _a.CreateLabel();
                _a.Label(ref again);
                _a.inc(Byte() is var b && (b == cl || b == ch) ? al : b);
                _a.loop(again);
                break;
            case 15:
                _a.test(Word(), Word());
                var over = _a.CreateLabel();
                _a.jns(over);
                _a.@not(Word());
                _a.Label(ref over);
                _a.nop();
                break;
            case 16:
                _a.pusha();
                _a.popa();
                break;
            case 17:
                _a.mov(dx, 0);
                _a.or(bl, 1);
                _a.mov(bh, 1);
                _a.div(bx);
                _a.add(al, 1);
                break;
            case 18:
                _a.lea(Word(), __[bx + di + 5]);
                break;
            case 19:
                _a.xlatb();
                break;
            case 20:
                _a.enter(6, 0);
                _a.leave();
                break;
            case 21:
                // RETF to the next instruction.
                _a.push(cs);
                var here = _a.CreateLabel();
                _a.call(here);
                _a.jmp(over = _a.CreateLabel());
                _a.Label(ref here);
                _a.retf();
                _a.Label(ref over);
                _a.nop();
                break;
            case 22:
                _a.push(Memory(__word_ptr));
                _a.pop(Word());
                break;
            default:
                _a.mov(Memory(__word_ptr), s_data[random.Next(4)]);
                break;
        }
    }
}
