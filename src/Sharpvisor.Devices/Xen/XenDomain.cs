// Xen as a guest of it sees it, without Xen: hypercalls, CPUID leaves, shared pages, event channels, grants and the store
// of one domain that runs in hardware's own modes (HVM and PVH).
// Follows: Xen's public headers (arch-x86/cpuid.h, xen.h, version.h, memory.h, hvm/hvm_op.h, hvm/params.h, vcpu.h, sched.h,
// event_channel.h, grant_table.h); the order in which Linux asks is in shared/reference/xen-guest-interface.md.
// Leaves out: physical interrupts.

using System.Buffers.Binary;
using System.Numerics;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Core.Time;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Timers;
using Sharpvisor.Devices.Xen.Pv;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Devices.Xen;

/// <summary>HVM_PARAM_*.</summary>
public enum HvmParam
{
    CallbackIrq = 0,
    StorePage = 1,
    StorePort = 2,
    ConsolePage = 17,
    ConsolePort = 18,
}

/// <summary>One domain. Used with the machine's gate held, but for CPUID.</summary>
public sealed partial class XenDomain : IHypervisor
{
    /// <summary>4.17, which Debian 12 has.</summary>
    public const uint Version = (4 << 16) | 17;

    /// <summary>Pages that the domain finds by HVM parameters; in the range that Xen uses for them.</summary>
    public const ulong SpecialPages = 0xFEFF_8000, SpecialLength = SpecialPageCount * GuestMemory.PageSize;

    private const ulong Sched = 29;
    private const int ParameterCount = 64, SpecialPageCount = 8, StoreIndex = 4, ConsoleIndex = 5;
    private const uint HypercallMsr = 0x4000_0000, FirstLeaf = 0x4000_0000, LastLeaf = FirstLeaf + 5;

    private readonly GuestMemory _memory;
    private readonly GuestErrorLog _errors;
    private readonly ILogger _logger;
    private readonly IMachineControl _control;
    private readonly IReadOnlyList<LocalApic> _apics;
    private readonly Clock _clock;
    private readonly XenVcpu[] _processors;
    private readonly ulong[] _parameters = new ulong[ParameterCount];
    private readonly HashSet<ulong> _unknown = [];
    private readonly XenLog _log;

    /// <summary>Pages of Xen's own that the domain has laid where it has no memory: shared_info, then the frames of the grant table.</summary>
    private readonly MemoryRegion _overlay;
    private readonly MemoryMapping?[] _overlays = new MemoryMapping?[1 + GrantTable.MaximumFrames];
    private XenStoreRing? _storeRing;

    /// <param name="number">The domain's number, 1 to 32751.</param>
    /// <param name="apics">Of each processor.</param>
    public XenDomain(int number, IReadOnlyList<LocalApic> apics, GuestMemory memory, Clock clock, IMachineControl control, GuestErrorLog errors, ILogger logger)
    {
        Number = number;
        _memory = memory;
        _apics = apics;
        _control = control;
        _errors = errors;
        _logger = logger;
        _log = new XenLog(logger);
        _clock = clock;
        _overlay = memory.AddRegion("xen-overlay", (ulong)_overlays.Length * GuestMemory.PageSize);
        Events = new EventChannels(memory, errors, number, apics.Count, OnUpcall);
        _last = new (Hypercall, ulong?)?[apics.Count];
        Grants = new GrantTable(memory, errors);
        _processors = [.. apics.Select(apic => new XenVcpu(apic.Index, this, memory, clock))];
        Callback = new XenCallback(Events, apics);
        Events.Pending += OnPending;
        foreach (var apic in apics)
            apic.Initialized += () => TellAgain(apic.Index);
        memory.Map(SpecialPages, memory.AddRegion("xen", SpecialLength));
    }

    public int Number { get; }

    /// <summary>By number.</summary>
    public IReadOnlyList<XenVcpu> Processors => _processors;

    public EventChannels Events { get; }

    /// <summary>How it is told of events on processors without a vector for that.</summary>
    public XenCallback Callback { get; }

    public GrantTable Grants { get; }

    public XenStore Store { get; private set; } = new();

    /// <summary>The paravirtual side of a domain that has one; null: it runs in hardware's own modes.</summary>
    public PvDomain? Paravirtual { get; set; }

    /// <summary>Guest-physical addresses of the rings of store and console.</summary>
    public ulong StorePage { get; set; } = SpecialPages + (StoreIndex * GuestMemory.PageSize);

