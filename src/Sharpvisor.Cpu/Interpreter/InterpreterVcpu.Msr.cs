using Sharpvisor.Core.Time;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Model-specific registers: SDM vol. 4. Those of the APIC and of paravirtual devices are asked of them.</summary>
public unsafe partial class InterpreterVcpu
{
    private const int MtrrRegisters = 16;

    private static readonly uint[] FixedMtrrNumbers = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F];

    private ulong _debugControl;
    private ulong _machineCheckStatus;

    private ulong ReadMsr(uint msr)
    {
        var c = _c;
        switch (msr)
        {
            case 0x10: return Tsc; // IA32_TIME_STAMP_COUNTER
            case 0x3B: return (ulong)c->Arch.TscOffset; // IA32_TSC_ADJUST
            case 0x174: return c->Arch.SysenterCs;
            case 0x175: return c->Arch.SysenterEsp;
            case 0x176: return c->Arch.SysenterEip;
            case 0x17A: return _machineCheckStatus;
            case 0x1A0: return c->Arch.MiscEnable;
            case 0x1D9: return _debugControl;
            case >= 0x200 and < 0x200 + MtrrRegisters: return c->Arch.MtrrVariable[(int)msr - 0x200];
            case 0x277: return c->Arch.Pat;
            case 0x2FF: return c->Arch.MtrrDefaultType;
            case 0xC0000080: return c->Arch.Efer;
            case 0xC0000081: return c->Arch.Star;
            case 0xC0000082: return c->Arch.Lstar;
            case 0xC0000083: return c->Arch.Cstar;
            case 0xC0000084: return c->Arch.Fmask;
            case 0xC0000100: return c->Arch.Segments[FS].Base;
            case 0xC0000101: return c->Arch.Segments[GS].Base;
            case 0xC0000102: return c->Arch.KernelGsBase;
            case 0xC0000103: return c->Arch.TscAux;
        }

        var index = Array.IndexOf(FixedMtrrNumbers, msr);
        if (index >= 0)
            return c->Arch.MtrrFixed[index];
        if (_environment.Model.TryReadMsr(msr, out var constant))
            return constant;
        using (_environment.Gate.Enter())
        {
            if (_apic.TryReadMsr(msr, out var value))
                return value;
            foreach (var device in _msrs)
            {
                if (device.TryReadMsr(msr, out value))
                    return value;
            }
        }

        _environment.Errors.Report("cpu", "read of an unknown MSR", $"0x{msr:x} at 0x{c->Arch.Rip + c->CurrentOp->Offset:x}");
        Raise(Vectors.GP);
        return 0;
    }

    private void WriteMsr(uint msr, ulong value)
    {
        var c = _c;
        switch (msr)
        {
            case 0x10:
                SetTscOffset((long)value - _environment.Clock.NowNs);
                return;
            case 0x3B:
                SetTscOffset((long)value);
                return;
            case 0x79: // a microcode update: taken, changes nothing
                return;
            case 0x8B when value == 0: // IA32_BIOS_SIGN_ID: asks for the revision to be read anew
                return;
            case 0x174:
                c->Arch.SysenterCs = (uint)value;
                return;
            case 0x175:
                RequireCanonical(value);
                c->Arch.SysenterEsp = value;
                return;
            case 0x176:
                RequireCanonical(value);
                c->Arch.SysenterEip = value;
                return;
            case 0x17A:
                _machineCheckStatus = value;
                return;
            case 0x1A0:
                c->Arch.MiscEnable = value;
                return;
            case 0x1D9:
                _debugControl = value & 3;
                return;
            case >= 0x200 and < 0x200 + MtrrRegisters:
                c->Arch.MtrrVariable[(int)msr - 0x200] = value;
                return;
            case 0x277:
                for (var i = 0; i < 8; i++)
                {
                    if (((value >> (8 * i)) & 0xFF) is 2 or 3 or > 7)
                        Raise(Vectors.GP);
                }

                c->Arch.Pat = value;
                return;
            case 0x2FF:
                c->Arch.MtrrDefaultType = value & 0xCFF;
                return;
            case 0xC0000080:
                WriteEfer(value);
                return;
            case 0xC0000081:
                c->Arch.Star = value;
                return;
            case 0xC0000082:
                RequireCanonical(value);
                c->Arch.Lstar = value;
                return;
            case 0xC0000083:
                RequireCanonical(value);
                c->Arch.Cstar = value;
                return;
            case 0xC0000084:
                c->Arch.Fmask = (uint)value;
                return;
            case 0xC0000100:
                RequireCanonical(value);
                c->Arch.Segments[FS].Base = value;
                return;
            case 0xC0000101:
                RequireCanonical(value);
                c->Arch.Segments[GS].Base = value;
                return;
            case 0xC0000102:
                RequireCanonical(value);
                c->Arch.KernelGsBase = value;
                return;
            case 0xC0000103:
                if ((value >> 32) != 0)
                    Raise(Vectors.GP);
                c->Arch.TscAux = value;
                return;
        }

        var index = Array.IndexOf(FixedMtrrNumbers, msr);
        if (index >= 0)
        {
            c->Arch.MtrrFixed[index] = value;
            return;
        }

        using (_environment.Gate.Enter())
        {
            if (_apic.TryWriteMsr(msr, value))
                return;
            foreach (var device in _msrs)
            {
                if (device.TryWriteMsr(msr, value))
                    return;
            }
        }

        _environment.Errors.Report("cpu", "write of an unknown MSR", $"0x{msr:x} = 0x{value:x} at 0x{c->Arch.Rip + c->CurrentOp->Offset:x}");
        Raise(Vectors.GP);
    }

    private void RequireCanonical(ulong value)
    {
        if (!IsCanonical(value))
            Raise(Vectors.GP);
    }

    private void WriteEfer(ulong value)
    {
        var c = _c;
        const ulong Known = ControlRegisters.SCE | ControlRegisters.LME | ControlRegisters.LMA | ControlRegisters.NXE;
        if ((value & ~Known) != 0)
            Raise(Vectors.GP);
        var changed = (value ^ c->Arch.Efer) & ~ControlRegisters.LMA;
        if ((changed & ControlRegisters.LME) != 0 && (c->Arch.Cr0 & ControlRegisters.PG) != 0)
            Raise(Vectors.GP);
        c->Arch.Efer = (value & ~ControlRegisters.LMA) | (c->Arch.Efer & ControlRegisters.LMA);
        if ((changed & ControlRegisters.NXE) != 0)
            FlushTlb(global: true);
        UpdateMode();
    }

    /// <summary>The TSC is machine time plus an offset; timers that compare with it are told.</summary>
    private void SetTscOffset(long offset)
    {
        _c->Arch.TscOffset = offset;
        using (_environment.Gate.Enter())
            TellTscOffset();
    }

    private void TellTscOffset()
    {
        if (_apic is ITscFollower follower)
            follower.TscOffset = _c->Arch.TscOffset;
        foreach (var device in _msrs)
        {
            if (device is ITscFollower other)
                other.TscOffset = _c->Arch.TscOffset;
        }
    }
}
