// Call traces of a guest: by ORC where its kernel has it, as arch/x86/kernel/unwind_orc.c does; else by frame pointers,
// as unwind_frame.c does (with pt_regs that an odd RBP points to); else by looking for addresses of code on the stack.
// Across interrupts and exceptions, and from one stack of the kernel to another, ORC and pt_regs lead by themselves.
using System.Buffers.Binary;
using Sharpvisor.Cpu.State;
using Sharpvisor.Debugging.Symbols;

namespace Sharpvisor.Debugging.Stacks;

/// <summary>How a frame was found.</summary>
public enum FrameKind
{
    /// <summary>The first frame, and those that ORC or frame pointers lead to.</summary>
    Exact,

    /// <summary>An address of code that lies on the stack: it may have been left there by somebody else.</summary>
    Guess,

    /// <summary>Code of a user process, found by frame pointers, which it may not have.</summary>
    User,
}

/// <summary>One line of a call trace.</summary>
/// <param name="Address">RIP of the first frame and of those that were interrupted; else a return address.</param>
/// <param name="Place">Where on the stack it was found; of the first frame RSP.</param>
/// <param name="IsInterrupted">It did not call the one before: an interrupt or exception came.</param>
public readonly record struct CallFrame(ulong Address, ulong Place, FrameKind Kind, bool IsInterrupted = false);

/// <summary>Walks the stack of one processor.</summary>
public sealed class StackWalker
{
    /// <summary>Frames that are shown at most.</summary>
    public const int DefaultLimit = 64;

    private const int ScannedWords = 512, PointerSize = 8;

    // struct pt_regs.
    private const int RegsBp = 32, RegsR13 = 16, RegsR10 = 56, RegsDx = 96, RegsDi = 112, RegsIp = 128, RegsSize = 168;

    private readonly KernelView? _kernel;
    private readonly LinearMemory _memory;
    private readonly List<CallFrame> _frames = [];
    private readonly int _limit;
    private ulong _ip, _sp, _bp, _r10, _r13, _dx, _di;
    private bool _isSignal = true;

    private StackWalker(KernelView? kernel, IGuestView view, in CpuState state, int limit)
    {
        _kernel = kernel;
        _limit = limit;
        _memory = new LinearMemory(view, in state);
        (_ip, _sp, _bp) = (state.Segments[1].Base + state.Rip, state.Gpr[4], state.Gpr[5]);
        (_r10, _r13, _dx, _di) = (state.Gpr[10], state.Gpr[13], state.Gpr[2], state.Gpr[7]);
    }

    /// <param name="kernel">Null: nothing is known of the guest's system.</param>
    /// <returns>The innermost frame first; at least one.</returns>
    public static IReadOnlyList<CallFrame> Walk(KernelView? kernel, IGuestView view, in CpuState state, int limit = DefaultLimit)
    {
        var walker = new StackWalker(kernel, view, in state, limit);
        const ulong ProtectedMode = 1;
        // A paravirtual kernel is in ring 3, too, but not in the lower half, where all programs are.
        var isUser = (state.Cr0 & ProtectedMode) != 0 && (state.Segments[1].Selector & 3) == 3 && (long)state.Rip >= 0;
        walker.Add(isUser ? FrameKind.User : FrameKind.Exact, walker._sp);
        if (isUser)
            walker.WalkUser();
        else
            walker.WalkKernel();
        return walker._frames;
    }

    private void WalkKernel()
    {
        var reached = _kernel is not null && _kernel.FindOrc(_ip) is not null ? WalkByOrc() : WalkByFramePointer();
        if (reached == WalkEnd.User)
            WalkUser();
        else if (reached == WalkEnd.Lost)
            Scan();
    }

    private WalkEnd WalkByOrc()
    {
        while (_frames.Count < _limit)
        {
            // A return address may be behind the end of the function that called last of all.
            var entry = _kernel!.FindOrc(_isSignal ? _ip : _ip - 1) ?? OrcEntry.FramePointer;
            if (entry.Type == OrcType.EndOfStack)
                return WalkEnd.Done;
            if (FindSp(entry) is not { } sp)
                return WalkEnd.Lost;
            switch (entry.Type)
            {
                case OrcType.Call:
                    if (!TryRead(sp - PointerSize, out var ip) || !TryBp(entry, sp))
                        return WalkEnd.Lost;
                    // The last function of a stack has no caller; a thread that starts has one that is no code.
                    if (!_kernel.IsText(ip))
                        return ip == 0 ? WalkEnd.Done : WalkEnd.Lost;
                    if (sp == _sp && ip == _ip)
                        return WalkEnd.Lost;
                    (_ip, _sp, _isSignal) = (ip, sp, false);
                    Add(FrameKind.Exact, sp - PointerSize);
                    break;
                case OrcType.Registers:
                    if (!TryRegisters(sp, out var isUser))
                        return WalkEnd.Lost;
                    if (isUser)
                        return WalkEnd.User;
                    break;
                case OrcType.InterruptFrame:
                    if (!TryBp(entry, sp) || !TryInterruptFrame(sp, out isUser))
                        return WalkEnd.Lost;
                    if (isUser)
                        return WalkEnd.User;
                    break;
                default:
                    return WalkEnd.Lost;
            }
        }

        return WalkEnd.Done;
    }

