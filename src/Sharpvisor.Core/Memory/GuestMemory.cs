using System.Runtime.CompilerServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Memory;

/// <summary>
/// The guest's RAM: one lazily backed host allocation, seen by the guest at 0 and, past the PCI hole, from 4 GiB on.
/// </summary>
/// <remarks>
/// Every access by guest-physical address is checked and answers false outside of RAM: a guest can never make the
/// host read or write anything else. The VGA window (0xA0000 to 0xBFFFF) is not RAM.
/// <para>
/// Each page has a mask of its 64-byte lines from which a CPU engine has decoded instructions. A write to such a line
/// raises <see cref="CodeWritten"/>; the engines keep a page with a non-zero mask out of their fast write path.
/// </para>
/// </remarks>
public sealed unsafe class GuestMemory : IDisposable
{
    public const int PageSize = 4096;

    /// <summary>The largest guest that can be made, in bytes.</summary>
    public const ulong MaximumSize = 64UL << 30;

    private const ulong VgaStart = 0xA0000;
    private const ulong VgaEnd = 0xC0000;
    private const ulong FourGiB = 1UL << 32;

    private readonly byte* _ram;
    private readonly ulong* _codeLines;
    private bool _disposed;

    /// <param name="size">Bytes of RAM, a multiple of 4 KiB.</param>
    /// <param name="maxBelow4G">How much of it lies below the PCI hole at most; the rest starts at 4 GiB.</param>
    /// <exception cref="ConfigurationException">The size is out of range or the host can't reserve it.</exception>
    public GuestMemory(ulong size, ulong maxBelow4G = 0xC000_0000)
    {
        if (size < (1UL << 20) || size > MaximumSize || size % PageSize != 0)
            throw new ConfigurationException($"memory size {size} bytes: give 1M to {MaximumSize >> 30}G in whole pages of 4 KiB");
        Size = size;
        Below4G = Math.Min(size, maxBelow4G);
        Above4G = size - Below4G;
        _ram = (byte*)HostMemory.Reserve(size, hugePages: true);
        _codeLines = (ulong*)HostMemory.Reserve(size / PageSize * sizeof(ulong), hugePages: false);
    }

    /// <summary>Raised when a line that holds decoded instructions was written, with its guest-physical page number and the mask of lines.</summary>
    public event Action<ulong, ulong>? CodeWritten;

    /// <summary>Bytes of RAM in all.</summary>
    public ulong Size { get; }

    /// <summary>Bytes of RAM from address 0 on (the VGA window within is not reachable).</summary>
    public ulong Below4G { get; }

    /// <summary>Bytes of RAM from 4 GiB on.</summary>
    public ulong Above4G { get; }

    /// <summary>Start of the host allocation: for CPU engines only.</summary>
    public byte* HostBase => _ram;

    /// <summary>The host address of a byte of RAM, or null. Valid to the end of the 4 KiB page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* TryGetPointer(ulong gpa)
    {
        if (gpa < Below4G)
            return gpa - VgaStart < VgaEnd - VgaStart ? null : _ram + gpa;
        return gpa - FourGiB < Above4G ? _ram + (gpa - FourGiB + Below4G) : null;
    }

    /// <summary>The code-line mask of the page that holds <paramref name="gpa"/>, which must be RAM: for CPU engines.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ref ulong CodeLines(ulong gpa) =>
        ref _codeLines[(gpa < Below4G ? gpa : gpa - FourGiB + Below4G) / PageSize];

    /// <summary>Reads a value; false when any byte of it is not RAM.</summary>
    public bool TryRead<T>(ulong gpa, out T value) where T : unmanaged
    {
        Unsafe.SkipInit(out value);
        fixed (T* p = &value)
            return TryRead(gpa, new Span<byte>(p, sizeof(T)));
    }

    /// <summary>Writes a value; false, with nothing written, when any byte of it is not RAM.</summary>
    public bool TryWrite<T>(ulong gpa, T value) where T : unmanaged =>
        TryWrite(gpa, new ReadOnlySpan<byte>(&value, sizeof(T)));

