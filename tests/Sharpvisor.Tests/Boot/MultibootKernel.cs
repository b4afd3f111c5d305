using System.Buffers.Binary;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// A small multiboot kernel: it prints what it was told on COM1 (command line, modules with their contents, memory sizes,
/// memory map) and whether its .bss is clear, then ends the machine with the code 21h.
/// </summary>
internal static class MultibootKernel
{
    public const uint Address = 0x200000, HeaderMagic = 0x1BADB002;
    public const int BssLength = 0x2000;

    /// <summary>ELF32, with the header behind the program header.</summary>
    public static byte[] Elf(uint flags = 3) => Elf(Code, flags);

    /// <param name="make">Its code, for the address that it will be at.</param>
    public static byte[] Elf(Func<uint, byte[]> make, uint flags = 3)
    {
        const int codeOffset = 0x1000, headerOffset = 0x100;
        var code = make(Address);
        var image = new byte[codeOffset + code.Length];
        ((byte[])[0x7F, (byte)'E', (byte)'L', (byte)'F', 1, 1, 1]).CopyTo(image, 0);
        U16(image, 16, 2);
        U16(image, 18, 3);
        U32(image, 24, Address);
        U32(image, 28, 52);
        U16(image, 42, 32);
        U16(image, 44, 1);
        U32(image, 52, 1);
        U32(image, 52 + 4, codeOffset);
        U32(image, 52 + 8, Address);
        U32(image, 52 + 12, Address);
        U32(image, 52 + 16, (uint)code.Length);
        U32(image, 52 + 20, (uint)(code.Length + BssLength));
        PutHeader(image, headerOffset, flags);
        code.CopyTo(image, codeOffset);
        return image;
    }

    /// <summary>A flat file whose header has the addresses, 40h bytes into what is loaded, which itself begins at 20h.</summary>
    public static byte[] Flat(Action<byte[]>? change = null)
    {
        const int loadOffset = 0x20, headerOffset = 0x60, codeOffset = 0x100;
        var code = Code(Address + codeOffset - loadOffset);
        var image = new byte[codeOffset + code.Length + 0x40];
        image.AsSpan().Fill(0xEE);
        PutHeader(image, headerOffset, 0x10003);
        var end = (uint)(Address + codeOffset - loadOffset + code.Length);
        uint[] fields = [Address + headerOffset - loadOffset, Address, end, end + BssLength, Address + codeOffset - loadOffset];
        for (var i = 0; i < fields.Length; i++)
            U32(image, headerOffset + 12 + (4 * i), fields[i]);
        code.CopyTo(image, codeOffset);
        change?.Invoke(image);
        return image;
    }

    public static void PutHeader(byte[] image, int offset, uint flags)
    {
        U32(image, offset, HeaderMagic);
        U32(image, offset + 4, flags);
        U32(image, offset + 8, unchecked(0u - HeaderMagic - flags));
    }

    private static byte[] Code(uint address)
    {
        // .bss lies behind the code, whose length does not depend on where that is.
        var bss = address + (uint)Code(address, 0).Length;
        return Code(address, bss);
    }

    private static byte[] Code(uint address, uint bss) => PrintingKernel.Assemble(address, (print, c) =>
    {
        Label modules = c.CreateLabel(), noModules = c.CreateLabel(), bytes = c.CreateLabel(), noBytes = c.CreateLabel();
        Label map = c.CreateLabel(), mapDone = c.CreateLabel(), sum = c.CreateLabel();
        c.mov(ebp, ebx);
        c.mov(edx, eax);
        print.Hex(); // the magic number
        print.Hex(__dword_ptr[ebp]); // flags
        print.Line();
        c.mov(esi, __dword_ptr[ebp + 16]);
        print.Text();
        c.mov(esi, __dword_ptr[ebp + 64]);
        print.Text();
        c.mov(ecx, __dword_ptr[ebp + 20]);
        c.mov(ebx, __dword_ptr[ebp + 24]);
        c.Label(ref modules);
        c.test(ecx, ecx);
        c.je(noModules);
        c.mov(esi, __dword_ptr[ebx + 8]);
        print.Text();
        c.mov(esi, __dword_ptr[ebx]);
        c.Label(ref bytes);
        c.cmp(esi, __dword_ptr[ebx + 4]);
        c.jae(noBytes);
        c.lodsb();
        print.Put();
        c.jmp(bytes);
        c.Label(ref noBytes);
        print.Line();
        c.add(ebx, 16);
        c.dec(ecx);
        c.jmp(modules);
        c.Label(ref noModules);
        print.Hex(__dword_ptr[ebp + 4]);
        print.Hex(__dword_ptr[ebp + 8]);
        print.Line();
        c.mov(ebx, __dword_ptr[ebp + 48]);
        c.mov(edi, ebx);
        c.add(edi, __dword_ptr[ebp + 44]);
        c.Label(ref map);
        c.cmp(ebx, edi);
        c.jae(mapDone);
        foreach (var offset in new[] { 8, 4, 16, 12, 20 })
            print.Hex(__dword_ptr[ebx + offset]);
        print.Line();
        c.add(ebx, __dword_ptr[ebx]);
        c.add(ebx, 4);
        c.jmp(map);
        c.Label(ref mapDone);
        c.mov(esi, bss);
        c.mov(ecx, BssLength / 4);
        c.xor(edx, edx);
        c.Label(ref sum);
        c.lodsd();
        c.or(edx, eax);
        c.dec(ecx);
        c.jne(sum);
        print.Hex();
        print.Line();
    });

    private static void U16(byte[] image, int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(offset), value);

    private static void U32(byte[] image, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(offset), value);
}
