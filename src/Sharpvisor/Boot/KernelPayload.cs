// The ELF kernel inside of a bzImage: Documentation/arch/x86/boot.rst, payload_offset and payload_length; or a file that gzip
// has packed as a whole, as Xen's tools take kernels (tools/libs/guest/xg_dom_core.c). The last four bytes are the unpacked
// length (for gzip part of the format, for the others appended by Linux's build).
// gzip by the framework; LZ4's legacy frame here; XZ, LZMA and Zstandard by the host's libraries.
// Leaves out: bzip2 and LZO.
using System.Buffers.Binary;
using System.IO.Compression;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Boot;

internal static class KernelPayload
{
    private const int LengthSize = 4, LargestKernel = 1 << 30;

    /// <exception cref="ConfigurationException">There is none, it is damaged, or packed in a way that this host can't unpack.</exception>
    public static BootSource Unpack(BootSource kernel)
    {
        var header = LinuxSetupHeader.Parse(kernel, BootWay.Direct);
        if (header.PayloadLength <= LengthSize)
            throw new ConfigurationException($"{kernel.Name}: a bzImage that does not say where its kernel is (boot protocol before 2.08); give an ELF vmlinux");
        var packed = kernel.Read(header.SetupLength + header.PayloadOffset, (int)Math.Min(header.PayloadLength, int.MaxValue));
        if (packed.AsSpan().StartsWith(ElfImage.Magic))
            return BootSource.FromBytes(packed, kernel.Name);
        var unpacked = MakeRoom(kernel, packed);
        var data = packed.AsSpan(0, packed.Length - LengthSize);
        try
        {
            switch (packed)
            {
                case [0x1F, 0x8B, ..]:
                    ReadGzip(packed, unpacked);
                    break;
                case [0x02, 0x21, 0x4C, 0x18, ..]:
                    Lz4.UnpackLegacy(data, unpacked);
                    break;
                case [0x28, 0xB5, 0x2F, 0xFD, ..]:
                    HostDecompressors.UnpackZstandard(data, unpacked);
                    break;
                case [0xFD, (byte)'7', (byte)'z', (byte)'X', (byte)'Z', 0, ..]:
                    HostDecompressors.UnpackXz(data, unpacked);
                    break;
                case [0x5D, 0, 0, ..]:
                    HostDecompressors.UnpackLzma(data, unpacked);
                    break;
                case [(byte)'B', (byte)'Z', (byte)'h', ..]:
                    throw new ConfigurationException($"{kernel.Name}: its kernel is packed by bzip2, which is not in this version; give its vmlinux (linux/scripts/extract-vmlinux unpacks it)");
                default:
                    throw new ConfigurationException($"{kernel.Name}: its kernel is packed in an unknown way (it begins {Convert.ToHexString(packed.AsSpan(0, LengthSize))}); give its vmlinux (linux/scripts/extract-vmlinux unpacks it)");
            }
        }
        catch (Exception e) when (e is InvalidDataException or EndOfStreamException)
        {
            throw new ConfigurationException($"{kernel.Name}: its kernel is damaged: {e.Message}; copy it again", e);
        }

        return BootSource.FromBytes(unpacked, kernel.Name);
    }

    /// <summary>A whole file that gzip has packed, as Xen's domain builder takes kernels.</summary>
    /// <exception cref="ConfigurationException">It is damaged.</exception>
    public static BootSource UnpackGzip(BootSource kernel)
    {
        var packed = kernel.Read(0, (int)Math.Min(kernel.Length, int.MaxValue));
        try
        {
            var unpacked = MakeRoom(kernel, packed);
            ReadGzip(packed, unpacked);
            return BootSource.FromBytes(unpacked, kernel.Name);
        }
        catch (Exception e) when (e is InvalidDataException or EndOfStreamException)
        {
            throw new ConfigurationException($"{kernel.Name}: is damaged, gzip can't unpack it: {e.Message}; copy it again", e);
        }
    }

    /// <summary>Room for what the last bytes say is inside.</summary>
    private static byte[] MakeRoom(BootSource kernel, byte[] packed)
    {
        var length = BinaryPrimitives.ReadUInt32LittleEndian(packed.AsSpan(packed.Length - LengthSize));
        return length <= LargestKernel ? new byte[length] : throw new ConfigurationException($"{kernel.Name}: corrupt: a kernel of {length} bytes inside; copy it again");
    }

    private static void ReadGzip(byte[] packed, byte[] unpacked)
    {
        using var gzip = new GZipStream(new MemoryStream(packed), CompressionMode.Decompress);
        gzip.ReadExactly(unpacked);
    }
}
