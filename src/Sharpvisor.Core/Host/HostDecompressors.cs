// Formats for which NuGet's copies here have no managed library: the host's liblzma (XZ Utils) and libzstd, found at run
// time. Follows: lzma/container.h and lzma/base.h of XZ Utils 5; zstd.h of Zstandard 1.
using System.Runtime.InteropServices;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Host;

/// <summary>Unpacks what the host has libraries for.</summary>
public static unsafe class HostDecompressors
{
    private const ulong NoLimit = ulong.MaxValue;

    /// <exception cref="ConfigurationException">The host has no libzstd.</exception>
    /// <exception cref="InvalidDataException">The data are damaged.</exception>
    public static void UnpackZstandard(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        var library = Load("libzstd.so.1", "Zstandard", "libzstd1");
        var decompress = (delegate* unmanaged<byte*, nuint, byte*, nuint, nuint>)NativeLibrary.GetExport(library, "ZSTD_decompress");
        fixed (byte* from = source, to = destination)
        {
            if (decompress(to, (nuint)destination.Length, from, (nuint)source.Length) != (nuint)destination.Length)
                throw new InvalidDataException("Zstandard data that are not as long as they say");
        }
    }

    /// <exception cref="ConfigurationException">The host has no liblzma.</exception>
    /// <exception cref="InvalidDataException">The data are damaged.</exception>
    public static void UnpackXz(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        var library = Load("liblzma.so.5", "XZ", "liblzma5");
        var decode = (delegate* unmanaged<ulong*, uint, void*, byte*, nuint*, nuint, byte*, nuint*, nuint, int>)NativeLibrary.GetExport(library, "lzma_stream_buffer_decode");
        var limit = NoLimit;
        nuint read = 0, written = 0;
        fixed (byte* from = source, to = destination)
        {
            var result = decode(&limit, 0, null, from, &read, (nuint)source.Length, to, &written, (nuint)destination.Length);
            if (result != 0 || written != (nuint)destination.Length)
                throw new InvalidDataException($"XZ data that liblzma refuses (error {result})");
        }
    }

    /// <exception cref="ConfigurationException">The host has no liblzma.</exception>
    /// <exception cref="InvalidDataException">The data are damaged.</exception>
    public static void UnpackLzma(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        const int streamSize = 136, run = 0, ok = 0, streamEnd = 1;
        var library = Load("liblzma.so.5", "LZMA", "liblzma5");
        var begin = (delegate* unmanaged<LzmaStream*, ulong, int>)NativeLibrary.GetExport(library, "lzma_alone_decoder");
        var code = (delegate* unmanaged<LzmaStream*, int, int>)NativeLibrary.GetExport(library, "lzma_code");
        var end = (delegate* unmanaged<LzmaStream*, void>)NativeLibrary.GetExport(library, "lzma_end");
        var memory = stackalloc byte[streamSize];
        new Span<byte>(memory, streamSize).Clear();
        var stream = (LzmaStream*)memory;
        fixed (byte* from = source, to = destination)
        {
            stream->NextIn = from;
            stream->AvailableIn = (nuint)source.Length;
            stream->NextOut = to;
            stream->AvailableOut = (nuint)destination.Length;
            try
            {
                var result = begin(stream, NoLimit);
                if (result == ok)
                    result = code(stream, run);
                if (result is not (ok or streamEnd) || stream->AvailableOut != 0)
                    throw new InvalidDataException($"LZMA data that liblzma refuses (error {result})");
            }
            finally
            {
                end(stream);
            }
        }
    }

    private static nint Load(string name, string format, string package) => NativeLibrary.TryLoad(name, out var library)
        ? library
        : throw new ConfigurationException($"the kernel is packed by {format}, and this host has no {name}: install the package {package}, or unpack it yourself and give the ELF vmlinux");

    /// <summary>The start of lzma_stream; the rest is the library's.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct LzmaStream
    {
        public byte* NextIn;
        public nuint AvailableIn;
        public ulong TotalIn;
        public byte* NextOut;
        public nuint AvailableOut;
    }
}
