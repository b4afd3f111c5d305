// The header that makes a file a multiboot kernel: Multiboot Specification 0.6.96, section 3.1. Of the flags, 0 (modules
// on pages) and 1 (memory map) hold always; 2 asks for a video mode, by preference: the kernel is told of the text
// screen that there is; 16 says that the header itself tells where to load the file.
using System.Buffers.Binary;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal sealed class MultibootHeader
{
    private const uint Magic = 0x1BADB002;
    private const uint RequiredFlags = 0xFFFF, UnderstoodFlags = 7, VideoFlag = 4, AddressFieldsFlag = 1 << 16;
    private const int SearchLength = 8192, Alignment = 4, CoreSize = 12, AddressFieldsSize = 20;

    private readonly uint[] _addresses;

    private MultibootHeader(int offset, uint flags, uint[] addresses)
    {
        WantsVideo = (flags & VideoFlag) != 0;
        Offset = offset;
        _addresses = addresses;
    }

    /// <summary>Where it begins in the file.</summary>
    public int Offset { get; }

    /// <summary>The kernel asks what screen there is.</summary>
    public bool WantsVideo { get; }

    /// <summary>The file is to be loaded as the header says, whatever its format.</summary>
    public bool HasAddresses => _addresses.Length > 0;

    public uint HeaderAddress => _addresses[0];

    public uint LoadAddress => _addresses[1];

    /// <summary>0: the rest of the file is loaded.</summary>
    public uint LoadEnd => _addresses[2];

    /// <summary>0: there is no .bss.</summary>
    public uint BssEnd => _addresses[3];

    public uint Entry => _addresses[4];

    /// <summary>Finds the header; null where there is none.</summary>
    /// <exception cref="ConfigurationException">It is cut off, or asks for what no loader knows.</exception>
    public static MultibootHeader? Find(BootSource kernel)
    {
        ReadOnlySpan<byte> head = kernel.Read(0, (int)Math.Min(kernel.Length, SearchLength));
        for (var i = 0; i + CoreSize <= head.Length; i += Alignment)
        {
            if (U32(head, i) != Magic || U32(head, i) + U32(head, i + 4) + U32(head, i + 8) != 0)
                continue;
            var flags = U32(head, i + 4);
            if ((flags & RequiredFlags & ~UnderstoodFlags) != 0)
                throw new ConfigurationException($"{kernel.Name}: its multiboot header requires what version 1 does not define (flags 0x{flags:x8}); give a multiboot 1 kernel");
            if ((flags & AddressFieldsFlag) == 0)
                return new MultibootHeader(i, flags, []);
            var fields = kernel.Read(i + CoreSize, AddressFieldsSize);
            return new MultibootHeader(i, flags, [.. Enumerable.Range(0, 5).Select(n => U32(fields, n * 4))]);
        }

        return null;
    }

    private static uint U32(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);
}