    /// <summary>Where the caller's frame begins, or the registers lie.</summary>
    private ulong? FindSp(OrcEntry entry)
    {
        var offset = (ulong)entry.SpOffset;
        switch (entry.SpRegister)
        {
            case OrcRegister.Sp:
                return _sp + offset;
            case OrcRegister.Bp:
                return _bp + offset;
            case OrcRegister.SpIndirect:
                return TryRead(_sp, out var value) ? value + offset : null;
            case OrcRegister.BpIndirect:
                return TryRead(_bp + offset, out value) ? value : null;
            case OrcRegister.R10:
                return _r10;
            case OrcRegister.R13:
                return _r13;
            case OrcRegister.Di:
                return _di;
            case OrcRegister.Dx:
                return _dx;
            default:
                return null;
        }
    }

    private bool TryBp(OrcEntry entry, ulong sp) => entry.BpRegister switch
    {
        OrcRegister.PreviousSp => TryRead(sp + (ulong)entry.BpOffset, out _bp),
        OrcRegister.Bp => TryRead(_bp + (ulong)entry.BpOffset, out _bp),
        _ => true,
    };

    /// <summary>Goes on at what was interrupted, of which all registers are known.</summary>
    private bool TryRegisters(ulong regs, out bool isUser)
    {
        isUser = false;
        Span<byte> bytes = stackalloc byte[RegsSize];
        if (Read(regs, bytes) < RegsSize)
            return false;
        _bp = U64(bytes, RegsBp);
        (_r10, _r13, _dx, _di) = (U64(bytes, RegsR10), U64(bytes, RegsR13), U64(bytes, RegsDx), U64(bytes, RegsDi));
        return TryInterruptFrame(regs + RegsIp, out isUser);
    }

    private bool TryInterruptFrame(ulong place, out bool isUser)
    {
        isUser = false;
        Span<byte> bytes = stackalloc byte[5 * PointerSize];
        if (Read(place, bytes) < bytes.Length)
            return false;
        var (ip, sp) = (U64(bytes, 0), U64(bytes, 24));
        isUser = (U64(bytes, 8) & 3) == 3;
        if ((ip == 0 && !isUser) || (ip == _ip && sp == _sp))
            return false;
        (_ip, _sp, _isSignal) = (ip, sp, true);
        Add(isUser ? FrameKind.User : FrameKind.Exact, place, isInterrupted: true);
        return true;
    }

    private WalkEnd WalkByFramePointer()
    {
        const ulong LargestFrame = 1 << 16;
        var found = 0;
        while (_frames.Count < _limit)
        {
            if ((_bp & 1) != 0 && _kernel is not null)
            {
                if (!TryRegisters(_bp & ~1UL, out var isUser))
                    break;
                if (isUser)
                    return WalkEnd.User;
                found++;
                continue;
            }

            if (_bp % PointerSize != 0 || _bp < _sp || _bp - _sp > LargestFrame || !TryRead(_bp, out var bp) || !TryRead(_bp + PointerSize, out var ip))
                break;
            if (_kernel is not null ? !_kernel.IsText(ip) : ip == 0)
                break;
            (_sp, _ip) = (_bp + (2 * PointerSize), ip);
            Add(FrameKind.Exact, _sp - PointerSize);
            found++;
            if (bp == 0)
                return WalkEnd.Done;
            _bp = bp;
        }

        return found > 1 ? WalkEnd.Done : WalkEnd.Lost;
    }

    private void WalkUser()
    {
        const ulong LargestFrame = 1 << 20, UserEnd = 1UL << 47;
        while (_frames.Count < _limit && _bp % PointerSize == 0 && _bp >= _sp && _bp - _sp <= LargestFrame &&
            TryRead(_bp, out var bp) && TryRead(_bp + PointerSize, out var ip) && ip is >= 4096 and < UserEnd)
        {
            (_sp, _ip, _bp) = (_bp + (2 * PointerSize), ip, bp);
            Add(FrameKind.User, _sp - PointerSize);
        }
    }

    /// <summary>Everything on the stack that is an address of code.</summary>
    private void Scan()
    {
        if (_kernel is null)
            return;
        for (var i = 0; i < ScannedWords && _frames.Count < _limit; i++)
        {
            var place = (_sp & ~7UL) + ((ulong)i * PointerSize);
            if (!TryRead(place, out var word))
                return;
            if (_kernel.IsText(word))
                _frames.Add(new CallFrame(word, place, FrameKind.Guess));
        }
    }

    private void Add(FrameKind kind, ulong place, bool isInterrupted = false) => _frames.Add(new CallFrame(_ip, place, kind, isInterrupted));

    private bool TryRead(ulong address, out ulong value)
    {
        Span<byte> bytes = stackalloc byte[PointerSize];
        var isRead = Read(address, bytes) == PointerSize;
        value = isRead ? U64(bytes, 0) : 0;
        return isRead;
    }

    /// <summary>By the processor's page tables, else by the kernel's: a process has not always all of the kernel in its own.</summary>
    private int Read(ulong address, Span<byte> bytes)
    {
        var read = _memory.Read(address, bytes);
        return read < bytes.Length && _kernel is not null ? _kernel.Memory.Read(address, bytes) : read;
    }

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);

    private enum WalkEnd
    {
        Done,
        User,
        Lost,
    }
}
