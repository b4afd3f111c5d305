using Iced.Intel;
using Sharpvisor.Cpu.HostCpu;

namespace Sharpvisor.Cpu.Tests.HostCpu;

public unsafe class HostThunksTests
{
    [Theory]
    [InlineData("0F28 01", 16)] // movaps xmm0, [rcx]
    [InlineData("0F10 01", 1)] // movups
    [InlineData("F30F6F 01", 1)] // movdqu
    [InlineData("F20FF0 01", 1)] // lddqu
    [InlineData("660F6F 01", 16)] // movdqa
    [InlineData("660FFE 01", 16)] // paddd
    [InlineData("0F58 01", 16)] // addps
    [InlineData("F30F58 01", 1)] // addss
    [InlineData("0F16 01", 1)] // movhps
    [InlineData("660F3A63 01 00", 1)] // pcmpistri
    [InlineData("660F3A0F 01 04", 16)] // palignr
    [InlineData("660FE7 01", 16)] // movntdq
    [InlineData("660F382A 01", 16)] // movntdqa
    [InlineData("0FFE 01", 1)] // paddd mm0
    [InlineData("C5F928 01", 16)] // vmovapd xmm0
    [InlineData("C5FD28 01", 32)] // vmovapd ymm0
    [InlineData("C5FD6F 01", 32)] // vmovdqa ymm0
    [InlineData("C5FE6F 01", 1)] // vmovdqu ymm0
    [InlineData("C5FDFE 01", 1)] // vpaddd ymm0
    [InlineData("C5FDE7 01", 32)] // vmovntdq ymm0
    [InlineData("480FC7 09", 16)] // cmpxchg16b
    [InlineData("0FC7 09", 1)] // cmpxchg8b
    [InlineData("DD01", 1)] // fld qword
    public void Alignment_is_demanded_where_the_processor_does(string code, int alignment) =>
        Assert.Equal(alignment, Guest.Thunk(Bytes(code)).Alignment);

    [Theory]
    [InlineData("0F11 01", 16, false, true)] // movups [rcx], xmm0
    [InlineData("F20F5801", 8, true, false)] // addsd xmm0, [rcx]
    [InlineData("660F3A14 01 03", 1, false, true)] // pextrb [rcx], xmm0, 3
    [InlineData("C4E27D18 01", 4, true, false)] // vbroadcastss ymm0, [rcx]
    [InlineData("C4E37D39 01 01", 16, false, true)] // vextracti128 [rcx], ymm0, 1
    [InlineData("DB39", 10, false, true)] // fstp tbyte
    [InlineData("DF21", 10, true, false)] // fbld
    [InlineData("D931", 28, false, true)] // fnstenv
    [InlineData("66DD31", 94, false, true)] // fnsave, 16 bit
    [InlineData("DD21", 108, true, false)] // frstor
    [InlineData("0FB111", 4, true, true)] // cmpxchg [rcx], edx
    public void The_memory_operand_is_described(string code, int size, bool reads, bool writes)
    {
        var thunk = Guest.Thunk(Bytes(code));
        Assert.Equal((size, reads, writes), (thunk.MemorySize, thunk.ReadsMemory, thunk.WritesMemory));
    }

    [Theory]
    [InlineData("D9E8", HostIsa.X87, true)] // fld1
    [InlineData("0FFEC1", HostIsa.Mmx, true)] // paddd mm
    [InlineData("660FFEC1", HostIsa.Sse, false)]
    [InlineData("660F2CC1", HostIsa.Sse, true)] // cvttpd2pi mm0, xmm1
    [InlineData("F30FD6C1", HostIsa.Sse, true)] // movq2dq
    [InlineData("C5FDFEC1", HostIsa.Avx, false)]
    [InlineData("C5F877", HostIsa.Avx, false)] // vzeroupper
    [InlineData("C4E278F3C9", HostIsa.Gpr, false)] // blsr
    [InlineData("F20F38F1C1", HostIsa.Gpr, false)] // crc32
    [InlineData("0F77", HostIsa.Mmx, true)] // emms
    public void The_checks_are_known(string code, HostIsa isa, bool needsX87)
    {
        var thunk = Guest.Thunk(Bytes(code));
        Assert.Equal((isa, needsX87), (thunk.Isa, thunk.NeedsX87));
        Assert.Equal(code.StartsWith("C4", StringComparison.Ordinal) || code.StartsWith("C5", StringComparison.Ordinal), thunk.IsVex);
    }

