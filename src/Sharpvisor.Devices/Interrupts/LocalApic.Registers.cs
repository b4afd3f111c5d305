// The registers of the local APIC, in memory and as MSRs.
// Follows: Intel SDM volume 3, 11.4 to 11.8 and 11.12 (x2APIC).
namespace Sharpvisor.Devices.Interrupts;

// The registers of the local APIC: by number, which is the offset in the window divided by 16 and the MSR minus 0x800.
public sealed partial class LocalApic
{
    private const uint MsrApicBase = 0x1B, MsrTscDeadline = 0x6E0, MsrX2ApicFirst = 0x800, MsrX2ApicLast = 0x8FF;

    private const uint RegId = 0x02, RegVersion = 0x03, RegTpr = 0x08, RegApr = 0x09, RegPpr = 0x0A, RegEoi = 0x0B;
    private const uint RegRrd = 0x0C, RegLdr = 0x0D, RegDfr = 0x0E, RegSvr = 0x0F, RegIsr = 0x10, RegTmr = 0x18;
    private const uint RegIrr = 0x20, RegEsr = 0x28, RegIcr = 0x30, RegIcrHigh = 0x31, RegLvtFirst = 0x32;
    private const uint RegLvtLast = 0x37, RegInitialCount = 0x38, RegCurrentCount = 0x39, RegDivide = 0x3E, RegSelfIpi = 0x3F;

    private const int LvtTimer = 0, LvtLint0 = 3, LvtLint1 = 4, LvtError = 5;

    private const uint Version = 0x14 | (5 << 16);

    // Bits above these in IA32_APIC_BASE are reserved; 52 is the architecture's largest MAXPHYADDR.
    private const ulong BaseWritable = 0x000F_FFFF_FFFF_F000 | BaseBsp | BaseX2Apic | BaseEnable;
    private const ulong IcrReserved = 0xFFF3_2000;

    /// <summary>Writable bits of each LVT entry: timer, thermal sensor, performance counters, LINT0, LINT1, error.</summary>
    private static readonly uint[] LvtWritable = [0x710FF & ~(1u << 12), 0x107FF, 0x107FF, 0x1A7FF, 0x1A7FF, 0x100FF];

    public ulong Read(uint offset, int size)
    {
        // Only aligned accesses of 32 bits are architectural; others see the bytes of the register that they touch.
        var value = (offset & 0xC) == 0 ? ReadRegister((offset >> 4) & 0xFF) : 0;
        return (ulong)value >> (int)(8 * (offset & 3));
    }

    public void Write(uint offset, int size, ulong value)
    {
        if ((offset & 0xF) == 0 && size >= 4)
            WriteRegister((offset >> 4) & 0xFF, (uint)value);
    }

    public bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0;
        switch (msr)
        {
            case MsrApicBase:
                value = _apicBase;
                return true;
            case MsrTscDeadline:
                value = _timer.TscDeadline;
                return true;
            case >= MsrX2ApicFirst and <= MsrX2ApicLast when IsX2Apic:
                break;
            default:
                return false;
        }

