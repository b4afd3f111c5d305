// A file as TFTP's blocks, octet or netascii (RFC 1350, 1; RFC 764 for netascii).
using Sharpvisor.Backends.Net.User.Services.Content;

namespace Sharpvisor.Backends.Net.User.Services.Tftp;

/// <summary>A file cut into blocks. Blocks are read one after the other; the last ones of the reach can be read again.</summary>
internal abstract class TftpSource(INamedFile file) : IDisposable
{
    /// <summary>How far back of the newest block one may be that is read again.</summary>
    public const int Reach = 64;

    protected INamedFile File => file;

    /// <summary>Fills the buffer with a block; fewer bytes are the last one.</summary>
    /// <param name="number">From 1.</param>
    /// <exception cref="IOException">The host can't read it.</exception>
    public abstract int Read(long number, Span<byte> block);

    public void Dispose() => file.Dispose();
}

/// <summary>Mode octet: the bytes as they are.</summary>
internal sealed class OctetSource(INamedFile file) : TftpSource(file)
{
    public override int Read(long number, Span<byte> block)
    {
        var offset = (number - 1) * block.Length;
        var count = (int)Math.Clamp(File.Length - offset, 0, block.Length);
        if (count > 0)
            File.Read(offset, block[..count]);
        return count;
    }
}

/// <summary>Mode netascii (RFC 764): a line feed becomes CR LF, a carriage return CR NUL.</summary>
internal sealed class NetasciiSource(INamedFile file) : TftpSource(file)
{
    private const int Nothing = -1;

    /// <summary>Where the blocks begin: in the file, and with which byte that the block before had no room for.</summary>
    private readonly (long Offset, int Pending)[] _starts = InitialStarts();

    public override int Read(long number, Span<byte> block)
    {
        Span<byte> raw = stackalloc byte[512];
        var (offset, pending) = _starts[number % (Reach + 1)];
        var count = 0;
        while (count < block.Length)
        {
            if (pending != Nothing)
            {
                block[count++] = (byte)pending;
                pending = Nothing;
                continue;
            }

            var piece = raw[..(int)Math.Min(Math.Min(raw.Length, block.Length - count), File.Length - offset)];
            if (piece.IsEmpty)
                break;
            File.Read(offset, piece);
            for (var i = 0; i < piece.Length && count < block.Length; i++)
            {
                offset++;
                if (piece[i] is not ((byte)'\n' or (byte)'\r'))
                {
                    block[count++] = piece[i];
                    continue;
                }

                block[count++] = (byte)'\r';
                pending = piece[i] == '\n' ? '\n' : 0;
                if (count == block.Length)
                    break;
                block[count++] = (byte)pending;
                pending = Nothing;
            }
        }

        _starts[(number + 1) % (Reach + 1)] = (offset, pending);
        return count;
    }

    private static (long Offset, int Pending)[] InitialStarts()
    {
        var starts = new (long Offset, int Pending)[Reach + 1];
        Array.Fill(starts, (0, Nothing));
        return starts;
    }
}
