using System.IO.Compression;

namespace Sharpvisor.Servers.Vnc.Encodings;

/// <summary>
/// A zlib stream (RFC 1950) that a connection carries in pieces: each ends at a byte, and the decoder can decode all of
/// it, but the window goes on.
/// </summary>
internal sealed class ZlibOutput : IDisposable
{
    private readonly MemoryStream _compressed = new();
    private readonly ZLibStream _stream;

    /// <param name="level">1 (fast) to 9 (small), 0: not compressed.</param>
    public ZlibOutput(int level) =>
        _stream = new ZLibStream(_compressed, new ZLibCompressionOptions { CompressionLevel = level }, leaveOpen: true);

    /// <summary>The next piece, valid until the next call.</summary>
    public ReadOnlySpan<byte> Compress(ReadOnlySpan<byte> data)
    {
        _compressed.SetLength(0);
        _stream.Write(data);
        _stream.Flush();
        return _compressed.GetBuffer().AsSpan(0, (int)_compressed.Length);
    }

    public void Dispose()
    {
        _stream.Dispose();
        _compressed.Dispose();
    }
}
