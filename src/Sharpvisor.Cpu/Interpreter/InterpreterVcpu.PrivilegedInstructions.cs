using Iced.Intel;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// Instructions of ring 0 that a paravirtual kernel in ring 3 executes all the same, as Xen's emul-priv-op.c emulates them;
/// and CPUID behind the prefix by which a kernel asks for the hypervisor's answer (XEN_EMULATE_PREFIX).
/// </summary>
/// <remarks>Not emulated, as there: HLT, INVLPG, LGDT, LIDT, LLDT, LTR. The kernel gets the #GP.</remarks>
public unsafe partial class InterpreterVcpu
{
    private const int LongestInstruction = 15;

    /// <summary>Bits of CR4 that a kernel may change.</summary>
    private const ulong ParavirtualCr4 = ControlRegisters.TSD | ControlRegisters.DE | ControlRegisters.FSGSBASE | ControlRegisters.OSXSAVE;

    private bool TryEmulateForced()
    {
        // ud2a; "xen"; cpuid
        ReadOnlySpan<byte> forced = [0x0F, 0x0B, (byte)'x', (byte)'e', (byte)'n', 0x0F, 0xA2];
        Span<byte> code = stackalloc byte[forced.Length];
        var c = _c;
        if (!((ILinearMemory)this).TryRead(LinearOf(c->Arch.Rip), code) || !code.SequenceEqual(forced))
            return false;
        var leaf = Cpuid((uint)c->Arch.Gpr[0], (uint)c->Arch.Gpr[1]);
        (c->Arch.Gpr[0], c->Arch.Gpr[3], c->Arch.Gpr[1], c->Arch.Gpr[2]) = (leaf.Eax, leaf.Ebx, leaf.Ecx, leaf.Edx);
        EndEmulated(forced.Length);
        return true;
    }

    /// <summary>The instruction that #GP(0) was raised at. False: it is nothing that is emulated, or it has another fault.</summary>
    private bool TryEmulatePrivileged(ref int vector, ref int error)
    {
        var c = _c;
        var code = new byte[LongestInstruction];
        var length = code.Length;
        while (length > 0 && !((ILinearMemory)this).TryRead(LinearOf(c->Arch.Rip), code.AsSpan(0, length)))
            length--;
        var decoder = Decoder.Create(c->Is64 != 0 ? 64 : c->Arch.Segments[CS].Big ? 32 : 16, new ByteArrayCodeReader(code, 0, length), c->Arch.Rip);
        decoder.Decode(out var ins);
        if (ins.IsInvalid)
            return false;
        try
        {
            c->CurrentOp = _decoder.FetchOp;
            if (EmulatePorts(in ins) is { } isWhole)
                length = isWhole ? ins.Length : 0;
            else if (_isParavirtualKernel && Emulate(in ins))
                length = ins.Length;
            else
                return false;
        }
        catch (GuestFaultException)
        {
            vector = c->FaultVector;
            error = HasErrorCode(vector) ? (int)c->FaultError : NoError;
            return false;
        }

        UpdateMode();
        EndEmulated(length);
        return true;
    }

    private void EndEmulated(int length)
    {
        _c->Arch.Rip += (ulong)length;
        _c->Arch.Rflags &= ~Rflags.RF;
        UpdateSlow();
        WaitForFlushes();
        AskForEvents();
    }

