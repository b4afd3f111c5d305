using Iced.Intel;

namespace Conformance.Fuzzing;

/// <summary>
/// Follows which arithmetic flags have no defined value (SDM vol. 1, appendix A), so that no sequence depends on them
/// and none of them is compared.
/// </summary>
public static class UndefinedFlags
{
    public const uint Cf = 1, Pf = 4, Af = 0x10, Zf = 0x40, Sf = 0x80, Df = 0x400, Of = 0x800;

    /// <summary>The flags that are compared at all.</summary>
    public const uint Compared = Cf | Pf | Af | Zf | Sf | Df | Of;

    /// <summary>
    /// The undefined flags before each instruction and, last, at the end; null when an instruction reads one of them.
    /// </summary>
    public static uint[]? Track(IReadOnlyList<Instruction> instructions)
    {
        var masks = new uint[instructions.Count + 1];
        var skippedTo = 0UL; // up to here an instruction may not have been executed
        for (var i = 0; i < instructions.Count; i++)
        {
            var instruction = instructions[i];
            var mask = masks[i];
            if ((Map(instruction.RflagsRead) & mask) != 0)
                return null;
            var conditional = instruction.IP < skippedTo || MayLeaveFlagsAlone(instruction);
            if (!conditional)
                mask &= ~Map(instruction.RflagsModified);
            mask |= Map(UndefinedBy(instruction));
            masks[i + 1] = mask;
            if (instruction.Op0Kind is OpKind.NearBranch64 or OpKind.NearBranch32 or OpKind.NearBranch16)
                skippedTo = Math.Max(skippedTo, instruction.NearBranchTarget);
            else if (instruction.FlowControl is FlowControl.IndirectBranch or FlowControl.IndirectCall or FlowControl.Return)
                skippedTo = ulong.MaxValue;
        }

        return masks;
    }

    /// <summary>A count of zero: a shift by CL, a repeated comparison.</summary>
    private static bool MayLeaveFlagsAlone(in Instruction instruction) => instruction.Mnemonic switch
    {
        Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr or Mnemonic.Shl or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Sal
            or Mnemonic.Shld or Mnemonic.Shrd => true,
        _ => instruction.HasRepPrefix || instruction.HasRepnePrefix,
    };

    private static RflagsBits UndefinedBy(in Instruction instruction)
    {
        var bits = instruction.RflagsUndefined;
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr or Mnemonic.Shl or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Sal
                or Mnemonic.Shld or Mnemonic.Shrd:
                // OF is defined for a count of 1 only, CF of a plain shift for counts below the operand's size.
                var last = instruction.OpCount - 1;
                var count = instruction.GetOpKind(last) == OpKind.Immediate8 ? instruction.Immediate8 & 31 : 31;
                var size = instruction.Op0Kind == OpKind.Register ? instruction.Op0Register.GetSize() : instruction.MemorySize.GetSize();
                if (count != 1)
                    bits |= RflagsBits.OF;
                if (instruction.Mnemonic is not (Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr))
                    bits |= RflagsBits.AF | (count >= size * 8 ? RflagsBits.CF : RflagsBits.None);
                break;
        }

        return bits;
    }

    private static uint Map(RflagsBits bits)
    {
        uint mask = 0;
        if ((bits & RflagsBits.CF) != 0)
            mask |= Cf;
        if ((bits & RflagsBits.PF) != 0)
            mask |= Pf;
        if ((bits & RflagsBits.AF) != 0)
            mask |= Af;
        if ((bits & RflagsBits.ZF) != 0)
            mask |= Zf;
        if ((bits & RflagsBits.SF) != 0)
            mask |= Sf;
        if ((bits & RflagsBits.DF) != 0)
            mask |= Df;
        if ((bits & RflagsBits.OF) != 0)
            mask |= Of;
        return mask;
    }
}
