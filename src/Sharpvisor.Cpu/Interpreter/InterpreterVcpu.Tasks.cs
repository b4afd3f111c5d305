using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.Interpreter;

/// <summary>Hardware task switches: SDM vol. 3, chapter 8. 32-bit and 16-bit TSS; there are none in long mode.</summary>
public unsafe partial class InterpreterVcpu
{
    internal enum TaskSwitchKind
    {
        Jump,
        Call,
        Iret,
    }

    private const ulong BusyBit = 2UL << 40;

    /// <summary>
    /// Switches to the task of a TSS selector. The old task will resume at <paramref name="resume"/>.
    /// <paramref name="errorCode"/> is pushed on the new task's stack when an exception came through a task gate.
    /// </summary>
    private void SwitchTask(ushort selector, TaskSwitchKind kind, uint? errorCode, ulong resume)
    {
        var c = _c;
        var error = (uint)(selector & ~3);
        var badSelector = kind == TaskSwitchKind.Iret ? Vectors.TS : Vectors.GP;
        if ((selector & 4) != 0 || (selector & ~3) == 0)
            Raise(badSelector, error);
        var descriptor = ReadDescriptor(selector, badSelector, out var address);
        var expected = kind == TaskSwitchKind.Iret ? 3 : 1; // busy or available
        if (descriptor.IsCodeOrData || (descriptor.Type & 7) != expected)
            Raise(badSelector, error);
        if (!descriptor.Present)
            Raise(Vectors.NP, error);
        var is32 = (descriptor.Type & 8) != 0;
        if (descriptor.Limit < (is32 ? 0x67u : 0x2Bu))
            Raise(Vectors.TS, error);
        var newTss = descriptor.ToRegister(selector);

        // Both task state segments are touched before anything changes.
        ref var old = ref c->Arch.Tr;
        var oldIs32 = (old.Type & 8) != 0;
        CheckSystemWrite(old.Base, oldIs32 ? 0x60 : 0x2A);
        Span<ulong> state = stackalloc ulong[22];
        ReadTaskState(newTss.Base, is32, state);

        if (kind != TaskSwitchKind.Call)
            SetTssBusy(old.Selector, busy: false);
        var flags = Flags.Get(c);
        if (kind == TaskSwitchKind.Iret)
            flags &= ~Rflags.NT;
        SaveTaskState(old.Base, oldIs32, flags, resume);
        if (kind == TaskSwitchKind.Call)
            WriteSystem(newTss.Base, 2, old.Selector);
        if (kind != TaskSwitchKind.Iret)
            WriteSystem(address + 5, 1, ((descriptor.Raw | BusyBit) >> 40) & 0xFF);

        // The commit point: faults from here on belong to the new task.
        newTss.Attributes |= 2;
        c->Arch.Tr = newTss;
        c->Arch.Cr0 |= ControlRegisters.TS;
        c->Arch.Dr[7] &= ~0x155UL; // local breakpoints
        if (is32 && (c->Arch.Cr0 & ControlRegisters.PG) != 0)
        {
            c->Arch.Cr3 = state[0];
            FlushTlb(global: false);
        }

        var newFlags = state[2] | (kind == TaskSwitchKind.Call ? Rflags.NT : 0);
        if (!is32)
            newFlags &= 0xFFFF;
        Flags.SetArithmetic(c, newFlags);
        c->Arch.Rflags = (newFlags & (Rflags.TF | Rflags.IF | Rflags.DF | Rflags.IOPL | Rflags.NT | Rflags.RF | Rflags.VM | Rflags.AC | Rflags.ID)) | Rflags.Reserved1;
        c->Arch.Rip = is32 ? (uint)state[1] : (ushort)state[1];
        for (var i = 0; i < 8; i++)
            c->Arch.Gpr[i] = is32 ? (uint)state[3 + i] : (c->Arch.Gpr[i] & 0xFFFF0000) | (ushort)state[3 + i];
        for (var i = 0; i < 6; i++)
            c->Arch.Segments[i] = new SegmentRegister { Selector = (ushort)state[11 + i] };
        c->Arch.Ldtr = new SegmentRegister { Selector = (ushort)state[17] };
        c->CurrentOp = _decoder.FetchOp;

        if (IsVm86)
        {
            c->Cpl = 3;
            LoadTaskLdt();
            for (var i = 0; i < 6; i++)
            {
                var s = c->Arch.Segments[i].Selector;
                c->Arch.Segments[i] = new SegmentRegister { Selector = s, Base = (ulong)s << 4, Limit = 0xFFFF, Attributes = 0xF3 };
            }
        }
        else
        {
            c->Cpl = (byte)(state[11 + CS] & 3);
            UpdateMode();
            LoadTaskLdt();
            LoadTaskSegments();
        }

        UpdateMode();
        if (errorCode is { } code)
        {
            var rsp = c->Arch.Gpr[4];
            Push(ref rsp, is32 ? 4 : 2, code);
            SetStackPointer(rsp);
        }

        if (is32 && (state[18] & 1) != 0)
        {
            c->Arch.Dr[6] |= DebugStatus.TaskSwitch;
            Raise(Vectors.DB);
        }
    }

