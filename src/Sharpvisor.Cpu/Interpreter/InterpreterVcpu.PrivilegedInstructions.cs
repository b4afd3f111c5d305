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

    /// <summary>Bits of CR4 that a kernel may change: TSD, DE, OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE.</summary>
    private const ulong ParavirtualCr4 =
        ControlRegisters.TSD | ControlRegisters.DE | ControlRegisters.OSFXSR | ControlRegisters.OSXMMEXCPT | ControlRegisters.FSGSBASE | ControlRegisters.OSXSAVE;

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

    /// <summary>The instruction that #GP(0) was raised at. False: it is nothing that is emulated.</summary>
    private bool TryEmulatePrivileged()
    {
        var c = _c;
        if (c->Is64 == 0)
            return false;
        var code = new byte[LongestInstruction];
        var length = code.Length;
        while (length > 0 && !((ILinearMemory)this).TryRead(c->Arch.Rip, code.AsSpan(0, length)))
            length--;
        var decoder = Decoder.Create(64, new ByteArrayCodeReader(code, 0, length), c->Arch.Rip);
        decoder.Decode(out var ins);
        if (ins.IsInvalid)
            return false;
        try
        {
            c->CurrentOp = _decoder.FetchOp;
            if (!Emulate(in ins))
                return false;
        }
        catch (GuestFaultException)
        {
            return false; // a value that the register does not take: #GP
        }

        UpdateMode();
        EndEmulated(ins.Length);
        return true;
    }

    private void EndEmulated(int length)
    {
        _c->Arch.Rip += (ulong)length;
        _c->Arch.Rflags &= ~Rflags.RF;
        UpdateSlow();
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
            case Mnemonic.Cli or Mnemonic.Sti:
                return HasPorts; // and without effect, as in Xen: POPF could not be seen
            case Mnemonic.In when HasPorts:
                // A domain has no devices at ports.
                WriteRegister(ins.Op0Register, ulong.MaxValue >> (64 - (8 * ins.Op0Register.GetSize())));
                return true;
            case Mnemonic.Out when HasPorts:
                return true;
            default:
                return false;
        }
    }

    private bool HasPorts => ((IParavirtualProcessor)this).IoPrivilege >= 1;

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
                case 4:
                    WriteCr4((c->Arch.Cr4 & ~ParavirtualCr4) | (value & ParavirtualCr4 & _cr4Mask));
                    return true;
                default:
                    _environment.Errors.Report("xen", "a paravirtual kernel writes CR3 or CR8 itself", $"at 0x{c->Arch.Rip:x}");
                    return false;
            }
        }

        var processor = (IParavirtualProcessor)this;
        if (ins.Op1Register.IsDR())
        {
            WriteRegister(ins.Op0Register, processor.GetDebugRegister(ins.Op1Register - Register.DR0));
            return true;
        }

        return ins.Op0Register.IsDR() && processor.SetDebugRegister(ins.Op0Register - Register.DR0, value);
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
        0x1B => (ulong)(Index == 0 ? 0x100 : 0) | 0xFEE0_0000, // IA32_APIC_BASE: switched off
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
            _ => ReadGuestMsr(msr) == value, // what is there already
        };
        if (isTaken)
            return;
        _environment.Errors.Report("xen", "a paravirtual kernel writes an MSR", $"0x{msr:x} = 0x{value:x} at 0x{_c->Arch.Rip:x}");
        Raise(Vectors.GP);
    }
}
