using Conformance.Fuzzing;

namespace Conformance.Native;

/// <summary>Executes sequences of user-mode instructions on the host's processor, in this process.</summary>
public sealed unsafe class NativeRunner
{
    private readonly Arena _arena;
    private readonly NativeContext* _context;
    private readonly NativeCode.Addresses _code;

    public NativeRunner(Arena arena)
    {
        _arena = arena;
        _context = (NativeContext*)arena.Stubs;
        _code = NativeCode.Emit(_context, arena.Stubs + Arena.PageSize, arena.CodeAddress);
        LocalDescriptors.Set(SegmentSet.Make(arena, 16));
        LocalDescriptors.Set(SegmentSet.Make(arena, 32));
    }

    /// <summary>Runs each case from its own start.</summary>
    public void Run(ReadOnlySpan<TestCase> cases, ReadOnlySpan<Outcome> outcomes)
    {
        using var signals = new Signals(_code.Handler, _context);
        for (var i = 0; i < cases.Length; i++)
            Run(cases[i], outcomes[i]);
    }

    private void Run(TestCase test, Outcome outcome)
    {
        var code = new Span<byte>(_arena.Code, Arena.MaximumCode);
        test.Code.CopyTo(code);
        WriteJumpOut(code[test.Code.Length..], test);
        test.Scratch.CopyTo(new Span<byte>(_arena.Scratch, Arena.ScratchSize));
        _context->Cpu = test.Initial;
        _context->Faulted = 0;
        _context->FarOffset = (uint)test.Start;
        _context->FarSelector = test.Segments?[SegmentSet.CS].Selector ?? NativeCode.Cs32;
        _context->Ds = test.Segments?[SegmentSet.DS].Selector ?? NativeCode.DataSelector;
        _context->Es = test.Segments?[SegmentSet.ES].Selector ?? NativeCode.DataSelector;
        _context->Ss = test.Segments?[SegmentSet.SS].Selector ?? NativeCode.DataSelector;
        _context->Gs = test.Segments?[SegmentSet.GS].Selector ?? 0;

        var enter = (delegate* unmanaged<void>)(test.Bitness == 64 ? _code.Enter64 : _code.Enter32);
        enter();

        outcome.Cpu = _context->Cpu;
        new ReadOnlySpan<byte>(_arena.Scratch, Arena.ScratchSize).CopyTo(outcome.Scratch);
        outcome.Vector = Outcome.End;
        outcome.Rip = test.End;
        outcome.ErrorCode = 0;
        outcome.Cr2 = 0;
        if (_context->Faulted == 0)
            return;
        ref var signal = ref _context->Signal;
        for (var r = 0; r < 16; r++)
            outcome.Cpu.Gpr[r] = signal[SignalRegisters.OfGpr[r]];
        outcome.Cpu.Rflags = signal[SignalRegisters.Efl];
        outcome.Rip = signal[SignalRegisters.Rip];
        outcome.Vector = (int)signal[SignalRegisters.Trapno];
        outcome.ErrorCode = (uint)signal[SignalRegisters.Err];
        outcome.Cr2 = outcome.Vector == 14 ? signal[SignalRegisters.Cr2] : 0;
    }

    /// <summary>JMP rel32 in 64-bit code, JMP FAR [m16:32] in other code: both leave registers and flags alone.</summary>
    private void WriteJumpOut(Span<byte> at, TestCase test)
    {
        if (test.Bitness == 64)
        {
            at[0] = 0xE9;
            BitConverter.TryWriteBytes(at[1..], (int)(_code.Leave - (test.End + 5)));
        }
        else if (test.Segments is not null)
        {
            // JMP FAR CS:[m16:32], with the pointer behind it.
            ReadOnlySpan<byte> jump = test.Bitness == 16 ? [0x66, 0x2E, 0xFF, 0x2E] : [0x2E, 0xFF, 0x2D];
            jump.CopyTo(at);
            var length = jump.Length + (test.Bitness == 16 ? 2 : 4);
            var pointer = (uint)test.End + (uint)length;
            if (test.Bitness == 16)
                BitConverter.TryWriteBytes(at[jump.Length..], (ushort)pointer);
            else
                BitConverter.TryWriteBytes(at[jump.Length..], pointer);
            new ReadOnlySpan<byte>((void*)_code.LeaveFarPointer, 6).CopyTo(at[length..]);
        }
        else
        {
            at[0] = 0xFF;
            at[1] = 0x2D;
            BitConverter.TryWriteBytes(at[2..], (uint)_code.LeaveFarPointer);
        }
    }
}
