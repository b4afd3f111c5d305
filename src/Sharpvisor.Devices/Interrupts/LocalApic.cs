// The local APIC of a processor, in xAPIC (memory-mapped) and x2APIC (MSR) mode.
// Follows: Intel SDM vol. 3A, chapter 11 "Advanced Programmable Interrupt Controller" (this file: 11.4.6 to 11.5 and
// 11.8, states, local vector table, acceptance, priorities, EOI; LocalApic.Registers.cs: 11.4.1, 11.6, 11.12).
// Version 0x14 with six LVT entries, as QEMU's.
// Leaves out: CMCI, suppression of EOI broadcasts, the arbitration priority and remote read registers (both read 0,
// as on processors since the Pentium 4), focus processor checking.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Core.Time;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>The local APIC of one processor.</summary>
public sealed partial class LocalApic : ILocalInterruptController, ITscFollower, IResettable
{
    private const uint Masked = 1u << 16, LevelTriggered = 1u << 15, RemoteIrr = 1u << 14;
    private const ulong DefaultBase = 0xFEE0_0000;
    private const ulong BaseBsp = 1 << 8, BaseX2Apic = 1 << 10, BaseEnable = 1 << 11;

    // Error status register (SDM 11.5.3).
    private const uint SendIllegalVector = 1 << 5, ReceiveIllegalVector = 1 << 6, IllegalRegisterAddress = 1 << 7;

    private readonly ApicBus _bus;
    private readonly LocalApicTimer _timer;
    private readonly uint[] _lvt = new uint[6];
    private IProcessorSignals? _signals;
    private ulong _apicBase;
    private VectorSet _irr, _isr, _tmr;
    private byte _tpr, _ppr;
    private uint _svr, _ldr, _dfr, _esr, _pendingErrors;
    private ulong _icr;
    private byte _direct;
    private bool _lint0, _lint1, _externalInterrupt, _requestAsserted;

    /// <param name="index">Number of the processor, from 0 in order: its APIC id. Processor 0 is the bootstrap processor.</param>
    /// <param name="clock">What the timer counts.</param>
    /// <param name="bus">The APIC bus; the new local APIC joins it.</param>
    public LocalApic(int index, Clock clock, ApicBus bus)
    {
        Index = index;
        _bus = bus;
        _timer = new LocalApicTimer(clock, index, () => DeliverLocal(LvtTimer));
        Reset();
        bus.Add(this);
    }

    public int Index { get; }

    public long TscOffset
    {
        get => _timer.TscOffset;
        set => _timer.TscOffset = value;
    }

    public ulong MmioBase => IsEnabled && !IsX2Apic ? _apicBase & ~0xFFFUL : ulong.MaxValue;

    /// <summary>IA32_APIC_BASE bit 11. While false, CPUID shows no APIC and the PIC drives the processor's INTR pin.</summary>
    public bool IsEnabled => (_apicBase & BaseEnable) != 0;

    /// <summary>IA32_APIC_BASE bit 10.</summary>
    public bool IsX2Apic => (_apicBase & BaseX2Apic) != 0;

    /// <summary>Raised after an INIT, by which all that waited was lost.</summary>
    public event Action? Initialized;

    public byte TaskPriority
    {
        get => (byte)(_tpr >> 4);
        set => SetTaskPriority((byte)(value << 4));
    }

    internal bool IsSoftwareEnabled => IsEnabled && (_svr & 0x100) != 0;

    internal byte ProcessorPriority => _ppr;

    /// <summary>Gives the pins of the processor. Called once, before the machine starts.</summary>
    public void Connect(IProcessorSignals signals)
    {
        _signals = signals;
        signals.SetInterruptRequest(_requestAsserted);
    }

    /// <summary>
    /// What PC firmware leaves behind (MultiProcessor Specification 1.4, 3.6.2.2, virtual wire mode): enabled, the PIC on
    /// LINT0 and NMI on LINT1. For a boot without firmware.
    /// </summary>
    public void SetVirtualWireMode()
    {
        WriteRegister(RegSvr, 0x1FF);
        WriteRegister(RegLvtFirst + LvtLint0, (uint)DeliveryMode.ExtInt << 8);
        WriteRegister(RegLvtFirst + LvtLint1, (uint)DeliveryMode.Nmi << 8);
    }

