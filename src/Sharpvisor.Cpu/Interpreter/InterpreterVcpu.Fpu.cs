using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Iced.Intel;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.HostCpu;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>x87, SSE and AVX state: FXSAVE and XSAVE areas (SDM vol. 1, 10.5 and 13), and exceptions of thunks.</summary>
public unsafe partial class InterpreterVcpu
{
    private const ulong X87State = 1, SseState = 2, AvxState = 4;
    private const int LegacySize = 512, HeaderOffset = 512, AvxOffset = 576, XsaveSize = 832;
    private const uint MxcsrMask = 0xFFFF;

    internal void LoadX87()
    {
        if (_c->X87Live != 0)
            return;
        HostX87.Load(&_c->Arch);
        _c->X87Live = 1;
    }

    /// <summary>Brings the x87 image in the state up to date; the host's FPU is free for others afterwards.</summary>
    private protected void SaveX87()
    {
        if (_c->X87Live == 0)
            return;
        HostX87.Save(&_c->Arch);
        _c->X87Live = 0;
    }

    internal void ExecuteX87Special(ThunkInfo* info, Op* op)
    {
        ThunkHandlersCheck(info, op);
        LoadX87();
        if (info->Waits)
            RaisePendingX87(); // before the operand is touched
        var ins = (Instruction*)((byte*)info + ((sizeof(ThunkInfo) + 15) & ~15));
        byte* memory = null;
        ulong linear = 0;
        if (info->MemorySize != 0)
        {
            linear = MemoryLinear(op, info->MemorySize, info->Writes);
            memory = ThunkHandlers.Bounce(_c);
            CheckAlignment(linear, info->MemorySize);
            if (info->Reads)
                ReadBytes(linear, memory, info->MemorySize);
            if (info->Writes)
                CheckWrite(linear, info->MemorySize);
        }

        if (HostX87.ExecuteSpecial(in *ins, &_c->Arch, memory) == ThunkResult.X87Exception)
            RaiseX87();
        if (info->Writes)
            WriteBytes(linear, memory, info->MemorySize);
    }

    /// <summary>What follows a thunk that was not simply done.</summary>
    internal void RaiseThunkException(ThunkResult result)
    {
        if (result == ThunkResult.SimdException)
            Raise((_c->Arch.Cr4 & ControlRegisters.OSXMMEXCPT) != 0 ? Vectors.XM : Vectors.UD);
        else if (result == ThunkResult.X87Exception)
            RaiseX87();
    }

    /// <summary>Masked moves and gathers, where only the selected elements may fault. False: not such an instruction.</summary>
    private bool TryExecuteMasked(in Instruction ins, Op* op)
    {
        if (!MaskedMemory.Handles(in ins))
            return false;
        var traps = (FpuTraps)_c->FpuTrap;
        var undefined = MaskedMemory.IsaOf(in ins) switch
        {
            HostIsa.Mmx => FpuTraps.MmxUndefined,
            HostIsa.Sse => FpuTraps.SseUndefined,
            _ => FpuTraps.AvxUndefined,
        };
        if ((traps & undefined) != 0)
            Raise(Vectors.UD);
        if ((traps & FpuTraps.TaskSwitched) != 0)
            Raise(Vectors.NM);
        if (MaskedMemory.NeedsX87(in ins))
        {
            LoadX87();
            if (HostX87.IsExceptionPending(&_c->Arch))
                RaiseX87();
        }

        var memory = new ElementMemory(this, op, (int)(ins.MemorySegment - Register.ES));
        if (!MaskedMemory.Execute(in ins, &_c->Arch, ref memory))
            throw _fault; // what to raise is noted already
        return true;
    }

    /// <summary>Elements of a masked access: a fault is noted rather than thrown, so that those before it can be kept.</summary>
    private ref struct ElementMemory(InterpreterVcpu vcpu, Op* op, int segment) : IElementMemory
    {
        public readonly bool TryRead(ulong offset, int size, out ulong value)
        {
            try
            {
                value = vcpu.ReadLinear(Access.Segmented(vcpu._c, op, segment, offset, size, false), size);
                return true;
            }
            catch (GuestFaultException)
            {
                value = 0;
                return false;
            }
        }

        public readonly bool CanWrite(ulong offset, int size)
        {
            try
            {
                vcpu.CheckWrite(Access.Segmented(vcpu._c, op, segment, offset, size, true), size);
                return true;
            }
            catch (GuestFaultException)
            {
                return false;
            }
        }

        public readonly void Write(ulong offset, int size, ulong value) =>
            vcpu.WriteLinear(Access.Segmented(vcpu._c, op, segment, offset, size, true), size, value);
    }

