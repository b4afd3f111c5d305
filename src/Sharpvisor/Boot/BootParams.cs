// struct boot_params, the "zero page": Documentation/arch/x86/zero-page.rst and arch/x86/include/uapi/asm/bootparam.h.
// Left out: EFI, EDD, APM, which a machine without firmware doesn't have.
using System.Buffers.Binary;

namespace Sharpvisor.Boot;

internal sealed class BootParams
{
    public const int Size = 4096;

    private const byte UndefinedLoader = 0xFF;

    // Kernels before 2.02 of the protocol aside, the version only tells a kernel what its loader may have filled in.
    private const ushort ProtocolVersion = 0x20F;

    private readonly byte[] _page = new byte[Size];

    /// <param name="header">The kernel's own setup header; null for a kernel without one.</param>
    public BootParams(LinuxSetupHeader? header)
    {
        if (header is not null)
        {
            header.Bytes.CopyTo(_page.AsSpan(LinuxSetupHeader.Start));
        }
        else
        {
            U16(0x1FE, 0xAA55);
            U32(0x202, LinuxSetupHeader.Magic);
            U16(0x206, ProtocolVersion);
            _page[0x211] = 1; // LOADED_HIGH
        }

        _page[0x210] = UndefinedLoader;
        U16(0x1FA, 0xFFFF); // vid_mode: normal
    }

    public void SetCommandLine(ulong address)
    {
        U32(0x228, (uint)address);
        U32(0x0C8, (uint)(address >> 32));
    }

    public void SetInitrd(ulong address, ulong size)
    {
        U32(0x218, (uint)address);
        U32(0x21C, (uint)size);
        U32(0x0C0, (uint)(address >> 32));
        U32(0x0C4, (uint)(size >> 32));
    }

    /// <summary>code32_start: where the protected-mode kernel was loaded.</summary>
    public void SetKernelAddress(uint address) => U32(0x214, address);

    public void SetRsdp(ulong address) => BinaryPrimitives.WriteUInt64LittleEndian(_page.AsSpan(0x070), address);

    /// <summary>screen_info: a VGA in mode 3, 80 by 25 characters of 16 lines, the cursor at the top left.</summary>
    public void SetTextScreen()
    {
        _page[0x06] = 3; // orig_video_mode
        _page[0x07] = 80; // orig_video_cols
        U16(0x0A, 3); // orig_video_ega_bx: an EGA or better with 256 KiB
        _page[0x0E] = 25; // orig_video_lines
        _page[0x0F] = 1; // orig_video_isVGA
        U16(0x10, 16); // orig_video_points
    }

    public void SetMemoryMap(IReadOnlyList<E820Entry> map)
    {
        _page[0x1E8] = (byte)map.Count;
        for (var i = 0; i < map.Count; i++)
        {
            var entry = _page.AsSpan(0x2D0 + (i * 20), 20);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)map[i].Type);
        }

        // The sizes that kernels fall back to: KiB from 1 MiB on.
        var extended = (map.Where(e => e.Type == E820Type.Ram && e.Address == E820.OneMiB).Select(e => e.Length).FirstOrDefault()) >> 10;
        U16(0x002, (ushort)Math.Min(extended, 0xFFFF)); // screen_info.ext_mem_k
        U32(0x1E0, (uint)Math.Min(extended, uint.MaxValue)); // alt_mem_k
    }

    public byte[] ToArray() => _page;

    private void U16(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(_page.AsSpan(offset), value);

    private void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(_page.AsSpan(offset), value);
}