    public void Reset()
    {
        _apicBase = DefaultBase | BaseEnable | (Index == 0 ? BaseBsp : 0);
        ResetState();
        // As QEMU: the PIC reaches the first processor from power-on, for software that knows nothing of local APICs.
        if (Index == 0)
            _lvt[LvtLint0] = (uint)DeliveryMode.ExtInt << 8;
        UpdateRequest();
    }

    public int AcknowledgeInterrupt()
    {
        if (_direct != 0)
        {
            var injected = _direct;
            _direct = 0;
            UpdateRequest();
            return injected;
        }

        if (HasExternalInterrupt)
            _bus.SampleLines();
        if (HasExternalInterrupt)
        {
            _externalInterrupt = false;
            var external = _bus.Pic?.Acknowledge() ?? -1;
            UpdateRequest();
            return external;
        }

        var vector = HighestDeliverable();
        if (vector < 0)
            return -1;
        _irr.Remove(vector);
        _isr.Add(vector);
        UpdatePriority();
        return vector;
    }

    /// <summary>Makes an edge-triggered interrupt pending as a hypervisor does: also while software has it disabled.</summary>
    /// <param name="vector">16 to 255.</param>
    public void Inject(byte vector)
    {
        _irr.Add(vector);
        _tmr.Remove(vector);
        UpdateRequest();
    }

    /// <summary>Has the processor take a vector as a hypervisor injects it: past the registers, without an EOI.</summary>
    public void InjectDirect(byte vector)
    {
        _direct = vector;
        UpdateRequest();
    }

    /// <summary>True when the message is meant for this local APIC (SDM 11.6.2).</summary>
    internal bool Matches(in ApicMessage message)
    {
        if (!IsEnabled)
            return false;
        if (message.Broadcast)
            return true;
        var destination = message.Destination;
        if (IsX2Apic)
        {
            if (!message.Logical)
                return destination == (uint)Index;
            var ldr = X2ApicLdr;
            return destination >> 16 == ldr >> 16 && (destination & ldr & 0xFFFF) != 0;
        }

        if (destination > 0xFF)
            return false;
        if (!message.Logical)
            return destination == (uint)Index;
        var logicalId = _ldr >> 24;
        return _dfr >> 28 == 0xF
            ? (destination & logicalId) != 0
            : destination >> 4 == logicalId >> 4 && (destination & logicalId & 0xF) != 0;
    }

    /// <summary>Takes a message that is meant for this local APIC; false when it refuses.</summary>
    internal bool Accept(DeliveryMode mode, byte vector, bool level)
    {
        switch (mode)
        {
            case DeliveryMode.Fixed or DeliveryMode.LowestPriority:
                return AcceptVector(vector, level);
            case DeliveryMode.Smi:
                _signals?.RaiseSmi();
                return true;
            case DeliveryMode.Nmi:
                _signals?.RaiseNmi();
                return true;
            case DeliveryMode.Init:
                ResetState();
                _signals?.RaiseInit();
                Initialized?.Invoke();
                return true;
            case DeliveryMode.StartUp:
                _signals?.RaiseStartup(vector);
                return true;
            case DeliveryMode.ExtInt:
                _externalInterrupt = true;
                UpdateRequest();
                return true;
            default:
                return false;
        }
    }

    internal void SetLint0(bool asserted)
    {
        _lint0 = asserted;
        SetLint(LvtLint0, asserted);
        UpdateRequest();
    }

    internal void SetLint1(bool asserted)
    {
        _lint1 = asserted;
        SetLint(LvtLint1, asserted);
    }

    private bool HasExternalInterrupt =>
        _externalInterrupt || (_lint0 && (!IsEnabled || (_lvt[LvtLint0] & (Masked | 0x700)) == 0x700));

    private uint X2ApicLdr => ((uint)Index >> 4 << 16) | (1u << (Index & 15));

