using Iced.Intel;
using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Decoding;

/// <summary>The choice of handlers for the commonest vector instructions, in place of their thunks.</summary>
internal sealed unsafe partial class OpBuilder
{
    /// <summary>The handler, with registers laid out; 0: the thunk serves.</summary>
    private nint ChooseVector(Op* op, in Instruction ins, int memory) => ins.Mnemonic switch
    {
        Mnemonic.Pxor or Mnemonic.Vpxor or Mnemonic.Xorps or Mnemonic.Vxorps or Mnemonic.Xorpd or Mnemonic.Vxorpd => Vector<VectorXor>(op, in ins, memory),
        Mnemonic.Por or Mnemonic.Vpor or Mnemonic.Orps or Mnemonic.Vorps or Mnemonic.Orpd or Mnemonic.Vorpd => Vector<VectorOr>(op, in ins, memory),
        Mnemonic.Pand or Mnemonic.Vpand or Mnemonic.Andps or Mnemonic.Vandps or Mnemonic.Andpd or Mnemonic.Vandpd => Vector<VectorAnd>(op, in ins, memory),
        Mnemonic.Pandn or Mnemonic.Vpandn or Mnemonic.Andnps or Mnemonic.Vandnps or Mnemonic.Andnpd or Mnemonic.Vandnpd => Vector<VectorAndNot>(op, in ins, memory),
        Mnemonic.Pcmpeqb or Mnemonic.Vpcmpeqb => Vector<VectorEqualBytes>(op, in ins, memory),
        Mnemonic.Pcmpeqd or Mnemonic.Vpcmpeqd => Vector<VectorEqualDwords>(op, in ins, memory),
        Mnemonic.Pminub or Mnemonic.Vpminub => Vector<VectorMinBytes>(op, in ins, memory),
        Mnemonic.Psubb or Mnemonic.Vpsubb => Vector<VectorSubtractBytes>(op, in ins, memory),
        Mnemonic.Paddd or Mnemonic.Vpaddd => Vector<VectorAddDwords>(op, in ins, memory),
        Mnemonic.Movups or Mnemonic.Movaps or Mnemonic.Movupd or Mnemonic.Movapd or Mnemonic.Movdqu or Mnemonic.Movdqa
            or Mnemonic.Vmovups or Mnemonic.Vmovaps or Mnemonic.Vmovupd or Mnemonic.Vmovapd or Mnemonic.Vmovdqu or Mnemonic.Vmovdqa =>
            memory == 0 ? VectorStoreOf(op, in ins) : Vector<VectorMove>(op, in ins, memory),
        Mnemonic.Pmovmskb or Mnemonic.Vpmovmskb => MoveMask(op, in ins),
        Mnemonic.Vzeroupper => (nint)(delegate*<CpuContext*, Op*, void>)&VectorHandlers.ZeroUpper,
        _ => 0,
    };

    private static bool IsVector(Register register) => register.IsXMM() || register.IsYMM();

    private static bool IsVex(in Instruction ins) => ins.Encoding == EncodingKind.VEX;

    private static ushort VectorOffset(Register register) =>
        (ushort)XmmOffset(register.IsYMM() ? Register.XMM0 + (register - Register.YMM0) : register);

    private nint Vector<TOp>(Op* op, in Instruction ins, int memory) where TOp : struct, IVector
    {
        if (!IsVector(ins.Op0Register))
            return 0; // MMX
        if (ins.Op0Register.IsYMM())
            return Vector<TOp, Vex256Form>(op, in ins, memory);
        return IsVex(in ins) ? Vector<TOp, Vex128Form>(op, in ins, memory) : Vector<TOp, LegacyForm>(op, in ins, memory);
    }

    private nint Vector<TOp, TForm>(Op* op, in Instruction ins, int memory) where TOp : struct, IVector where TForm : struct, IVectorForm
    {
        var last = ins.OpCount - 1;
        op->Dst = VectorOffset(ins.Op0Register);
        op->Src = last == 2 ? VectorOffset(ins.Op1Register) : op->Dst;
        if (memory >= 0)
            return Handlers.PickFixed<VectorMemory<TOp, TForm>, ulong>(Ea(op));
        op->Index = VectorOffset(ins.GetOpRegister(last));
        return (nint)(delegate*<CpuContext*, Op*, void>)&VectorHandlers.Register<TOp, TForm>;
    }

    private nint VectorStoreOf(Op* op, in Instruction ins)
    {
        op->Src = VectorOffset(ins.Op1Register);
        return ins.Op1Register.IsYMM() ? Handlers.PickFixed<VectorStore<Vex256Form>, ulong>(Ea(op)) : Handlers.PickFixed<VectorStore<LegacyForm>, ulong>(Ea(op));
    }

    private static nint MoveMask(Op* op, in Instruction ins)
    {
        if (!IsVector(ins.Op1Register))
            return 0;
        op->Dst = Reg(in ins, 0);
        op->Src = VectorOffset(ins.Op1Register);
        return ins.Op1Register.IsYMM()
            ? (nint)(delegate*<CpuContext*, Op*, void>)&VectorHandlers.MoveMask<Vex256Form>
            : (nint)(delegate*<CpuContext*, Op*, void>)&VectorHandlers.MoveMask<LegacyForm>;
    }
}
