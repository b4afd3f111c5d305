// Unmasked SIMD floating-point exceptions (#XM) of thunks. A thunk runs with the guest's own MXCSR, so the processor
// itself decides what is raised and which flags are left; the kernel then sends SIGFPE to the thread. A handler in
// machine code (.NET's may not be entered for a fault in generated code) leads the thread to the thunk's failure exit.
// Specification: Intel SDM vol. 1, 11.5; System V AMD64 ABI 3.4.2; Linux's ucontext_t.
// Left out: another library that replaces the handler later without calling it: a guest's #XM then ends the process.
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>The process's SIGFPE handler, and the mark before an instruction that it looks for.</summary>
internal static unsafe partial class SimdTrap
{
    /// <summary>NOP dword [rax + rax + disp32] without its displacement, which is the way from the instruction behind to the exit.</summary>
    public static ReadOnlySpan<byte> Mark => [0x0F, 0x1F, 0x84, 0x00];

    private const int SigFpe = 8, SaSigInfo = 4;
    private const nint LastSpecialHandler = 1; // SIG_DFL, SIG_IGN

    /// <summary>
    /// Puts the handler before .NET's, which still gets every SIGFPE that no thunk caused. False: there is none, so
    /// this is no runtime that is known here.
    /// </summary>
    /// <param name="segment">Gets the handler's code. It has to live as long as the process.</param>
    public static bool TryInstall(CodeSegment segment)
    {
        if (SetAction(SigFpe, null, out var previous) != 0 || previous.Handler <= LastSpecialHandler || (previous.Flags & SaSigInfo) == 0)
            return false;

        // With .NET's own flags and mask: it counts on the stack that it is called on.
        var action = previous;
        action.Handler = (nint)segment.TryAdd(Handler((ulong)previous.Handler));
        return SetAction(SigFpe, &action, out _) == 0;
    }

    /// <summary>void handler(int signal: edi, siginfo_t*: rsi, ucontext_t*: rdx)</summary>
    private static byte[] Handler(ulong previous) =>
    [
        0x48, 0x8B, 0x82, 0xA8, 0x00, 0x00, 0x00, // mov rax, [rdx + 168]: uc_mcontext.gregs[REG_RIP]
        0x48, 0x8D, 0x88, .. BitConverter.GetBytes(-(int)(ulong)CodeSegment.Area), // lea rcx, [rax - Area]
        0x48, 0x81, 0xF9, .. BitConverter.GetBytes(CodeSegment.AreaSize), // cmp rcx, AreaSize
        0x73, 0x18, // jae chain
        0x81, 0x78, 0xF8, .. Mark, // cmp dword [rax - 8], Mark
        0x75, 0x0F, // jne chain
        0x48, 0x63, 0x48, 0xFC, // movsxd rcx, [rax - 4]
        0x48, 0x01, 0xC8, // add rax, rcx
        0x48, 0x89, 0x82, 0xA8, 0x00, 0x00, 0x00, // mov [rdx + 168], rax
        0xC3,
        0x48, 0xB8, .. BitConverter.GetBytes(previous), // chain: mov rax, previous
        0xFF, 0xE0, // jmp rax
    ];

    [LibraryImport("libc", EntryPoint = "sigaction")]
    private static partial int SetAction(int signal, SigAction* action, out SigAction previous);

    /// <summary>The C library's struct sigaction, of glibc and musl alike.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct SigAction
    {
        public nint Handler;
        public SigSet Mask;
        public int Flags;
        public nint Restorer;
    }

    [InlineArray(16)]
    private struct SigSet
    {
        private ulong _first;
    }
}
