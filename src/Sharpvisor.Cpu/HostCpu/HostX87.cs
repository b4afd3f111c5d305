// The x87 and MMX registers of a guest, live in the FPU of its vCPU's thread between instructions: .NET's code never
// uses them, and FXRSTOR with FXSAVE around each would cost fifty times the instruction.
// Specification: Intel SDM vol. 1 chapter 8, vol. 2 (FSTENV, FSAVE, FXSAVE).
// Left out: the last instruction and operand pointers and the last opcode (FIP, FDP, FOP) read as zero; they would be
// addresses of the host.
using Iced.Intel;
using Sharpvisor.Cpu.State;

namespace Sharpvisor.Cpu.HostCpu;

/// <summary>
/// Moves the x87 part between the FPU and <see cref="CpuState.X87"/>, and executes the instructions on all of it.
/// While it is loaded, the host's control word masks every exception, and the guest's own is in the image.
/// </summary>
public static unsafe class HostX87
{
    /// <summary>What a control word can hold: masks, precision, rounding, infinity. Bit 6 reads as one.</summary>
    internal const ushort ControlWordBits = 0x1F3F;

    private const int ControlWord = 0, StatusWord = 2, TagWord = 4, Registers = 32, RegistersEnd = 160, MxcsrOffset = 24;
    private const ushort Masks = 0x3F, ErrorSummary = 0x8080, AlwaysSet = 0x40;

    private static readonly delegate* unmanaged[SuppressGCTransition]<byte*, void> s_fxsave, s_fxrstor, s_fnstenv, s_fldenv, s_fnsave, s_frstor;
    private static readonly delegate* unmanaged[SuppressGCTransition]<void> s_fninit, s_enterMmx;

    static HostX87()
    {
        s_fxsave = OnMemory(0x48, 0x0F, 0xAE, 0x07); // fxsave64 [rdi]
        s_fxrstor = OnMemory(0x48, 0x0F, 0xAE, 0x0F); // fxrstor64 [rdi]
        s_fnstenv = OnMemory(0xD9, 0x37); // fnstenv [rdi]
        s_fldenv = OnMemory(0xD9, 0x27); // fldenv [rdi]
        s_fnsave = OnMemory(0xDD, 0x37); // fnsave [rdi]
        s_frstor = OnMemory(0xDD, 0x27); // frstor [rdi]
        s_fninit = (delegate* unmanaged[SuppressGCTransition]<void>)HostThunks.AddForever([0xDB, 0xE3, 0xC3]);
        s_enterMmx = (delegate* unmanaged[SuppressGCTransition]<void>)HostThunks.AddForever([0x0F, 0x7E, 0xC0, 0xC3]); // movd eax, mm0; ret
    }

    private static delegate* unmanaged[SuppressGCTransition]<byte*, void> OnMemory(params byte[] code) =>
        (delegate* unmanaged[SuppressGCTransition]<byte*, void>)HostThunks.AddForever([.. code, 0xC3]);

    /// <summary>Puts the guest's x87 state into this thread's FPU, before the first thunk with <see cref="HostThunk.NeedsX87"/>.</summary>
    public static void Load(CpuState* state)
    {
        var image = (byte*)&state->X87;
        var area = stackalloc byte[512 + 16];
        area = Align(area);
        new Span<byte>(area, 512).Clear();
        Buffer.MemoryCopy(image, area, RegistersEnd, RegistersEnd);
        var control = SetControlWord(state, *(ushort*)(image + ControlWord));
        *(ushort*)(area + ControlWord) = (ushort)(control | Masks);
        *(ushort*)(area + StatusWord) &= unchecked((ushort)~ErrorSummary);
        new Span<byte>(area + TagWord + 2, MxcsrOffset - TagWord - 2).Clear();
        *(uint*)(area + MxcsrOffset) = 0x1F80;
        s_fxrstor(area);
    }

    /// <summary>Takes the guest's x87 state back into the image and leaves the thread's FPU clean. <see cref="Load"/> comes before the next use.</summary>
    public static void Save(CpuState* state)
    {
        var image = (byte*)&state->X87;
        var area = stackalloc byte[512 + 16];
        area = Align(area);
        s_fxsave(area);
        s_fninit();
        var control = *(ushort*)(image + ControlWord);
        *(ushort*)(image + StatusWord) = GuestStatus(*(ushort*)(area + StatusWord), control);
        *(ushort*)(image + TagWord) = *(byte*)(area + TagWord);
        new Span<byte>(image + TagWord + 2, MxcsrOffset - TagWord - 2).Clear();
        for (var offset = Registers; offset < RegistersEnd; offset += 16)
        {
            *(ulong*)(image + offset) = *(ulong*)(area + offset);
            *(ulong*)(image + offset + 8) = *(ushort*)(area + offset + 8);
        }
    }

