using Iced.Intel;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Host general registers by number.</summary>
internal static class Host
{
    public const int Rax = 0, Rcx = 1, Rdx = 2, Rbx = 3, Rsp = 4, Rbp = 5, Rsi = 6, Rdi = 7, R8 = 8, R13 = 13, R14 = 14, R15 = 15;

    /// <summary>The guest's RSP lives here: the host needs its own stack for signals.</summary>
    public const int GuestRsp = R13;

    /// <summary>Scratch registers; the first holds linear addresses and jump targets.</summary>
    public const int T0 = R14, T1 = R15;
}

/// <summary>
/// Writes host instructions through the writable view of a code cache. The few shapes that the translator adds itself
/// are encoded by hand (an operand of memory is either an absolute address below 2 GiB or base + index + displacement);
/// guest instructions go through Iced.
/// </summary>
internal sealed unsafe class CodeEmitter : CodeWriter
{
    private readonly byte* _writable;
    private readonly byte* _executable;
    private readonly Encoder _encoder;
    private byte* _p;

    public CodeEmitter(byte* writable, byte* executable)
    {
        _writable = writable;
        _executable = executable;
        _p = writable;
        _encoder = Encoder.Create(64, this);
    }

    /// <summary>Offset of the next byte from the start of the cache.</summary>
    public ulong Position
    {
        get => (ulong)(_p - _writable);
        set => _p = _writable + value;
    }

    /// <summary>Where the next byte will be executed.</summary>
    public ulong Address => (ulong)_executable + Position;

    public override void WriteByte(byte value) => *_p++ = value;

    /// <summary>False, with nothing written, when the instruction can't be encoded in 64-bit code.</summary>
    public bool TryEncode(in Instruction instruction)
    {
        var start = _p;
        if (_encoder.TryEncode(instruction, Address, out _, out _))
            return true;
        _p = start;
        return false;
    }

    public void Raw(params ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(new Span<byte>(_p, bytes.Length));
        _p += bytes.Length;
    }

    public void Int32(int value)
    {
        *(int*)_p = value;
        _p += 4;
    }

    public void Align(int bytes)
    {
        while ((Position & (ulong)(bytes - 1)) != 0)
            *_p++ = 0x90;
    }

    // --- registers ---

    public void Move(int to, int from)
    {
        Raw((byte)(0x48 | ((from >> 3) << 2) | (to >> 3)), 0x89, Direct(from, to));
    }

    /// <summary>mov r32, r32: clears the upper half.</summary>
    public void Move32(int to, int from)
    {
        Rex(false, from, 0, to);
        Raw(0x89, Direct(from, to));
    }

    /// <summary>mov r, imm in its shortest form; does not touch flags.</summary>
    public void MoveImmediate(int to, ulong value)
    {
        if (value <= uint.MaxValue)
        {
            Rex(false, 0, 0, to);
            Raw((byte)(0xB8 | (to & 7)));
            Int32((int)value);
        }
        else if ((long)value == (int)value)
        {
            Raw((byte)(0x48 | (to >> 3)), 0xC7, (byte)(0xC0 | (to & 7)));
            Int32((int)value);
        }
        else
        {
            Raw((byte)(0x48 | (to >> 3)), (byte)(0xB8 | (to & 7)));
            *(ulong*)_p = value;
            _p += 8;
        }
    }

    /// <summary>An operation with an immediate of 32 bits: <paramref name="digit"/> is 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp.</summary>
    public void Immediate(int digit, int register, int value, bool wide = true)
    {
        Rex(wide, 0, 0, register);
        if (value is >= -128 and <= 127)
        {
            Raw(0x83, (byte)(0xC0 | (digit << 3) | (register & 7)), (byte)value);
            return;
        }

        Raw(0x81, (byte)(0xC0 | (digit << 3) | (register & 7)));
        Int32(value);
    }

    /// <summary>Shift by a constant: 4 shl, 5 shr, 7 sar.</summary>
    public void Shift(int digit, int register, int count, bool wide = true)
    {
        Rex(wide, 0, 0, register);
        Raw(0xC1, (byte)(0xC0 | (digit << 3) | (register & 7)), (byte)count);
    }

    /// <summary>movzx r32, r16</summary>
    public void ZeroExtend16(int to, int from)
    {
        Rex(false, to, 0, from);
        Raw(0x0F, 0xB7, Direct(to, from));
    }

    /// <summary>movsxd r64, r32</summary>
    public void SignExtend32(int to, int from)
    {
        Rex(true, to, 0, from);
        Raw(0x63, Direct(to, from));
    }

