using System.Runtime.CompilerServices;
using Sharpvisor.Cpu.Decoding;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>
/// MOVS, STOS, LODS, SCAS, CMPS with their REP forms, for every address size. Repeated MOVS and STOS work on runs
/// within one page at the host's speed; an interrupt is taken between two runs, with RCX, RSI and RDI up to date.
/// </summary>
/// <remarks>
/// <c>Extra</c>: 0 once, 1 REP/REPE, 2 REPNE. <c>Segment</c>: of the source. <c>Imm</c> of a repeated operation
/// that leaves early is not used: RIP is set to the instruction itself, so the next look-up goes on with it.
/// </remarks>
internal static unsafe class StringHandlers
{
    private const int MaxElementsPerVisit = 1 << 16;

    public static void Movs<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var mask = Mask(op);
        if (op->Extra == 0)
        {
            var value = Access.Load<T>(c, op, Source(c, op, c->Arch.Gpr[6] & mask, sizeof(T)));
            Access.Store<T>(c, op, Destination(c, op, c->Arch.Gpr[7] & mask, sizeof(T), true), value);
            Advance(c, op, 6, Step<T>(c));
            Advance(c, op, 7, Step<T>(c));
            Access.Next(c, op);
            return;
        }

        var left = c->Arch.Gpr[1] & mask;
        for (var visits = 0; left != 0; visits++)
        {
            if (MustLeave(c, visits))
            {
                Again(c, op);
                return;
            }

            var run = FastRun<T>(c, op, left, mask, move: true);
            if (run == 0)
            {
                var value = Access.Load<T>(c, op, Source(c, op, c->Arch.Gpr[6] & mask, sizeof(T)));
                Access.Store<T>(c, op, Destination(c, op, c->Arch.Gpr[7] & mask, sizeof(T), true), value);
                run = 1;
            }

            Advance(c, op, 6, Step<T>(c) * run);
            Advance(c, op, 7, Step<T>(c) * run);
            left -= (ulong)run;
            SetCounter(c, op, left);
        }

