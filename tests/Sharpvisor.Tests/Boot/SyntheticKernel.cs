using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Boot;

namespace Sharpvisor.Tests.Boot;

/// <summary>Builds kernels byte by byte, as the boot protocol and the ELF specification lay them out.</summary>
internal static class SyntheticKernel
{
    public const int SetupLength = 5 * 512;

    /// <summary>A bzImage with four setup sectors and a body of 0x1000 bytes of 0x5A.</summary>
    public static byte[] BzImage(Action<byte[]>? change = null)
    {
        var image = new byte[SetupLength + 0x1000];
        image[0x1F1] = 4;
        U32(image, 0x1F4, 0x1000 / 16);
        U16(image, 0x1FE, 0xAA55);
        image[0x201] = 0x6A; // the header ends at 0x26c
        U32(image, 0x202, 0x53726448);
        U16(image, 0x206, 0x20F);
        image[0x211] = 1;
        U32(image, 0x22C, 0x7FFFFFFF);
        U32(image, 0x230, 0x200000);
        image[0x234] = 1;
        U16(image, 0x236, 3);
        U32(image, 0x238, 2047);
        U64(image, 0x258, 0x1000000);
        U32(image, 0x260, 0x3000000);
        image.AsSpan(SetupLength).Fill(0x5A);
        change?.Invoke(image);
        return image;
    }

    /// <summary>An ELF executable with one segment of 0x100 bytes of 0xC3 in the file and 0x3000 in memory.</summary>
    /// <param name="note">The value of XEN_ELFNOTE_PHYS32_ENTRY, or null for no note.</param>
    /// <summary>An image that is entered as a PVH kernel, in 32 bits at its first byte.</summary>
    public static byte[] ElfWith(byte[] code, uint address)
    {
        const int codeOffset = 0x200, fileSize = 64 + 32;
        var image = Elf(is64: true, address, note: address);
        U64(image, fileSize, (ulong)code.Length);
        return [.. image.AsSpan(0, codeOffset), .. code];
    }

    public static byte[] Elf(bool is64, ulong address = 0x1000000, ulong? entry = null, uint? note = null, ushort machine = 0)
    {
        var image = new byte[0x300];
        ((byte[])[0x7F, (byte)'E', (byte)'L', (byte)'F', (byte)(is64 ? 2 : 1), 1, 1]).CopyTo(image, 0);
        U16(image, 16, 2);
        U16(image, 18, machine != 0 ? machine : is64 ? (ushort)62 : (ushort)3);
        int headers = is64 ? 64 : 52, size = is64 ? 56 : 32;
        if (is64)
        {
            U64(image, 24, entry ?? address);
            U64(image, 32, (ulong)headers);
            U16(image, 54, (ushort)size);
            U16(image, 56, (ushort)(note is null ? 1 : 2));
        }
        else
        {
            U32(image, 24, (uint)(entry ?? address));
            U32(image, 28, (uint)headers);
            U16(image, 42, (ushort)size);
            U16(image, 44, (ushort)(note is null ? 1 : 2));
        }

        ProgramHeader(0, type: 1, offset: 0x200, paddr: address, file: 0x100, memory: 0x3000);
        if (note is not null)
        {
            ProgramHeader(1, type: 4, offset: 0x100, paddr: 0, file: 52, memory: 52);
            // A note of another owner and length goes first: 12 + "GNU\0" + 16.
            U32(image, 0x100, 4);
            U32(image, 0x104, 16);
            U32(image, 0x108, 18);
            Encoding.ASCII.GetBytes("GNU\0").CopyTo(image, 0x10C);
            U32(image, 0x120, 4);
            U32(image, 0x124, 4);
            U32(image, 0x128, 18);
            Encoding.ASCII.GetBytes("Xen\0").CopyTo(image, 0x12C);
            U32(image, 0x130, note.Value);
        }

        image.AsSpan(0x200).Fill(0xC3);
        return image;

        void ProgramHeader(int index, uint type, ulong offset, ulong paddr, ulong file, ulong memory)
        {
            var at = headers + (index * size);
            U32(image, at, type);
            if (is64)
            {
                U64(image, at + 8, offset);
                U64(image, at + 16, 0xFFFFFFFF81000000);
                U64(image, at + 24, paddr);
                U64(image, at + 32, file);
                U64(image, at + 40, memory);
                U64(image, at + 48, 4);
            }
            else
            {
                U32(image, at + 4, (uint)offset);
                U32(image, at + 8, 0xC1000000);
                U32(image, at + 12, (uint)paddr);
                U32(image, at + 16, (uint)file);
                U32(image, at + 20, (uint)memory);
                U32(image, at + 28, 4);
            }
        }
    }

    public static BootRequest Request(byte[] kernel, ulong below4G = 512 << 20, byte[]? initrd = null, string commandLine = "console=ttyS0", ulong above4G = 0) => new()
    {
        Kernel = BootSource.FromBytes(kernel, "kernel"),
        Initrd = initrd is null ? null : BootSource.FromBytes(initrd, "initrd"),
        CommandLine = commandLine,
        Below4G = below4G,
        Above4G = above4G,
        RsdpAddress = 0xE0000,
    };

    public static void U16(byte[] image, int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(offset), value);

    public static void U32(byte[] image, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(offset), value);

    public static void U64(byte[] image, int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(offset), value);
}
