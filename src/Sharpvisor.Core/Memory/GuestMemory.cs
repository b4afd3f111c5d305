using System.Runtime.CompilerServices;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Core.Memory;

/// <summary>
/// What the guest sees of memory: its RAM, one lazily backed host allocation, at 0 and, past the PCI hole, from 4 GiB
/// on; and regions beside it, such as a ROM or video memory, where somebody mapped them (<see cref="Map"/>).
/// </summary>
/// <remarks>
/// Every access by guest-physical address is checked and answers false where there is no memory: a guest can never
/// make the host read or write anything else. The VGA window (0xA0000 to 0xBFFFF) is not RAM.
/// <para>
/// Each page has a mask of its 64-byte lines from which a CPU engine has decoded instructions. A write to such a line
/// raises <see cref="CodeWritten"/>; the engines keep a page with a non-zero mask out of their fast write path.
/// </para>
/// </remarks>
public sealed unsafe partial class GuestMemory : IDisposable
{
    public const int PageSize = 4096;

    /// <summary>The largest guest that can be made, in bytes.</summary>
    public const ulong MaximumSize = 64UL << 30;

    private const ulong OneMiB = 1UL << 20;
    private const ulong FourGiB = 1UL << 32;
    private const ulong VgaWindow = 0xA0000, VgaWindowEnd = 0xC0000;

    /// <summary>Windows on RAM are cut from one for each GiB, which reaches into the next: so no window is made twice.</summary>
    private const int ChunkShift = 30;

    private readonly byte* _ram;
    private readonly ulong* _codeLines;
    private readonly ulong _from1MTo4G;
    private readonly NativeSlice[] _chunks;
    private bool _disposed;

