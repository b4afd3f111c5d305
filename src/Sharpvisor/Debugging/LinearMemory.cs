// Walks of a guest's page tables for those who look at it (SDM vol. 3, chapter 5): no accessed bits, no faults, no rights.
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging;

/// <summary>
/// Memory by linear address, as one set of page tables has it. Remembers translations, and so is good only as long as
/// the guest stands still.
/// </summary>
public sealed class LinearMemory
{
    private const int PageShift = 12, CachedPages = 256;
    private const ulong PageSize = 1UL << PageShift, NotMapped = 1;

    private readonly IGuestView _view;
    private readonly CpuState _state;
    private readonly ulong[] _linear = new ulong[CachedPages], _physical = new ulong[CachedPages];

    /// <param name="state">Whose CR0, CR3, CR4 and EFER count.</param>
    public LinearMemory(IGuestView view, in CpuState state)
    {
        _view = view;
        _state = state;
        Array.Fill(_linear, ulong.MaxValue);
    }

    public ref readonly CpuState State => ref _state;

    public IGuestView View => _view;

    /// <summary>The physical address that a linear one leads to.</summary>
    public bool TryTranslate(ulong linear, out ulong physical)
    {
        var page = linear >> PageShift;
        var place = (int)(page % CachedPages);
        if (_linear[place] != page)
        {
            _physical[place] = _view.TryTranslate(in _state, page << PageShift, out var start) ? start : NotMapped;
            _linear[place] = page;
        }

        physical = _physical[place] + (linear % PageSize);
        return _physical[place] != NotMapped;
    }

    /// <returns>How many bytes from the start are mapped to memory.</returns>
    public int Read(ulong linear, Span<byte> destination)
    {
        for (var done = 0; done < destination.Length;)
        {
            var at = linear + (ulong)done;
            var part = (int)Math.Min((ulong)(destination.Length - done), PageSize - (at % PageSize));
            if (!TryTranslate(at, out var physical))
                return done;
            var read = _view.ReadPhysical(physical, destination.Slice(done, part));
            done += read;
            if (read < part)
                return done;
        }

        return destination.Length;
    }

    public bool TryRead<T>(ulong linear, out T value)
        where T : unmanaged
    {
        Unsafe.SkipInit(out value);
        if (Read(linear, MemoryMarshal.AsBytes(new Span<T>(ref value))) == Unsafe.SizeOf<T>())
            return true;
        value = default;
        return false;
    }

    /// <summary>All of a range, or null where a part of it is not mapped.</summary>
    public byte[]? TryReadAll(ulong linear, int length)
    {
        // Nothing is allocated for what a guest merely claims to have.
        Span<byte> last = stackalloc byte[1];
        if (length < 0 || (length > 0 && (Read(linear, last) == 0 || Read(linear + (ulong)length - 1, last) == 0)))
            return null;
        var bytes = new byte[length];
        return Read(linear, bytes) == length ? bytes : null;
    }

    /// <summary>A string that ends with a zero, or after <paramref name="limit"/> bytes; what is not printable is shown as a dot.</summary>
    public string ReadText(ulong linear, int limit)
    {
        var bytes = new byte[limit];
        ReadOnlySpan<byte> text = bytes.AsSpan(0, Read(linear, bytes));
        var end = text.IndexOf((byte)0);
        return string.Create(end < 0 ? text.Length : end, bytes, (to, from) =>
        {
            for (var i = 0; i < to.Length; i++)
                to[i] = from[i] is >= 0x20 and < 0x7F ? (char)from[i] : '.';
        });
    }
}
