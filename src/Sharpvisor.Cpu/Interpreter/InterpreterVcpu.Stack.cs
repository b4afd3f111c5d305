using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>The stack as slow paths use it: pushes that commit at the end, and stacks that are not current yet.</summary>
public unsafe partial class InterpreterVcpu
{
    /// <summary>Pushes on the current stack without changing RSP: the caller commits <paramref name="rsp"/> at the end.</summary>
    internal void Push(ref ulong rsp, int size, ulong value)
    {
        var next = (rsp - (ulong)size) & _c->StackMask;
        var linear = Access.Segmented(_c, _c->CurrentOp, SS, next, size, write: true);
        WriteStack(linear, size, value);
        rsp = (rsp & ~_c->StackMask) | next;
    }

    internal ulong Pop(ref ulong rsp, int size)
    {
        var linear = Access.Segmented(_c, _c->CurrentOp, SS, rsp & _c->StackMask, size, write: false);
        CheckStackCanonical(linear, size);
        var value = ReadLinear(linear, size);
        rsp = (rsp & ~_c->StackMask) | ((rsp + (ulong)size) & _c->StackMask);
        return value;
    }

    internal void SetStackPointer(ulong rsp) => _c->Arch.Gpr[4] = MergeStackPointer(_c->Arch.Gpr[4], rsp);

    internal void WriteStack(ulong linear, int size, ulong value)
    {
        CheckStackCanonical(linear, size);
        WriteLinear(linear, size, value);
    }

    private void CheckStackCanonical(ulong linear, int size)
    {
        if (_c->Is64 != 0 && (!IsCanonical(linear) || !IsCanonical(linear + (ulong)size - 1)))
            Raise(Vectors.SS, 0);
    }

    /// <summary>SP or ESP replaced, the rest as hardware leaves it: a 32-bit stack pointer clears the upper half.</summary>
    private ulong MergeStackPointer(ulong old, ulong rsp) => _c->StackMask switch
    {
        ulong.MaxValue => rsp,
        0xFFFF => (old & ~0xFFFFUL) | (ushort)rsp,
        _ => (uint)rsp,
    };

    private ulong ReadTssStack64(int cpl) => ReadTss64(4 + (cpl * 8));

    internal ulong ReadTss64(int offset)
    {
        if ((uint)offset + 7 > _c->Arch.Tr.Limit)
            Raise(Vectors.TS, (uint)(_c->Arch.Tr.Selector & ~3));
        var value = ReadSystem(_c->Arch.Tr.Base + (ulong)offset, 8);
        if (!IsCanonical(value))
            Raise(Vectors.SS, 0);
        return value;
    }

    private void ReadTssStack(int cpl, out ushort ss, out ulong esp)
    {
        ref var tr = ref _c->Arch.Tr;
        if ((tr.Type & 8) != 0)
        {
            var at = (uint)(4 + (cpl * 8));
            if (at + 5 > tr.Limit)
                Raise(Vectors.TS, (uint)(tr.Selector & ~3));
            esp = ReadSystem(tr.Base + at, 4);
            ss = (ushort)ReadSystem(tr.Base + at + 4, 2);
        }
        else
        {
            var at = (uint)(2 + (cpl * 4));
            if (at + 3 > tr.Limit)
                Raise(Vectors.TS, (uint)(tr.Selector & ~3));
            esp = ReadSystem(tr.Base + at, 2);
            ss = (ushort)ReadSystem(tr.Base + at + 2, 2);
        }
    }

    /// <summary>A stack that is not yet current: pushes are checked and made before any register changes.</summary>
    private ref struct NewStack(InterpreterVcpu vcpu, SegmentRegister ss, ulong rsp, int cpl)
    {
        private readonly ulong _mask = vcpu.IsLongMode ? ulong.MaxValue : ss.Big ? uint.MaxValue : 0xFFFF;

        public ulong Rsp = rsp;

        public void Push(int size, ulong value)
        {
            var at = (Rsp - (ulong)size) & _mask;
            ulong linear;
            if (vcpu.IsLongMode)
            {
                linear = at;
                if (!IsCanonical(linear))
                    vcpu.Raise(Vectors.SS, 0);
            }
            else
            {
                var last = at + (ulong)size - 1;
                var expandDown = (ss.Attributes & 0xC) == 4;
                if (expandDown ? at <= ss.Limit || last > (ss.Big ? uint.MaxValue : 0xFFFFu) : last > ss.Limit)
                    vcpu.Raise(Vectors.SS, (uint)(ss.Selector & ~3));
                linear = (uint)(ss.Base + at);
            }

            vcpu.Write(linear, size, value, cpl == 3 ? 0 : vcpu.SystemKind);
            Rsp = (Rsp & ~_mask) | at;
        }
    }
}
