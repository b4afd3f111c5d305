// Host code for one guest instruction. Called as void*(state: rdi, memory: rsi, flags: rdx), System V AMD64 ABI 3.2.
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>
/// Makes the code of a thunk. Guest registers keep their names, because high bytes and implicit operands need that;
/// the two pointers go to registers that the instruction leaves alone, and RSP, the only guest register that can't be
/// loaded, is renamed. Not thread safe.
/// </summary>
internal sealed class ThunkCompiler
{
    /// <summary>Flags that a guest may hand to POPF here: no trap, direction or alignment check flag.</summary>
    private const int ArithmeticFlags = 0x8D5;

    private readonly InstructionInfoFactory _infoFactory = new();
    private readonly HostAssembler _asm = new();
    private readonly OpAccess[] _gpr = new OpAccess[16];
    private readonly bool[] _gprWhole = new bool[16];
    private readonly OpAccess[] _vector = new OpAccess[16];
    private readonly bool[] _vectorWide = new bool[16];

    private Register _state, _memory, _stackPointer;

    /// <summary>
    /// The instruction with a stand-in for its memory operand: what is equal here is executed by equal code.
    /// Null when it isn't encodable in 64-bit code.
    /// </summary>
    public ThunkKey? KeyOf(in Instruction instruction)
    {
        var normal = instruction;
        if (FindMemoryOperand(normal) >= 0)
            SetMemory(ref normal, Register.RAX);
        _asm.Clear();
        return _asm.TryAdd(normal) ? ThunkKey.Create(_asm.Code) : null;
    }

    /// <summary>Host code and description of an instruction; null when it can't be executed natively.</summary>
    public (byte[] Code, ThunkDescription Description)? Compile(in Instruction instruction, InstructionTraits traits, int bitness)
    {
        var operand = FindMemoryOperand(instruction);
        if (operand >= 0 && instruction.OpCount > 1 && instruction.Mnemonic is Mnemonic.Bt or Mnemonic.Btc or Mnemonic.Btr or Mnemonic.Bts
            && operand >= 0 && instruction.Op1Kind == OpKind.Register)
            return null;

        var patched = instruction;
        patched.CodeSize = CodeSize.Code64;
        patched.SegmentPrefix = Register.None;
        if (operand >= 0)
            SetMemory(ref patched, Register.None);
        ref readonly var info = ref _infoFactory.GetInfo(patched);
        if (!ReadRegisters(info))
            return null;
        if (patched.Mnemonic == Mnemonic.Insertq)
            _vector[patched.Op0Register.GetNumber()] = OpAccess.ReadWrite; // Iced takes the destination for written only

        var description = Describe(patched, traits, operand, info);
        if (operand >= 0 && description.MemorySize == 0)
            return null;
        _asm.Clear();
        var ok = true;
        switch (traits.Form)
        {
            case ThunkForm.Registers:
                ok = EmitRegisters(patched, traits, description, operand);
                break;
            case ThunkForm.X87:
                ok = EmitX87(patched, traits, description, operand);
                break;
            case ThunkForm.Wait:
                EmitWait();
                break;
            case ThunkForm.StoreStatusWord:
                EmitStoreStatusWord(operand >= 0);
                break;
            case ThunkForm.StoreControlWord:
                _asm.Load16(Register.EAX, Register.RDI, StateLayout.X87ControlWord);
                _asm.Store16(Register.RSI, 0, Register.AX);
                ReturnZero();
                break;
            case ThunkForm.LoadControlWord:
                EmitLoadControlWord();
                break;
            case ThunkForm.ZeroUpper or ThunkForm.ZeroAll:
                EmitZero(traits.Form == ThunkForm.ZeroAll, bitness == 64 ? 16 : 8);
                break;
            case ThunkForm.Environment:
                return ([], description);
            default:
                return null;
        }

        return ok ? (_asm.Code.ToArray(), description) : null;
    }

