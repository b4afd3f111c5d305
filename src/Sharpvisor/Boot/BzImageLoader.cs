// Loads a Linux bzImage: Documentation/arch/x86/boot.rst. The 64-bit protocol (entry 0x200 behind the load address)
// where the kernel has it, else the 32-bit one. For the 16-bit protocol, which needs a
// BIOS, there is RealModeLoader.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

internal static class BzImageLoader
{
    private const ulong Entry64Offset = 0x200;

    public static BootPlan Plan(BootRequest request)
    {
        var header = LinuxSetupHeader.Parse(request.Kernel, BootWay.Direct);
        var builder = new BootPlanBuilder(request);
        var (load, run) = Place(request, header);
        builder.CheckRange(run, header.InitSize);
        builder.AddKernel(load, header.SetupLength, (ulong)Math.Min(header.SystemLength, request.Kernel.Length - header.SetupLength), (ulong)header.SystemLength);
        builder.AddCommandLine(header.CommandLineLimit);
        var kernelEnd = Math.Max(load + (ulong)header.SystemLength, run + header.InitSize);
        var (initrd, initrdSize) = builder.AddInitrd(header.InitrdHighestByte, kernelEnd, header.Is64Bit && header.CanBeLoadedAbove4G);

        var parameters = new BootParams(header);
        parameters.SetKernelAddress((uint)load);
        parameters.SetCommandLine(BootLayout.CommandLine);
        parameters.SetInitrd(initrd, initrdSize);
        parameters.SetRsdp(request.RsdpAddress);
        if (request.HasTextScreen)
            parameters.SetTextScreen();
        parameters.SetMemoryMap(builder.MemoryMap);
        builder.AddData("boot_params", BootLayout.BootParams, parameters.ToArray());
        return header.Is64Bit
            ? builder.Build(KernelKind.Linux64, load + Entry64Offset, BootLayout.BootParams)
            : builder.Build(KernelKind.Linux32, load, BootLayout.BootParams);
    }

    /// <summary>Where to load the kernel, and where it will run: a kernel that can't be relocated moves itself there.</summary>
    private static (ulong Load, ulong Run) Place(BootRequest request, LinuxSetupHeader header)
    {
        var preferred = header.PreferredAddress >= BootLayout.KernelStart ? header.PreferredAddress : BootLayout.KernelStart;
        if (!header.IsRelocatable)
            return (BootLayout.KernelStart, preferred);
        if ((header.Alignment & (header.Alignment - 1)) != 0)
            throw new ConfigurationException($"{request.Kernel.Name}: corrupt bzImage: an alignment of 0x{header.Alignment:x}; copy it again");
        var lowest = (BootLayout.KernelStart + header.Alignment - 1) & ~(header.Alignment - 1);
        var fitsPreferred = preferred <= request.Below4G && header.InitSize <= request.Below4G - preferred;
        var address = fitsPreferred ? preferred : lowest;
        return (address, address);
    }
}
