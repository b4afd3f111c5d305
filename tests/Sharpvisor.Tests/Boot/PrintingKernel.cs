using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>Code of 16 or 32 bits that prints on COM1, polling it, and then ends the machine by isa-debug-exit at port F4h with the code 21h.</summary>
internal sealed class PrintingKernel
{
    private readonly Assembler _c;
    private Label _put, _text, _hex, _line;

    private PrintingKernel(int bitness)
    {
        _c = new Assembler(bitness);
        _put = _c.CreateLabel();
        _text = _c.CreateLabel();
        _hex = _c.CreateLabel();
        _line = _c.CreateLabel();
    }

    /// <param name="body">What it does; with 32 bits its stack is at 90000h.</param>
    public static byte[] Assemble(uint address, Action<PrintingKernel, Assembler> body, int bitness = 32)
    {
        var kernel = new PrintingKernel(bitness);
        if (bitness == 32)
            kernel._c.mov(esp, 0x90000);
        body(kernel, kernel._c);
        kernel._c.mov(al, 0x10);
        kernel._c.@out(0xF4, al);
        kernel._c.cli();
        kernel._c.hlt();
        kernel.Functions();
        using var stream = new MemoryStream();
        kernel._c.Assemble(new StreamCodeWriter(stream), address);
        return stream.ToArray();
    }

    /// <summary>AL.</summary>
    public void Put() => _c.call(_put);

    /// <summary>The text at ESI and a new line; ESI is behind it then.</summary>
    public void Text() => _c.call(_text);

    /// <summary>A number with eight digits, and a space.</summary>
    public void Hex(AssemblerMemoryOperand number)
    {
        _c.mov(edx, number);
        Hex();
    }

    /// <summary>EDX, as <see cref="Hex(AssemblerMemoryOperand)"/>.</summary>
    public void Hex() => _c.call(_hex);

    public void Line() => _c.call(_line);

    private void Functions()
    {
        _c.Label(ref _text);
        _c.lodsb();
        _c.test(al, al);
        _c.je(_line);
        _c.call(_put);
        _c.jmp(_text);
        _c.Label(ref _line);
        _c.mov(al, (byte)'\n');
        _c.jmp(_put);

        Label digit = _c.CreateLabel(), small = _c.CreateLabel();
        _c.Label(ref _hex);
        _c.push(ecx);
        _c.mov(ecx, 8);
        _c.Label(ref digit);
        _c.rol(edx, 4);
        _c.mov(al, dl);
        _c.and(al, 15);
        _c.add(al, (byte)'0');
        _c.cmp(al, (byte)'9');
        _c.jbe(small);
        _c.add(al, 'a' - '9' - 1);
        _c.Label(ref small);
        _c.call(_put);
        _c.dec(ecx);
        _c.jne(digit);
        _c.pop(ecx);
        _c.mov(al, (byte)' ');

        var wait = _c.CreateLabel();
        _c.Label(ref _put);
        _c.push(edx);
        _c.push(eax);
        _c.mov(dx, 0x3FD);
        _c.Label(ref wait);
        _c.@in(al, dx);
        _c.test(al, 0x20);
        _c.je(wait);
        _c.pop(eax);
        _c.mov(dx, 0x3F8);
        _c.@out(dx, al);
        _c.pop(edx);
        _c.ret();
    }
}
