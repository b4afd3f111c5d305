// What a kernel that looks for a BIOS finds where there is none, as Xen does: in the BIOS data area how much base memory
// there is and where the extended area begins, and real-mode interrupt vectors whose functions all return with the carry
// flag, which says "not supported" for those that are asked for memory, disks and video modes.
using System.Buffers.Binary;

namespace Sharpvisor.Boot;

internal static class BiosRemains
{
    private const int ExtendedAreaSegment = 0x40E, BaseMemoryKiB = 0x413;
    private const ushort Handler = 0x4F0;

    // push bp; mov bp,sp; or byte [bp+6],1 (CF of the flags that IRET takes); pop bp; iret
    private static readonly byte[] Code = [0x55, 0x89, 0xE5, 0x80, 0x4E, 0x06, 0x01, 0x5D, 0xCF];

    /// <summary>The first bytes of memory.</summary>
    public static byte[] Build()
    {
        var bytes = new byte[Handler + Code.Length];
        for (var vector = 0; vector < 256; vector++)
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(vector * 4), Handler);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(ExtendedAreaSegment), (ushort)(E820.EbdaStart >> 4));
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(BaseMemoryKiB), (ushort)(E820.EbdaStart >> 10));
        Code.CopyTo(bytes, Handler);
        return bytes;
    }
}
