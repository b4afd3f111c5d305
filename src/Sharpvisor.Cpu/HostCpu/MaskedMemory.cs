// Instructions that access memory element by element under a mask, where only the selected elements may fault:
// VGATHERxxx/VPGATHERxxx, VMASKMOVxx/VPMASKMOVx, MASKMOVDQU, MASKMOVQ.
// Specification: Intel SDM vol. 2, the entries of these instructions, and 2.3.12 (VSIB).
// Left out: the non-temporal hint of MASKMOVxx. Gathers that name a register twice are #UD and do not get here: the
// decoder refuses them.
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>
/// Memory as the elements of a masked access see it: at offsets in the instruction's segment. A method that fails has
/// noted the fault, which the caller of <see cref="MaskedMemory.Execute"/> then delivers.
/// </summary>
public interface IElementMemory
{
    /// <param name="size">1, 4 or 8 bytes.</param>
    bool TryRead(ulong offset, int size, out ulong value);

    /// <summary>Whether a write would succeed: all elements are asked before the first is written.</summary>
    bool CanWrite(ulong offset, int size);

    /// <summary>Writes where <see cref="CanWrite"/> said so.</summary>
    void Write(ulong offset, int size, ulong value);
}

/// <summary>Executes masked accesses on a <see cref="CpuState"/>.</summary>
public static unsafe class MaskedMemory
{
    /// <summary>Whether this class executes the instruction. The checks by CR0, CR4 and XCR0 are the caller's.</summary>
    public static bool Handles(in Instruction instruction) => instruction.Mnemonic switch
    {
        Mnemonic.Maskmovq or Mnemonic.Maskmovdqu => true,
        Mnemonic.Vmaskmovdqu or Mnemonic.Vmaskmovps or Mnemonic.Vmaskmovpd or Mnemonic.Vpmaskmovd or Mnemonic.Vpmaskmovq =>
            IsOnHost(instruction),
        Mnemonic.Vgatherdps or Mnemonic.Vgatherdpd or Mnemonic.Vgatherqps or Mnemonic.Vgatherqpd
            or Mnemonic.Vpgatherdd or Mnemonic.Vpgatherdq or Mnemonic.Vpgatherqd or Mnemonic.Vpgatherqq => IsOnHost(instruction),
        _ => false,
    };

    /// <summary>The checks that the instruction is subject to.</summary>
    public static HostIsa IsaOf(in Instruction instruction) => instruction.Mnemonic switch
    {
        Mnemonic.Maskmovq => HostIsa.Mmx,
        Mnemonic.Maskmovdqu => HostIsa.Sse,
        _ => HostIsa.Avx,
    };

    /// <summary>MASKMOVQ reads MMX registers: the x87 state must be loaded, and no exception pending.</summary>
    public static bool NeedsX87(in Instruction instruction) => instruction.Mnemonic == Mnemonic.Maskmovq;

    /// <summary>
    /// Executes the instruction. False when an element faulted: then a gather has kept and marked the elements before
    /// it, as the processor does, and the others have changed nothing.
    /// </summary>
    public static bool Execute<T>(in Instruction instruction, CpuState* state, ref T memory)
        where T : IElementMemory, allows ref struct
    {
        if (IsGather(instruction))
            return Gather(instruction, state, ref memory);
        return instruction.Mnemonic switch
        {
            Mnemonic.Maskmovq => StoreMmxBytes(instruction, state, ref memory),
            Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu => Store(
                Vector(state, instruction.Op1Register), Vector(state, instruction.Op2Register), 16, 1, DestinationIndex(instruction, state), ref memory),
            _ => MaskedMove(instruction, state, ref memory),
        };
    }

    private static bool IsOnHost(in Instruction instruction)
    {
        foreach (var feature in instruction.CpuidFeatures)
        {
            if (!HostFeatures.Has(feature))
                return false;
        }

        return instruction.Encoding == EncodingKind.VEX;
    }

    private static bool IsGather(in Instruction instruction) => instruction.IsVsib;

    private static bool Gather<T>(in Instruction instruction, CpuState* state, ref T memory)
        where T : IElementMemory, allows ref struct
    {
        var size = instruction.Mnemonic is Mnemonic.Vgatherdps or Mnemonic.Vgatherqps or Mnemonic.Vpgatherdd or Mnemonic.Vpgatherqd ? 4 : 8;
        var indexSize = instruction.IsVsib32 ? 4 : 8;
        var length = Math.Max(instruction.Op0Register.GetSize(), instruction.MemoryIndex.GetSize());
        var count = length / Math.Max(size, indexSize);
        var destination = Vector(state, instruction.Op0Register);
        var mask = Vector(state, instruction.Op2Register);
        var index = Vector(state, instruction.MemoryIndex);
        var (start, addressMask) = VsibStart(instruction, state);

        for (var i = 0; i < count; i++)
            SetElement(mask, i, size, IsSelected(mask, i, size) ? ulong.MaxValue : 0);
        for (var i = 0; i < count; i++)
        {
            if (!IsSelected(mask, i, size))
                continue;
            var scaled = indexSize == 4 ? (ulong)(long)((int*)index)[i] : ((ulong*)index)[i];
            var offset = (start + (scaled * (ulong)instruction.MemoryIndexScale)) & addressMask;
            if (!memory.TryRead(offset, size, out var value))
                return false;
            SetElement(destination, i, size, value);
            SetElement(mask, i, size, 0);
        }

        new Span<byte>(mask, 32).Clear();
        new Span<byte>(destination + (count * size), 32 - (count * size)).Clear();
        return true;
    }

