// The option ROM by which firmware starts the kernel of -kernel. All decisions are made before the machine starts, by a
// BootPlan; what is left for the ROM, made anew for each plan, is what only running firmware knows: the memory map. The
// ROM reads it, refuses a plan that does not fit into it, has fw_cfg copy every segment to its place by DMA (the copies
// above 1 MiB need no protected mode), completes the kernel's information, and enters the kernel.
// Follows: QEMU docs/specs/fw_cfg.rst for the DMA requests.
using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot.BootRom;

/// <summary>A segment of the plan, as item <paramref name="Selector"/> of fw_cfg.</summary>
internal readonly record struct RomLoad(ushort Selector, BootSegment Segment);

internal static class KernelRom
{
    public const string FileName = "genroms/sharpvisor-boot.rom";

    /// <summary>The name that firmware gives the ROM in its boot order.</summary>
    public const string BootPath = "/rom@" + FileName;

    private const string Product = "Sharpvisor: -kernel";
    private const uint DmaRead = 2, DmaSelect = 8;

    // 24 bytes each: half of what firmware has for option ROMs is left to others.
    private const int MaximumSegments = 2048;

    /// <exception cref="ConfigurationException">There are too many segments for a ROM.</exception>
    public static byte[] Build(BootPlan plan, IReadOnlyList<RomLoad> loads)
    {
        if (loads.Count > MaximumSegments)
            throw new ConfigurationException($"kernel and modules are {loads.Count} parts, a boot through firmware takes {MaximumSegments}: give fewer modules, or -machine kernel-boot=direct");
        using var data = new MemoryStream();
        var ranges = plan.NeededMemory;
        var tables = new RomTables { Ranges = Offset(), RangeCount = ranges.Count };
        foreach (var (start, end) in ranges)
        {
            U32((uint)start);
            U32((uint)end);
        }

        tables = tables with { Loads = Offset(), LoadCount = loads.Count };
        foreach (var (selector, segment) in loads)
        {
            // A request as fw_cfg reads it: control, length, address, big-endian. Behind a file's end come zeroes.
            U32(BinaryPrimitives.ReverseEndianness(((uint)selector << 16) | DmaSelect | DmaRead));
            U32(BinaryPrimitives.ReverseEndianness((uint)segment.MemoryLength));
            U32(0);
            U32(BinaryPrimitives.ReverseEndianness((uint)segment.Address));
        }

        tables = tables with { NoMapMessage = Text("Sharpvisor: no memory map from INT 15h, AX=E820h\r\n") };
        tables = tables with { NoMemoryMessage = Text("Sharpvisor: the kernel or its data do not fit into RAM (give more with -m), at 0x") };
        tables = tables with { NoDataMessage = Text("Sharpvisor: the kernel or its data cannot be read\r\n") };
        tables = tables with { NewLine = Text("\r\n") };
        var bytes = data.ToArray();
        return OptionRom.Build(Product, bytes, KernelRomCode.Assemble(plan, tables, Offset()));

        int Offset() => OptionRom.DataStart + (int)data.Length;

        void U32(uint value)
        {
            Span<byte> word = stackalloc byte[4];
            BinaryPrimitives.WriteUInt32LittleEndian(word, value);
            data.Write(word);
        }

        int Text(string text)
        {
            var offset = Offset();
            data.Write(Encoding.ASCII.GetBytes(text + "\0"));
            return offset;
        }
    }
}

/// <summary>Offsets in the ROM of what its code reads.</summary>
internal readonly record struct RomTables
{
    /// <summary>Memory that must be RAM: first address and the one behind the last, 32 bits each.</summary>
    public int Ranges { get; init; }

    public int RangeCount { get; init; }

    /// <summary>DMA requests of 16 bytes.</summary>
    public int Loads { get; init; }

    public int LoadCount { get; init; }

    public int NoMapMessage { get; init; }

    public int NoMemoryMessage { get; init; }

    public int NoDataMessage { get; init; }

    public int NewLine { get; init; }
}
