// The board of a paravirtual domain of Xen's: processors and memory, and no hardware at all. Its kernel is in ring 3, and asks
// the hypervisor for what others do by page tables, descriptor tables and privileged instructions. All devices are Xen's.
// Follows: Xen's public headers xen.h and arch-x86/xen-x86_64.h; the start of a domain is in Boot/XenPvLoader.
// Leaves out: kernels of 32 bits; devices of the host (pcifront).
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu.State;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Boards;

internal sealed class XenPvBoard : XenKernelBoard
{
    private const int Rsi = 6, Rsp = 4;

    private readonly XenPvPlan _plan;

    /// <exception cref="ConfigurationException">Something is to be plugged in that there is no place for, or the kernel can't be started so.</exception>
    public XenPvBoard(BoardContext context, MachineOptions options) : base(context, options, "PV")
    {
        _plan = XenPvPlan.Create(new BootRequest
        {
            Kernel = options.Kernel!,
            Initrd = options.Initrd,
            Modules = options.Modules,
            Way = BootWay.Direct,
            IsXen = true,
            CommandLine = options.CommandLine,
            Below4G = context.Memory.Below4G,
            Above4G = context.Memory.Above4G,
        });

        var xen = options.Xen ?? new XenOptions(XenOptions.DefaultDomain, null);
        Xen = CreateDomain(context, options, xen, LocalApics, _plan); // whose local APICs are in no address space, and tell nothing
        Xen.MemoryMap = [(0, _plan.Layout.PageCount * Core.Memory.GuestMemory.PageSize, (uint)E820Type.Ram)];
    }

    public override void Connect(int index, IProcessorSignals processor) => Xen!.Paravirtual!.Connect(index, processor);

    public override void ActAsFirmware()
    {
        // The hypervisor's builder does all.
    }

    /// <summary>Builds the domain anew, and starts its first processor.</summary>
    public void EnterKernel(ref CpuState state)
    {
        var domain = Xen!;
        Context.Memory.Clear();
        _plan.WriteTo(Context.Memory, new XenPvStart(PvLayout.SharedPages, (uint)domain.Parameter(HvmParam.StorePort), (uint)domain.Parameter(HvmParam.ConsolePort)));
        domain.Paravirtual!.Build(_plan.Root);
        domain.PlaceSharedInfo(PvLayout.SharedPages);
        state.Rip = _plan.Entry;
        state.Gpr[Rsi] = _plan.StartInfo;
        state.Gpr[Rsp] = _plan.StackPointer;
        state.Cr3 = _plan.Root;
    }

    protected override string? FindUnfit(MachineOptions options) => base.FindUnfit(options)
        ?? (options is { DebugExit: not null } or { DebugConsole: not null } ? "a device at ports (isa-debug-exit, -debugcon): it has none" : null);
}