    /// <summary>#MF, or with CR0.NE clear the way of the PC/AT: FERR# to IRQ 13, which nothing here is wired to.</summary>
    private void RaiseX87()
    {
        if ((_c->Arch.Cr0 & ControlRegisters.NE) == 0)
            _environment.Errors.Report("cpu", "x87 exception with CR0.NE clear: raised as #MF, there is no FERR# wire to IRQ 13");
        Raise(Vectors.MF);
    }

    internal void RaisePendingX87()
    {
        if (HostX87.IsExceptionPending(&_c->Arch))
            RaiseX87();
    }

    private void ThunkHandlersCheck(ThunkInfo* info, Op* op)
    {
        if ((_c->FpuTrap & (byte)info->Traps) != 0)
            ThunkHandlers.Prepare(_c, op, info);
    }

    private void RequireFxState(Op* op, int size, int alignment, bool write, out ulong linear)
    {
        if ((_c->Arch.Cr0 & ControlRegisters.EM) != 0 && alignment == 16)
            Raise(Vectors.UD);
        if ((_c->Arch.Cr0 & ControlRegisters.TS) != 0)
            Raise(Vectors.NM);
        linear = MemoryLinear(op, size, write);
        if ((linear & (ulong)(alignment - 1)) != 0)
            Raise(Vectors.GP);
    }

    private int XmmCount => Is64 ? 16 : 8;

    private void FxSave(Op* op)
    {
        RequireFxState(op, LegacySize, 16, true, out var linear);
        var area = ThunkHandlers.Bounce(_c);
        StoreLegacy(area);
        var length = (_c->Arch.Cr4 & ControlRegisters.OSFXSR) != 0 ? 160 + (XmmCount * 16) : 160;
        WriteBytes(linear, area, length);
    }

    private void FxRestore(Op* op)
    {
        RequireFxState(op, LegacySize, 16, false, out var linear);
        var area = ThunkHandlers.Bounce(_c);
        ReadBytes(linear, area, LegacySize);
        var mxcsr = *(uint*)(area + 24);
        var sse = (_c->Arch.Cr4 & ControlRegisters.OSFXSR) != 0;
        if (sse && (mxcsr & ~MxcsrMask) != 0)
            Raise(Vectors.GP);
        LoadX87Image(area);
        if (!sse)
            return;
        _c->Arch.Mxcsr = mxcsr;
        for (var i = 0; i < XmmCount; i++)
            *(Vector128<byte>*)Ymm(i) = *(Vector128<byte>*)(area + 160 + (i * 16));
    }

    /// <summary>Fills the x87, MXCSR and XMM parts of an area.</summary>
    private void StoreLegacy(byte* area)
    {
        SaveX87();
        Unsafe.CopyBlockUnaligned(area, (byte*)&_c->Arch.X87, 160);
        *(uint*)(area + 24) = _c->Arch.Mxcsr;
        *(uint*)(area + 28) = MxcsrMask;
        for (var i = 0; i < 16; i++)
            *(Vector128<byte>*)(area + 160 + (i * 16)) = *(Vector128<byte>*)Ymm(i);
    }

    private void LoadX87Image(byte* area)
    {
        Unsafe.CopyBlockUnaligned((byte*)&_c->Arch.X87, area, 24);
        Unsafe.CopyBlockUnaligned((byte*)&_c->Arch.X87 + 32, area + 32, 128);
        _c->X87Live = 0;
    }

    private byte* Ymm(int i) => (byte*)&_c->Arch.Ymm + (i * 32);

    private ulong RequestedFeatures => ((uint)_c->Arch.Gpr[0] | (_c->Arch.Gpr[2] << 32)) & _c->Arch.Xcr0;