    /// <summary>xchg r64, r64</summary>
    public void Exchange(int one, int other) => Op(0x87, one, other);

    /// <summary>OP rm, r: opcodes 01 add, 21 and, 29 sub, 31 xor, 39 cmp, 85 test.</summary>
    public void Op(byte opcode, int rm, int r, bool wide = true)
    {
        Rex(wide, r, 0, rm);
        Raw(opcode, Direct(r, rm));
    }

    // --- memory at an absolute address ---

    public void Load(int to, void* address) => OnAbsolute(0x8B, to, address, true);

    public void Load32(int to, void* address) => OnAbsolute(0x8B, to, address, false);

    public void Store(void* address, int from) => OnAbsolute(0x89, from, address, true);

    public void Store32(void* address, int from) => OnAbsolute(0x89, from, address, false);

    /// <summary>OP r, [address], or OP [address], r, by the opcode.</summary>
    public void OnAbsolute(byte opcode, int register, void* address, bool wide)
    {
        Rex(wide, register, 0, 0);
        Raw(opcode);
        Absolute(register, address);
    }

    /// <summary>mov dword [address], value</summary>
    public void StoreImmediate32(void* address, int value)
    {
        Raw(0xC7);
        Absolute(0, address);
        Int32(value);
    }

    /// <summary>mov byte [address], value</summary>
    public void StoreImmediate8(void* address, byte value)
    {
        Raw(0xC6);
        Absolute(0, address);
        Raw(value);
    }

    /// <summary>OP dword or qword [address], imm8: 0 add, 1 or, 4 and, 5 sub, 7 cmp.</summary>
    public void ImmediateOnAbsolute(int digit, void* address, int value, bool wide)
    {
        if (wide)
            Raw(0x48);
        var small = value is >= -128 and <= 127;
        Raw(small ? (byte)0x83 : (byte)0x81);
        Absolute(digit, address);
        if (small)
            Raw((byte)value);
        else
            Int32(value);
    }

    /// <summary>cmp byte [address], value</summary>
    public void CompareByte(void* address, byte value)
    {
        Raw(0x80);
        Absolute(7, address);
        Raw(value);
    }

    /// <summary>test byte [address], value</summary>
    public void TestByte(void* address, byte value)
    {
        Raw(0xF6);
        Absolute(0, address);
        Raw(value);
    }

    /// <summary>movzx r32, word [address]</summary>
    public void LoadWord(int to, void* address)
    {
        Rex(false, to, 0, 0);
        Raw(0x0F, 0xB7);
        Absolute(to, address);
    }

    /// <summary>mov word [address], r16</summary>
    public void StoreWord(void* address, int from) => OnWord(0x89, from, address);

    /// <summary><see cref="OnAbsolute"/> with operands of 16 bits.</summary>
    public void OnWord(byte opcode, int register, void* address)
    {
        Raw(0x66);
        OnAbsolute(opcode, register, address, wide: false);
    }

    /// <summary>mov word [address], value</summary>
    public void StoreImmediateWord(void* address, ushort value)
    {
        Raw(0x66, 0xC7);
        Absolute(0, address);
        Raw((byte)value, (byte)(value >> 8));
    }

    /// <summary>mov qword [address], value</summary>
    public void StoreImmediate(void* address, int value)
    {
        Raw(0x48, 0xC7);
        Absolute(0, address);
        Int32(value);
    }

    /// <summary>imul r64, [address]</summary>
    public void MultiplyBy(int to, void* address)
    {
        Rex(true, to, 0, 0);
        Raw(0x0F, 0xAF);
        Absolute(to, address);
    }

    public void Absolute(int register, void* address)
    {
        Raw((byte)(((register & 7) << 3) | 4), 0x25);
        Int32(checked((int)(long)address));
    }

    // --- memory at base + index + displacement ---

    public void Load(int to, int @base, int index, int displacement, bool wide = true) => OnMemory(0x8B, to, @base, index, displacement, wide);

    public void Store(int @base, int index, int displacement, int from, bool wide = true) => OnMemory(0x89, from, @base, index, displacement, wide);

    public void Lea(int to, int @base, int index, int displacement, bool wide = true) => OnMemory(0x8D, to, @base, index, displacement, wide);

    /// <summary>movzx r32, word [base + index + displacement]</summary>
    public void LoadWord(int to, int @base, int index, int displacement)
    {
        Rex(false, to, Math.Max(index, 0), @base);
        Raw(0x0F, 0xB7);
        ModRm(to, @base, index, 0, displacement);
    }

