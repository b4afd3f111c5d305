using Iced.Intel;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>Writes 64-bit host code into a buffer: whole instructions through Iced, short forward jumps by hand.</summary>
internal sealed class HostAssembler : CodeWriter
{
    private readonly byte[] _bytes = new byte[1024];
    private readonly Encoder _encoder;
    private int _length;

    public HostAssembler()
    {
        _encoder = Encoder.Create(64, this);
    }

    public ReadOnlySpan<byte> Code => _bytes.AsSpan(0, _length);

    public void Clear() => _length = 0;

    public override void WriteByte(byte value) => _bytes[_length++] = value;

    public void Raw(params ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(_bytes.AsSpan(_length));
        _length += bytes.Length;
    }

    /// <summary>False, with nothing written, when the instruction can't be encoded in 64-bit code.</summary>
    public bool TryAdd(in Instruction instruction)
    {
        var start = _length;
        if (_encoder.TryEncode(instruction, (ulong)start, out _, out _))
            return true;
        _length = start;
        return false;
    }

    public void Add(in Instruction instruction)
    {
        if (!TryAdd(instruction))
            throw new InvalidOperationException($"host code that can't be encoded: {instruction}");
    }

    public void Move(Register to, Register from) => Add(Instruction.Create(Iced.Intel.Code.Mov_r64_rm64, to, from));

    public void Load(Register to, Register address, int offset) =>
        Add(Instruction.Create(Iced.Intel.Code.Mov_r64_rm64, to, At(address, offset)));

    public void Load32(Register to, Register address, int offset) =>
        Add(Instruction.Create(Iced.Intel.Code.Mov_r32_rm32, to, At(address, offset)));

    public void Load16(Register to, Register address, int offset) =>
        Add(Instruction.Create(Iced.Intel.Code.Movzx_r32_rm16, to, At(address, offset)));

    public void Store(Register address, int offset, Register from) =>
        Add(Instruction.Create(Iced.Intel.Code.Mov_rm64_r64, At(address, offset), from));

    public void Store16(Register address, int offset, Register from) =>
        Add(Instruction.Create(Iced.Intel.Code.Mov_rm16_r16, At(address, offset), from));

    /// <summary>An instruction with a memory operand only: LDMXCSR, FLDCW, ….</summary>
    public void OnMemory(Code code, Register address, int offset) => Add(Instruction.Create(code, At(address, offset)));

    public void LoadVector(Code code, Register to, Register address, int offset) =>
        Add(Instruction.Create(code, to, At(address, offset)));

    public void StoreVector(Code code, Register address, int offset, Register from) =>
        Add(Instruction.Create(code, At(address, offset), from));

    /// <summary>A jump to where <see cref="Land"/> will be called: opcode 75h JNZ, 74h JZ, EBh JMP.</summary>
    public int Jump(byte opcode)
    {
        Raw(opcode, 0);
        return _length;
    }

    public void Land(int jump) => _bytes[jump - 1] = checked((byte)(sbyte)(_length - jump));

    /// <summary>Marks the next instruction for <see cref="SimdTrap"/>; <see cref="LandTrap"/> says where its failure exit is.</summary>
    public int MarkTrap()
    {
        Raw(SimdTrap.Mark);
        Raw(0, 0, 0, 0);
        return _length;
    }

    public void LandTrap(int marked) => BitConverter.TryWriteBytes(_bytes.AsSpan(marked - 4), _length - marked);

    private static MemoryOperand At(Register address, int offset) => new(address, offset, offset is >= -128 and <= 127 ? 1 : 8);
}
