using Iced.Intel;

namespace Conformance.Fuzzing;

/// <summary>
/// Builds one instruction under test with random operands. Registers that it addresses memory by are loaded right
/// before, so that an access goes where it should whatever came earlier: on the host it would hit this very process.
/// </summary>
internal sealed class ItemBuilder(Arena arena, int bitness, SegmentSet? segments, Random random, int index, int count)
{
    private static readonly Register[] s_gpr8Low =
    [
        Register.AL, Register.CL, Register.DL, Register.BL, Register.AH, Register.CH, Register.DH, Register.BH,
        Register.SPL, Register.BPL, Register.SIL, Register.DIL, Register.R8L, Register.R9L, Register.R10L, Register.R11L,
        Register.R12L, Register.R13L, Register.R14L, Register.R15L,
    ];

    /// <summary>ES CS SS DS, operand size, repetition; in 64-bit code REX too.</summary>
    private static readonly byte[] s_prefixes = [0x26, 0x2E, 0x36, 0x3E, 0x66, 0xF2, 0xF3, 0x40, 0x41, 0x42, 0x44, 0x48];

    private readonly InstructionInfoFactory _info = new();
    private readonly List<Step> _setup = [];
    private readonly HashSet<Register> _loaded = [];

    /// <summary>FS is the C library's.</summary>
    private static readonly Register[] s_segments = [Register.ES, Register.CS, Register.SS, Register.DS, Register.GS];

    private int StackBits => bitness == 64 ? 64 : segments is null || segments.HasBigStack ? 32 : 16;

    private int RegisterCount => bitness == 64 ? 16 : 8;

    /// <summary>Null when the random choices contradict each other.</summary>
    public Item? TryBuild(Code code)
    {
        var info = code.ToOpCode();
        Instruction instruction = default;
        instruction.Code = code;
        var target = -1;
        for (var i = 0; i < info.OpCount; i++)
        {
            if (!SetOperand(ref instruction, info, i, ref target))
                return null;
        }

        AddPrefixes(ref instruction, info);
        if (!LoadImplicit(ref instruction))
            return null;
        var encoder = Encoder.Create(bitness, new ByteWriter());
        if (target < 0 && !encoder.TryEncode(instruction, arena.CodeAddress, out _, out _))
            return null; // AH with a REX prefix, for instance
        var prefix = target < 0 && random.Next(24) == 0 ? UselessPrefix(instruction) : (byte)0;
        var prefixes = prefix == 0 ? 0 : random.Next(4) == 0 ? random.Next(2, 16) : 1;
        return new Item([.. _setup, new Step(instruction, target, prefix, prefixes)]);
    }

    /// <summary>A store to the code ahead: the constant of an instruction that <see cref="Patched"/> made.</summary>
    public Item Patch(int target)
    {
        var memory = new MemoryOperand(Register.None, Register.None, 1, (long)arena.CodeAddress, bitness == 64 ? 8 : 4);
        var code = random.Next(2) == 0 ? Code.Mov_rm32_imm32 : Code.Mov_rm8_imm8;
        return new Item([new Step(Instruction.Create(code, memory, (int)(uint)Values.Integer(random) & (code == Code.Mov_rm8_imm8 ? 0xFF : -1)), target)]);
    }

    /// <summary>An instruction whose last four bytes are a constant.</summary>
    public Item Patched() => new([new Step(Instruction.Create(Code.Add_rm32_imm32, Any(Register.EAX), (int)(uint)Values.Integer(random)))]);