    /// <summary>Executes an instruction whose thunk <see cref="HostThunk.IsSpecial"/>: FNINIT, FNSTENV, FLDENV, FNSAVE, FRSTOR.</summary>
    /// <param name="memory">The whole memory operand, <see cref="HostThunk.MemorySize"/> bytes.</param>
    public static ThunkResult ExecuteSpecial(in Instruction instruction, CpuState* state, byte* memory)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Fninit:
                s_fninit();
                SetControlWord(state, 0x37F);
                return ThunkResult.Done;
            case Mnemonic.Fnstenv:
                StoreEnvironment(state, memory, instruction.Code == Code.Fnstenv_m28byte);
                SetControlWord(state, (ushort)(ControlWordOf(state) | Masks));
                return ThunkResult.Done;
            case Mnemonic.Fnsave:
                var wide = instruction.Code == Code.Fnsave_m108byte;
                StoreEnvironment(state, memory, wide);
                var saved = stackalloc byte[108];
                s_fnsave(saved);
                Buffer.MemoryCopy(saved + 28, memory + (wide ? 28 : 14), 80, 80);
                SetControlWord(state, 0x37F);
                return ThunkResult.Done;
        }

        if (IsExceptionPending(state))
            return ThunkResult.X87Exception;
        var restored = stackalloc byte[108];
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Fldenv:
                LoadEnvironment(state, memory, instruction.Code == Code.Fldenv_m28byte, restored);
                s_fldenv(restored);
                return ThunkResult.Done;
            case Mnemonic.Frstor:
                var wide = instruction.Code == Code.Frstor_m108byte;
                LoadEnvironment(state, memory, wide, restored);
                Buffer.MemoryCopy(memory + (wide ? 28 : 14), restored + 28, 80, 80);
                s_frstor(restored);
                return ThunkResult.Done;
            default:
                throw new ArgumentException($"not an instruction on the x87 environment: {instruction.Code}", nameof(instruction));
        }
    }

    /// <summary>True when the next waiting x87 or MMX instruction gets #MF. The state is loaded.</summary>
    public static bool IsExceptionPending(CpuState* state)
    {
        var environment = stackalloc byte[28];
        s_fnstenv(environment);
        return (GuestStatus(*(ushort*)(environment + 4), ControlWordOf(state)) & ErrorSummary) != 0;
    }

    /// <summary>The eight MMX registers, without the transition that an MMX instruction makes. The state is loaded.</summary>
    internal static void PeekMmx(ulong* registers)
    {
        var area = stackalloc byte[512 + 16];
        area = Align(area);
        s_fxsave(area);
        var top = *(ushort*)(area + StatusWord) >> 11 & 7;
        for (var i = 0; i < 8; i++)
            registers[i] = *(ulong*)(area + Registers + (16 * ((i - top) & 7)));
    }

    /// <summary>What every MMX instruction but EMMS does to the x87 stack: all registers valid, top 0.</summary>
    internal static void EnterMmx() => s_enterMmx();

    private static ushort ControlWordOf(CpuState* state) => *(ushort*)((byte*)&state->X87 + ControlWord);

    private static ushort SetControlWord(CpuState* state, ushort value) =>
        *(ushort*)((byte*)&state->X87 + ControlWord) = (ushort)((value & ControlWordBits) | AlwaysSet);

    /// <summary>ES and B follow from the exception flags and the guest's masks.</summary>
    private static ushort GuestStatus(ushort status, ushort control)
    {
        status &= unchecked((ushort)~ErrorSummary);
        return (status & ~control & Masks) != 0 ? (ushort)(status | ErrorSummary) : status;
    }

    private static void StoreEnvironment(CpuState* state, byte* memory, bool wide)
    {
        var environment = stackalloc byte[28];
        s_fnstenv(environment); // masks all exceptions, which they are anyway
        ReadOnlySpan<ushort> words =
        [
            ControlWordOf(state),
            GuestStatus(*(ushort*)(environment + 4), ControlWordOf(state)),
            *(ushort*)(environment + 8),
            0, 0, 0, 0,
        ];
        for (var i = 0; i < words.Length; i++)
        {
            if (wide)
                ((uint*)memory)[i] = i < 3 ? 0xFFFF_0000 | words[i] : words[i];
            else
                ((ushort*)memory)[i] = words[i];
        }
    }

    private static void LoadEnvironment(CpuState* state, byte* memory, bool wide, byte* environment)
    {
        new Span<byte>(environment, 28).Clear();
        var step = wide ? 4 : 2;
        var control = SetControlWord(state, *(ushort*)memory);
        *(ushort*)environment = (ushort)(control | Masks);
        *(ushort*)(environment + 4) = (ushort)(*(ushort*)(memory + step) & ~ErrorSummary);
        *(ushort*)(environment + 8) = *(ushort*)(memory + (2 * step));
    }

    private static byte* Align(byte* area) => (byte*)(((nuint)area + 15) & ~(nuint)15);
}