    /// <summary>The state after INIT: everything but the id and the mode (SDM 11.4.7.1, 11.12.5.1).</summary>
    private void ResetState()
    {
        _irr = _isr = _tmr = default;
        _tpr = _ppr = 0;
        _svr = 0xFF;
        _ldr = 0;
        _dfr = uint.MaxValue;
        _esr = _pendingErrors = 0;
        _icr = 0;
        _externalInterrupt = false;
        _direct = 0;
        Array.Fill(_lvt, Masked);
        _timer.Reset();
        UpdateRequest();
    }

    private bool AcceptVector(byte vector, bool level)
    {
        if (!IsSoftwareEnabled)
            return false;
        if (vector < 16)
        {
            RaiseError(ReceiveIllegalVector);
            return true;
        }

        _irr.Add(vector);
        if (level)
            _tmr.Add(vector);
        else
            _tmr.Remove(vector);
        UpdateRequest();
        return true;
    }

    /// <summary>A local interrupt source fires, as its LVT entry says.</summary>
    private void DeliverLocal(int entry)
    {
        var lvt = _lvt[entry];
        if ((lvt & Masked) != 0)
            return;
        var mode = entry is LvtTimer or LvtError ? DeliveryMode.Fixed : (DeliveryMode)((lvt >> 8) & 7);
        if (mode is DeliveryMode.ExtInt or DeliveryMode.StartUp or DeliveryMode.LowestPriority)
            return; // ExtINT follows the pin; the others are reserved here
        Accept(mode, (byte)lvt, level: false);
    }

    /// <summary>A change of a LINT pin. Level-triggered Fixed mode holds a remote IRR until its EOI.</summary>
    private void SetLint(int entry, bool asserted)
    {
        if (!asserted || !IsEnabled)
            return;
        ref var lvt = ref _lvt[entry];
        if (!IsLevelFixed(lvt))
        {
            DeliverLocal(entry);
        }
        else if ((lvt & RemoteIrr) == 0)
        {
            lvt |= RemoteIrr;
            AcceptVector((byte)lvt, level: true);
        }
    }

    private static bool IsLevelFixed(uint lvt) => (lvt & (Masked | LevelTriggered | 0x700)) == LevelTriggered;

    private void EndOfInterrupt()
    {
        var vector = _isr.Highest;
        if (vector < 0)
            return;
        _isr.Remove(vector);
        UpdatePriority();
        if (!_tmr.Contains(vector))
            return;
        EndOfLint(LvtLint0, vector, _lint0);
        EndOfLint(LvtLint1, vector, _lint1);
        _bus.BroadcastEoi((byte)vector);
    }

    private void EndOfLint(int entry, int vector, bool asserted)
    {
        ref var lvt = ref _lvt[entry];
        if ((lvt & RemoteIrr) == 0 || (byte)lvt != vector)
            return;
        lvt &= ~RemoteIrr;
        SetLint(entry, asserted);
    }

    private void SetTaskPriority(byte value)
    {
        _tpr = value;
        UpdatePriority();
    }

    private void UpdatePriority()
    {
        var inService = Math.Max(_isr.Highest, 0);
        _ppr = (_tpr & 0xF0) >= (inService & 0xF0) ? _tpr : (byte)(inService & 0xF0);
        UpdateRequest();
    }

    private int HighestDeliverable()
    {
        if (!IsEnabled)
            return -1;
        var vector = _irr.Highest;
        return vector >= 0 && (vector & 0xF0) > (_ppr & 0xF0) ? vector : -1;
    }

    private void UpdateRequest()
    {
        var asserted = _direct != 0 || HasExternalInterrupt || HighestDeliverable() >= 0;
        if (asserted == _requestAsserted)
            return;
        _requestAsserted = asserted;
        _signals?.SetInterruptRequest(asserted);
    }

    /// <summary>Notes an error for the ESR; each kind interrupts once until the guest has written the ESR.</summary>
    private void RaiseError(uint error)
    {
        if ((_pendingErrors & error) != 0)
            return;
        _pendingErrors |= error;
        DeliverLocal(LvtError);
    }
}