    private static bool MaskedMove<T>(in Instruction instruction, CpuState* state, ref T memory)
        where T : IElementMemory, allows ref struct
    {
        var size = instruction.Mnemonic is Mnemonic.Vmaskmovps or Mnemonic.Vpmaskmovd ? 4 : 8;
        var length = instruction.Op1Register.GetSize();
        var mask = Vector(state, instruction.Op1Register);
        var start = Start(instruction, state);
        if (instruction.Op0Kind == OpKind.Memory)
            return Store(Vector(state, instruction.Op2Register), mask, length, size, start, ref memory);

        YmmValue loaded = default;
        for (var i = 0; i < length / size; i++)
        {
            if (!IsSelected(mask, i, size))
                continue;
            if (!memory.TryRead(start + (ulong)(i * size), size, out var value))
                return false;
            SetElement((byte*)&loaded, i, size, value);
        }

        *(YmmValue*)Vector(state, instruction.Op0Register) = loaded;
        return true;
    }

    private static bool Store<T>(byte* source, byte* mask, int length, int size, ulong start, ref T memory)
        where T : IElementMemory, allows ref struct
    {
        for (var i = 0; i < length / size; i++)
        {
            if (IsSelected(mask, i, size) && !memory.CanWrite(start + (ulong)(i * size), size))
                return false;
        }

        for (var i = 0; i < length / size; i++)
        {
            if (IsSelected(mask, i, size))
                memory.Write(start + (ulong)(i * size), size, Element(source, i, size));
        }

        return true;
    }

    private static bool StoreMmxBytes<T>(in Instruction instruction, CpuState* state, ref T memory)
        where T : IElementMemory, allows ref struct
    {
        var registers = stackalloc ulong[8];
        HostX87.PeekMmx(registers);
        var source = (byte*)(registers + (instruction.Op1Register - Register.MM0));
        var mask = (byte*)(registers + (instruction.Op2Register - Register.MM0));
        if (!Store(source, mask, 8, 1, DestinationIndex(instruction, state), ref memory))
            return false;
        HostX87.EnterMmx();
        return true;
    }

    /// <summary>The implicit operand [rDI].</summary>
    private static ulong DestinationIndex(in Instruction instruction, CpuState* state) =>
        state->Gpr[7] & (ulong.MaxValue >> (64 - DestinationBits(instruction)));

    private static int DestinationBits(in Instruction instruction) => instruction.Op0Kind switch
    {
        OpKind.MemorySegDI => 16,
        OpKind.MemorySegEDI => 32,
        _ => 64,
    };

    /// <summary>The offset of an ordinary memory operand. Only its start is cut to the address size.</summary>
    private static ulong Start(in Instruction instruction, CpuState* state)
    {
        if (instruction.IsIPRelativeMemoryOperand)
            return instruction.IPRelativeMemoryAddress & (instruction.MemoryBase == Register.EIP ? uint.MaxValue : ulong.MaxValue);
        var (start, addressMask) = VsibStart(instruction, state);
        if (instruction.MemoryIndex != Register.None)
            start += General(state, instruction.MemoryIndex) * (ulong)instruction.MemoryIndexScale;
        return start & addressMask;
    }

    /// <summary>Base and displacement.</summary>
    private static (ulong Start, ulong Mask) VsibStart(in Instruction instruction, CpuState* state)
    {
        var size = instruction.MemoryBase != Register.None ? instruction.MemoryBase.GetSize()
            : instruction.MemoryIndex.IsGPR() ? instruction.MemoryIndex.GetSize()
            : instruction.MemoryDisplSize is 2 or 4 or 8 ? instruction.MemoryDisplSize
            : instruction.CodeSize == CodeSize.Code64 ? 8 : 4;
        var start = instruction.MemoryDisplacement64;
        if (instruction.MemoryBase != Register.None)
            start += General(state, instruction.MemoryBase);
        return (start, ulong.MaxValue >> (64 - (8 * size)));
    }

    private static ulong General(CpuState* state, Register register) =>
        state->Gpr[register.GetFullRegister() - Register.RAX] & (ulong.MaxValue >> (64 - (8 * register.GetSize())));

    private static byte* Vector(CpuState* state, Register register) => (byte*)&state->Ymm + (32 * register.GetNumber());

    private static bool IsSelected(byte* mask, int index, int size) => (mask[(index * size) + size - 1] & 0x80) != 0;

    private static ulong Element(byte* vector, int index, int size) => size switch
    {
        1 => vector[index],
        4 => ((uint*)vector)[index],
        _ => ((ulong*)vector)[index],
    };

    private static void SetElement(byte* vector, int index, int size, ulong value)
    {
        if (size == 4)
            ((uint*)vector)[index] = (uint)value;
        else
            ((ulong*)vector)[index] = value;
    }
}
