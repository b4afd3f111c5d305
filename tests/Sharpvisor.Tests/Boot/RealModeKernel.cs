using System.Text;
using static Iced.Intel.AssemblerRegisters;
using static Sharpvisor.Tests.Boot.SyntheticKernel;

namespace Sharpvisor.Tests.Boot;

/// <summary>
/// A kernel by the 16-bit boot protocol whose setup code prints how it was entered and what its loader has filled in: the
/// segments, SP, loader, flags, video mode, heap, RAM disk, and the command line by the protocol's new or old way.
/// </summary>
internal static class RealModeKernel
{
    public const string Body = "the protected-mode kernel";
    private const int SetupSectors = 4, Entry = 0x200, CodeOffset = 0x270;

    public static byte[] BzImage(ushort version, bool isLoadedHigh)
    {
        var code = PrintingKernel.Assemble(CodeOffset, (print, c) =>
        {
            c.cld();
            foreach (var register in new[] { cs, ds, es, ss })
            {
                c.mov(ax, register);
                c.movzx(edx, ax);
                print.Hex();
            }

            c.movzx(edx, sp);
            print.Hex();
            print.Line();
            foreach (var field in new[] { __word_ptr[0x210], __word_ptr[0x1FA], __word_ptr[0x224] })
            {
                c.movzx(edx, field);
                print.Hex();
            }

            print.Hex(__dword_ptr[0x218]);
            print.Hex(__dword_ptr[0x21C]);
            print.Line();
            if (version >= 0x202)
            {
                c.mov(eax, __dword_ptr[0x228]);
                c.mov(si, ax);
                c.and(si, 15);
                c.shr(eax, 4);
                c.mov(ds, ax);
            }
            else
            {
                c.movzx(edx, __word_ptr[0x20]);
                print.Hex();
                c.mov(si, __word_ptr[0x22]);
            }

            print.Text();
        }, bitness: 16);
        const int setupLength = (SetupSectors + 1) * 512;
        var image = new byte[setupLength + Body.Length];
        image[0x1F1] = SetupSectors;
        U32(image, 0x1F4, 2); // paragraphs, the last one not whole
        U16(image, 0x1FE, 0xAA55);
        image[Entry] = 0xEB; // jmp short
        image[Entry + 1] = CodeOffset - Entry - 2;
        U32(image, 0x202, 0x53726448);
        U16(image, 0x206, version);
        image[0x211] = (byte)(isLoadedHigh ? 1 : 0);
        U32(image, 0x22C, 0x37FFFFFF);
        U32(image, 0x238, 255);
        U32(image, 0x260, 0x10000);
        code.CopyTo(image, CodeOffset);
        Encoding.ASCII.GetBytes(Body).CopyTo(image, setupLength);
        return image;
    }
}
