// Conditions of breakpoints that the debugger has compiled, so that it need not be asked at each hit: GDB manual, appendix
// F (The GDB Agent Expression Mechanism). Left out: floating point, trace state variables, tracing and printf, which
// conditions do not have, or which make gdb evaluate one itself.
using System.Buffers.Binary;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging;

namespace Sharpvisor.Servers.Gdb;

/// <summary>A program for a small stack machine of 64 bits.</summary>
internal sealed class AgentExpression(byte[] code)
{
    /// <summary>A loop ends somewhere, and so does what anybody sends.</summary>
    private const int MaximumSteps = 10_000, StackSize = 64;

    /// <summary>What the program leaves on the stack.</summary>
    /// <returns>False: it is wrong, or reads what can't be read.</returns>
    public bool TryEvaluate(in CpuState state, RegisterView registers, IGuestView memory, out ulong result)
    {
        Span<ulong> stack = stackalloc ulong[StackSize];
        result = 0;
        var depth = 0;
        var at = 0;
        for (var step = 0; step < MaximumSteps && at < code.Length; step++)
        {
            var op = (Op)code[at++];
            var operandSize = OperandSize(op);
            var (pops, pushes) = Effect(op);
            if (pops < 0 || code.Length - at < operandSize || depth < pops || depth - pops + pushes > StackSize)
                return false;
            var operand = Operand(at, operandSize);
            at += operandSize;
            ref var top = ref stack[Math.Max(depth - 1, 0)];
            ref var below = ref stack[Math.Max(depth - 2, 0)];
            switch (op)
            {
                case Op.End:
                    result = depth > 0 ? top : 0;
                    return depth > 0;
                case Op.Const8 or Op.Const16 or Op.Const32 or Op.Const64:
                    stack[depth] = operand;
                    break;
                case Op.Reg:
                    if (!TryReadRegister(in state, registers, operand, out stack[depth]))
                        return false;
                    break;
                case Op.Ref8 or Op.Ref16 or Op.Ref32 or Op.Ref64:
                    if (!TryRead(in state, memory, top, 1 << (op - Op.Ref8), out top))
                        return false;
                    break;
                case Op.IfGoto:
                    if (top != 0)
                        at = (int)operand;
                    break;
                case Op.Goto:
                    at = (int)operand;
                    break;
                case Op.Ext when operand is > 0 and <= 64:
                    top = (ulong)((long)(top << (64 - (int)operand)) >> (64 - (int)operand));
                    break;
                case Op.ZeroExt when operand is > 0 and <= 64:
                    top = (top << (64 - (int)operand)) >> (64 - (int)operand);
                    break;
                case Op.Ext or Op.ZeroExt:
                    return false;
                case Op.LogNot:
                    top = top == 0 ? 1UL : 0;
                    break;
                case Op.BitNot:
                    top = ~top;
                    break;
                case Op.Dup:
                    stack[depth] = top;
                    break;
                case Op.Pick:
                    if (operand >= (ulong)depth)
                        return false;
                    stack[depth] = stack[depth - 1 - (int)operand];
                    break;
                case Op.Swap:
                    (top, below) = (below, top);
                    break;
                case Op.Rot:
                    // a b c becomes c a b.
                    (stack[depth - 3], below, top) = (top, stack[depth - 3], below);
                    break;
                case Op.Pop or Op.Float:
                    break;
                default:
                    if (!TryCompute(op, below, top, out below))
                        return false;
                    break;
            }

            depth += pushes - pops;
        }

        return false;
    }

    private static bool TryCompute(Op op, ulong a, ulong b, out ulong result)
    {
        var isDivision = op is Op.DivSigned or Op.DivUnsigned or Op.RemSigned or Op.RemUnsigned;
        if (isDivision && (b == 0 || (b == ulong.MaxValue && a == 1UL << 63)))
        {
            result = a;
            return false;
        }

        result = op switch
        {
            Op.Add => a + b,
            Op.Sub => a - b,
            Op.Mul => a * b,
            Op.DivSigned => (ulong)((long)a / (long)b),
            Op.DivUnsigned => a / b,
            Op.RemSigned => (ulong)((long)a % (long)b),
            Op.RemUnsigned => a % b,
            Op.Lsh => b < 64 ? a << (int)b : 0,
            Op.RshSigned => (ulong)((long)a >> (int)Math.Min(b, 63)),
            Op.RshUnsigned => b < 64 ? a >> (int)b : 0,
            Op.BitAnd => a & b,
            Op.BitOr => a | b,
            Op.BitXor => a ^ b,
            Op.Equal => a == b ? 1UL : 0,
            Op.LessSigned => (long)a < (long)b ? 1UL : 0,
            _ => a < b ? 1UL : 0,
        };
        return true;
    }

    private static bool TryReadRegister(in CpuState state, RegisterView registers, ulong number, out ulong value)
    {
        value = 0;
        if (number >= (ulong)registers.Registers.Count || registers.Registers[(int)number] is not { Size: <= 8 } register)
            return false;
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        register.Read(in state, bytes);
        value = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        return true;
    }

    private static bool TryRead(in CpuState state, IGuestView memory, ulong address, int size, out ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        bytes.Clear();
        var read = memory.ReadLinear(in state, address, bytes[..size]);
        value = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        return read == size;
    }

    private static int OperandSize(Op op) => op switch
    {
        Op.Ext or Op.ZeroExt or Op.Const8 or Op.Pick => 1,
        Op.Const16 or Op.Reg or Op.IfGoto or Op.Goto => 2,
        Op.Const32 => 4,
        Op.Const64 => 8,
        _ => 0,
    };

    /// <summary>How many values an operation takes and gives; -1: there is no such operation here.</summary>
    private static (int Pops, int Pushes) Effect(Op op) => op switch
    {
        Op.Float or Op.Goto or Op.End => (0, 0),
        Op.Const8 or Op.Const16 or Op.Const32 or Op.Const64 or Op.Reg or Op.Pick => (0, 1),
        Op.Ref8 or Op.Ref16 or Op.Ref32 or Op.Ref64 or Op.Ext or Op.ZeroExt or Op.LogNot or Op.BitNot => (1, 1),
        Op.IfGoto or Op.Pop => (1, 0),
        Op.Dup => (1, 2),
        Op.Swap => (2, 2),
        Op.Rot => (3, 3),
        (>= Op.Add and <= Op.RshUnsigned) or Op.BitAnd or Op.BitOr or Op.BitXor or (>= Op.Equal and <= Op.LessUnsigned) => (2, 1),
        _ => (-1, 0),
    };

    /// <summary>Big-endian, whatever the target is.</summary>
    private ulong Operand(int at, int size)
    {
        ulong value = 0;
        for (var i = 0; i < size; i++)
            value = (value << 8) | code[at + i];
        return value;
    }

    private enum Op : byte
    {
        Float = 0x01,
        Add,
        Sub,
        Mul,
        DivSigned,
        DivUnsigned,
        RemSigned,
        RemUnsigned,
        Lsh,
        RshSigned,
        RshUnsigned,
        LogNot = 0x0E,
        BitAnd,
        BitOr,
        BitXor,
        BitNot,
        Equal,
        LessSigned,
        LessUnsigned,
        Ext,
        Ref8,
        Ref16,
        Ref32,
        Ref64,
        IfGoto = 0x20,
        Goto,
        Const8,
        Const16,
        Const32,
        Const64,
        Reg,
        End,
        Dup,
        Pop,
        ZeroExt,
        Swap,
        Pick = 0x32,
        Rot,
    }
}
