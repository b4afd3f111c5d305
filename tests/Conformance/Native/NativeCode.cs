using Conformance.Fuzzing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Conformance.Native;

/// <summary>The generated code around a sequence: the way in, the two ways out, the signal handler.</summary>
internal static unsafe class NativeCode
{
    private const int ContextToGregs = 40; // offsetof(ucontext_t, uc_mcontext.gregs)
    private const ushort Cs64 = 0x33;
    public const ushort Cs32 = 0x23, DataSelector = 0x2B;

    private static readonly AssemblerRegister64[] s_gpr =
        [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

    private static readonly AssemblerRegisterYMM[] s_ymm =
        [ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15];

    public readonly record struct Addresses(nint Enter64, nint Enter32, nint Handler, ulong Leave, ulong LeaveFarPointer);

    /// <param name="context">Where the context lies.</param>
    /// <param name="at">Where the code goes.</param>
    /// <param name="code">Start of the page of the sequence.</param>
    public static Addresses Emit(NativeContext* context, byte* at, ulong code)
    {
        var end = (byte*)((ulong)at + 3072);

        // A far pointer (offset, selector) for the way back from 32-bit code; filled when the address is known.
        var far = (uint*)end;
        var handler = new Assembler(64);
        var a = new Assembler(64);

        var leave = a.CreateLabel();
        var leaveFault = a.CreateLabel();
        var save = a.CreateLabel();
        var enter32 = a.CreateLabel();
        var loadCommon = a.CreateLabel();

        Prologue(a, context);
        a.call(loadCommon);
        LoadGprs(a, context, 16);
        a.jmp(code);

        a.Label(ref enter32);
        Prologue(a, context);
        a.call(loadCommon);
        a.mov(ax, __word_ptr[(long)(ulong)&context->Ds]);
        a.mov(ds, ax);
        a.mov(ax, __word_ptr[(long)(ulong)&context->Es]);
        a.mov(es, ax);
        a.mov(ax, __word_ptr[(long)(ulong)&context->Gs]);
        a.mov(gs, ax);
        a.mov(ax, __word_ptr[(long)(ulong)&context->Ss]);
        a.mov(ss, ax);
        LoadGprs(a, context, 8);
        a.AddInstruction(Instruction.Create(Iced.Intel.Code.Jmp_m1632, new MemoryOperand(Register.None, (long)(ulong)&context->FarOffset, 8)));

        // Everything but the general registers. RFLAGS last: the moves behind leave it alone.
        a.Label(ref loadCommon);
        a.fxrstor64(__[(long)(ulong)&context->Cpu.Fx]);
        for (var i = 0; i < 16; i++)
            a.vmovdqu(s_ymm[i], __ymmword_ptr[(long)(ulong)((byte*)&context->Cpu.Ymm + (32 * i))]);
        a.mov(rax, __qword_ptr[(long)(ulong)&context->Cpu.Rflags]);
        a.pop(rcx);
        a.push(rax);
        a.popfq();
        a.jmp(rcx);

        // The sequence ran to its end: registers are still the sequence's, rsp too.
        a.Label(ref leave);
        for (var i = 0; i < 16; i++)
            a.mov(__qword_ptr[(long)(ulong)((ulong*)&context->Cpu.Gpr + i)], s_gpr[i]);
        a.mov(rsp, __qword_ptr[(long)(ulong)&context->HostRsp]);
        a.pushfq();
        a.pop(__qword_ptr[(long)(ulong)&context->Cpu.Rflags]);
        a.jmp(save);

        // The kernel returns here from the signal handler.
        a.Label(ref leaveFault);
        a.mov(rsp, __qword_ptr[(long)(ulong)&context->HostRsp]);
        a.Label(ref save);
        a.cld();
        for (var i = 0; i < 16; i++)
            a.vmovdqu(__ymmword_ptr[(long)(ulong)((byte*)&context->Cpu.Ymm + (32 * i))], s_ymm[i]);
        a.fxsave64(__[(long)(ulong)&context->Cpu.Fx]);
        a.xor(eax, eax);
        a.mov(ds, ax);
        a.mov(es, ax);
        a.mov(gs, ax);
        a.mov(ax, DataSelector);
        a.mov(ss, ax);
        a.fninit();
        a.fldcw(__word_ptr[(long)(ulong)&context->HostFcw]);
        a.ldmxcsr(__dword_ptr[(long)(ulong)&context->HostMxcsr]);
        a.vzeroupper();
        foreach (var register in (AssemblerRegister64[])[r15, r14, r13, r12, rbp, rbx])
            a.pop(register);
        a.ret();

        var result = Assemble(a, at, end);
        var leaveAddress = result.GetLabelRIP(leave);
        var faultAddress = result.GetLabelRIP(leaveFault);
        var enter32Address = result.GetLabelRIP(enter32);
        far[0] = (uint)leaveAddress;
        *(ushort*)(far + 1) = Cs64;

        var handlerAt = (byte*)(far + 2);
        EmitHandler(handler, context, code, faultAddress);
        Assemble(handler, handlerAt, at + 4096);
        return new Addresses((nint)at, (nint)enter32Address, (nint)handlerAt, leaveAddress, (ulong)far);
    }

    private static void Prologue(Assembler a, NativeContext* context)
    {
        foreach (var register in (AssemblerRegister64[])[rbx, rbp, r12, r13, r14, r15])
            a.push(register);
        a.mov(__qword_ptr[(long)(ulong)&context->HostRsp], rsp);
        a.stmxcsr(__dword_ptr[(long)(ulong)&context->HostMxcsr]);
        a.fnstcw(__word_ptr[(long)(ulong)&context->HostFcw]);
    }

    private static void LoadGprs(Assembler a, NativeContext* context, int count)
    {
        for (var i = 0; i < count; i++)
            a.mov(s_gpr[i], __qword_ptr[(long)(ulong)((ulong*)&context->Cpu.Gpr + i)]);
    }

    /// <summary>
    /// void handler(int signal, siginfo_t*, ucontext_t*): a fault in the sequence is noted and led to the way out,
    /// any other goes to the handler that was there before, which must be .NET's.
    /// </summary>
    private static void EmitHandler(Assembler a, NativeContext* context, ulong code, ulong faultAddress)
    {
        var chain = a.CreateLabel();
        var ours = a.CreateLabel();
        a.test(__byte_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Selectors))], 4); // CS of the LDT
        a.jne(ours);
        a.mov(rax, __qword_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Rip))]);
        a.sub(rax, (int)code);
        a.cmp(rax, 2 * Arena.PageSize); // with the unmapped page behind, into which a sequence may run
        a.jae(chain);
        a.Label(ref ours);
        a.lea(rsi, __[rdx + ContextToGregs]);
        a.mov(edi, (int)(ulong)&context->Signal);
        a.mov(ecx, SignalRegisters.Count);
        a.rep.movsq();
        a.mov(__dword_ptr[(long)(ulong)&context->Faulted], 1);
        a.mov(__dword_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Rip))], (int)faultAddress);
        a.mov(__dword_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Rip) + 4)], 0);
        a.mov(__qword_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Efl))], 0x202);
        a.mov(__word_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Selectors))], Cs64); // from 32-bit code back to 64-bit
        a.mov(__word_ptr[rdx + (ContextToGregs + (8 * SignalRegisters.Selectors) + 6)], DataSelector); // SS
        a.ret();
        a.Label(ref chain);
        a.mov(eax, edi);
        a.jmp(__qword_ptr[(rax * 8) + (long)(ulong)&context->Previous]);
    }

    private static AssemblerResult Assemble(Assembler a, byte* at, byte* end)
    {
        using var stream = new MemoryStream();
        var result = a.Assemble(new StreamCodeWriter(stream), (ulong)at, BlockEncoderOptions.ReturnNewInstructionOffsets);
        var bytes = stream.ToArray();
        if (at + bytes.Length > end)
            throw new InvalidOperationException($"{bytes.Length} bytes of generated code do not fit");
        bytes.CopyTo(new Span<byte>(at, bytes.Length));
        return result;
    }
}
