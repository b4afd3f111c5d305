// The board of a paravirtual domain of Xen's: processors and memory, and no hardware at all. Its kernel is in ring 3, and asks
// the hypervisor for what others do by page tables, descriptor tables and privileged instructions. All devices are Xen's.
// Follows: Xen's public headers xen.h and arch-x86/xen-x86_64.h; the start of a domain is in Boot/XenPvLoader.
// Leaves out: kernels of 32 bits; devices of the host (pcifront).
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Cpu.State;
using Sharpvisor.Devices.Chipset;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Boards;

internal sealed class XenPvBoard : Board
{
    private const int Rsi = 6, Rsp = 4;

    private readonly BoardContext _context;
    private readonly XenPvPlan _plan;
    private readonly LocalApic[] _apics;

    /// <exception cref="ConfigurationException">Something is to be plugged in that there is no place for, or the kernel can't be started so.</exception>
    public XenPvBoard(BoardContext context, MachineOptions options)
    {
        _context = context;
        var kernel = options.Kernel ?? throw new ConfigurationException("a PV domain starts with a kernel: give one with -kernel");
        XenPvhBoard.Check(options, "PV");
        _plan = XenPvPlan.Create(new BootRequest
        {
            Kernel = kernel,
            Initrd = options.Initrd,
            Modules = options.Modules,
            Way = BootWay.Direct,
            IsXen = true,
            CommandLine = options.CommandLine,
            Below4G = context.Memory.Below4G,
            Above4G = context.Memory.Above4G,
        });

        // Processors have one each, which is switched off and in no address space.
        var bus = new ApicBus();
        _apics = [.. Enumerable.Range(0, options.ProcessorCount).Select(i => new LocalApic(i, context.Clock, bus))];
        if (options.DebugExit is { } exit)
            context.Ports.Map(exit.Port, (ulong)exit.Count, new DebugExit(context.Control), "isa-debug-exit");
        var xen = options.Xen ?? new XenOptions(XenOptions.DefaultDomain, null);
        Xen = CreateDomain(context, options, xen, _apics, _plan);
        Xen.MemoryMap = [(0, _plan.Layout.PageCount * Core.Memory.GuestMemory.PageSize, (uint)E820Type.Ram)];
    }

    public override IReadOnlyList<LocalApic> LocalApics => _apics;

    public override IReadOnlyList<IMsrDevice> MsrDevices(int index) => [Xen!.Processors[index]];

    public override void Connect(int index, IProcessorSignals processor) => Xen!.Paravirtual!.Connect(index, processor);

    public override void AddKernel(BootPlan plan) => throw new ConfigurationException("a PV domain has no firmware that could start a kernel; leave -bios out");

    public override void PressPowerButton()
    {
        // There is none: the machine asks the domain by the store.
    }

    public override void WakeUp(string source)
    {
        // It never sleeps.
    }

    public override void Reset()
    {
        Xen!.Reset();
        foreach (var apic in _apics)
            apic.Reset();
    }

    public override void PowerDown()
    {
        // There is no S3.
    }

    public override void PowerUp() => Reset();

    public override void ActAsFirmware()
    {
        // The hypervisor's builder does all.
    }

    public override uint ActAsResumingFirmware() => 0;

    /// <summary>Builds the domain anew, and starts its first processor.</summary>
    public void EnterKernel(ref CpuState state)
    {
        var domain = Xen!;
        _context.Memory.Clear();
        _plan.WriteTo(_context.Memory, new XenPvStart(PvLayout.SharedPages, (uint)domain.Parameter(HvmParam.StorePort), (uint)domain.Parameter(HvmParam.ConsolePort)));
        domain.Paravirtual!.Build(_plan.Root);
        domain.PlaceSharedInfo(PvLayout.SharedPages);
        state.Rip = _plan.Entry;
        state.Gpr[Rsi] = _plan.StartInfo;
        state.Gpr[Rsp] = _plan.StackPointer;
        state.Cr3 = _plan.Root;
    }
}