    /// <summary>A prefix that leaves the instruction what it is, 0 if the one picked does not.</summary>
    private byte UselessPrefix(in Instruction instruction)
    {
        var prefix = s_prefixes[random.Next(bitness == 64 ? s_prefixes.Length : 7)];
        if (segments is not null && prefix < 0x40 && _info.GetInfo(instruction).GetUsedMemory().Any())
            return 0;
        if (prefix is 0x66 or 0xF2 or 0xF3 && (instruction.IsStringInstruction || instruction.FlowControl != FlowControl.Next))
            return 0; // a jump with 66 goes to a 16-bit address on AMD's
        if (instruction.Mnemonic is Mnemonic.Maskmovq or Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu)
            return 0; // with a mask of zero they may check the segment or not
        var bytes = new ByteWriter();
        bytes.WriteByte(prefix);
        if (!Encoder.Create(bitness, bytes).TryEncode(instruction, arena.CodeAddress + 1, out var length, out _))
            return 0;
        var decoded = Decoder.Create(bitness, new ByteArrayCodeReader([.. bytes.Bytes]), arena.CodeAddress).Decode();
        var same = decoded.Code == instruction.Code && decoded.Length == length + 1 && decoded.MemoryBase == instruction.MemoryBase
            && decoded.MemoryIndex == instruction.MemoryIndex;
        for (var i = 0; i < instruction.OpCount && same; i++)
            same = decoded.GetOpKind(i) == instruction.GetOpKind(i) && decoded.GetOpRegister(i) == instruction.GetOpRegister(i);
        return same ? prefix : (byte)0;
    }