        var register = msr - MsrX2ApicFirst;
        switch (register)
        {
            case RegIcr:
                value = _icr;
                return true;
            case RegId or RegVersion or RegTpr or RegPpr or RegLdr or RegSvr or RegEsr or RegInitialCount or RegCurrentCount
                or RegDivide or (>= RegIsr and < RegEsr) or (>= RegLvtFirst and <= RegLvtLast):
                value = ReadRegister(register);
                return true;
            default:
                return false;
        }
    }

    public bool TryWriteMsr(uint msr, ulong value)
    {
        switch (msr)
        {
            case MsrApicBase:
                return TrySetBase(value);
            case MsrTscDeadline:
                _timer.TscDeadline = value;
                return true;
            case >= MsrX2ApicFirst and <= MsrX2ApicLast when IsX2Apic:
                break;
            default:
                return false;
        }

        var register = msr - MsrX2ApicFirst;
        ulong writable;
        switch (register)
        {
            case RegIcr:
                if ((value & IcrReserved) != 0)
                    return false;
                _icr = value & ~(1UL << 12);
                SendIpi();
                return true;
            case RegEoi or RegEsr:
                writable = 0;
                break;
            case RegTpr or RegSelfIpi:
                writable = 0xFF;
                break;
            case RegSvr:
                writable = 0x3FF;
                break;
            case RegDivide:
                writable = 0xB;
                break;
            case RegInitialCount:
                writable = uint.MaxValue;
                break;
            case >= RegLvtFirst and <= RegLvtLast:
                writable = LvtWritable[register - RegLvtFirst] | RemoteIrr | (1u << 12);
                break;
            default:
                return false;
        }

        if ((value & ~writable) != 0)
            return false;
        WriteRegister(register, (uint)value);
        return true;
    }

    /// <summary>IA32_APIC_BASE: the transitions of SDM figure 11-27.</summary>
    private bool TrySetBase(ulong value)
    {
        const ulong modes = BaseEnable | BaseX2Apic;
        var wasX2Apic = IsX2Apic;
        var allowed = (value & modes) switch
        {
            BaseX2Apic => false,
            modes => IsEnabled,
            BaseEnable => !wasX2Apic,
            _ => true,
        };
        if (!allowed || (value & ~BaseWritable) != 0)
            return false;
        var wasEnabled = IsEnabled;
        _apicBase = value;
        if (wasEnabled && !IsEnabled)
            ResetState(); // a disabled APIC loses its state
        UpdateRequest();
        return true;
    }

    private uint ReadRegister(uint register)
    {
        switch (register)
        {
            case RegId:
                return IsX2Apic ? (uint)Index : (uint)Index << 24;
            case RegVersion:
                return Version;
            case RegTpr:
                return _tpr;
            case RegPpr:
                return _ppr;
            case RegLdr:
                return IsX2Apic ? X2ApicLdr : _ldr;
            case RegDfr:
                return _dfr;
            case RegSvr:
                return _svr;
            case >= RegIsr and < RegTmr:
                return _isr.Word((int)(register - RegIsr));
            case >= RegTmr and < RegIrr:
                return _tmr.Word((int)(register - RegTmr));
            case >= RegIrr and < RegEsr:
                return _irr.Word((int)(register - RegIrr));
            case RegEsr:
                return _esr;
            case RegIcr:
                return (uint)_icr;
            case RegIcrHigh:
                return (uint)(_icr >> 32);
            case >= RegLvtFirst and <= RegLvtLast:
                return _lvt[register - RegLvtFirst];
            case RegInitialCount:
                return _timer.InitialCount;
            case RegCurrentCount:
                return _timer.CurrentCount;
            case RegDivide:
                return _timer.DivideConfiguration;
            case RegEoi or RegApr or RegRrd:
                return 0;
            default:
                RaiseError(IllegalRegisterAddress);
                return 0;
        }
    }

    private void WriteRegister(uint register, uint value)
    {
        switch (register)
        {
            case RegEoi:
                EndOfInterrupt();
                break;
            case RegTpr:
                SetTaskPriority((byte)value);
                break;
            case RegIcr:
                _icr = (_icr & 0xFFFF_FFFF_0000_0000) | (value & ~(uint)IcrReserved & ~(1u << 12));
                SendIpi();
                break;
            case RegIcrHigh:
                _icr = (uint)_icr | ((ulong)(value & 0xFF00_0000) << 32);
                break;
            case RegInitialCount:
                _timer.InitialCount = value;
                break;
            case >= RegLvtFirst and <= RegLvtLast:
                WriteLvt((int)(register - RegLvtFirst), value);
                break;
            case RegLdr:
                _ldr = value & 0xFF00_0000;
                break;
            case RegDfr:
                _dfr = value | 0x0FFF_FFFF;
                break;
            case RegSvr:
                WriteSvr(value);
                break;
            case RegEsr:
                _esr = _pendingErrors;
                _pendingErrors = 0;
                break;
            case RegDivide:
                _timer.DivideConfiguration = value & 0xB;
                break;
            case RegSelfIpi when IsX2Apic:
                SendVector((byte)value, DeliveryMode.Fixed, 1, level: false);
                break;
            case RegId or RegVersion or RegApr or RegPpr or RegRrd or RegCurrentCount or (>= RegIsr and < RegEsr):
                break; // read-only
            default:
                RaiseError(IllegalRegisterAddress);
                break;
        }
    }

    private void WriteLvt(int entry, uint value)
    {
        value &= LvtWritable[entry];
        if ((_svr & 0x100) == 0)
            value |= Masked;
        if ((value & LevelTriggered) != 0)
            value |= _lvt[entry] & RemoteIrr;
        _lvt[entry] = value;
        switch (entry)
        {
            case LvtTimer:
                _timer.Configure((LocalApicTimerMode)((value >> 17) & 3), (value & Masked) != 0);
                break;
            case LvtLint0 or LvtLint1:
                if (IsLevelFixed(value))
                    SetLint(entry, entry == LvtLint0 ? _lint0 : _lint1);
                UpdateRequest();
                break;
        }
    }

    private void WriteSvr(uint value)
    {
        _svr = value & 0x3FF;
        if ((_svr & 0x100) != 0)
            return;
        for (var entry = 0; entry < _lvt.Length; entry++)
            WriteLvt(entry, _lvt[entry]); // a software-disabled APIC masks every entry
    }

    private void SendIpi()
    {
        var mode = (DeliveryMode)((_icr >> 8) & 7);
        var level = (_icr & (1 << 15)) != 0;
        if (level && (_icr & (1 << 14)) == 0 && mode == DeliveryMode.Init)
            return; // INIT level de-assert only synchronised the arbitration ids of old processors
        // Only INIT has a level form: the trigger mode of other IPIs is ignored (SDM 11.6.1), so they are never
        // broadcast as EOIs.
        if (mode is not (DeliveryMode.Reserved or DeliveryMode.ExtInt))
            SendVector((byte)_icr, mode, (int)(_icr >> 18) & 3, level: false);
    }

    private void SendVector(byte vector, DeliveryMode mode, int shorthand, bool level)
    {
        if (vector < 16 && mode is (DeliveryMode.Fixed or DeliveryMode.LowestPriority))
        {
            RaiseError(SendIllegalVector);
            return;
        }

        switch (shorthand)
        {
            case 1:
                Accept(mode, vector, level);
                break;
            case 2 or 3 when mode == DeliveryMode.LowestPriority:
                _bus.Deliver(new ApicMessage(0, false, Broadcast: true, mode, vector, level));
                break;
            case 2:
                _bus.DeliverToAll(null, mode, vector, level);
                break;
            case 3:
                _bus.DeliverToAll(this, mode, vector, level);
                break;
            default:
                var destination = IsX2Apic ? (uint)(_icr >> 32) : (uint)(_icr >> 56);
                var broadcast = destination == (IsX2Apic ? uint.MaxValue : 0xFF);
                _bus.Deliver(new ApicMessage(destination, (_icr & (1 << 11)) != 0, broadcast, mode, vector, level));
                break;
        }
    }
}