    /// <summary>OP r, [base + index + displacement]; no index is -1.</summary>
    public void OnMemory(byte opcode, int register, int @base, int index, int displacement, bool wide)
    {
        Rex(wide, register, Math.Max(index, 0), @base);
        Raw(opcode);
        ModRm(register, @base, index, 0, displacement);
    }

    /// <summary>lea to, [base + index * scale + displacement]; base or index may be -1.</summary>
    public void LeaScaled(int to, int @base, int index, int scale, int displacement, bool wide)
    {
        if (index < 0 && @base >= 0)
        {
            if (displacement == 0)
            {
                if (wide)
                    Move(to, @base);
                else
                    Move32(to, @base);
                return;
            }

            Lea(to, @base, -1, displacement, wide);
            return;
        }

        if (@base < 0)
        {
            // No base: mod 00 with SIB base 101 has a displacement of 32 bits.
            Rex(wide, to, Math.Max(index, 0), 0);
            Raw(0x8D, (byte)(((to & 7) << 3) | 4), (byte)((scale << 6) | ((index & 7) << 3) | 5));
            Int32(displacement);
            return;
        }

        Rex(wide, to, index, @base);
        Raw(0x8D);
        ModRm(to, @base, index, scale, displacement);
    }

    public void ModRm(int register, int @base, int index, int scale, int displacement)
    {
        var mod = displacement == 0 && (@base & 7) != 5 ? 0 : displacement is >= -128 and <= 127 ? 1 : 2;
        if (index < 0 && (@base & 7) != 4)
            Raw((byte)((mod << 6) | ((register & 7) << 3) | (@base & 7)));
        else
            Raw((byte)((mod << 6) | ((register & 7) << 3) | 4), (byte)((scale << 6) | ((index < 0 ? 4 : index & 7) << 3) | (@base & 7)));
        if (mod == 1)
            Raw((byte)displacement);
        else if (mod == 2)
            Int32(displacement);
    }

    // --- control ---

    public void Jump(ulong target)
    {
        Raw(0xE9);
        Int32(Relative(target));
    }

    public void Call(ulong target)
    {
        Raw(0xE8);
        Int32(Relative(target));
    }

    /// <summary>jcc rel32; the condition as in the opcode's low four bits.</summary>
    public void JumpIf(int condition, ulong target)
    {
        Raw(0x0F, (byte)(0x80 | condition));
        Int32(Relative(target));
    }

    /// <summary>jcc rel8 forward: <see cref="Land"/> says where to.</summary>
    public byte* ShortJump(byte opcode)
    {
        Raw(opcode, 0);
        return _p;
    }

    public void Land(byte* jump) => jump[-1] = (byte)checked((sbyte)(_p - jump));

    /// <summary>jmp rel32 forward.</summary>
    public ulong LongJump()
    {
        Raw(0xE9);
        Int32(0);
        return Address;
    }

    public void LandLong(ulong jump) => Patch(jump, Address);

    /// <summary>Makes the jump whose rel32 ends at <paramref name="end"/> (an address of the executable view) lead elsewhere.</summary>
    public void Patch(ulong end, ulong target) =>
        *(int*)(_writable + (end - (ulong)_executable) - 4) = (int)(long)(target - end);

    /// <summary>Where the code at an address of the executable view can be written.</summary>
    public byte* Writable(ulong at) => _writable + (at - (ulong)_executable);

    /// <summary>Writes jmp rel32 over the code at an address of the executable view.</summary>
    public void PatchJump(ulong at, ulong target)
    {
        var p = _writable + (at - (ulong)_executable);
        *p = 0xE9;
        *(int*)(p + 1) = (int)(long)(target - at - 5);
    }

    /// <summary>Takes back a <see cref="PatchJump"/>.</summary>
    /// <param name="code">What was there before, the first byte lowest; 5 of them are used.</param>
    public void UnpatchJump(ulong at, ulong code)
    {
        var p = Writable(at);
        *(uint*)p = (uint)code;
        p[4] = (byte)(code >> 32);
    }

    private int Relative(ulong target) => checked((int)((long)target - (long)Address - 4));

    private void Rex(bool wide, int register, int index, int @base)
    {
        var rex = 0x40 | (wide ? 8 : 0) | ((register >> 3) << 2) | ((index >> 3) << 1) | (@base >> 3);
        if (rex != 0x40)
            *_p++ = (byte)rex;
    }

    private static byte Direct(int register, int rm) => (byte)(0xC0 | ((register & 7) << 3) | (rm & 7));
}