    public bool TryRead(ulong gpa, Span<byte> destination)
    {
        if (!IsRam(gpa, (ulong)destination.Length))
            return false;
        new ReadOnlySpan<byte>(TryGetPointerOrBase(gpa), destination.Length).CopyTo(destination);
        return true;
    }

    public bool TryWrite(ulong gpa, ReadOnlySpan<byte> source)
    {
        if (!IsRam(gpa, (ulong)source.Length))
            return false;
        source.CopyTo(new Span<byte>(TryGetPointerOrBase(gpa), source.Length));
        MarkWritten(gpa, (ulong)source.Length);
        return true;
    }

    /// <summary>
    /// A window on RAM for input and output without a copy; false when a byte of it is not RAM. Whoever writes to it
    /// says so afterwards by <see cref="MarkWritten"/>. The window must not outlive the machine.
    /// </summary>
    public bool TrySlice(ulong gpa, int length, out Memory<byte> slice)
    {
        slice = default;
        if (length < 0 || !IsRam(gpa, (ulong)length))
            return false;
        slice = new NativeSlice(TryGetPointerOrBase(gpa), length).Memory;
        return true;
    }

    /// <summary>True when all of the range is RAM without a gap.</summary>
    public bool IsRam(ulong gpa, ulong length)
    {
        if (length == 0)
            return TryGetPointer(gpa) != null || gpa <= Below4G;
        if (gpa < Below4G)
            return length <= Below4G - gpa && (gpa >= VgaEnd || gpa + length <= VgaStart);
        return gpa >= FourGiB && gpa - FourGiB < Above4G && length <= Above4G - (gpa - FourGiB);
    }

    /// <summary>Tells the CPU engines that a device wrote to RAM: decoded instructions there are dropped.</summary>
    public void MarkWritten(ulong gpa, ulong length)
    {
        if (length == 0 || !IsRam(gpa, length))
            return;

        // The bytes must be seen by all before the masks are read: an engine sets a mask and then reads the bytes, so
        // that either it sees the new bytes or its mask is seen here.
        Interlocked.MemoryBarrier();
        var last = gpa + length - 1;
        for (var page = gpa & ~(ulong)(PageSize - 1); page <= last; page += PageSize)
        {
            ref var lines = ref CodeLines(page);
            if (Volatile.Read(ref lines) == 0)
                continue;
            var first = (int)((Math.Max(gpa, page) - page) >> 6);
            var end = (int)((Math.Min(last, page + PageSize - 1) - page) >> 6);
            OnCodeWritten(page, (ulong.MaxValue >> (63 - (end - first))) << first);
        }
    }

    /// <summary>Drops decoded instructions from some lines of a page: called after the bytes have changed.</summary>
    public void OnCodeWritten(ulong gpa, ulong lines)
    {
        if ((Volatile.Read(ref CodeLines(gpa)) & lines) != 0)
            CodeWritten?.Invoke(gpa / PageSize, lines);
    }

    /// <summary>Fills RAM with zeroes, as at power-on.</summary>
    public void Clear()
    {
        HostMemory.Discard(_ram, Size);
        for (ulong page = 0; page < Size / PageSize; page++)
        {
            if (_codeLines[page] != 0)
                CodeWritten?.Invoke(ToGuestPhysical(page * PageSize) / PageSize, ulong.MaxValue);
        }
    }

    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        HostMemory.Release(_ram, Size);
        HostMemory.Release(_codeLines, Size / PageSize * sizeof(ulong));
        GC.SuppressFinalize(this);
    }

    private ulong ToGuestPhysical(ulong offset) => offset < Below4G ? offset : offset - Below4G + FourGiB;

    private byte* TryGetPointerOrBase(ulong gpa)
    {
        var pointer = TryGetPointer(gpa);
        return pointer == null ? _ram : pointer;
    }

    /// <summary>Native memory as <see cref="Memory{T}"/>.</summary>
    private sealed class NativeSlice(byte* start, int length) : System.Buffers.MemoryManager<byte>
    {
        public override Span<byte> GetSpan() => new(start, length);

        public override System.Buffers.MemoryHandle Pin(int elementIndex = 0) => new(start + elementIndex);

        public override void Unpin()
        {
        }

        protected override void Dispose(bool disposing)
        {
        }
    }
}
