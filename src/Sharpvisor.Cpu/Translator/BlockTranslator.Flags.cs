// Where the guest's arithmetic flags are while a block runs. Checks of ours destroy the host's, and whoever leaves the
// block needs the guest's: so they are saved, or it is known how to make them again, which is for cold code to do.
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Keeping, remaking and forgetting flags.</summary>
internal sealed unsafe partial class BlockTranslator
{
    private readonly bool[] _flagsLiveAfter = new bool[MaxInstructions];

    /// <summary>How to make the flags again that the host has now, or had: one or two instructions.</summary>
    private Instruction _remake0, _remake1;
    private int _remakeCount;

    /// <summary>Whose flags they are.</summary>
    private int _remakeItem;

    /// <summary>CF comes from the flags that were saved last: it was kept.</summary>
    private bool _remakeCarry;

    /// <summary>Guest registers that must not change for that.</summary>
    private ushort _remakeSources;
    private FlagsPlace _flags;

    /// <summary>Where the guest's arithmetic flags are, at a place of the code.</summary>
    private enum FlagsPlace
    {
        /// <summary>In the host's RFLAGS.</summary>
        Host,

        /// <summary>In <see cref="TranslatorContext.SavedFlags"/>.</summary>
        Saved,
        Both,

        /// <summary>Nowhere, but they can be made again.</summary>
        Remade,
    }

    /// <summary>
    /// Behind which instructions the flags can be seen by anybody: by a later instruction, or by whoever gets control at
    /// a way out.
    /// </summary>
    private void FindLiveFlags()
    {
        var live = true;
        for (var i = _count - 1; i >= 0; i--)
        {
            ref readonly var item = ref _items[i];
            _flagsLiveAfter[i] = live;
            if (MayLeave(in item) || item.ReadsFlags)
                live = true;
            else if (item.SetsAllFlags)
                live = false;
        }
    }

    /// <summary>Whether there may be a way out before or at an instruction.</summary>
    private static bool MayLeave(in Item item)
    {
        if (item.Kind == ItemKind.Nothing)
            return false;
        if (item.Kind != ItemKind.Same || item.UsesX87 || (item.HasOperand && item.Instruction.Mnemonic != Mnemonic.Lea))
            return true;
        var registers = 0;
        for (var i = 0; i < item.Instruction.OpCount; i++)
            registers += item.Instruction.GetOpKind(i) == OpKind.Register && item.Instruction.GetOpRegister(i).IsGPR() ? 1 : 0;
        return registers > 2; // may be one for the interpreter
    }

    /// <summary>Before anything that destroys the host's flags, where they are needed later.</summary>
    private void SaveFlags()
    {
        if (_flags == FlagsPlace.Remade)
            Remake(_hot);
        if (_flags is FlagsPlace.Host or FlagsPlace.Remade)
            SaveFlags(_hot);
        _flags = FlagsPlace.Saved;
    }

    /// <summary>The same, where making them again may do.</summary>
    private void ReleaseFlags()
    {
        if (_flags == FlagsPlace.Host && _remakeCount > 0 && IsRemakingGood(_index))
            _flags = FlagsPlace.Remade;
        else if (_flags != FlagsPlace.Remade)
            SaveFlags();
    }

    /// <summary>False: they would have to be made again, and saved after all, before they die.</summary>
    private bool IsRemakingGood(int from)
    {
        for (var i = from; i < _count; i++)
        {
            ref readonly var item = ref _items[i];
            if (item.Kind == ItemKind.JumpIf)
                return true;
            if (item.Kind is not (ItemKind.Same or ItemKind.Nothing))
                return false;
            if (item.NeedsFlags || item.SetsAllFlags)
                return true;
            if ((item.Written & _remakeSources) != 0)
                return !_flagsLiveAfter[i];
        }

        return false;
    }

    /// <summary>Uses T1.</summary>
    private void SaveFlags(CodeEmitter e)
    {
        if (e == _hot)
            _deltaInT1 = NoGroup;
        e.Move(Host.T1, Host.Rax);
        e.Raw(0x9F, 0x0F, 0x90, 0xC0); // lahf; seto al
        e.Store32(&_t->SavedFlags, Host.Rax); // as wide as it is loaded again: a narrower store is not forwarded
        e.Move(Host.Rax, Host.T1);
    }

    /// <summary>Before an instruction that looks at flags. Uses T1.</summary>
    private void RestoreFlags()
    {
        if (_flags == FlagsPlace.Remade)
        {
            Remake(_hot);
            _flags = FlagsPlace.Host;
        }

        if (_flags != FlagsPlace.Saved)
            return;
        _deltaInT1 = NoGroup;
        _hot.Move(Host.T1, Host.Rax);
        _hot.Load32(Host.Rax, &_t->SavedFlags);
        _hot.Raw(0x04, 0x7F, 0x9E); // add al, 7Fh: OF again; sahf
        _hot.Move(Host.Rax, Host.T1);
        _flags = FlagsPlace.Both;
    }

    /// <summary>Before an instruction to which only CF matters of the flags that were: sets the host's if they are saved. False: not such a case.</summary>
    private bool TryRestoreCarry(in Instruction ins)
    {
        if (_flags != FlagsPlace.Saved || !NeedsOnlyCarry(in ins))
            return false;
        EmitCarry(_hot);
        return true;
    }

