// A table of qcow2 in memory, an L2 table or a refcount block: one cluster of big-endian numbers.
using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Sharpvisor.Backends.Block.Qcow2;

internal sealed class Qcow2Table(long offset, int bytes)
{
    /// <summary>Where it lies in the file, in bytes.</summary>
    public long Offset { get; } = offset;

    public byte[] Data { get; } = new byte[bytes];

    /// <summary>Not in the file as it is here.</summary>
    public bool IsDirty { get; set; }

    /// <summary>When it was used last, for the choice of what to forget.</summary>
    public int LastUse { get; set; }

    private Span<ulong> Numbers => MemoryMarshal.Cast<byte, ulong>(Data.AsSpan());

    /// <summary>An entry of 8 bytes. Read and written whole, whoever else does it.</summary>
    public ulong this[int index]
    {
        get => BinaryPrimitives.ReverseEndianness(Volatile.Read(ref Numbers[index]));
        set
        {
            Volatile.Write(ref Numbers[index], BinaryPrimitives.ReverseEndianness(value));
            IsDirty = true;
        }
    }
}