    public ulong ConsolePage { get; set; } = SpecialPages + (ConsoleIndex * GuestMemory.PageSize);

    /// <summary>A page of the hypervisor's own.</summary>
    /// <param name="index">0 to 3.</param>
    public static ulong OwnPage(int index) => SpecialPages + ((ulong)index * GuestMemory.PageSize);

    /// <summary>The console's ring is served by this.</summary>
    public Action? OnConsole { get; set; }

    /// <summary>Fills the store of a domain that begins; called at the end of each reset.</summary>
    public Action<XenStore>? OnStore { get; set; }

    /// <summary>Raises the event channel of the console.</summary>
    public void NotifyConsole() => Events.Notify((uint)_parameters[(int)HvmParam.ConsolePort]);

    /// <summary>Power-on and reset: a new domain with the same number.</summary>
    public void Reset()
    {
        foreach (var processor in _processors)
            processor.Reset();
        _given = 0;
        _calls.Clear();
        Array.Clear(_last);
        Begin();
    }

    /// <summary>
    /// SHUTDOWN_soft_reset, for a kernel that starts another one: as for a new domain, but processors go on where they are, and memory stays.
    /// </summary>
    private void SoftReset()
    {
        _logger.LogInformation("the domain begins anew by a soft reset");
        foreach (var processor in _processors)
            processor.Release();
        Begin();
    }

    /// <summary>The interface as a domain finds it at first, and the devices.</summary>
    private void Begin()
    {
        Events.Reset();
        Events.SharedInfo = 0;
        Events.Is32Bit = false;
        for (var i = 0; i < _processors.Length; i++)
            Events.SetVcpuInfo(i, 0);
        Grants.Reset();
        Callback.Reset();
        for (var i = 0; i < _overlays.Length; i++)
            RemoveOverlay(i);
        Array.Clear(_parameters);
        var zeroes = new byte[GuestMemory.PageSize];
        for (var i = 0; i < SpecialPageCount; i++)
            _memory.TryWrite(SpecialPages + (ulong)(i * GuestMemory.PageSize), zeroes);
        if (Paravirtual is not null)
        {
            _memory.TryWrite(StorePage, zeroes);
            _memory.TryWrite(ConsolePage, zeroes);
        }

        Store = new XenStore();

        Events.AllocateUnbound(EventChannels.BackEnd, out var storePort);
        _storeRing = new XenStoreRing(Store, Number, _memory, StorePage, _errors, () => Events.Notify(storePort));
        Events.TryConnect(storePort, _storeRing.Serve);
        _parameters[(int)HvmParam.StorePage] = StorePage / GuestMemory.PageSize;
        _parameters[(int)HvmParam.StorePort] = storePort;
        if (OnConsole is { } onConsole)
        {
            Events.AllocateUnbound(EventChannels.BackEnd, out var consolePort);
            Events.TryConnect(consolePort, onConsole);
            _parameters[(int)HvmParam.ConsolePage] = ConsolePage / GuestMemory.PageSize;
            _parameters[(int)HvmParam.ConsolePort] = consolePort;
        }

        Paravirtual?.Reset();
        OnStore?.Invoke(Store);
    }

    /// <summary>shared_info of a paravirtual domain, which has it from the beginning.</summary>
    public void PlaceSharedInfo(ulong page)
    {
        SetSharedInfo(page, is64: true);
        for (var i = 0; i < _processors.Length; i++)
            Events.MaskUpcalls(i);
        const uint eventMask = 0xA00;
        _memory.TryWrite(page + eventMask, new byte[EventChannels.PortCount / 8]); // as Xen's builder leaves it: no port is masked
    }

    public (uint Eax, uint Ebx, uint Ecx, uint Edx) QueryCpuid(int processor, uint leaf, uint subleaf)
    {
        const uint hypercallPages = 1, preservesAccessed = 1, vcpuId = 1 << 3, domainId = 1 << 4, extendedDestination = 1 << 5, upcallVector = 1 << 6;
        return leaf switch
        {
            FirstLeaf => (LastLeaf, Word("XenV"), Word("MMXe"), Word("nVMM")),
            FirstLeaf + 1 => (Version, 0, 0, 0),
            FirstLeaf + 2 => (hypercallPages, HypercallMsr, Paravirtual is null ? 0u : preservesAccessed, 0),
            FirstLeaf + 3 when subleaf == 0 => (0, 0, (uint)(Clock.TscHz / 1000), 0),
            FirstLeaf + 4 when Paravirtual is null => (vcpuId | domainId | extendedDestination | (Callback.Offer == XenCallbackOffer.ProcessorVector ? upcallVector : 0), (uint)processor, (uint)Number, 0),
            FirstLeaf + 5 => (0, (uint)(64 - BitOperations.LeadingZeroCount(_memory.Above4G > 0 ? (4UL << 30) + _memory.Above4G - 1 : uint.MaxValue)), 0, 0),
            _ => default,
        };
    }

