using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Cpu.Tests.Translator;

/// <summary>A random 32-bit program: per-CPU data by FS and GS, strings, calls, 16-bit operands and addresses.</summary>
internal sealed class SegmentedProgram(Random random, Assembler target)
{
    private static readonly AssemblerRegister32[] s_doubles = [eax, ecx, edx, ebx, ebp, esi, edi];
    private static readonly AssemblerRegister16[] s_words = [ax, cx, dx, bx, bp, si, di];
    private static readonly AssemblerRegister8[] s_bytes = [al, cl, dl, bl, ah, ch, dh, bh];

    private readonly Assembler _a = target;

    public void Emit()
    {
        var routine = _a.CreateLabel();
        var end = _a.CreateLabel();
        for (var i = 0; i < 10; i++)
        {
            _a.push(random.Next(1, 6));
            var again = _a.CreateLabel();
            _a.Label(ref again);
            for (var n = random.Next(1, 6); n > 0; n--)
                One();
            _a.call(routine);
            _a.dec(__dword_ptr[esp]);
            _a.jne(again);
            _a.pop(eax);
        }

        _a.jmp(end);
        _a.Label(ref routine);
        One();
        One();
        _a.ret();
        _a.Label(ref end);
        _a.nop();
    }

    private AssemblerRegister32 Double() => s_doubles[random.Next(s_doubles.Length)];

    /// <summary>Sets ESI or EDI first, so that the operand is within all segments.</summary>
    private AssemblerMemoryOperand Memory(AssemblerMemoryOperandFactory factory)
    {
        factory = random.Next(4) switch { 0 => factory.fs, 1 => factory.gs, 2 => factory.es, _ => factory };
        var displacement = random.Next(0x400);
        switch (random.Next(4))
        {
            case 0:
                return factory[displacement];
            case 1:
                _a.mov(esi, random.Next(0x300));
                return factory[esi + displacement];
            case 2:
                _a.mov(edi, random.Next(0x100));
                return factory[edi + (edi * 2) + displacement];
            default:
                _a.mov(si, (ushort)random.Next(0x300));
                return factory[si + displacement];
        }
    }

    private void One()
    {
        switch (random.Next(13))
        {
            case 0:
                _a.mov(Double(), Memory(__dword_ptr));
                break;
            case 1:
                _a.mov(Memory(__dword_ptr), Double());
                break;
            case 2:
                _a.inc(Memory(__dword_ptr));
                break;
            case 3:
                _a.add(s_bytes[random.Next(8)], Memory(__byte_ptr));
                break;
            case 4:
                _a.adc(Memory(__word_ptr), s_words[random.Next(7)]);
                break;
            case 5:
                _a.push(s_words[random.Next(7)]);
                _a.pushfd();
                _a.pop(edx);
                _a.pop(s_words[random.Next(7)]);
                break;
            case 6:
                _a.push(Memory(__dword_ptr));
                _a.pop(Double());
                break;
            case 7:
                _a.mov(esi, random.Next(0x400));
                _a.mov(edi, random.Next(0x400, 0x800));
                _a.lodsd();
                _a.stosb();
                _a.movsw();
                break;
            case 8:
                _a.mov(esi, random.Next(0x400));
                _a.mov(edi, random.Next(0x400, 0x800));
                _a.mov(ecx, random.Next(60));
                _a.rep.movsd();
                break;
            case 9:
                _a.mov(ecx, random.Next(1, 4));
                var again = _a.CreateLabel();
                _a.Label(ref again);
                _a.add(eax, ecx);
                _a.loop(again);
                break;
            case 10:
                _a.push(gs);
                _a.pop(gs);
                break;
            case 11:
                _a.cmp(Double(), Memory(__dword_ptr));
                _a.cmovb(eax, ebx);
                break;
            default:
                _a.xadd(Memory(__dword_ptr), Double());
                break;
        }
    }
}