    private void LoadTaskLdt()
    {
        var selector = _c->Arch.Ldtr.Selector;
        if ((selector & ~3) == 0)
            return;
        var error = (uint)(selector & ~3);
        if ((selector & 4) != 0 || !TryReadDescriptor(selector, out var d, out _) || d.IsCodeOrData || d.Type != 2 || !d.Present)
        {
            Raise(Vectors.TS, error);
            return;
        }

        _c->Arch.Ldtr = d.ToRegister(selector);
    }

    private void LoadTaskSegments()
    {
        var c = _c;
        var csSelector = c->Arch.Segments[CS].Selector;
        var error = (uint)(csSelector & ~3);
        if ((csSelector & ~3) == 0)
            Raise(Vectors.TS, 0);
        var code = ReadDescriptor(csSelector, Vectors.TS, out var address);
        if (!code.IsCode || (code.IsConforming ? code.Dpl > (csSelector & 3) : code.Dpl != (csSelector & 3)))
            Raise(Vectors.TS, error);
        if (!code.Present)
            Raise(Vectors.NP, error);
        c->Arch.Segments[SS] = CheckStackSegment(c->Arch.Segments[SS].Selector, Vectors.TS, c->Cpl);
        c->Arch.Segments[CS] = MarkAccessed(code, address).ToRegister(csSelector);
        foreach (var index in (ReadOnlySpan<int>)[ES, DS, FS, GS])
        {
            var selector = c->Arch.Segments[index].Selector;
            if ((selector & ~3) == 0)
                continue;
            var d = ReadDescriptor(selector, Vectors.TS, out var at);
            if (!d.IsCodeOrData || (d.IsCode && !d.IsReadable)
                || (!(d.IsCode && d.IsConforming) && Math.Max(selector & 3, c->Cpl) > d.Dpl))
                Raise(Vectors.TS, (uint)(selector & ~3));
            if (!d.Present)
                Raise(Vectors.NP, (uint)(selector & ~3));
            c->Arch.Segments[index] = MarkAccessed(d, at).ToRegister(selector);
        }
    }

    private void SetTssBusy(ushort selector, bool busy)
    {
        if (!TryReadDescriptor(selector, out var descriptor, out var address))
            return;
        var raw = busy ? descriptor.Raw | BusyBit : descriptor.Raw & ~BusyBit;
        WriteSystem(address + 5, 1, (raw >> 40) & 0xFF);
    }

    private void CheckSystemWrite(ulong linear, int length)
    {
        for (var at = linear & ~0xFFFUL; at < linear + (ulong)length; at += 4096)
            Translate(WrapLinear(Math.Max(at, linear)), AccessKind.Write, SystemKind, out _);
    }

    /// <summary>Reads cr3, eip, eflags, eight registers, six selectors, ldt, the T bit: 19 values.</summary>
    private void ReadTaskState(ulong at, bool is32, Span<ulong> state)
    {
        if (is32)
        {
            state[0] = ReadSystem(at + 0x1C, 4);
            for (var i = 0; i < 10; i++)
                state[1 + i] = ReadSystem(at + 0x20 + (ulong)(4 * i), 4);
            for (var i = 0; i < 7; i++)
                state[11 + i] = ReadSystem(at + 0x48 + (ulong)(4 * i), 2);
            state[18] = ReadSystem(at + 0x64, 2);
        }
        else
        {
            for (var i = 0; i < 10; i++)
                state[1 + i] = ReadSystem(at + 0x0E + (ulong)(2 * i), 2);
            for (var i = 0; i < 4; i++)
                state[11 + i] = ReadSystem(at + 0x22 + (ulong)(2 * i), 2);
            state[11 + FS] = state[11 + GS] = 0;
            state[17] = ReadSystem(at + 0x2A, 2);
        }
    }

    private void SaveTaskState(ulong at, bool is32, ulong flags, ulong rip)
    {
        var c = _c;
        if (is32)
        {
            WriteSystem(at + 0x20, 4, rip);
            WriteSystem(at + 0x24, 4, flags);
            for (var i = 0; i < 8; i++)
                WriteSystem(at + 0x28 + (ulong)(4 * i), 4, c->Arch.Gpr[i]);
            for (var i = 0; i < 6; i++)
                WriteSystem(at + 0x48 + (ulong)(4 * i), 2, c->Arch.Segments[i].Selector);
        }
        else
        {
            WriteSystem(at + 0x0E, 2, rip);
            WriteSystem(at + 0x10, 2, flags);
            for (var i = 0; i < 8; i++)
                WriteSystem(at + 0x12 + (ulong)(2 * i), 2, c->Arch.Gpr[i]);
            for (var i = 0; i < 4; i++)
                WriteSystem(at + 0x22 + (ulong)(2 * i), 2, c->Arch.Segments[i].Selector);
        }
    }
}
