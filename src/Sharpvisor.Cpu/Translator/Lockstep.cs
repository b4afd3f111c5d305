using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;

namespace Sharpvisor.Cpu.Translator;

/// <summary>What may be compared between two executions of the same instructions.</summary>
internal static class Lockstep
{
    /// <summary>False for what depends on time or chance, acts on devices, or changes how addresses are translated.</summary>
    public static bool IsRepeatable(in Instruction ins)
    {
        if (ins.HasRepPrefix && ins.IsStringInstruction)
            return false; // alone it is executed element by element, and an element more or less is no difference
        if (ins.IsPrivileged || ins.FlowControl is FlowControl.Interrupt or FlowControl.Exception)
            return ins.Mnemonic is Mnemonic.Cli or Mnemonic.Clts;
        return ins.Mnemonic is not (Mnemonic.Rdtsc or Mnemonic.Rdtscp or Mnemonic.Rdrand or Mnemonic.Rdseed or Mnemonic.Rdpmc or Mnemonic.In or Mnemonic.Out
            or Mnemonic.Insb or Mnemonic.Insw or Mnemonic.Insd or Mnemonic.Outsb or Mnemonic.Outsw or Mnemonic.Outsd or Mnemonic.Syscall
            or Mnemonic.Sysenter or Mnemonic.Sysexit or Mnemonic.Sysret or Mnemonic.Sysretq or Mnemonic.Iret or Mnemonic.Iretd or Mnemonic.Iretq or Mnemonic.Sti or Mnemonic.Popf
            or Mnemonic.Popfd or Mnemonic.Popfq or Mnemonic.Pause or Mnemonic.Cpuid or Mnemonic.Xsave or Mnemonic.Xsave64
            or Mnemonic.Xrstor or Mnemonic.Xrstor64 or Mnemonic.Stac or Mnemonic.Clac or Mnemonic.Vmcall or Mnemonic.Vmmcall) && ins.Op0Register is not (Register.SS or Register.CS);
    }

    /// <summary>Arithmetic flags that an instruction may leave as it likes (SDM vol. 1, appendix A).</summary>
    public static ulong UndefinedFlags(in Instruction ins)
    {
        var bits = ins.RflagsUndefined;
        switch (ins.Mnemonic)
        {
            case Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Shld or Mnemonic.Shrd:
                bits |= RflagsBits.AF | RflagsBits.OF | RflagsBits.CF;
                break;
            case Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr:
                bits |= RflagsBits.OF;
                break;
        }

        ulong mask = 0;
        mask |= (bits & RflagsBits.CF) != 0 ? Rflags.CF : 0;
        mask |= (bits & RflagsBits.PF) != 0 ? Rflags.PF : 0;
        mask |= (bits & RflagsBits.AF) != 0 ? Rflags.AF : 0;
        mask |= (bits & RflagsBits.ZF) != 0 ? Rflags.ZF : 0;
        mask |= (bits & RflagsBits.SF) != 0 ? Rflags.SF : 0;
        mask |= (bits & RflagsBits.OF) != 0 ? Rflags.OF : 0;
        return mask;
    }
}