    /// <summary>Components that are not in their initial state.</summary>
    private ulong InUse()
    {
        var inUse = X87State;
        if (_c->Arch.Mxcsr != 0x1F80)
            inUse |= SseState;
        for (var i = 0; i < XmmCount; i++)
        {
            var y = (ulong*)Ymm(i);
            if ((y[0] | y[1]) != 0)
                inUse |= SseState;
            if ((y[2] | y[3]) != 0)
                inUse |= AvxState;
        }

        return inUse & _c->Arch.Xcr0;
    }

    private void XSave(Op* op, bool compact, bool optimise)
    {
        RequireOsXsave();
        RequireFxState(op, XsaveSize, 64, true, out var linear);
        var requested = RequestedFeatures;
        var inUse = InUse() & requested;
        var written = optimise ? inUse : requested;
        var area = ThunkHandlers.Bounce(_c);
        CheckWrite(linear, (requested & AvxState) != 0 ? XsaveSize : AvxOffset);
        ulong old = 0;
        if (!compact)
            old = ReadLinear(linear + HeaderOffset, 8);
        StoreLegacy(area);
        if ((written & X87State) != 0)
        {
            WriteBytes(linear, area, 24);
            WriteBytes(linear + 32, area + 32, 128);
        }

        if ((compact ? written & SseState : requested & (SseState | AvxState)) != 0)
            WriteBytes(linear + 24, area + 24, 8);
        if ((written & SseState) != 0)
            WriteBytes(linear + 160, area + 160, XmmCount * 16);
        if ((written & AvxState) != 0)
        {
            for (var i = 0; i < XmmCount; i++)
                *(Vector128<byte>*)(area + AvxOffset + (i * 16)) = *(Vector128<byte>*)(Ymm(i) + 16);
            WriteBytes(linear + AvxOffset, area + AvxOffset, XmmCount * 16);
        }

        WriteLinear(linear + HeaderOffset, 8, (old & ~requested) | inUse);
        if (compact)
            WriteLinear(linear + HeaderOffset + 8, 8, requested | (1UL << 63));
    }

    private void XRestore(Op* op)
    {
        RequireOsXsave();
        RequireFxState(op, XsaveSize, 64, false, out var linear);
        var requested = RequestedFeatures;
        var area = ThunkHandlers.Bounce(_c);
        ReadBytes(linear, area, AvxOffset);
        var header = (ulong*)(area + HeaderOffset);
        var present = header[0];
        var compact = (header[1] >> 63) != 0;
        if ((present & ~_c->Arch.Xcr0) != 0 || header[2] != 0
            || (compact ? (header[1] & ~(1UL << 63) & ~_c->Arch.Xcr0) != 0 || (present & ~header[1]) != 0 : header[1] != 0))
            Raise(Vectors.GP);
        for (var i = 3; i < 8; i++)
        {
            if (compact && header[i] != 0)
                Raise(Vectors.GP);
        }

        var mxcsr = *(uint*)(area + 24);
        var loadMxcsr = compact ? (requested & present & SseState) != 0 : (requested & (SseState | AvxState)) != 0;
        if (loadMxcsr && (mxcsr & ~MxcsrMask) != 0)
            Raise(Vectors.GP);
        if ((requested & present & AvxState) != 0)
            ReadBytes(linear + AvxOffset, area + AvxOffset, XmmCount * 16);
        if ((requested & X87State) != 0)
        {
            if ((present & X87State) == 0)
                InitialX87(area);
            LoadX87Image(area);
        }

        if (loadMxcsr)
            _c->Arch.Mxcsr = mxcsr;
        else if (compact && (requested & SseState) != 0)
            _c->Arch.Mxcsr = 0x1F80;
        for (var i = 0; i < XmmCount; i++)
        {
            if ((requested & SseState) != 0)
                *(Vector128<byte>*)Ymm(i) = (present & SseState) != 0 ? *(Vector128<byte>*)(area + 160 + (i * 16)) : default;
            if ((requested & AvxState) != 0)
                *(Vector128<byte>*)(Ymm(i) + 16) = (present & AvxState) != 0 ? *(Vector128<byte>*)(area + AvxOffset + (i * 16)) : default;
        }
    }

    /// <summary>The x87 part of an FXSAVE area after FNINIT.</summary>
    private static void InitialX87(byte* area)
    {
        Unsafe.InitBlockUnaligned(area, 0, 24);
        Unsafe.InitBlockUnaligned(area + 32, 0, 128);
        *(ushort*)area = 0x37F;
    }
}