    private bool Emulate(in Instruction ins)
    {
        var c = _c;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Clts:
                c->Arch.Cr0 &= ~ControlRegisters.TS;
                return true;
            case Mnemonic.Lmsw when ins.Op0Kind == OpKind.Register:
                SetGuestCr0((c->Arch.Cr0 & ~0xFUL) | (c->Arch.Gpr[ins.Op0Register.GetFullRegister() - Register.RAX] & 0xF) | (c->Arch.Cr0 & 1));
                return true;
            case Mnemonic.Mov:
                return EmulateMove(in ins);
            case Mnemonic.Rdmsr:
                SetPair(ReadGuestMsr((uint)c->Arch.Gpr[1]));
                return true;
            case Mnemonic.Wrmsr:
                WriteGuestMsr((uint)c->Arch.Gpr[1], (uint)c->Arch.Gpr[0] | (c->Arch.Gpr[2] << 32));
                return true;
            case Mnemonic.Rdtsc or Mnemonic.Rdtscp:
                SetPair(Tsc); // CR4.TSD is for programs
                if (ins.Mnemonic == Mnemonic.Rdtscp)
                    c->Arch.Gpr[1] = (uint)c->Arch.TscAux;
                return true;
            case Mnemonic.Xsetbv:
                WriteXcr0();
                return true;
            case Mnemonic.Wbinvd or Mnemonic.Wbnoinvd or Mnemonic.Invd:
                return true;
            default:
                return false;
        }
    }

    /// <summary>Kernels are in ring 1 as far as IOPL is concerned, unless they have asked to be in ring 0.</summary>
    private bool HasIoPrivilege => ((IParavirtualProcessor)this).IoPrivilege >= (_isParavirtualKernel ? _domain!.ShowsIoPrivilege ? 0 : 1 : 3);

    /// <summary>
    /// What IOPL and the kernel's bitmap allow, to programs, too. A domain has no devices at ports: all bits are ones.
    /// </summary>
    /// <returns>False: one element of several is done. Null: it is no such instruction, or it is not allowed.</returns>
    private bool? EmulatePorts(in Instruction ins)
    {
        var c = _c;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Cli or Mnemonic.Sti when HasIoPrivilege:
                return true; // and without effect, as in Xen: POPF could not be seen
            case Mnemonic.In when MayUsePort(ins.Op1Kind == OpKind.Register ? c->Arch.Gpr[2] : ins.GetImmediate(1), ins.Op0Register.GetSize()):
                WriteRegister(ins.Op0Register, ulong.MaxValue >> (64 - (8 * ins.Op0Register.GetSize())));
                return true;
            case Mnemonic.Out when MayUsePort(ins.Op0Kind == OpKind.Register ? c->Arch.Gpr[2] : ins.GetImmediate(0), ins.Op1Register.GetSize()):
                return true;
            case Mnemonic.Insb or Mnemonic.Insw or Mnemonic.Insd or Mnemonic.Outsb or Mnemonic.Outsw or Mnemonic.Outsd
                when MayUsePort(c->Arch.Gpr[2], ins.MemorySize.GetSize()):
                return EmulatePortString(in ins, isInput: ins.Mnemonic is Mnemonic.Insb or Mnemonic.Insw or Mnemonic.Insd);
            default:
                return null;
        }
    }

    /// <summary>One element of INS or OUTS.</summary>
    private bool EmulatePortString(in Instruction ins, bool isInput)
    {
        var c = _c;
        var kind = isInput ? ins.Op0Kind : ins.Op1Kind;
        var mask = kind switch
        {
            OpKind.MemoryESRDI or OpKind.MemorySegRSI => ulong.MaxValue,
            OpKind.MemoryESEDI or OpKind.MemorySegESI => uint.MaxValue,
            _ => ushort.MaxValue,
        };
        var repeats = ins.HasRepPrefix || ins.HasRepnePrefix;
        if (repeats && (c->Arch.Gpr[1] & mask) == 0)
            return true;
        var size = ins.MemorySize.GetSize();
        ref var pointer = ref c->Arch.Gpr[isInput ? 7 : 6];
        var segment = isInput ? ES : ins.MemorySegment - Register.ES;
        var segmentBase = c->Is64 != 0 && segment < FS ? 0 : c->Arch.Segments[segment].Base;
        var linear = WrapLinear(segmentBase + (pointer & mask));
        if (isInput)
            WriteLinear(linear, size, ulong.MaxValue);
        else
            ReadLinear(linear, size);
        var step = (c->Arch.Rflags & Rflags.DF) != 0 ? -size : size;
        pointer = Merge(pointer, pointer + (ulong)step, mask);
        if (!repeats)
            return true;
        c->Arch.Gpr[1] = Merge(c->Arch.Gpr[1], c->Arch.Gpr[1] - 1, mask);
        return (c->Arch.Gpr[1] & mask) == 0;

        // Registers of 32 bits are extended by zeroes, those of 16 bits are not.
        static ulong Merge(ulong old, ulong value, ulong mask) => mask == ushort.MaxValue ? (old & ~mask) | (value & mask) : value & mask;
    }

    private bool MayUsePort(ulong value, int size)
    {
        if (HasIoPrivilege)
            return true;
        var port = (int)(ushort)value;
        if (port + size > _ioBitmapPorts)
            return false;
        var bits = 0;
        for (var i = 0; i < 2; i++)
            bits |= TryReadOfKernel(_ioBitmap + (ulong)((port >> 3) + i), out var part) ? part << (8 * i) : 0xFF << (8 * i);
        return (bits >> (port & 7) & ((1 << size) - 1)) == 0;
    }

    /// <summary>A byte of the kernel's memory, though a program may be at work.</summary>
    private bool TryReadOfKernel(ulong linear, out byte value)
    {
        value = 0;
        return IsCanonical(linear) && TryWalk(linear, AccessKind.Read, 2, out var walk) && _memory.TryRead(walk.Physical, out value);
    }

    private bool EmulateMove(in Instruction ins)
    {
        var c = _c;
        if (ins.Op1Register.IsCR())
        {
            switch (ins.Op1Register - Register.CR0)
            {
                case 0:
                    WriteRegister(ins.Op0Register, c->Arch.Cr0);
                    return true;
                case 2:
                    WriteRegister(ins.Op0Register, GuestCr2);
                    return true;
                case 3:
                    WriteRegister(ins.Op0Register, c->Arch.Cr3);
                    return true;
                case 4:
                    WriteRegister(ins.Op0Register, c->Arch.Cr4);
                    return true;
                default:
                    return false;
            }
        }

        var value = ins.Op1Kind == OpKind.Register && ins.Op1Register.IsGPR64() ? c->Arch.Gpr[ins.Op1Register - Register.RAX] : 0;
        if (ins.Op0Register.IsCR())
        {
            switch (ins.Op0Register - Register.CR0)
            {
                case 0:
                    SetGuestCr0(value);
                    return true;
                case 2:
                    GuestCr2 = value;
                    return true;
                case 3:
                    using (_environment.Gate.Enter())
                        return _domain!.TrySetRoot(this, value & ~0xFFFUL);
                case 4:
                    WriteCr4((c->Arch.Cr4 & ~ParavirtualCr4) | (value & ParavirtualCr4 & _cr4Mask));
                    return true;
                default:
                    return false;
            }
        }

        var processor = (IParavirtualProcessor)this;
        var isRead = ins.Op1Register.IsDR();
        if (processor.FindDebugRegister((ulong)((isRead ? ins.Op1Register : ins.Op0Register) - Register.DR0)) is not { } index)
            return false;
        if (!isRead)
            return processor.SetDebugRegister(index, value);
        WriteRegister(ins.Op0Register, processor.GetDebugRegister(index));
        return true;
    }

    private ulong GuestCr2
    {
        get => VcpuInfo is var info && info != null ? System.Runtime.CompilerServices.Unsafe.ReadUnaligned<ulong>(info + VcpuInfoCr2) : 0;
        set
        {
            if (VcpuInfo is var info && info != null)
                System.Runtime.CompilerServices.Unsafe.WriteUnaligned(info + VcpuInfoCr2, value);
        }
    }

    /// <summary>Only TS is the kernel's to change.</summary>
    private void SetGuestCr0(ulong value)
    {
        if (((value ^ _c->Arch.Cr0) & ~ControlRegisters.TS) != 0)
            Raise(Vectors.GP);
        _c->Arch.Cr0 = value;
    }

    private ulong ReadGuestMsr(uint msr) => msr switch
    {
        0x1B => (ulong)(Index == 0 ? 0x100 : 0) | 0xFEE0_0800, // IA32_APIC_BASE, which Linux asks for: that there is one, as Xen says
        0x277 => 0x0000_0501_0007_0406, // IA32_PAT, which is Xen's own
        _ => ReadMsr(msr),
    };

    private void WriteGuestMsr(uint msr, ulong value)
    {
        const uint fsBase = 0xC000_0100, gsBase = 0xC000_0101, kernelGsBase = 0xC000_0102;
        var processor = (IParavirtualProcessor)this;
        var isTaken = msr switch
        {
            fsBase => processor.SetSegmentBase(ParavirtualSegmentBase.Fs, value),
            gsBase => processor.SetSegmentBase(ParavirtualSegmentBase.KernelGs, value),
            kernelGsBase => processor.SetSegmentBase(ParavirtualSegmentBase.UserGs, value),
            0x8B when value == 0 => true, // IA32_BIOS_SIGN_ID: asks for the revision to be read anew
            _ => ReadGuestMsr(msr) == value, // what is there already
        };
        if (isTaken)
            return;
        _environment.Errors.Report("xen", "a paravirtual kernel writes an MSR", $"0x{msr:x} = 0x{value:x} at 0x{_c->Arch.Rip:x}");
        Raise(Vectors.GP);
    }
}