    [Theory]
    [InlineData("F7F1")] // div: the host would fault
    [InlineData("50")] // push
    [InlineData("E800000000")] // call
    [InlineData("F3A4")] // rep movsb
    [InlineData("0F01C8")] // monitor
    [InlineData("0F20C0")] // mov rax, cr0
    [InlineData("8ED8")] // mov ds, eax
    [InlineData("0FA2")] // cpuid
    [InlineData("0F05")] // syscall
    [InlineData("0FAE01")] // fxsave
    [InlineData("0FAE11")] // ldmxcsr
    [InlineData("0F1801")] // prefetchnta
    [InlineData("0FAEF0")] // mfence
    [InlineData("0FA301")] // bt [rcx], eax: the address depends on eax
    [InlineData("660FF7C1")] // maskmovdqu
    [InlineData("C4E2759004C1")] // vpgatherdd
    [InlineData("62F17C4858C1")] // vaddps zmm: EVEX
    [InlineData("0F0FC19E")] // pfadd: 3DNow!
    [InlineData("8FE878A2C100")] // vpcmov: XOP
    public void What_must_not_run_natively_is_refused(string code)
    {
        var instruction = Decoder.Create(64, new ByteArrayCodeReader(Bytes(code))).Decode();
        Assert.Null(HostThunks.TryCreate(instruction, 64));
    }

    [Fact]
    public void The_stack_pointer_is_an_ordinary_operand()
    {
        using var guest = new Guest();
        guest.State->Gpr[4] = 0x1122_3344_5566_7788;
        guest.Run(0x66, 0x48, 0x0F, 0x6E, 0xC4); // movq xmm0, rsp
        Assert.Equal(0x1122_3344_5566_7788ul, guest.Quads(0)[0]);
        guest.Quads(1)[0] = 0xFEDC_BA98_7654_3210;
        guest.Run(0x66, 0x0F, 0x7E, 0xCC); // movd esp, xmm1
        Assert.Equal(0x7654_3210ul, guest.State->Gpr[4]);
        guest.State->Gpr[0] = 0xFF;
        guest.Run(0x48, 0x01, 0xC4); // add rsp, rax
        Assert.Equal(0x7654_330Ful, guest.State->Gpr[4]);
        guest.Run(0x40, 0x80, 0xC4, 0x01); // add spl, 1
        Assert.Equal(0x7654_3310ul, guest.State->Gpr[4]);
        guest.State->Gpr[4] = 0xF0F0;
        guest.State->Gpr[10] = 7;
        guest.Run(0xF3, 0x4C, 0x0F, 0xB8, 0xD4); // popcnt r10, rsp
        Assert.Equal((8ul, 0xF0F0ul), (guest.State->Gpr[10], guest.State->Gpr[4]));
        guest.Run(0xF3, 0x49, 0x0F, 0xB8, 0xE2); // popcnt rsp, r10
        Assert.Equal((8ul, 1ul), (guest.State->Gpr[10], guest.State->Gpr[4]));
    }

    [Fact]
    public void Vzeroupper_and_vzeroall_clear_what_the_mode_reaches()
    {
        using var guest = new Guest();
        for (var i = 0; i < 16; i++)
            guest.Quads(i).Fill(ulong.MaxValue);
        ulong flags = 0;
        var upper32 = HostThunks.TryCreate(Guest.Decode(32, 0xC5, 0xF8, 0x77), 32)!;
        upper32.Run(guest.State, null, ref flags);
        for (var i = 0; i < 16; i++)
            Assert.Equal([ulong.MaxValue, ulong.MaxValue, i < 8 ? 0 : ulong.MaxValue, i < 8 ? 0 : ulong.MaxValue], guest.Quads(i).ToArray());
        guest.Run(0xC5, 0xFC, 0x77); // vzeroall
        for (var i = 0; i < 16; i++)
            Assert.Equal([0, 0, 0, 0], guest.Quads(i).ToArray());
    }

