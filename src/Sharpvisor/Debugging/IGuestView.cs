using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Debugging;

/// <summary>
/// Processors and memory of a guest that stands still: a paused machine, or what a core file keeps of one. What is built
/// on this (symbols, stack traces, context dumps) works on both.
/// </summary>
public interface IGuestView
{
    int ProcessorCount { get; }

    /// <summary>The registers of one processor.</summary>
    CpuState GetState(int processor);

    /// <summary>Reads RAM and ROM without side effects; a device's registers are never touched.</summary>
    /// <returns>How many bytes from the start are memory.</returns>
    int ReadPhysical(ulong physical, Span<byte> destination);

    /// <summary>Where a linear address leads by the page tables of <paramref name="state"/>, whatever rights they give. False: it is not mapped.</summary>
    bool TryTranslate(in CpuState state, ulong linear, out ulong physical)
    {
        var isMapped = LinearAddress.TryTranslate(in state, ReadPhysical, linear, out var mapping);
        physical = mapping.Physical;
        return isMapped;
    }
}

/// <summary>Access by linear address.</summary>
public static class GuestViewMemory
{
    private const ulong PageMask = 4095;

    /// <summary>Reads by the page tables that a processor uses now.</summary>
    /// <returns>How many bytes from the start are mapped to memory.</returns>
    public static int ReadLinear(this IGuestView view, int processor, ulong linear, Span<byte> destination) =>
        view.ReadLinear(view.GetState(processor), linear, destination);

    /// <summary>Reads by the page tables of <paramref name="state"/>.</summary>
    /// <returns>How many bytes from the start are mapped to memory.</returns>
    public static int ReadLinear(this IGuestView view, in CpuState state, ulong linear, Span<byte> destination)
    {
        for (var done = 0; done < destination.Length;)
        {
            var at = linear + (ulong)done;
            var part = (int)Math.Min((ulong)(destination.Length - done), PageMask + 1 - (at & PageMask));
            if (!view.TryTranslate(in state, at, out var physical))
                return done;
            var read = view.ReadPhysical(physical, destination.Slice(done, part));
            done += read;
            if (read < part)
                return done;
        }

        return destination.Length;
    }
}
