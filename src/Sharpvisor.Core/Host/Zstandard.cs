// Zstandard frames (RFC 8878) by the host's libzstd, which .NET 10 does not have itself (docs/decisions/0011-disk-images.md).
using System.Runtime.InteropServices;

namespace Sharpvisor.Core.Host;

/// <summary>Zstandard, where <see cref="IsAvailable"/>.</summary>
public static unsafe partial class Zstandard
{
    private const string Library = "libzstd.so.1";

    /// <summary>The package that has the library is installed.</summary>
    public static bool IsAvailable { get; } = NativeLibrary.TryLoad(Library, typeof(Zstandard).Assembly, null, out _);

    /// <summary>Decompresses the frame that <paramref name="source"/> begins with; more may follow it.</summary>
    /// <returns>False: it is no frame, or does not have exactly as many bytes as the destination.</returns>
    public static bool TryDecompress(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        fixed (byte* from = source)
        fixed (byte* to = destination)
        {
            var frame = FindFrameCompressedSize(from, (nuint)source.Length);
            return IsError(frame) == 0 && Decompress(to, (nuint)destination.Length, from, frame) == (nuint)destination.Length;
        }
    }

    /// <summary>Compresses to one frame.</summary>
    /// <returns>Its length; -1: the destination is too short.</returns>
    public static int Compress(ReadOnlySpan<byte> source, Span<byte> destination)
    {
        const int level = 3;
        fixed (byte* from = source)
        fixed (byte* to = destination)
        {
            var length = Compress(to, (nuint)destination.Length, from, (nuint)source.Length, level);
            return IsError(length) == 0 ? (int)length : -1;
        }
    }

    [LibraryImport(Library, EntryPoint = "ZSTD_compress")]
    private static partial nuint Compress(byte* destination, nuint capacity, byte* source, nuint size, int level);

    [LibraryImport(Library, EntryPoint = "ZSTD_decompress")]
    private static partial nuint Decompress(byte* destination, nuint capacity, byte* source, nuint size);

    [LibraryImport(Library, EntryPoint = "ZSTD_findFrameCompressedSize")]
    private static partial nuint FindFrameCompressedSize(byte* source, nuint size);

    [LibraryImport(Library, EntryPoint = "ZSTD_isError")]
    private static partial uint IsError(nuint code);
}
