using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Boot;

/// <summary>How a kernel is entered.</summary>
public enum KernelKind
{
    /// <summary>A bzImage by the 64-bit boot protocol.</summary>
    Linux64,

    /// <summary>A bzImage by the 32-bit boot protocol.</summary>
    Linux32,

    /// <summary>An ELF vmlinux at its entry, with boot_params as in the 64-bit protocol.</summary>
    LinuxElf64,

    /// <summary>An ELF image at its PVH entry.</summary>
    Pvh,

    /// <summary>A bzImage or zImage by the 16-bit boot protocol, which needs a BIOS.</summary>
    LinuxRealMode,

    /// <summary>By the Multiboot Specification, version 1.</summary>
    Multiboot,
}

/// <summary>Bytes that go into guest RAM: <paramref name="FileLength"/> of them from the source, zeroes up to <paramref name="MemoryLength"/>.</summary>
public sealed record BootSegment(string Name, ulong Address, BootSource Source, long Offset, ulong FileLength, ulong MemoryLength)
{
    public ulong End => Address + MemoryLength;
}

/// <summary>
/// All that a direct boot does to a machine: what goes where in RAM, and how the first processor starts. Made and
/// checked without a machine, written at power-on and again at each reset.
/// </summary>
public sealed class BootPlan
{
    public required KernelKind Kind { get; init; }

    public BootWay Way { get; init; }

    /// <summary>Where the kernel is loaded (its lowest segment).</summary>
    public required ulong LoadAddress { get; init; }

    public required ulong Entry { get; init; }

    /// <summary>SP of a kernel that is entered in real mode.</summary>
    public ulong StackOffset { get; init; }

    /// <summary>Ranges that must be RAM, by first and last address + 1: the segments, and what the kernel uses besides.</summary>
    public required IReadOnlyList<(ulong Start, ulong End)> NeededMemory { get; init; }

    /// <summary>The setup code's segment in real mode, RSI of the 64- and 32-bit protocol (boot_params), RBX of PVH (hvm_start_info) and multiboot.</summary>
    public required ulong ParametersAddress { get; init; }

    public required IReadOnlyList<E820Entry> MemoryMap { get; init; }

    /// <summary>By ascending address, without overlaps.</summary>
    public required IReadOnlyList<BootSegment> Segments { get; init; }

    /// <summary>Finds out what kind of kernel it is, and where everything goes.</summary>
    /// <exception cref="ConfigurationException">It is no x86 kernel, is damaged, or does not fit.</exception>
    public static BootPlan Create(BootRequest request) => KernelProbe.Plan(request);

    /// <summary>Whether only firmware can start a kernel: one by an old boot protocol, which is all real mode.</summary>
    public static bool NeedsFirmware(BootSource kernel) => KernelProbe.NeedsFirmware(kernel);

    /// <summary>Whether a kernel takes a list of modules (one with a multiboot header) instead of one initial RAM disk.</summary>
    public static bool TakesModules(BootSource kernel) => KernelProbe.IsMultiboot(kernel);

    /// <summary>The segment that holds the initial RAM disk.</summary>
    public BootSegment? Initrd => Segments.FirstOrDefault(s => s.Name == BootPlanBuilder.InitrdName);

    /// <summary>Loads everything into guest RAM.</summary>
    public void WriteTo(GuestMemory memory)
    {
        foreach (var segment in Segments)
        {
            for (ulong done = 0; done < segment.MemoryLength;)
            {
                var isFile = done < segment.FileLength;
                var length = (int)Math.Min(64 << 20, (isFile ? segment.FileLength : segment.MemoryLength) - done);
                if (!memory.TrySlice(segment.Address + done, length, out var slice))
                    throw new ConfigurationException($"{segment.Name}: 0x{segment.Address:x}+0x{segment.MemoryLength:x} is not guest RAM: give the guest more memory with -m");
                if (isFile)
                    segment.Source.Read(segment.Offset + (long)done, slice.Span);
                else
                    slice.Span.Clear();
                memory.MarkWritten(segment.Address + done, (ulong)length);
                done += (ulong)length;
            }
        }
    }

    /// <summary>Turns the power-on state of the first processor into the one that the kernel is entered with.</summary>
    public void ApplyTo(ref CpuState state)
    {
        if (Kind is KernelKind.Linux64 or KernelKind.LinuxElf64)
            EntryState.SetLongMode(ref state, Entry, ParametersAddress);
        else
            EntryState.SetProtectedMode(ref state, Kind, Entry, ParametersAddress);
    }
}