        Access.Next(c, op);
    }

    public static void Stos<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var mask = Mask(op);
        var value = Width.Cut<T>(c->Arch.Gpr[0]);
        if (op->Extra == 0)
        {
            Access.Store<T>(c, op, Destination(c, op, c->Arch.Gpr[7] & mask, sizeof(T), true), value);
            Advance(c, op, 7, Step<T>(c));
            Access.Next(c, op);
            return;
        }

        var left = c->Arch.Gpr[1] & mask;
        for (var visits = 0; left != 0; visits++)
        {
            if (MustLeave(c, visits))
            {
                Again(c, op);
                return;
            }

            var run = FastRun<T>(c, op, left, mask, move: false);
            if (run == 0)
            {
                Access.Store<T>(c, op, Destination(c, op, c->Arch.Gpr[7] & mask, sizeof(T), true), value);
                run = 1;
            }

            Advance(c, op, 7, Step<T>(c) * run);
            left -= (ulong)run;
            SetCounter(c, op, left);
        }

        Access.Next(c, op);
    }

    public static void Lods<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var mask = Mask(op);
        var left = op->Extra == 0 ? 1 : c->Arch.Gpr[1] & mask;
        for (var visits = 0; left != 0; visits++)
        {
            if (MustLeave(c, visits >> 8))
            {
                Again(c, op);
                return;
            }

            Access.Set<T>(c, 0, Access.Load<T>(c, op, Source(c, op, c->Arch.Gpr[6] & mask, sizeof(T))));
            Advance(c, op, 6, Step<T>(c));
            left--;
            if (op->Extra != 0)
                SetCounter(c, op, left);
        }

        Access.Next(c, op);
    }

    public static void Scas<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var mask = Mask(op);
        var left = op->Extra == 0 ? 1 : c->Arch.Gpr[1] & mask;
        for (var visits = 0; left != 0; visits++)
        {
            if (MustLeave(c, visits >> 8))
            {
                Again(c, op);
                return;
            }

            Cmp.Do<T>(c, Width.Cut<T>(c->Arch.Gpr[0]), Access.Load<T>(c, op, Destination(c, op, c->Arch.Gpr[7] & mask, sizeof(T), false)));
            Advance(c, op, 7, Step<T>(c));
            left--;
            if (op->Extra != 0)
            {
                SetCounter(c, op, left);
                if (Flags.Zero(c) != (op->Extra == 1))
                    break;
            }
        }

        Access.Next(c, op);
    }

    public static void Cmps<T>(CpuContext* c, Op* op) where T : unmanaged
    {
        var mask = Mask(op);
        var left = op->Extra == 0 ? 1 : c->Arch.Gpr[1] & mask;
        for (var visits = 0; left != 0; visits++)
        {
            if (MustLeave(c, visits >> 8))
            {
                Again(c, op);
                return;
            }

            var a = Access.Load<T>(c, op, Source(c, op, c->Arch.Gpr[6] & mask, sizeof(T)));
            var b = Access.Load<T>(c, op, Destination(c, op, c->Arch.Gpr[7] & mask, sizeof(T), false));
            Cmp.Do<T>(c, a, b);
            Advance(c, op, 6, Step<T>(c));
            Advance(c, op, 7, Step<T>(c));
            left--;
            if (op->Extra != 0)
            {
                SetCounter(c, op, left);
                if (Flags.Zero(c) != (op->Extra == 1))
                    break;
            }
        }

        Access.Next(c, op);
    }

    internal static ulong Mask(Op* op) => op->AddressSize == 4 ? ulong.MaxValue : op->AddressSize == 2 ? uint.MaxValue : 0xFFFFUL;

    internal static ulong Source(CpuContext* c, Op* op, ulong offset, int size) =>
        c->Is64 != 0 && op->Segment < 4 ? offset : Access.Segmented(c, op, op->Segment, offset, size, false);

    internal static ulong Destination(CpuContext* c, Op* op, ulong offset, int size, bool write) =>
        c->Is64 != 0 ? offset : Access.Segmented(c, op, 0, offset, size, write);

    /// <summary>Moves an index register, as wide as the address size.</summary>
    internal static void Advance(CpuContext* c, Op* op, int register, long by)
    {
        if (op->AddressSize == 4)
            c->Arch.Gpr[register] += (ulong)by;
        else if (op->AddressSize == 2)
            c->Arch.Gpr[register] = (uint)(c->Arch.Gpr[register] + (ulong)by);
        else
            Access.Set<ushort>(c, register * 8, c->Arch.Gpr[register] + (ulong)by);
    }

    internal static void SetCounter(CpuContext* c, Op* op, ulong value)
    {
        if (op->AddressSize == 1)
            Access.Set<ushort>(c, 8, value);
        else
            c->Arch.Gpr[1] = value;
    }

    internal static long Step<T>(CpuContext* c) where T : unmanaged => (c->Arch.Rflags & Rflags.DF) != 0 ? -sizeof(T) : sizeof(T);

    /// <summary>Leaves the block so that the same instruction is the next one.</summary>
    internal static void Again(CpuContext* c, Op* op)
    {
        c->Arch.Rip = (c->Arch.Rip + op->Offset) & c->RipMask;
        if ((c->CurrentBlock->Mode & (uint)BlockMode.Single) != 0)
            c->Arch.Rflags |= Rflags.RF; // an instruction breakpoint is for the first iteration only
    }

    /// <summary>
    /// After each run events are looked for, but not an interrupt that is barred: firmware copies with one waiting.
    /// Single steps stop after each element or run.
    /// </summary>
    internal static bool MustLeave(CpuContext* c, int visits) =>
        visits > 0 && (c->HasEvents || (c->CurrentBlock->Mode & (uint)BlockMode.Single) != 0 || c->CurrentBlock->Stale || visits > MaxElementsPerVisit);

    /// <summary>How many elements from an offset on, up or down, lie within a segment, before the offset wraps round.</summary>
    private static ulong Within(long limit, ulong mask, ulong offset, int size, bool down)
    {
        var last = Math.Min(limit, (long)mask);
        var above = last < (long)offset ? 0 : ((ulong)last - offset + 1) / (ulong)size;
        return !down ? above : above == 0 ? 0 : (offset / (ulong)size) + 1;
    }

    /// <summary>How many elements from an address on, up or down, lie within its page.</summary>
    private static ulong InPage(ulong address, int size, bool down)
    {
        var offset = address & 0xFFF;
        var above = (4096 - offset) / (ulong)size;
        return !down ? above : above == 0 ? 0 : (offset / (ulong)size) + 1;
    }

    /// <summary>Does as many elements at once as both pages allow; 0 if this element needs the slow way.</summary>
    private static long FastRun<T>(CpuContext* c, Op* op, ulong left, ulong mask, bool move) where T : unmanaged
    {
        if ((c->CurrentBlock->Mode & (uint)BlockMode.Single) != 0)
            return 0;
        var down = (c->Arch.Rflags & Rflags.DF) != 0;
        var rdi = c->Arch.Gpr[7] & mask;
        var count = Math.Min(left, InPage(rdi, sizeof(T), down));
        ulong rsi = 0;
        if (move)
        {
            rsi = c->Arch.Gpr[6] & mask;
            count = Math.Min(count, InPage(rsi, sizeof(T), down));
        }

        if (c->Is64 == 0)
        {
            count = Math.Min(count, Within(c->WriteLimits[0], mask, rdi, sizeof(T), down));
            if (move)
                count = Math.Min(count, Within(c->ReadLimits[op->Segment], mask, rsi, sizeof(T), down));
        }

        if (count < 2)
            return 0;
        // Within() has seen to the limits: what is left to check is the segment itself.
        var to = Destination(c, op, rdi, sizeof(T), true);
        count = Math.Min(count, InPage(to, sizeof(T), down));
        var from = 0UL;
        if (move)
        {
            from = Source(c, op, rsi, sizeof(T));
            count = Math.Min(count, InPage(from, sizeof(T), down));
        }

        if (count < 2)
            return 0;
        if (down)
        {
            to -= (count - 1) * (ulong)sizeof(T);
            from -= (count - 1) * (ulong)sizeof(T);
        }

        var bytes = (uint)count * (uint)sizeof(T);
        var target = c->Tlb + Paging.Tlb.Index(to);
        if ((to ^ target->WriteTag) >= 4096)
            return 0;
        var destination = (byte*)(target->Delta + to);
        if (!move)
        {
            var value = Width.Cut<T>(c->Arch.Gpr[0]);
            if (sizeof(T) == 1)
                new Span<byte>(destination, (int)count).Fill((byte)value);
            else if (sizeof(T) == 2)
                new Span<ushort>(destination, (int)count).Fill((ushort)value);
            else if (sizeof(T) == 4)
                new Span<uint>(destination, (int)count).Fill((uint)value);
            else
                new Span<ulong>(destination, (int)count).Fill(value);
            return (long)count;
        }

        var origin = c->Tlb + Paging.Tlb.Index(from);
        if ((from ^ origin->ReadTag) >= 4096)
            return 0;
        var source = (byte*)(origin->Delta + from);
        // Where the operands overlap such that an element read was written before, the guest relies on their order (a
        // pattern is repeated).
        if (!down && destination > source && destination < source + bytes)
        {
            for (long i = 0; i < (long)count; i++)
                Width.WriteRaw<T>(destination + (i * sizeof(T)), Width.ReadRaw<T>(source + (i * sizeof(T))));
        }
        else if (down && destination < source && source < destination + bytes)
        {
            for (var i = (long)count - 1; i >= 0; i--)
                Width.WriteRaw<T>(destination + (i * sizeof(T)), Width.ReadRaw<T>(source + (i * sizeof(T))));
        }
        else
        {
            Buffer.MemoryCopy(source, destination, bytes, bytes);
        }

        return (long)count;
    }
}
