// Loads a Linux kernel, or what has its format, for its own setup code to run with a BIOS: Documentation/arch/x86/boot.rst,
// "The Real-Mode Kernel Header", "The Kernel Command Line", "Running the Kernel". All versions from 2.00 on, zImages too.
using System.Buffers.Binary;
using System.Globalization;

namespace Sharpvisor.Boot;

internal static class RealModeLoader
{
    private const byte UndefinedLoader = 0xFF, CanUseHeap = 0x80;
    private const ushort OldCommandLineMagic = 0xA33F;
    private const int SetupEntryParagraphs = 0x20;

    // The heap ends before the stack, which begins before the command line.
    private const ulong StackBelowEnd = 0x10, HeapBelowEnd = 0x200;

    public static BootPlan Plan(BootRequest request)
    {
        var header = LinuxSetupHeader.Parse(request.Kernel, BootWay.Firmware);
        var builder = new BootPlanBuilder(request);
        var isOld = header.Version < 0x202 || !header.IsLoadedHigh;
        var setup = isOld ? BootLayout.OldRealMode : BootLayout.RealMode;
        var load = header.IsLoadedHigh ? BootLayout.KernelStart : BootLayout.LowKernel;
        var size = (ulong)(request.Kernel.Length - header.SetupLength);
        // Since 2.10 a kernel tells where it will move itself, and how much it needs there.
        var (run, runSize) = header.Version >= 0x20A ? (Math.Max(header.PreferredAddress, load), header.InitSize) : (load, size);
        builder.CheckRange(run, runSize, 0);
        builder.AddKernel(load, header.SetupLength, size, size, 0);
        var commandLine = builder.AddCommandLine(header.CommandLineLimit, isOld ? BootLayout.OldRealModeEnd : null);
        var kernelEnd = Math.Max(BootLayout.KernelStart, Math.Max(load + size, run + runSize));
        var (initrd, initrdSize) = builder.AddInitrd(header.InitrdHighestByte, kernelEnd, above4G: false);

        var end = commandLine - setup;
        var image = request.Kernel.Read(0, (int)header.SetupLength);
        U16(0x1FA, VideoMode(request.CommandLine));
        image[0x210] = UndefinedLoader;
        U32(0x218, (uint)initrd);
        U32(0x21C, (uint)initrdSize);
        if (header.Version >= 0x201)
        {
            image[0x211] |= CanUseHeap;
            U16(0x224, (ushort)(end - HeapBelowEnd));
        }

        if (header.Version >= 0x202)
        {
            U32(0x228, (uint)commandLine);
        }
        else
        {
            U16(0x20, OldCommandLineMagic);
            U16(0x22, (ushort)end);
        }

        builder.AddData("setup", setup, image);
        return builder.Build(KernelKind.LinuxRealMode, setup + (SetupEntryParagraphs << 4), setup, end - StackBelowEnd);

        void U16(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(offset), value);
        void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(offset), value);
    }

    /// <summary>vga= of the command line, which is the loader's to obey: a number, or one of three words.</summary>
    private static ushort VideoMode(string commandLine)
    {
        const ushort normal = 0xFFFF, extended = 0xFFFE, ask = 0xFFFD;
        const string key = "vga=";
        var value = commandLine.Split(' ').LastOrDefault(w => w.StartsWith(key, StringComparison.Ordinal))?[key.Length..];
        return value switch
        {
            null or "normal" => normal,
            "ext" => extended,
            "ask" => ask,
            ['0', 'x' or 'X', .. var hex] when ushort.TryParse(hex, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var mode) => mode,
            _ when ushort.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out var mode) => mode,
            _ => normal,
        };
    }
}
