using Iced.Intel;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Cpu.Tests.HostCpu;

/// <summary>All registers that an instruction could touch, and its memory operand.</summary>
internal unsafe struct NativeContext
{
    public fixed ulong Gpr[16];
    public fixed ulong Ymm[64];
    public fixed byte X87[512];
    public fixed byte Memory[64];
    public ulong Flags;
    public uint Mxcsr;
    public uint HostMxcsr;
}

/// <summary>
/// The oracle: executes an instruction with every general and vector register loaded from a context and stored back,
/// and the memory operand at an absolute address. It shares no code with the thunks. RSP is the host's.
/// </summary>
internal static unsafe class NativeFrame
{
    private static readonly byte* s_memory = (byte*)HostMemory.ReserveExecutable(1 << 16);

    [ThreadStatic]
    private static Buffer? t_code;

    private static NativeContext* Context => (NativeContext*)s_memory;

    private static byte* Code => s_memory + 0x1000;

    /// <summary>Executes on <paramref name="context"/>; false when the instruction can't be encoded.</summary>
    public static bool Execute(Instruction instruction, NativeContext* context)
    {
        instruction.CodeSize = CodeSize.Code64;
        for (var i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) != OpKind.Memory)
                continue;
            instruction.MemoryBase = Register.None;
            instruction.MemoryIndex = Register.None;
            instruction.MemoryDisplSize = 8;
            instruction.MemoryDisplacement64 = (ulong)Context->Memory;
            instruction.SegmentPrefix = Register.None;
        }

        var code = t_code ??= new Buffer();
        code.Length = 0;
        var encoder = Encoder.Create(64, code);
        ReadOnlySpan<Register> saved = [Register.RBX, Register.RBP, Register.R12, Register.R13, Register.R14, Register.R15];
        foreach (var register in saved)
            Add(Instruction.Create(Iced.Intel.Code.Push_r64, register));
        Add(Instruction.Create(Iced.Intel.Code.Stmxcsr_m32, At(&Context->HostMxcsr)));
        Add(Instruction.Create(Iced.Intel.Code.Fxrstor64_m512byte, At(Context->X87)));
        Add(Instruction.Create(Iced.Intel.Code.Ldmxcsr_m32, At(&Context->Mxcsr)));
        for (var i = 0; i < 16; i++)
            Add(Instruction.Create(Iced.Intel.Code.VEX_Vmovups_ymm_ymmm256, Register.YMM0 + i, At(Context->Ymm + (4 * i))));
        Add(Instruction.Create(Iced.Intel.Code.Push_rm64, At(&Context->Flags)));
        Add(Instruction.Create(Iced.Intel.Code.Popfq));
        for (var i = 0; i < 16; i++)
        {
            if (i != 4)
                Add(Instruction.Create(Iced.Intel.Code.Mov_r64_rm64, Register.RAX + i, At(Context->Gpr + i)));
        }

        if (!encoder.TryEncode(instruction, (ulong)Code + (ulong)code.Length, out _, out _))
            return false;
        Add(Instruction.Create(Iced.Intel.Code.Fxsave64_m512byte, At(Context->X87)));
        Add(Instruction.Create(Iced.Intel.Code.Fninit));
        for (var i = 0; i < 16; i++)
        {
            if (i != 4)
                Add(Instruction.Create(Iced.Intel.Code.Mov_rm64_r64, At(Context->Gpr + i), Register.RAX + i));
        }

        Add(Instruction.Create(Iced.Intel.Code.Pushfq));
        Add(Instruction.Create(Iced.Intel.Code.Pop_rm64, At(&Context->Flags)));
        for (var i = 0; i < 16; i++)
            Add(Instruction.Create(Iced.Intel.Code.VEX_Vmovups_ymmm256_ymm, At(Context->Ymm + (4 * i)), Register.YMM0 + i));
        Add(Instruction.Create(Iced.Intel.Code.Stmxcsr_m32, At(&Context->Mxcsr)));
        Add(Instruction.Create(Iced.Intel.Code.Ldmxcsr_m32, At(&Context->HostMxcsr)));
        for (var i = saved.Length - 1; i >= 0; i--)
            Add(Instruction.Create(Iced.Intel.Code.Pop_r64, saved[i]));
        Add(Instruction.Create(Iced.Intel.Code.VEX_Vzeroupper));
        Add(Instruction.Create(Iced.Intel.Code.Retnq));

        lock (t_code.GetType())
        {
            *Context = *context;
            code.Bytes.AsSpan(0, code.Length).CopyTo(new Span<byte>(Code, code.Length));
            ((delegate* unmanaged[SuppressGCTransition]<void>)Code)();
            *context = *Context;
        }

        return true;

        void Add(Instruction host) => encoder.Encode(host, (ulong)Code + (ulong)code.Length);
    }

    private static MemoryOperand At(void* address) => new(Register.None, Register.None, 1, (long)address, 8);

    private sealed class Buffer : CodeWriter
    {
        public byte[] Bytes { get; } = new byte[4096];

        public int Length { get; set; }

        public override void WriteByte(byte value) => Bytes[Length++] = value;
    }
}
