using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Conformance.Native;

/// <summary>
/// The signals of processor exceptions, led to a handler in generated code while an instance lives, on a stack of
/// its own: the sequence's stack pointer may point anywhere. All other signals wait meanwhile on this thread.
/// </summary>
internal sealed unsafe partial class Signals : IDisposable
{
    private const int SigIll = 4, SigTrap = 5, SigBus = 7, SigFpe = 8, SigSegv = 11;
    private const int SaSigInfo = 4, SaOnStack = 0x08000000;
    private const int SetMask = 2;
    private const int StackSize = 1 << 16;

    private static readonly int[] s_signals = [SigIll, SigTrap, SigBus, SigFpe, SigSegv];

    private readonly SigAction[] _previous = new SigAction[s_signals.Length];
    private readonly void* _stack = NativeMemory.Alloc(StackSize);
    private SigSet _previousMask;
    private AlternateStack _previousStack;

    public Signals(nint handler, NativeContext* context)
    {
        SigSet mask = default;
        for (var i = 0; i < 16; i++)
            mask[i] = ulong.MaxValue;
        foreach (var signal in s_signals)
            mask[0] &= ~(1UL << (signal - 1));
        Check(PThreadSigMask(SetMask, in mask, out _previousMask));

        var stack = new AlternateStack { Pointer = _stack, Size = StackSize };
        Check(SigAltStack(&stack, out _previousStack));

        for (var i = 0; i < s_signals.Length; i++)
        {
            var action = new SigAction { Handler = handler, Flags = SaSigInfo | SaOnStack };
            Check(SetSigAction(s_signals[i], &action, out _previous[i]));
            context->Previous[s_signals[i]] = _previous[i].Handler;
        }
    }

    public void Dispose()
    {
        for (var i = 0; i < s_signals.Length; i++)
        {
            var action = _previous[i];
            Check(SetSigAction(s_signals[i], &action, out _));
        }

        var stack = _previousStack;
        Check(SigAltStack(&stack, out _));
        Check(PThreadSigMask(SetMask, in _previousMask, out _));
        NativeMemory.Free(_stack);
    }

    private static void Check(int result)
    {
        if (result != 0)
            throw new InvalidOperationException("the signal handlers could not be set");
    }

    [LibraryImport("libc", EntryPoint = "sigaction")]
    private static partial int SetSigAction(int signal, SigAction* action, out SigAction previous);

    [LibraryImport("libc", EntryPoint = "sigaltstack")]
    private static partial int SigAltStack(AlternateStack* stack, out AlternateStack previous);

    [LibraryImport("libc", EntryPoint = "pthread_sigmask")]
    private static partial int PThreadSigMask(int how, in SigSet set, out SigSet previous);

    [InlineArray(16)]
    private struct SigSet
    {
        private ulong _first;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct SigAction
    {
        public nint Handler;
        public SigSet Mask;
        public int Flags;
        public nint Restorer;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct AlternateStack
    {
        public void* Pointer;
        public int Flags;
        public nuint Size;
    }
}
