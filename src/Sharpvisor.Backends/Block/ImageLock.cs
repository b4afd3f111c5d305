// The locks by which programs keep from using one image at a time: shared locks on single bytes of the file, held by its
// open file description.
// Follows: what QEMU does (docs/system/images.rst, "Disk image file locking"; the bytes as found in its raw files):
// byte 100 + n says "I use permission n", byte 200 + n says "nobody else may", n being 0 for consistent reads, 1 for
// writes, 3 for resizing. So both programs, and qemu-img, respect each other.
// Leaves out: sharing an image with writers on purpose.
using Sharpvisor.Core.Block;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Block;

internal static class ImageLock
{
    private const long Uses = 100, Denies = 200;
    private const int Read = 0, Write = 1, Resize = 3;

    /// <summary>Takes the locks of a reader, which others can be beside, or of a writer, who is alone.</summary>
    /// <exception cref="ConfigurationException">Someone has the image.</exception>
    public static void Take(HostFile file, string path, bool writable)
    {
        long[] own = writable ? [Uses + Read, Uses + Write, Uses + Resize, Denies + Write, Denies + Resize] : [Uses + Read, Denies + Write, Denies + Resize];
        try
        {
            foreach (var at in own)
            {
                if (!file.TryLockByte(at))
                    throw InUse(path, "everything");
            }

            if (file.IsByteLocked(Uses + Write) || file.IsByteLocked(Uses + Resize))
                throw InUse(path, "writing");
            if (file.IsByteLocked(Denies + Read) || (writable && (file.IsByteLocked(Denies + Write) || file.IsByteLocked(Denies + Resize))))
                throw InUse(path, "reading");
        }
        catch (BlockException)
        {
            // A file system without locks: nothing can be known, and nobody is kept out.
        }
    }

    private static ConfigurationException InUse(string path, string what) => new(
        $"{path}: another process or drive has it open for {what}; end that one, give this drive another image, or readonly=on to all of them");
}