    internal static bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0;
        return msr == HypercallMsr;
    }

    /// <summary>The domain names a page of its memory: it becomes the hypercall page, 32 bytes a call.</summary>
    internal bool TryWriteMsr(uint msr, ulong value)
    {
        const int stub = 32, iret = 23;
        if (msr != HypercallMsr)
            return false;
        if ((value & (GuestMemory.PageSize - 1)) != 0)
            return true; // another page than the first: ignored, as Xen does
        Span<byte> page = stackalloc byte[GuestMemory.PageSize];
        page.Clear();
        for (var i = 0; i < page.Length / stub; i++)
        {
            var code = page[(i * stub)..];
            if (i == iret)
            {
                (code[0], code[1]) = (0x0F, 0x0B); // ud2: only for domains without hardware's help
                continue;
            }

            code[0] = 0xB8; // mov eax, i
            BinaryPrimitives.WriteInt32LittleEndian(code[1..], i);
            (code[5], code[6], code[7], code[8]) = (0x0F, 0x01, 0xC1, 0xC3); // vmcall; ret
        }

        if (!_memory.TryWrite(value, page))
            _errors.Report("xen", "a hypercall page that is no memory");
        return true;
    }

    public HypercallResult Call(in Hypercall call, ILinearMemory memory)
    {
        if (call.Privilege != 0)
            return new HypercallResult(Result(XenError.EPERM));
        Count(call);
        if (Paravirtual is not { } paravirtual)
            return Do(call, memory);
        const ulong iret = 23;
        ref var last = ref _last[call.Processor];
        if (call.Number != iret)
            last = (call, null);
        if (!paravirtual.TryCall(call, memory, out var result))
            result = Do(call, memory);
        if (call.Number != iret)
            last = (call, result.Value);
        return result;
    }

    private HypercallResult Do(in Hypercall call, ILinearMemory memory) =>
        call.Number == Sched ? SchedOp(call, memory) : new HypercallResult(Serve(call, memory));

    private ulong Serve(in Hypercall call, ILinearMemory memory)
    {
        Callback.Update();
        return call.Number switch
        {
            12 => MemoryOp(call, memory),
            17 => VersionOp(call, memory),
            18 => ConsoleIo(call, memory),
            20 => GrantTableOp(call, memory),
            21 => VmAssist(call),
            24 => VcpuOp(call, memory),
            32 => EventChannelOp(call, memory),
            33 => Result(XenError.ENOSYS), // physdev_op: no physical interrupts are offered
            34 => HvmOp(call, memory),
            _ => Unknown(call.Number, "hypercall"),
        };
    }

    private static uint Word(string text) => BinaryPrimitives.ReadUInt32LittleEndian(System.Text.Encoding.ASCII.GetBytes(text));

    private static ulong Result(XenError error) => (ulong)(long)error;

    /// <summary>What there is not: said once each.</summary>
    private ulong Unknown(ulong number, string kind, ulong command = 0)
    {
        if (_unknown.Count < 256 && _unknown.Add((number << 32) | (uint)command))
            _errors.Report("xen", $"{kind} {number} {command} is not there");
        return Result(XenError.ENOSYS);
    }

    private void OnUpcall(int processor)
    {
        if (Paravirtual is { } paravirtual)
            paravirtual.Signal(processor);
        else if (_processors[processor].UpcallVector is not 0 and var vector)
            _apics[processor].Inject(vector);
        else
            Callback.Raise(processor);
        Wake(_processors[processor]);
    }

    /// <summary>A flag that is set is not raised again by later events: whoever has lost the interrupt would never hear of them.</summary>
    private void TellAgain(int processor)
    {
        if (Events.HasUpcall(processor))
            OnUpcall(processor);
    }

    /// <summary>Whoever polls looks again; it may be for this port.</summary>
    private void OnPending(uint port)
    {
        foreach (var processor in _processors)
            Wake(processor);
    }

    private static void Wake(XenVcpu processor)
    {
        if (!processor.IsResting)
            return;
        processor.IsResting = false;
        processor.Rest.Wake();
    }
}
