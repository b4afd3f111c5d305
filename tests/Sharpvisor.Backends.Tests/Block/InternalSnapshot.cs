using System.Buffers.Binary;

namespace Sharpvisor.Backends.Tests.Block;

/// <summary>Takes an internal snapshot of a qcow2 image with refcounts of 16 bits, as <c>qemu-img snapshot -c</c> does.</summary>
internal static class InternalSnapshot
{
    private const ulong Copied = 1UL << 63, OffsetMask = 0x00FF_FFFF_FFFF_FE00;

    /// <returns>The image with a snapshot "1" of what it has now.</returns>
    public static byte[] Take(byte[] image)
    {
        var clusterSize = 1 << (int)U32(20);
        var (size, l1Size, l1, table) = (U64(24), (int)U32(36), (int)U64(40), (int)U64(48));
        var copy = (image.Length + clusterSize - 1) / clusterSize * clusterSize;
        var entry = copy + (((l1Size * 8) + clusterSize - 1) / clusterSize * clusterSize);
        Array.Resize(ref image, entry + clusterSize);

        // All that the disk refers to has another user now, and may not be written in place.
        for (var i = l1; i < l1 + (l1Size * 8); i += 8)
        {
            var l2 = (int)(U64(i) & OffsetMask);
            if (l2 == 0)
                continue;
            Put64(i, (ulong)l2);
            Count(l2);
            for (var j = l2; j < l2 + clusterSize; j += 8)
            {
                if ((U64(j) & OffsetMask) is 0)
                    continue;
                Put64(j, U64(j) & ~Copied);
                Count((int)(U64(j) & OffsetMask));
            }
        }

        image.AsSpan(l1, l1Size * 8).CopyTo(image.AsSpan(copy));
        Put64(entry, (ulong)copy);
        BinaryPrimitives.WriteInt32BigEndian(image.AsSpan(entry + 8), l1Size);
        image[entry + 13] = image[entry + 15] = 1; // lengths of its number and name
        image[entry + 39] = 16; // bytes of extra data
        Put64(entry + 48, size);
        (image[entry + 56], image[entry + 57]) = ((byte)'1', (byte)'s');
        for (var at = copy; at < image.Length; at += clusterSize)
            Count(at);
        image[63] = 1;
        Put64(64, (ulong)entry);
        return image;

        void Count(int offset)
        {
            var cluster = offset / clusterSize;
            var block = (int)U64(table + (cluster / (clusterSize / 2) * 8));
            Assert.NotEqual(0, block);
            var count = image.AsSpan(block + (cluster % (clusterSize / 2) * 2));
            BinaryPrimitives.WriteUInt16BigEndian(count, (ushort)(BinaryPrimitives.ReadUInt16BigEndian(count) + 1));
        }

        uint U32(int at) => BinaryPrimitives.ReadUInt32BigEndian(image.AsSpan(at));
        ulong U64(int at) => BinaryPrimitives.ReadUInt64BigEndian(image.AsSpan(at));
        void Put64(int at, ulong value) => BinaryPrimitives.WriteUInt64BigEndian(image.AsSpan(at), value);
    }
}