    [Fact]
    public void Flags_in_and_out()
    {
        using var guest = new Guest();
        guest.Doubles(0)[0] = 1;
        guest.Doubles(1)[0] = 2;
        guest.Flags = 0x880; // OF and SF are cleared
        guest.Run(0x66, 0x0F, 0x2F, 0xC1); // comisd xmm0, xmm1
        Assert.Equal(0x01ul, guest.Flags);
        guest.Doubles(1)[0] = double.NaN;
        guest.Run(0x66, 0x0F, 0x2E, 0xC1); // ucomisd
        Assert.Equal(0x45ul, guest.Flags);
        guest.Quads(0).Clear();
        guest.Run(0x66, 0x0F, 0x38, 0x17, 0xC0); // ptest
        Assert.Equal(0x41ul, guest.Flags);
        (guest.State->Gpr[0], guest.State->Gpr[1], guest.Flags) = (ulong.MaxValue, 0, 0x801);
        guest.Run(0x66, 0x48, 0x0F, 0x38, 0xF6, 0xC1); // adcx rax, rcx: CF only
        Assert.Equal((0ul, 0x801ul), (guest.State->Gpr[0], guest.Flags));
        guest.Run(0xF3, 0x48, 0x0F, 0x38, 0xF6, 0xC1); // adox rax, rcx: OF in and out
        Assert.Equal((1ul, 0x001ul), (guest.State->Gpr[0], guest.Flags));
        guest.State->Gpr[0] = 0x40;
        guest.State->Gpr[1] = 0;
        guest.Run(0x48, 0xD3, 0xE0); // shl rax, cl with cl = 0: flags stay
        Assert.Equal(0x001ul, guest.Flags);
        guest.State->Gpr[2] = 0x1234_5678;
        guest.State->Gpr[1] = 0x0804; // start 4, length 8
        guest.Run(0xC4, 0xE2, 0x70, 0xF7, 0xC2); // bextr eax, edx, ecx
        Assert.Equal(0x67ul, guest.State->Gpr[0]);
        guest.State->Gpr[0] = 0;
        guest.State->Gpr[1] = '1';
        guest.Run(0xF2, 0x0F, 0x38, 0xF0, 0xC1); // crc32 eax, cl
        Assert.Equal(Crc32C(0, (byte)'1'), guest.State->Gpr[0]);
    }

    [Fact]
    public void A_string_comparison_returns_index_and_flags()
    {
        using var guest = new Guest();
        "needle in a hay"u8.CopyTo(new Span<byte>(guest.Memory + 1, 16)); // unaligned on purpose
        "aeiou"u8.CopyTo(new Span<byte>((byte*)guest.State + ((byte*)&guest.State->Ymm - (byte*)guest.State), 16));
        ulong flags = 0;
        var thunk = Guest.Thunk(0x66, 0x0F, 0x3A, 0x63, 0x01, 0x00); // pcmpistri xmm0, [rcx], equal any
        thunk.Run(guest.State, guest.Memory + 1, ref flags);
        Assert.Equal(1ul, guest.State->Gpr[1]);
        Assert.Equal(0x0C1ul, flags & 0x8D5); // CF: a match; ZF, SF: both strings end
    }

    [Fact]
    public void Equal_instructions_share_a_thunk_whatever_their_address()
    {
        Assert.Same(Guest.Thunk(0x0F, 0x58, 0x01), Guest.Thunk(0x0F, 0x58, 0x44, 0xD0, 0x10));
        Assert.NotSame(Guest.Thunk(0x0F, 0x58, 0x01), Guest.Thunk(0x0F, 0x58, 0x09));
        Assert.NotSame(Guest.Thunk(0x48, 0x01, 0xC4), Guest.Thunk(0x49, 0x01, 0xC2)); // rsp is renamed to r10
    }

    [Fact]
    public void The_cache_is_bounded()
    {
        using var guest = new Guest();
        guest.Quads(1).Fill(5);
        for (var i = 0; i < 16 * 16 * 16; i++)
        {
            for (var immediate = 0; immediate < 9; immediate++)
            {
                // vshufps ymm, ymm, ymm, imm8
                var instruction = Instruction.Create(
                    Code.VEX_Vshufps_ymm_ymm_ymmm256_imm8, Register.YMM0 + (i & 15), Register.YMM0 + (i >> 4 & 15), Register.YMM0 + (i >> 8), immediate);
                Assert.NotNull(HostThunks.TryCreate(instruction, 64));
            }
        }

        Assert.Equal(ThunkResult.Done, guest.Run(0xC5, 0xF5, 0xFE, 0xC1)); // vpaddd ymm0, ymm1, ymm1
        Assert.Equal(10ul, guest.Quads(0)[0]);
    }

    /// <summary>CRC-32C bit by bit, without the inversions, as the instruction has it.</summary>
    private static ulong Crc32C(uint crc, byte value)
    {
        crc ^= value;
        for (var i = 0; i < 8; i++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F6_3B78u : 0);
        return crc;
    }

    private static byte[] Bytes(string hex) => Convert.FromHexString(hex.Replace(" ", "", StringComparison.Ordinal));
}
