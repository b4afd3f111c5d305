using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// A small PVH kernel: it prints what it finds in the registers and in hvm_start_info: command line, the module's text,
/// the signature of the RSDP, the memory map.
/// </summary>
internal static class PvhKernel
{
    private const uint Address = 0x1000000;
    private const int CodeOffset = 0x200;

    public static byte[] Elf()
    {
        var code = PrintingKernel.Assemble(Address, (print, c) =>
        {
            var map = c.CreateLabel();
            c.mov(ebp, ebx);
            c.str(edx);
            print.Hex();
            c.mov(edx, cr0);
            print.Hex();
            c.mov(edx, cr4);
            print.Hex();
            print.Hex(__dword_ptr[ebp]); // the magic number
            print.Line();
            c.mov(esi, __dword_ptr[ebp + 24]);
            print.Text();
            print.Hex(__dword_ptr[ebp + 12]);
            c.mov(ebx, __dword_ptr[ebp + 16]);
            c.mov(esi, __dword_ptr[ebx]);
            c.mov(ecx, __dword_ptr[ebx + 8]);
            Characters();
            c.mov(esi, __dword_ptr[ebp + 32]);
            c.mov(ecx, 8);
            Characters();
            c.mov(ebx, __dword_ptr[ebp + 40]);
            c.mov(ecx, __dword_ptr[ebp + 48]);
            c.Label(ref map);
            foreach (var offset in new[] { 4, 0, 12, 8, 16, 20 })
                print.Hex(__dword_ptr[ebx + offset]);
            print.Line();
            c.add(ebx, 24);
            c.dec(ecx);
            c.jne(map);

            // ECX characters from ESI on, as a line.
            void Characters()
            {
                var next = c.CreateLabel();
                c.Label(ref next);
                c.lodsb();
                print.Put();
                c.dec(ecx);
                c.jne(next);
                print.Line();
            }
        });
        var image = SyntheticKernel.Elf(is64: true, note: Address);
        SyntheticKernel.U64(image, 64 + 32, (ulong)code.Length);
        return [.. image.AsSpan(0, CodeOffset), .. code];
    }
}
