using Sharpvisor.Boards;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Boot;

/// <summary>What a machine starts with: firmware, a kernel through firmware, or a kernel directly.</summary>
internal static class BootChoice
{
    /// <returns>The plan of the kernel; null: firmware looks for something to start.</returns>
    /// <exception cref="ConfigurationException">There is nothing to start, what there is does not fit together, or the kernel is none.</exception>
    public static BootPlan? Plan(MachineOptions options, GuestMemory memory)
    {
        if (options.Kernel is null)
        {
            if (options.KernelBoot is not null)
                throw new ConfigurationException("kernel-boot is for a kernel: give one with -kernel");
            return options.Firmware is null ? throw new ConfigurationException("nothing to boot: give a kernel with -kernel, or firmware with -bios") : null;
        }

        var way = options.KernelBoot ?? (options.Firmware is null ? BootWay.Direct : BootWay.Firmware);
        if (options.KernelBoot is null && way == BootWay.Direct && options.Kind == MachineKind.Pc && BootPlan.NeedsFirmware(options.Kernel))
            throw new ConfigurationException($"{options.Kernel.Name}: starts in real mode, by an old boot protocol, which takes firmware: give it with -bios");
        if (way == BootWay.Firmware && options.Firmware is null)
            throw new ConfigurationException("a kernel is to be started through firmware, but there is none: give it with -bios");
        if (way == BootWay.Direct && options.Firmware is not null)
            throw new ConfigurationException("a kernel is to be started directly, but there is firmware: leave -bios or kernel-boot=direct out");
        return BootPlan.Create(new BootRequest
        {
            Kernel = options.Kernel,
            Initrd = options.Initrd,
            Modules = options.Modules,
            Way = way,
            IsXen = options.Xen is not null,
            NeedsPvh = options.Kind == MachineKind.XenPvh,
            CommandLine = options.CommandLine,
            Below4G = memory.Below4G,
            Above4G = memory.Above4G,
            RsdpAddress = way == BootWay.Direct ? PcFirmware.RsdpAddress : 0,
            HasTextScreen = options.VgaBios is not null,
        });
    }
}