    private static int FindMemoryOperand(in Instruction instruction)
    {
        for (var i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) == OpKind.Memory)
                return i;
        }

        return -1;
    }

    private static void SetMemory(ref Instruction instruction, Register address)
    {
        instruction.MemoryBase = address;
        instruction.MemoryIndex = Register.None;
        instruction.MemoryIndexScale = 1;
        instruction.MemoryDisplacement64 = 0;
        instruction.MemoryDisplSize = address == Register.None ? 8 : 0;
        instruction.SegmentPrefix = Register.None;
    }

    /// <summary>Notes who is read and written; false for registers that can't be given to the instruction.</summary>
    private bool ReadRegisters(in InstructionInfo info)
    {
        Array.Clear(_gpr);
        Array.Clear(_gprWhole);
        Array.Clear(_vector);
        Array.Clear(_vectorWide);
        foreach (var used in info.GetUsedRegisters())
        {
            var register = used.Register;
            if (register.IsGPR())
            {
                var number = register.GetFullRegister() - Register.RAX;
                _gpr[number] = Combine(_gpr[number], used.Access);
                _gprWhole[number] |= used.Access == OpAccess.Write && register.GetSize() >= 4;
            }
            else if (register.IsVectorRegister())
            {
                var number = register.GetNumber();
                if (number > 15)
                    return false;
                _vector[number] = Combine(_vector[number], used.Access);
                _vectorWide[number] |= register.GetSize() > 16;
            }
            else if (register.IsSegmentRegister() || register.IsCR() || register.IsDR())
            {
                return false;
            }
        }

        return true;
    }

    private static OpAccess Combine(OpAccess one, OpAccess other)
    {
        if (one == OpAccess.None || one == other)
            return other;
        return !Reads(one) && !Reads(other) ? OpAccess.Write : !Writes(one) && !Writes(other) ? OpAccess.Read : OpAccess.ReadWrite;
    }

    /// <summary>A conditional write needs the old value too.</summary>
    private static bool Reads(OpAccess access) => access is not (OpAccess.None or OpAccess.NoMemAccess or OpAccess.Write);

    private static bool Writes(OpAccess access) =>
        access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;

    private static ThunkDescription Describe(in Instruction instruction, InstructionTraits traits, int operand, in InstructionInfo info)
    {
        var size = operand >= 0 ? MemorySizeOf(instruction) : 0;
        var access = operand < 0 ? OpAccess.None : operand == 0 ? info.Op0Access : operand == 1 ? info.Op1Access : info.GetOpAccess(operand);
        var written = ToRflags(instruction.RflagsModified) | ShiftFlags(instruction.Mnemonic);
        var read = instruction.RflagsRead != RflagsBits.None;
        if (traits.Isa == HostIsa.Gpr && written != 0)
            read |= instruction.RflagsUndefined != RflagsBits.None || ShiftFlags(instruction.Mnemonic) != 0;
        return new ThunkDescription(
            size, operand >= 0 && Reads(access), operand >= 0 && Writes(access), traits.IsAligned && size >= 16 ? size : 1, read, written,
            NeedsX87: traits.Isa is HostIsa.X87 or HostIsa.Mmx || UsesMmx(instruction));
    }

    private static int MemorySizeOf(in Instruction instruction) => instruction.Code switch
    {
        Code.Fnstenv_m14byte or Code.Fldenv_m14byte => 14,
        Code.Fnstenv_m28byte or Code.Fldenv_m28byte => 28,
        Code.Fnsave_m94byte or Code.Frstor_m94byte => 94,
        Code.Fnsave_m108byte or Code.Frstor_m108byte => 108,
        _ => instruction.MemorySize.GetSize(),
    };

    /// <summary>What a shift changes; with a count of zero nothing, so it is given the flags too.</summary>
    private static ulong ShiftFlags(Mnemonic mnemonic) => mnemonic switch
    {
        Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr => 0x801,
        Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Shld or Mnemonic.Shrd => ArithmeticFlags,
        _ => 0,
    };

    private static bool UsesMmx(in Instruction instruction)
    {
        for (var i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) == OpKind.Register && instruction.GetOpRegister(i).IsMM())
                return true;
        }

        return false;
    }

    private static ulong ToRflags(RflagsBits bits)
    {
        ulong flags = 0;
        Add(RflagsBits.CF, 0);
        Add(RflagsBits.PF, 2);
        Add(RflagsBits.AF, 4);
        Add(RflagsBits.ZF, 6);
        Add(RflagsBits.SF, 7);
        Add(RflagsBits.OF, 11);
        return flags;

        void Add(RflagsBits bit, int position)
        {
            if ((bits & bit) != 0)
                flags |= 1UL << position;
        }
    }

    private bool EmitRegisters(Instruction instruction, InstructionTraits traits, ThunkDescription description, int operand)
    {
        var mxcsr = traits.UsesMxcsr;
        var trap = -1;
        var pending = -1;
        if (description.NeedsX87)
            pending = EmitPendingCheck();

        AllocateRegisters();
        if (_state != Register.RDI)
            _asm.Move(_state, Register.RDI);
        if (operand >= 0 && _memory != Register.RSI)
            _asm.Move(_memory, Register.RSI);
        var saved = SaveCalleeSaved();
        if (description.ReadsFlags)
        {
            _asm.Raw(0x81, 0xE2); // and edx, ArithmeticFlags
            _asm.Raw(BitConverter.GetBytes(ArithmeticFlags));
            _asm.Raw(0x52, 0x9D); // push rdx; popfq
        }

        if (mxcsr)
            _asm.OnMemory(Code.Ldmxcsr_m32, _state, StateLayout.Mxcsr);
        LoadRegisters(traits);
        Patch(ref instruction, operand);
        if (mxcsr)
            trap = _asm.MarkTrap();
        if (!_asm.TryAdd(instruction))
            return false;
        StoreRegisters(traits);
        if (description.WritesFlags)
            EmitFlagsOut(description);
        RestoreCalleeSaved(saved);
        var control = -1;
        if (mxcsr)
        {
            _asm.OnMemory(Code.Stmxcsr_m32, _state, StateLayout.Mxcsr);
            _asm.Load32(Register.ESI, _state, StateLayout.Mxcsr);
            _asm.Raw(0x81, 0xE6, 0xC0, 0xFF, 0x00, 0x00); // and esi, FFC0h
            _asm.Raw(0x81, 0xFE, 0x80, 0x1F, 0x00, 0x00); // cmp esi, 1F80h
            control = _asm.Jump(0x75);
        }

        Finish();
        if (mxcsr)
        {
            _asm.Land(control);
            RestoreHostMxcsr();
            Finish();

            // SimdTrap leads here: the processor left all registers as they were before the instruction.
            _asm.LandTrap(trap);
            RestoreCalleeSaved(saved);
            _asm.OnMemory(Code.Stmxcsr_m32, _state, StateLayout.Mxcsr);
            RestoreHostMxcsr();
            ClearUpperHalf();
            Return(HostThunk.Failure(ThunkResult.SimdException));
        }

        if (pending >= 0)
            EmitPendingExit(pending);
        return true;

        void ClearUpperHalf()
        {
            if (UsesUpperHalf())
                _asm.Raw(0xC5, 0xF8, 0x77); // vzeroupper: no penalty for .NET's legacy SSE code
        }

        void Finish()
        {
            ClearUpperHalf();
            if (!description.WritesFlags)
                ReturnZero();
            else
                _asm.Raw(0xC3);
        }
    }

    private bool UsesUpperHalf() => Array.IndexOf(_vectorWide, true) >= 0;

    /// <summary>Chooses registers that the instruction does not use for the state, the memory operand and guest RSP.</summary>
    private void AllocateRegisters()
    {
        ReadOnlySpan<int> spare = [10, 11, 8, 9, 2, 1, 0];
        var next = 0;
        _state = _gpr[7] == OpAccess.None ? Register.RDI : Spare(spare);
        _memory = _gpr[6] == OpAccess.None ? Register.RSI : Spare(spare);
        _stackPointer = Spare(spare);

        Register Spare(ReadOnlySpan<int> candidates)
        {
            while (_gpr[candidates[next]] != OpAccess.None)
                next++;
            return Register.RAX + candidates[next++];
        }
    }

    private List<Register> SaveCalleeSaved()
    {
        var saved = new List<Register>();
        foreach (var number in (ReadOnlySpan<int>)[3, 5, 12, 13, 14, 15])
        {
            if (_gpr[number] == OpAccess.None)
                continue;
            saved.Add(Register.RAX + number);
            _asm.Add(Instruction.Create(Code.Push_r64, Register.RAX + number));
        }

        return saved;
    }

    private void RestoreCalleeSaved(List<Register> saved)
    {
        for (var i = saved.Count - 1; i >= 0; i--)
            _asm.Add(Instruction.Create(Code.Pop_r64, saved[i]));
    }

    /// <summary>Masks, rounding, flush-to-zero and denormals-are-zero must not leak into .NET's arithmetic.</summary>
    private void RestoreHostMxcsr()
    {
        _asm.Raw(0xC7, 0x44, 0x24, 0xF8, 0x80, 0x1F, 0x00, 0x00); // mov dword [rsp-8], 1F80h
        _asm.OnMemory(Code.Ldmxcsr_m32, Register.RSP, -8);
    }

    private Register HostRegister(int number) => number == 4 ? _stackPointer : Register.RAX + number;

    private void LoadRegisters(InstructionTraits traits)
    {
        for (var i = 0; i < 16; i++)
        {
            if (Reads(_gpr[i]) || (Writes(_gpr[i]) && !_gprWhole[i]))
                _asm.Load(HostRegister(i), _state, StateLayout.GprOffset(i));
            if (!Reads(_vector[i]))
                continue;
            if (_vectorWide[i])
                _asm.LoadVector(Code.VEX_Vmovdqu_ymm_ymmm256, Register.YMM0 + i, _state, StateLayout.YmmOffset(i));
            else if (traits.IsVex)
                _asm.LoadVector(Code.VEX_Vmovdqu_xmm_xmmm128, Register.XMM0 + i, _state, StateLayout.YmmOffset(i));
            else
                _asm.LoadVector(Code.Movups_xmm_xmmm128, Register.XMM0 + i, _state, StateLayout.YmmOffset(i));
        }
    }

    private void StoreRegisters(InstructionTraits traits)
    {
        for (var i = 0; i < 16; i++)
        {
            if (Writes(_vector[i]))
            {
                if (traits.IsVex)
                    _asm.StoreVector(Code.VEX_Vmovdqu_ymmm256_ymm, _state, StateLayout.YmmOffset(i), Register.YMM0 + i);
                else
                    _asm.StoreVector(Code.Movups_xmmm128_xmm, _state, StateLayout.YmmOffset(i), Register.XMM0 + i);
            }

            if (Writes(_gpr[i]))
                _asm.Store(_state, StateLayout.GprOffset(i), HostRegister(i));
        }
    }

    private void Patch(ref Instruction instruction, int operand)
    {
        if (operand >= 0)
            SetMemory(ref instruction, _memory);
        for (var i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) != OpKind.Register)
                continue;
            var register = instruction.GetOpRegister(i);
            if (!register.IsGPR() || register.GetFullRegister() != Register.RSP)
                continue;
            var number = _stackPointer - Register.RAX;
            instruction.SetOpRegister(i, register.GetSize() switch
            {
                8 => Register.RAX + number,
                4 => Register.EAX + number,
                2 => Register.AX + number,
                _ => ByteRegister(number),
            });
        }
    }

    private static Register ByteRegister(int number) => number < 4 ? Register.AL + number : Register.SPL + (number - 4);

    /// <summary>RFLAGS to RAX, after the guest's registers were stored.</summary>
    private void EmitFlagsOut(ThunkDescription description)
    {
        const ulong overflow = 0x800;
        if ((description.FlagsWritten & overflow) == 0)
            _asm.Raw(0x9F, 0x0F, 0xB6, 0xC4); // lahf; movzx eax, ah
        else
            _asm.Raw(0x9C, 0x58); // pushfq; pop rax
    }

    /// <summary>Before an x87 or MMX instruction: leaves with #MF when one is due. Returns the jump for <see cref="EmitPendingExit"/>.</summary>
    private int EmitPendingCheck()
    {
        EmitUnmaskedX87();
        var masked = _asm.Jump(0x74);
        EmitPendingTest();
        var pending = _asm.Jump(0x75);
        _asm.Land(masked);
        return pending;
    }

    /// <summary>ZF clear when the guest's control word unmasks an exception; EAX is its complement.</summary>
    private void EmitUnmaskedX87()
    {
        _asm.Load16(Register.EAX, Register.RDI, StateLayout.X87ControlWord);
        _asm.Raw(0xF7, 0xD0, 0xA8, 0x3F); // not eax; test al, 3Fh
    }

    /// <summary>ZF clear when an unmasked exception is pending; expects what <see cref="EmitUnmaskedX87"/> left.</summary>
    private void EmitPendingTest() =>
        _asm.Raw(0x89, 0xC1, 0xDF, 0xE0, 0x21, 0xC8, 0xA8, 0x3F); // mov ecx, eax; fnstsw ax; and eax, ecx; test al, 3Fh

    private void EmitPendingExit(int jump)
    {
        _asm.Land(jump);
        Return(HostThunk.Failure(ThunkResult.X87Exception));
    }

    private bool EmitX87(Instruction instruction, InstructionTraits traits, ThunkDescription description, int operand)
    {
        _state = Register.RDI;
        if (operand >= 0)
            SetMemory(ref instruction, Register.RSI);
        if (!traits.Waits)
        {
            if (!_asm.TryAdd(instruction))
                return false;
            ReturnZero();
            return true;
        }

        EmitUnmaskedX87();
        var unmasked = _asm.Jump(0x75);
        if (!Execute())
            return false;
        ReturnFlags();

        // With the guest's control word in place the processor itself does what an unmasked exception demands; the
        // error shows at the next waiting instruction only, and FNSTENV masks everything before that.
        _asm.Land(unmasked);
        EmitPendingTest();
        var pending = _asm.Jump(0x75);
        _asm.OnMemory(Code.Fldcw_m2byte, Register.RDI, StateLayout.X87ControlWord);
        Execute();
        _asm.OnMemory(Code.Fnstenv_m28byte, Register.RSP, -64);
        var notStored = -1;
        if (description.WritesMemory)
        {
            // An exception other than that of precision prevented the store.
            EmitUnmaskedX87();
            _asm.Raw(0x89, 0xC1, 0xDF, 0xE0, 0x21, 0xC8, 0xA8, 0x1F); // mov ecx, eax; fnstsw ax; and eax, ecx; test al, 1Fh
            notStored = _asm.Jump(0x75);
        }

        ReturnFlags();
        if (notStored >= 0)
        {
            _asm.Land(notStored);
            Return(HostThunk.Failure(ThunkResult.NotStored));
        }

        EmitPendingExit(pending);
        return true;

        bool Execute()
        {
            if (description.ReadsFlags)
                _asm.Raw(0x81, 0xE2, 0xD5, 0x08, 0x00, 0x00, 0x52, 0x9D); // and edx, ArithmeticFlags; push rdx; popfq
            var encoded = _asm.TryAdd(instruction);
            if (description.WritesFlags)
                _asm.Raw(0x9C, 0x58); // pushfq; pop rax
            return encoded;
        }

        void ReturnFlags()
        {
            if (description.WritesFlags)
                _asm.Raw(0xC3);
            else
                ReturnZero();
        }
    }

    private void EmitWait()
    {
        var pending = EmitPendingCheck();
        ReturnZero();
        EmitPendingExit(pending);
    }

    /// <summary>FNSTSW. The host masks everything, so the error summary is made here from the guest's control word.</summary>
    private void EmitStoreStatusWord(bool toMemory)
    {
        EmitUnmaskedX87();
        _asm.Raw(0x89, 0xC1, 0xDF, 0xE0, 0x21, 0xC1, 0xF6, 0xC1, 0x3F); // mov ecx, eax; fnstsw ax; and ecx, eax; test cl, 3Fh
        var none = _asm.Jump(0x74);
        _asm.Raw(0x0D, 0x80, 0x80, 0x00, 0x00); // or eax, 8080h
        _asm.Land(none);
        _asm.Store16(toMemory ? Register.RSI : Register.RDI, toMemory ? 0 : StateLayout.GprOffset(0), Register.AX);
        ReturnZero();
    }

    private void EmitLoadControlWord()
    {
        var pending = EmitPendingCheck();
        _asm.Load16(Register.EAX, Register.RSI, 0);
        _asm.Raw(0x25);
        _asm.Raw(BitConverter.GetBytes((int)HostX87.ControlWordBits)); // and eax, ControlWordBits
        _asm.Raw(0x83, 0xC8, 0x40); // or eax, 40h
        _asm.Store16(Register.RDI, StateLayout.X87ControlWord, Register.AX);
        _asm.Raw(0x83, 0xC8, 0x3F); // or eax, 3Fh
        _asm.Store16(Register.RSP, -8, Register.AX);
        _asm.OnMemory(Code.Fldcw_m2byte, Register.RSP, -8);
        ReturnZero();
        EmitPendingExit(pending);
    }

    private void EmitZero(bool all, int registers)
    {
        _asm.Raw(0xC5, 0xF9, 0xEF, 0xC0); // vpxor xmm0, xmm0, xmm0
        for (var i = 0; i < registers; i++)
        {
            if (all)
                _asm.StoreVector(Code.VEX_Vmovdqu_xmmm128_xmm, Register.RDI, StateLayout.YmmOffset(i), Register.XMM0);
            _asm.StoreVector(Code.VEX_Vmovdqu_xmmm128_xmm, Register.RDI, StateLayout.YmmOffset(i) + 16, Register.XMM0);
        }

        ReturnZero();
    }

    private void Return(ulong value)
    {
        _asm.Raw(0x48, 0xB8); // mov rax, value
        _asm.Raw(BitConverter.GetBytes(value));
        _asm.Raw(0xC3);
    }

    private void ReturnZero() => _asm.Raw(0x31, 0xC0, 0xC3); // xor eax, eax; ret
}

/// <summary>What is told about a thunk besides its traits; see <see cref="HostThunk"/>.</summary>
internal sealed record ThunkDescription(
    int MemorySize, bool ReadsMemory, bool WritesMemory, int Alignment, bool ReadsFlags, ulong FlagsWritten, bool NeedsX87)
{
    public bool WritesFlags => FlagsWritten != 0;
}

/// <summary>The at most 15 bytes of an instruction.</summary>
internal readonly record struct ThunkKey(ulong Low, ulong High)
{
    public static ThunkKey Create(ReadOnlySpan<byte> code)
    {
        Span<byte> padded = stackalloc byte[16];
        padded.Clear();
        code.CopyTo(padded);
        padded[15] = (byte)code.Length;
        return new ThunkKey(BitConverter.ToUInt64(padded), BitConverter.ToUInt64(padded[8..]));
    }
}