    /// <param name="size">Bytes of RAM, a multiple of 4 KiB.</param>
    /// <param name="maxBelow4G">How much of it lies below the PCI hole at most, 1 MiB at least; the rest starts at 4 GiB.</param>
    /// <exception cref="ConfigurationException">The size is out of range or the host can't reserve it.</exception>
    public GuestMemory(ulong size, ulong maxBelow4G = 0xC000_0000)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maxBelow4G, OneMiB);
        if (size < OneMiB || size > MaximumSize || size % PageSize != 0)
            throw new ConfigurationException($"memory size {size} bytes: give 1M to {MaximumSize >> 30}G in whole pages of 4 KiB");
        Size = size;
        Below4G = Math.Min(size, maxBelow4G);
        Above4G = size - Below4G;
        _from1MTo4G = Below4G - OneMiB;
        _ram = (byte*)HostMemory.Reserve(size, hugePages: true);
        _codeLines = (ulong*)HostMemory.Reserve(size / PageSize * sizeof(ulong), hugePages: false);
        Nothing = (byte*)HostMemory.Reserve(PageSize, hugePages: false);
        new Span<byte>(Nothing, PageSize).Fill(0xFF);
        Ram = new MemoryRegion(this, "ram", _ram, Below4G);
        _chunks = new NativeSlice[(size + (1UL << ChunkShift) - 1) >> ChunkShift];
        for (var i = 0; i < _chunks.Length; i++)
        {
            var start = (ulong)i << ChunkShift;
            _chunks[i] = new NativeSlice(_ram + start, (int)Math.Min(size - start, int.MaxValue));
        }

        _map = MemoryMap.Of(this, []);
    }

    /// <summary>Raised when a line that holds decoded instructions was written, with its guest-physical page number and the mask of lines.</summary>
    public event Action<ulong, ulong>? CodeWritten;

    /// <summary>Bytes of RAM in all.</summary>
    public ulong Size { get; }

    /// <summary>Bytes of RAM from address 0 on (the VGA window within is not reachable).</summary>
    public ulong Below4G { get; }

    /// <summary>Bytes of RAM from 4 GiB on.</summary>
    public ulong Above4G { get; }

    /// <summary>Where the guest sees RAM, in order; between 640 KiB and 1 MiB a part may be covered by ROMs.</summary>
    public IReadOnlyList<GuestRange> Ranges => Above4G == 0
        ? [new(0, VgaWindow), new(VgaWindowEnd, Below4G - VgaWindowEnd)]
        : [new(0, VgaWindow), new(VgaWindowEnd, Below4G - VgaWindowEnd), new(FourGiB, Above4G)];

    /// <summary>Bytes of RAM that the host has pages for: what was touched and not given back.</summary>
    public ulong ResidentSize => HostMemory.CountResident(_ram, Size);

    /// <summary>Start of the host allocation: for CPU engines only.</summary>
    public byte* HostBase => _ram;

    /// <summary>A page of FFh bytes, to be read only: what a CPU engine fetches from where there is no memory.</summary>
    public byte* Nothing { get; }

    /// <summary>The host address of a byte that can be read, or null. Valid to the end of the 4 KiB page.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* TryGetPointer(ulong gpa)
    {
        if (gpa - OneMiB < _from1MTo4G)
            return _ram + gpa;
        return gpa - FourGiB < Above4G ? _ram + (gpa - FourGiB + Below4G) : Volatile.Read(ref _map).Find(gpa, write: false);
    }

    /// <summary>
    /// The host address of a byte that can be written, or null. Another one than that of <see cref="TryGetPointer"/>
    /// where a ROM is read and the RAM under it written.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* TryGetWritable(ulong gpa)
    {
        if (gpa - OneMiB < _from1MTo4G)
            return _ram + gpa;
        return gpa - FourGiB < Above4G ? _ram + (gpa - FourGiB + Below4G) : Volatile.Read(ref _map).Find(gpa, write: true);
    }

    /// <summary>
    /// The mask of lines with code of the page that holds <paramref name="gpa"/>: for CPU engines. Where there is no
    /// memory, one that belongs to nothing.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ref ulong CodeLines(ulong gpa)
    {
        if (gpa < Below4G)
            return ref _codeLines[gpa / PageSize];
        if (gpa - FourGiB < Above4G)
            return ref _codeLines[(gpa - FourGiB + Below4G) / PageSize];
        return ref Volatile.Read(ref _map).CodeLines(gpa);
    }

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
        if (TryGetRange(gpa, (ulong)destination.Length) is var range && range != null)
        {
            new ReadOnlySpan<byte>(range, destination.Length).CopyTo(destination);
            return true;
        }

        for (var done = 0; done < destination.Length;)
        {
            var from = TryGetPointer(gpa + (ulong)done);
            if (from == null)
                return false;
            var part = PartOfPage(gpa, done, destination.Length);
            new ReadOnlySpan<byte>(from, part).CopyTo(destination[done..]);
            done += part;
        }

        return destination.Length != 0;
    }

    public bool TryWrite(ulong gpa, ReadOnlySpan<byte> source)
    {
        if (TryGetRange(gpa, (ulong)source.Length) is var range && range != null)
        {
            source.CopyTo(new Span<byte>(range, source.Length));
            MarkWritten(gpa, (ulong)source.Length);
            return true;
        }

        for (var done = 0; done < source.Length; done += PartOfPage(gpa, done, source.Length))
        {
            if (TryGetWritable(gpa + (ulong)done) == null)
                return false;
        }

        for (var done = 0; done < source.Length;)
        {
            var part = PartOfPage(gpa, done, source.Length);
            source.Slice(done, part).CopyTo(new Span<byte>(TryGetWritable(gpa + (ulong)done), part));
            MarkWritten(gpa + (ulong)done, (ulong)part);
            done += part;
        }

        return source.Length != 0;
    }

    /// <summary>Sets bits of an aligned word that processors change at the same time.</summary>
    /// <returns>False: it is not aligned, or not RAM.</returns>
    public bool TrySetBits(ulong gpa, ulong bits, out ulong old)
    {
        old = 0;
        var word = AlignedWord(gpa);
        if (word == null)
            return false;
        old = Interlocked.Or(ref *word, bits);
        MarkWritten(gpa, sizeof(ulong));
        return true;
    }

    /// <summary>Clears bits of an aligned word that processors change at the same time.</summary>
    /// <returns>False: it is not aligned, or not RAM.</returns>
    public bool TryClearBits(ulong gpa, ulong bits, out ulong old)
    {
        old = 0;
        var word = AlignedWord(gpa);
        if (word == null)
            return false;
        old = Interlocked.And(ref *word, ~bits);
        MarkWritten(gpa, sizeof(ulong));
        return true;
    }

    /// <summary>Replaces an aligned word if it is what was expected.</summary>
    /// <param name="old">What it was.</param>
    /// <returns>False: it is not aligned, or not RAM.</returns>
    public bool TryCompareExchange(ulong gpa, ulong value, ulong expected, out ulong old)
    {
        old = 0;
        var word = AlignedWord(gpa);
        if (word == null)
            return false;
        old = Interlocked.CompareExchange(ref *word, value, expected);
        MarkWritten(gpa, sizeof(ulong));
        return true;
    }

    /// <summary>
    /// A window on memory for input and output without a copy; false when a byte of it can't be both read and written
    /// or when it does not follow the one before in the host. Whoever writes to it says so afterwards by
    /// <see cref="MarkWritten"/>. The window must not outlive the machine. Of RAM it allocates nothing.
    /// </summary>
    public bool TrySlice(ulong gpa, int length, out Memory<byte> slice)
    {
        slice = default;
        if (length < 0 || TryGetRange(gpa, (ulong)length) is var range && range == null)
            return false;
        var offset = (ulong)(range - _ram);
        var inChunk = (int)(offset & ((1 << ChunkShift) - 1));
        slice = offset < Size && length <= int.MaxValue - inChunk
            ? _chunks[offset >> ChunkShift].Memory.Slice(inChunk, length)
            : new NativeSlice(range, length).Memory;
        return true;
    }

    /// <summary>True when all of the range can be read and written and is one piece in the host, as RAM is.</summary>
    public bool IsRam(ulong gpa, ulong length) => TryGetRange(gpa, length) != null;

    /// <summary>Tells the CPU engines that a device wrote to RAM: decoded instructions there are dropped.</summary>
    public void MarkWritten(ulong gpa, ulong length)
    {
        if (length != 0 && IsRam(gpa, length))
            MarkLines(gpa, length);
    }

    /// <summary>Drops decoded instructions from some lines of a page: called after the bytes have changed.</summary>
    public void OnCodeWritten(ulong gpa, ulong lines)
    {
        if ((Volatile.Read(ref CodeLines(gpa)) & lines) != 0)
            CodeWritten?.Invoke(gpa / PageSize, lines);
    }

    /// <summary>
    /// Zeroes whole pages of RAM and gives them back to the host until they are touched again. Processors may run: they
    /// see the old bytes or zeroes. Whoever does it must not need what is there.
    /// </summary>
    /// <returns>False: not whole pages, or not all of it is RAM; nothing was done.</returns>
    /// <remarks>
    /// The host's khugepaged may fill a hole in a huge page again. A page of a huge page is free for the host when it
    /// splits that one, or when all of it was given back.
    /// </remarks>
    public bool TryDiscard(ulong gpa, ulong length)
    {
        if (((gpa | length) & (PageSize - 1)) != 0 || length == 0)
            return false;
        var range = TryGetRange(gpa, length);
        if (range == null || range < _ram || (ulong)(range - _ram) >= Size)
            return false;
        HostMemory.Discard(range, length);
        MarkLines(gpa, length);
        return true;
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
        HostMemory.Release(Nothing, PageSize);
        foreach (var region in _regions)
            HostMemory.Release(region.Start, region.Size);
        GC.SuppressFinalize(this);
    }

    private ulong* AlignedWord(ulong gpa) => gpa % sizeof(ulong) == 0 ? (ulong*)TryGetRange(gpa, sizeof(ulong)) : null;

    /// <summary>The host address of a range of which <see cref="IsRam"/> holds, else null.</summary>
    private byte* TryGetRange(ulong gpa, ulong length)
    {
        if (gpa >= OneMiB && gpa <= Below4G && length <= Below4G - gpa)
            return _ram + gpa;
        if (gpa >= FourGiB && gpa - FourGiB < Above4G && length <= Above4G - (gpa - FourGiB))
            return _ram + (gpa - FourGiB + Below4G);
        return Volatile.Read(ref _map).FindRange(gpa, length);
    }

    private static int PartOfPage(ulong gpa, int done, int length) =>
        Math.Min(length - done, PageSize - (int)((gpa + (ulong)done) & (PageSize - 1)));

    private void MarkLines(ulong gpa, ulong length)
    {
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

    private ulong ToGuestPhysical(ulong offset) => offset < Below4G ? offset : offset - Below4G + FourGiB;
}