    private bool SetOperand(ref Instruction instruction, OpCodeInfo info, int i, ref int target)
    {
        switch (info.GetOpKind(i))
        {
            case OpCodeOperandKind.mem_offs or OpCodeOperandKind.mem:
                return SetMemory(ref instruction, info, i);
            case OpCodeOperandKind.mem_vsib32x or OpCodeOperandKind.mem_vsib64x:
                return SetVectorMemory(ref instruction, i, Register.XMM0);
            case OpCodeOperandKind.mem_vsib32y or OpCodeOperandKind.mem_vsib64y:
                return SetVectorMemory(ref instruction, i, Register.YMM0);
            case OpCodeOperandKind.r8_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Gpr8());
            case OpCodeOperandKind.r16_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Any(Register.AX));
            case OpCodeOperandKind.r32_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Any(Register.EAX));
            case OpCodeOperandKind.r64_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Any(Register.RAX));
            case OpCodeOperandKind.mm_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Register.MM0 + random.Next(8));
            case OpCodeOperandKind.xmm_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Any(Register.XMM0));
            case OpCodeOperandKind.ymm_or_mem:
                return RegisterOrMemory(ref instruction, info, i, Any(Register.YMM0));
            case OpCodeOperandKind.r8_reg or OpCodeOperandKind.r8_opcode:
                return Set(ref instruction, i, Gpr8());
            case OpCodeOperandKind.r16_reg or OpCodeOperandKind.r16_rm or OpCodeOperandKind.r16_opcode:
                return Set(ref instruction, i, Any(Register.AX));
            case OpCodeOperandKind.r32_reg or OpCodeOperandKind.r32_rm or OpCodeOperandKind.r32_opcode or OpCodeOperandKind.r32_vvvv:
                return Set(ref instruction, i, Any(Register.EAX));
            case OpCodeOperandKind.r64_reg or OpCodeOperandKind.r64_rm or OpCodeOperandKind.r64_opcode or OpCodeOperandKind.r64_vvvv:
                return Set(ref instruction, i, Any(Register.RAX));
            case OpCodeOperandKind.mm_reg or OpCodeOperandKind.mm_rm:
                return Set(ref instruction, i, Register.MM0 + random.Next(8));
            case OpCodeOperandKind.xmm_reg or OpCodeOperandKind.xmm_rm or OpCodeOperandKind.xmm_vvvv or OpCodeOperandKind.xmm_is4:
                return Set(ref instruction, i, Any(Register.XMM0));
            case OpCodeOperandKind.ymm_reg or OpCodeOperandKind.ymm_rm or OpCodeOperandKind.ymm_vvvv or OpCodeOperandKind.ymm_is4:
                return Set(ref instruction, i, Any(Register.YMM0));
            case OpCodeOperandKind.seg_reg:
                return Set(ref instruction, i, Register.ES + random.Next(4)); // not FS and GS: the C library's
            case OpCodeOperandKind.es:
                return Set(ref instruction, i, Register.ES);
            case OpCodeOperandKind.cs:
                return Set(ref instruction, i, Register.CS);
            case OpCodeOperandKind.ss:
                return Set(ref instruction, i, Register.SS);
            case OpCodeOperandKind.ds:
                return Set(ref instruction, i, Register.DS);
            case OpCodeOperandKind.cr_reg:
                return Set(ref instruction, i, ((Register[])[Register.CR0, Register.CR2, Register.CR3, Register.CR4])[random.Next(4)]);
            case OpCodeOperandKind.dr_reg:
                return Set(ref instruction, i, ((Register[])[Register.DR0, Register.DR3, Register.DR6, Register.DR7])[random.Next(4)]);
            case OpCodeOperandKind.al:
                return Set(ref instruction, i, Register.AL);
            case OpCodeOperandKind.cl:
                return Set(ref instruction, i, Register.CL);
            case OpCodeOperandKind.ax:
                return Set(ref instruction, i, Register.AX);
            case OpCodeOperandKind.dx:
                return Set(ref instruction, i, Register.DX);
            case OpCodeOperandKind.eax:
                return Set(ref instruction, i, Register.EAX);
            case OpCodeOperandKind.rax:
                return Set(ref instruction, i, Register.RAX);
            case OpCodeOperandKind.st0:
                return Set(ref instruction, i, Register.ST0);
            case OpCodeOperandKind.sti_opcode:
                return Set(ref instruction, i, Register.ST0 + random.Next(8));
            case OpCodeOperandKind.imm8:
                return Immediate(ref instruction, i, i > 0 && instruction.GetOpKind(i - 1) is OpKind.Immediate8 or OpKind.Immediate16 ? OpKind.Immediate8_2nd : OpKind.Immediate8);
            case OpCodeOperandKind.imm8_const_1:
                instruction.SetOpKind(i, OpKind.Immediate8);
                instruction.Immediate8 = 1;
                return true;
            case OpCodeOperandKind.imm8sex16:
                return Immediate(ref instruction, i, OpKind.Immediate8to16);
            case OpCodeOperandKind.imm8sex32:
                return Immediate(ref instruction, i, OpKind.Immediate8to32);
            case OpCodeOperandKind.imm8sex64:
                return Immediate(ref instruction, i, OpKind.Immediate8to64);
            case OpCodeOperandKind.imm16:
                return Immediate(ref instruction, i, OpKind.Immediate16);
            case OpCodeOperandKind.imm32:
                return Immediate(ref instruction, i, OpKind.Immediate32);
            case OpCodeOperandKind.imm32sex64:
                return Immediate(ref instruction, i, OpKind.Immediate32to64);
            case OpCodeOperandKind.imm64:
                return Immediate(ref instruction, i, OpKind.Immediate64);
            case OpCodeOperandKind.seg_rSI:
                instruction.SetOpKind(i, AddressBits() switch { 64 => OpKind.MemorySegRSI, 32 => OpKind.MemorySegESI, _ => OpKind.MemorySegSI });
                return true;
            case OpCodeOperandKind.es_rDI:
                var other = i > 0 ? instruction.GetOpKind(0) : OpKind.Register;
                instruction.SetOpKind(i, other switch
                {
                    OpKind.MemorySegRSI => OpKind.MemoryESRDI,
                    OpKind.MemorySegESI => OpKind.MemoryESEDI,
                    OpKind.MemorySegSI => OpKind.MemoryESDI,
                    _ => AddressBits() switch { 64 => OpKind.MemoryESRDI, 32 => OpKind.MemoryESEDI, _ => OpKind.MemoryESDI },
                });
                return true;
            case OpCodeOperandKind.seg_rDI:
                instruction.SetOpKind(i, bitness switch { 64 => OpKind.MemorySegRDI, 32 => OpKind.MemorySegEDI, _ => OpKind.MemorySegDI });
                return true;
            case OpCodeOperandKind.seg_rBX_al:
                instruction.SetOpKind(i, OpKind.Memory);
                instruction.MemoryBase = bitness switch { 64 => Register.RBX, 32 => Register.EBX, _ => Register.BX };
                instruction.MemoryIndex = Register.AL;
                return true;
            case OpCodeOperandKind.br64_1 or OpCodeOperandKind.br64_4:
                instruction.SetOpKind(i, OpKind.NearBranch64);
                target = Forward();
                return true;
            case OpCodeOperandKind.br32_1 or OpCodeOperandKind.br32_4:
                instruction.SetOpKind(i, OpKind.NearBranch32);
                target = Forward();
                return true;
            case OpCodeOperandKind.br16_1 or OpCodeOperandKind.br16_2:
                instruction.SetOpKind(i, OpKind.NearBranch16);
                target = Forward();
                return true;
            default:
                return false;
        }
    }

    /// <summary>Mostly the code's own.</summary>
    private int AddressBits() => bitness switch
    {
        64 => random.Next(8) != 0 ? 64 : 32,
        32 => segments is null || random.Next(8) != 0 ? 32 : 16,
        _ => random.Next(4) != 0 ? 16 : 32,
    };

    /// <summary>The offset of a linear address in a segment.</summary>
    private ulong OffsetIn(Register segment, ulong linear) => segments is null ? linear : (uint)(linear - segments[segment - Register.ES].Base);

    private void PickSegment(ref Instruction instruction)
    {
        if (segments is not null && random.Next(3) == 0)
            instruction.SegmentPrefix = s_segments[random.Next(s_segments.Length)];
    }

    private int Forward() => random.Next(index + 1, count + 1);

    private Register Any(Register first) => first + random.Next(RegisterCount);

    private Register Gpr8() => s_gpr8Low[random.Next(bitness == 64 ? s_gpr8Low.Length : 8)];

    private static bool Set(ref Instruction instruction, int i, Register register)
    {
        instruction.SetOpKind(i, OpKind.Register);
        instruction.SetOpRegister(i, register);
        return true;
    }

    private bool Immediate(ref Instruction instruction, int i, OpKind kind)
    {
        instruction.SetOpKind(i, kind);
        var value = Values.Integer(random);
        instruction.SetImmediate(i, kind switch
        {
            OpKind.Immediate8 or OpKind.Immediate8_2nd => (byte)value,
            OpKind.Immediate8to16 or OpKind.Immediate8to32 or OpKind.Immediate8to64 => (ulong)(sbyte)value,
            OpKind.Immediate16 => (ushort)value,
            OpKind.Immediate32 => (uint)value,
            OpKind.Immediate32to64 => (ulong)(int)value,
            _ => value,
        });
        return true;
    }

    private bool RegisterOrMemory(ref Instruction instruction, OpCodeInfo info, int i, Register register) =>
        random.Next(2) == 0 ? SetMemory(ref instruction, info, i) : Set(ref instruction, i, register);

    /// <summary>Where an operand lies: mostly in scratch memory, sometimes over its end, read-only, unmapped, not canonical.</summary>
    private ulong PickAddress(int size)
    {
        switch (random.Next(64))
        {
            case 0:
                return arena.UnmappedAddress - (ulong)random.Next(0, size + 1);
            case 1:
                return arena.ReadOnlyAddress + (ulong)random.Next(Arena.PageSize - 64);
            case 2:
                return arena.UnmappedAddress + (ulong)random.Next(Arena.PageSize);
            case 3:
                return arena.ScratchAddress - (ulong)random.Next(0, size + 1);
            case < 8:
                return arena.ScratchAddress + (ulong)(Arena.PageSize * random.Next(1, 4)) - (ulong)random.Next(0, size + 1);
            case < 32:
                return arena.ScratchAddress + (ulong)random.Next(Arena.ScratchSize / 64) * 64;
            default:
                return arena.ScratchAddress + (ulong)random.Next(Arena.ScratchSize - size);
        }
    }

    private bool SetMemory(ref Instruction instruction, OpCodeInfo info, int i)
    {
        instruction.SetOpKind(i, OpKind.Memory);
        var size = Math.Clamp(instruction.MemorySize.GetSize(), 1, 64);
        var address = PickAddress(size);
        PickSegment(ref instruction);
        if (info.GetOpKind(i) == OpCodeOperandKind.mem_offs)
        {
            if (segments is not null)
                return SetOffset(ref instruction, address, AddressBits() == 16 ? 2 : 4);
            instruction.MemoryDisplSize = bitness == 64 && random.Next(4) != 0 ? 8 : 4;
            instruction.MemoryDisplacement64 = address;
            return true;
        }

        if (segments is not null && (bitness == 16 ? random.Next(2) : random.Next(8)) == 0)
            return SetSegmentedMemory16(ref instruction, address);
        if (segments is null && bitness == 32 && random.Next(instruction.Mnemonic == Mnemonic.Lea ? 3 : 48) == 0)
            return SetMemory16(ref instruction);

        var wide = bitness == 64 && random.Next(16) != 0; // else a 67 prefix in 64-bit code
        var first = wide ? Register.RAX : Register.EAX;
        switch (random.Next(6))
        {
            case 0:
                instruction.MemoryDisplacement64 = OffsetIn(instruction.MemorySegment, address);
                instruction.MemoryDisplSize = bitness == 64 ? 8 : 4;
                if (bitness == 64 && random.Next(2) == 0)
                {
                    instruction.MemoryBase = random.Next(8) == 0 ? Register.EIP : Register.RIP;
                    break;
                }

                if (random.Next(4) == 0)
                    instruction.MemoryDisplSize = 4; // an address of 32 bits
                break;
            case 1 when wide && random.Next(8) == 0:
                // Not canonical: #GP, or #SS by way of rsp and rbp.
                instruction.MemoryBase = Any(first);
                return Load(instruction.MemoryBase, (0x8000_0000_0000UL << random.Next(16)) + 0x10000);
            case < 4:
                instruction.MemoryBase = Any(first);
                var displacement = Displacement(ref instruction, wide);
                return Load(instruction.MemoryBase, Wrap(OffsetIn(instruction.MemorySegment, address) - (ulong)displacement, wide));
            default:
                instruction.MemoryBase = random.Next(6) == 0 ? Register.None : Any(first);
                instruction.MemoryIndex = Any(first);
                if (instruction.MemoryIndex is Register.RSP or Register.ESP)
                    return false;
                instruction.MemoryIndexScale = 1 << random.Next(4);
                var offset = (ulong)random.Next(-64, 64);
                address = OffsetIn(instruction.MemorySegment, address);
                if (instruction.MemoryBase == Register.None)
                {
                    if (!Load(instruction.MemoryIndex, offset))
                        return false;
                    var rest = address - (offset * (ulong)instruction.MemoryIndexScale);
                    instruction.MemoryDisplacement64 = rest;
                    instruction.MemoryDisplSize = 4;
                    return rest <= int.MaxValue;
                }

                var scaled = (ulong)Displacement(ref instruction, wide);
                if (instruction.MemoryBase == instruction.MemoryIndex)
                {
                    // b + b * scale + displacement: only exact divisions serve.
                    var divisor = (ulong)instruction.MemoryIndexScale + 1;
                    return (address - scaled) % divisor == 0 && Load(instruction.MemoryBase, (address - scaled) / divisor);
                }

                return Load(instruction.MemoryIndex, Wrap(offset, wide))
                    && Load(instruction.MemoryBase, Wrap(address - scaled - (offset * (ulong)instruction.MemoryIndexScale), wide));
        }

        return true;
    }

    private bool SetOffset(ref Instruction instruction, ulong linear, int size)
    {
        var offset = OffsetIn(instruction.MemorySegment, linear);
        instruction.MemoryDisplacement64 = size == 2 ? (ushort)offset : offset;
        instruction.MemoryDisplSize = size;
        return true;
    }

    /// <summary>A 16-bit address in a segment.</summary>
    private bool SetSegmentedMemory16(ref Instruction instruction, ulong linear)
    {
        SetMemory16(ref instruction);
        var offset = OffsetIn(instruction.MemorySegment, linear);
        if (instruction.MemoryBase == Register.None)
            return SetOffset(ref instruction, linear, 2);
        var rest = offset - instruction.MemoryDisplacement64;
        if (instruction.MemoryIndex == Register.None)
            return Load(instruction.MemoryBase, (ushort)rest);
        var index = (ulong)random.Next(-64, 64);
        return Load(instruction.MemoryIndex, (ushort)index) && Load(instruction.MemoryBase, (ushort)(rest - index));
    }

    /// <summary>A 16-bit address: nothing is mapped in the first 64 KiB, so all but LEA fault there.</summary>
    private bool SetMemory16(ref Instruction instruction)
    {
        (instruction.MemoryBase, instruction.MemoryIndex) = random.Next(9) switch
        {
            0 => (Register.BX, Register.SI),
            1 => (Register.BX, Register.DI),
            2 => (Register.BP, Register.SI),
            3 => (Register.BP, Register.DI),
            4 => (Register.SI, Register.None),
            5 => (Register.DI, Register.None),
            6 => (Register.BP, Register.None),
            7 => (Register.BX, Register.None),
            _ => (Register.None, Register.None),
        };
        var value = random.Next(2) == 0 ? random.Next(-128, 128) : random.Next(0x10000);
        instruction.MemoryDisplacement64 = (ushort)value;
        instruction.MemoryDisplSize = value is >= -128 and < 128 && instruction.MemoryBase != Register.None ? 1 : 2;
        return true;
    }

    private int Displacement(ref Instruction instruction, bool wide)
    {
        var value = random.Next(8) switch
        {
            < 2 => 0,
            < 4 => random.Next(-128, 128),
            4 => random.Next(int.MinValue, int.MaxValue), // 32-bit addresses wrap
            _ => random.Next(-100_000, 100_000),
        };
        instruction.MemoryDisplacement64 = wide ? (ulong)value : (uint)value;
        instruction.MemoryDisplSize = value == 0 ? 0 : value is >= -128 and < 128 ? 1 : wide ? 8 : 4;
        return value;
    }

    private static ulong Wrap(ulong value, bool wide) => wide ? value : (uint)value;

    /// <summary>VGATHER and the like: all indexes are loaded from the read-only page with their bits masked by a shift.</summary>
    private bool SetVectorMemory(ref Instruction instruction, int i, Register first)
    {
        instruction.SetOpKind(i, OpKind.Memory);
        instruction.MemoryIndex = Any(first);
        instruction.MemoryIndexScale = 1 << random.Next(4);
        instruction.MemoryBase = Any(bitness == 64 ? Register.RAX : Register.EAX);
        var wide = instruction.MemorySize.GetInfo().ElementSize == 8;

        // VPSRLD leaves 8 bits of each 32, or VPSRLQ 8 of each 64: indexes from 0 to 255.
        var narrowIndex = instruction.Mnemonic is Mnemonic.Vgatherdpd or Mnemonic.Vgatherdps or Mnemonic.Vpgatherdd or Mnemonic.Vpgatherdq;
        var code = (narrowIndex, first) switch
        {
            (true, Register.XMM0) => Code.VEX_Vpsrld_xmm_xmm_imm8,
            (true, _) => Code.VEX_Vpsrld_ymm_ymm_imm8,
            (false, Register.XMM0) => Code.VEX_Vpsrlq_xmm_xmm_imm8,
            _ => Code.VEX_Vpsrlq_ymm_ymm_imm8,
        };
        _setup.Add(new Step(Instruction.Create(code, instruction.MemoryIndex, instruction.MemoryIndex, narrowIndex ? 24 : 56)));
        var room = (255 * instruction.MemoryIndexScale) + (wide ? 8 : 4);
        return Load(instruction.MemoryBase, OffsetIn(instruction.MemorySegment, random.Next(8) == 0
            ? arena.UnmappedAddress - (ulong)random.Next(room)
            : arena.ScratchAddress + (ulong)random.Next(Arena.ScratchSize - room)));
    }

    private void AddPrefixes(ref Instruction instruction, OpCodeInfo info)
    {
        if (random.Next(128) == 0 && !info.IsPrivileged && instruction.FlowControl == FlowControl.Next)
            instruction.HasLockPrefix = true; // where it is not allowed: #UD
        if (info.CanUseLockPrefix && instruction.Op0Kind == OpKind.Memory && random.Next(3) == 0)
            instruction.HasLockPrefix = true;
        if (segments is null && random.Next(24) == 0 && Enumerable.Range(0, instruction.OpCount).Any(IsMemory(instruction)))
            instruction.SegmentPrefix = Register.ES + random.Next(4); // ignored in 64-bit code; CS can't be written
        if (info.CanUseRepPrefix && instruction.IsStringInstruction)
        {
            switch (random.Next(3))
            {
                case 0:
                    instruction.HasRepPrefix = true;
                    break;
                case 1 when info.CanUseRepnePrefix:
                    instruction.HasRepnePrefix = true;
                    break;
            }
        }
    }

    /// <summary>Loads the registers that the instruction addresses memory by without naming them.</summary>
    private bool LoadImplicit(ref Instruction instruction)
    {
        if (instruction.IsStringInstruction)
        {
            // Ports: #GP before any access. Both may cross into an unmapped page in the middle of a repetition, and overlap.
            var bits = StringAddressBits(instruction);
            PickSegment(ref instruction);
            var source = PickAddress(16);
            var destination = random.Next(3) == 0 ? source + (ulong)random.Next(-40, 40) : PickAddress(16);
            if (!Load(Width(Register.RSI, bits), OffsetIn(instruction.MemorySegment, source)) || !Load(Width(Register.RDI, bits), OffsetIn(Register.ES, destination)))
                return false;
            if (random.Next(4) == 0)
                _setup.Add(new Step(Instruction.Create(random.Next(2) == 0 ? Code.Std : Code.Cld)));
            var repetitions = random.Next(16) switch { 0 => random.Next(5000), 1 => random.Next(300), _ => random.Next(0, 12) };
            return !(instruction.HasRepPrefix || instruction.HasRepnePrefix) || Load(Width(Register.RCX, bits), (ulong)repetitions);
        }

        if (instruction.IsStackInstruction)
        {
            var inside = random.Next(1024, Arena.ScratchSize - 1024);
            var stack = random.Next(24) == 0 ? PickAddress(8) : arena.ScratchAddress + (ulong)(random.Next(4) == 0 ? inside : inside & ~7);
            if (instruction.Mnemonic is Mnemonic.Leave && !Load(Width(Register.RBP, StackBits), OffsetIn(Register.SS, stack)))
                return false;
            if (instruction.Mnemonic is Mnemonic.Enter && !Load(Width(Register.RBP, StackBits), OffsetIn(Register.SS, arena.ScratchAddress + (ulong)random.Next(1024, Arena.ScratchSize - 1024))))
                return false;
            // RET must not find a constant of the read-only page: it would lead out of our code.
            if (instruction.FlowControl == FlowControl.Return)
                stack = random.Next(16) == 0 ? arena.UnmappedAddress : arena.ScratchAddress + (ulong)inside;
            if (!Load(Width(Register.RSP, StackBits), OffsetIn(Register.SS, stack)))
                return false;
            if (instruction.FlowControl == FlowControl.Return)
                return segments is not null ? PushTarget(instruction) : stack == arena.UnmappedAddress || PushTarget();
            if (instruction.Mnemonic is Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq)
            {
                // No trap flag, no alignment check: the host's way out would run with it.
                var flags = random.Next(0x4000) & ~0x100;
                _setup.Add(new Step(Instruction.Create(bitness == 64 ? Code.Pushq_imm32 : Code.Pushd_imm32, flags)));
                return stack < arena.UnmappedAddress && stack > arena.ScratchAddress + 8;
            }

            if (instruction.Mnemonic is Mnemonic.Enter)
                instruction.Immediate16 = (ushort)random.Next(0, 512);
        }

        if (instruction.FlowControl is FlowControl.IndirectBranch or FlowControl.IndirectCall)
        {
            if (instruction.Op0Kind != OpKind.Register || instruction.Op0Register is Register.RSP or Register.ESP or Register.SP)
                return false;
            _setup.Add(new Step(LoadImmediate(instruction.Op0Register, 0), Forward()));
            return true;
        }

        switch (instruction.Mnemonic)
        {
            case Mnemonic.Xlatb:
                PickSegment(ref instruction);
                return Load(instruction.MemoryBase, OffsetIn(instruction.MemorySegment, arena.ScratchAddress + (ulong)random.Next(Arena.ScratchSize - 256)));
            case Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu or Mnemonic.Maskmovq:
                if (segments is not null)
                    return false; // how much of the segment they check depends on the processor
                return Load(Full(Register.RDI), arena.ScratchAddress + (ulong)random.Next(Arena.ScratchSize - 16));
            case Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc when instruction.Op0Kind == OpKind.Memory && instruction.Op1Kind == OpKind.Register:
                // The bit offset reaches far beyond the operand: all memory there must be ours.
                return LoadBitOffset(instruction.Op1Register);
            case Mnemonic.Shld or Mnemonic.Shrd when instruction.Op1Register.GetSize() == 2:
                // Counts above the operand's size have no defined result.
                if (instruction.GetOpKind(2) == OpKind.Immediate8)
                    instruction.Immediate8 &= 15;
                else
                    return Load(Register.RCX, (ulong)random.Next(16));
                return true;
            case Mnemonic.Bswap when instruction.Op0Register.GetSize() == 2:
                return false;
            case Mnemonic.Jcxz or Mnemonic.Jecxz or Mnemonic.Jrcxz or Mnemonic.Loop or Mnemonic.Loope or Mnemonic.Loopne:
                return random.Next(2) == 0 || Load(Full(Register.RCX), (ulong)random.Next(3));
        }

        // What is left must use the memory that its operand names, and no other.
        var named = Enumerable.Range(0, instruction.OpCount).Count(IsMemory(instruction));
        return instruction.IsStackInstruction || _info.GetInfo(instruction).GetUsedMemory().Count() <= named;
    }

    private static Func<int, bool> IsMemory(Instruction instruction) => i => instruction.GetOpKind(i) == OpKind.Memory;

    /// <summary>RET: the address it finds is one of ours.</summary>
    private bool PushTarget()
    {
        if (!_loaded.Add(Register.RAX))
            return false;
        _setup.Add(new Step(LoadImmediate(Full(Register.RAX), 0), Forward()));
        var memory = new MemoryOperand(Full(Register.RSP));
        _setup.Add(new Step(bitness == 64
            ? Instruction.Create(Code.Mov_rm64_r64, memory, Register.RAX)
            : Instruction.Create(Code.Mov_rm32_r32, memory, Register.EAX)));
        return true;
    }

    /// <summary>The same by a push, which goes by the stack segment as RET does.</summary>
    private bool PushTarget(in Instruction instruction)
    {
        if (!_loaded.Add(Register.RAX))
            return false;
        var narrow = instruction.Code is Code.Retnw or Code.Retnw_imm16;
        _setup.Add(new Step(LoadImmediate(Register.EAX, 0), Forward()));
        _setup.Add(new Step(Instruction.Create(narrow ? Code.Push_r16 : Code.Push_r32, narrow ? Register.AX : Register.EAX)));
        return true;
    }

    private bool LoadBitOffset(Register register)
    {
        var bits = (ulong)(long)random.Next(-16_384, 16_384);
        return Load(Full(register.GetFullRegister()), bitness == 64 ? bits : (uint)bits);
    }

    /// <summary>A string instruction may have a 67 prefix: the upper halves of its registers don't count then.</summary>
    private static int StringAddressBits(in Instruction instruction)
    {
        for (var i = 0; i < instruction.OpCount; i++)
        {
            switch (instruction.GetOpKind(i))
            {
                case OpKind.MemorySegSI or OpKind.MemorySegDI or OpKind.MemoryESDI:
                    return 16;
                case OpKind.MemorySegESI or OpKind.MemorySegEDI or OpKind.MemoryESEDI:
                    return 32;
            }
        }

        return 64;
    }

    private static Register Width(Register register, int bits) => bits switch
    {
        64 => register,
        32 => register.GetFullRegister32(),
        _ => Register.AX + (register - Register.RAX),
    };

    private Register Full(Register register) => bitness == 64 ? register : register.GetFullRegister32();

    /// <summary>MOV register, value; false when the register holds another address already.</summary>
    private bool Load(Register register, ulong value)
    {
        if (!_loaded.Add(register.GetFullRegister()))
            return false;
        _setup.Add(new Step(LoadImmediate(register, value)));
        return true;
    }

    private Instruction LoadImmediate(Register register, ulong value)
    {
        if (register.GetSize() == 8)
            return Instruction.Create(Code.Mov_r64_imm64, register, value);
        if (register.GetSize() == 2)
            return Instruction.Create(Code.Mov_r16_imm16, register, (int)(ushort)value);
        if (bitness != 64)
            return Instruction.Create(Code.Mov_r32_imm32, register, (uint)value);

        // The upper half is for a 67 prefix to ignore.
        return Instruction.Create(Code.Mov_r64_imm64, register.GetFullRegister(), value | (Values.Integer(random) << 32));
    }

}