    private static bool NeedsOnlyCarry(in Instruction ins) =>
        ins.Mnemonic is Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.Setb or Mnemonic.Setae or Mnemonic.Cmovb
            or Mnemonic.Cmovae or Mnemonic.Jb or Mnemonic.Jae;

    private void EmitCarry(CodeEmitter e)
    {
        e.Raw(0x0F, 0xBA, 0x24, 0x25); // bt dword [SavedFlags], 8
        e.Int32(checked((int)(long)&_t->SavedFlags));
        e.Raw(8);
    }

    private void Remake(CodeEmitter e)
    {
        if (_remakeCarry)
            EmitCarry(e);
        RemakeBy(e, in _remake0);
        if (_remakeCount > 1)
            RemakeBy(e, in _remake1);
    }

    private void RemakeBy(CodeEmitter e, in Instruction ins)
    {
        if (!e.TryEncode(in ins))
            throw new InvalidOperationException($"{ins} can't be encoded");
        NoteImmediate(e, _remakeItem, in ins);
    }

    /// <summary>Before an item: flags that could not be made again behind it are saved.</summary>
    private void KeepFlagsFor(in Item item)
    {
        if (_flags == FlagsPlace.Remade && (item.Written & _remakeSources) != 0 && !item.NeedsFlags && !item.SetsAllFlags && _flagsLiveAfter[_index])
            SaveFlags();
    }

    /// <summary>Behind an item, whose host instruction is given if it is one that sets flags.</summary>
    private void NoteFlags(in Item item, in Instruction host)
    {
        if (!item.ChangesFlags)
        {
            if ((item.Written & _remakeSources) != 0)
                _remakeCount = 0;
            return;
        }

        var keptCarry = _flags is FlagsPlace.Saved or FlagsPlace.Both && (host.Mnemonic is Mnemonic.Inc or Mnemonic.Dec);
        _flags = FlagsPlace.Host;
        _remakeCount = 0;
        _remakeSources = 0;
        _remakeCarry = false;
        if (!(item.SetsAllFlags || keptCarry) || item.HasOperand || host.OpCount > 2 || host.Op0Kind != OpKind.Register)
            return;
        for (var i = 0; i < host.OpCount; i++)
        {
            if (host.GetOpKind(i) != OpKind.Register)
                continue;
            if (!host.GetOpRegister(i).IsGPR() || host.GetOpRegister(i).GetFullRegister() is Register.R14 or Register.R15)
                return;
        }

        switch (host.Mnemonic)
        {
            case Mnemonic.Cmp or Mnemonic.Test:
                _remake0 = host;
                _remakeCount = 1;
                break;
            case Mnemonic.And or Mnemonic.Or or Mnemonic.Xor:
                // What they leave depends on the result alone.
                if (!s_tests.TryGetValue(host.Op0Register.GetSize(), out var test))
                    return;
                _remake0 = Instruction.Create(test, host.Op0Register, host.Op0Register);
                _remakeCount = 1;
                break;
            case Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Add or Mnemonic.Sub:
                // Taken back and done again.
                if ((host.OpCount == 2 && host.Op1Kind == OpKind.Register && host.Op1Register == host.Op0Register) || !s_inverse.TryGetValue(host.Code, out var inverse))
                    return;
                _remake0 = host;
                _remake0.Code = inverse;
                _remake1 = host;
                _remakeCount = 2;
                _remakeCarry = keptCarry;
                break;
            default:
                return;
        }

        _remakeSources = item.Read;
        _remakeItem = _index;
    }

    private static readonly Dictionary<int, Code> s_tests = new()
    {
        [1] = Code.Test_rm8_r8,
        [2] = Code.Test_rm16_r16,
        [4] = Code.Test_rm32_r32,
        [8] = Code.Test_rm64_r64,
    };

    private static readonly Dictionary<Code, Code> s_inverse = MakeInverse(
        (Code.Inc_rm8, Code.Dec_rm8), (Code.Inc_rm16, Code.Dec_rm16), (Code.Inc_rm32, Code.Dec_rm32), (Code.Inc_rm64, Code.Dec_rm64),
        (Code.Add_rm32_imm8, Code.Sub_rm32_imm8), (Code.Add_rm32_imm32, Code.Sub_rm32_imm32), (Code.Add_EAX_imm32, Code.Sub_EAX_imm32),
        (Code.Add_rm32_r32, Code.Sub_rm32_r32), (Code.Add_r32_rm32, Code.Sub_r32_rm32), (Code.Add_rm64_imm8, Code.Sub_rm64_imm8),
        (Code.Add_rm64_imm32, Code.Sub_rm64_imm32), (Code.Add_RAX_imm32, Code.Sub_RAX_imm32), (Code.Add_rm64_r64, Code.Sub_rm64_r64),
        (Code.Add_r64_rm64, Code.Sub_r64_rm64));

    private static Dictionary<Code, Code> MakeInverse(params ReadOnlySpan<(Code Add, Code Sub)> pairs)
    {
        var inverse = new Dictionary<Code, Code>();
        foreach (var (add, sub) in pairs)
        {
            inverse.Add(add, sub);
            inverse.Add(sub, add);
        }

        return inverse;
    }
}
