using Sharpvisor.Cpu.Interpreter;
using Sharpvisor.Cpu.Paging;
using Sharpvisor.Cpu.State;
using Sharpvisor.Cpu.Tests.Interpreter;
using static Iced.Intel.AssemblerRegisters;

namespace Sharpvisor.Cpu.Tests.HostCpu;

/// <summary>Thunks under a processor: what a guest could do to the host by them.</summary>
public class ThunksOfGuestsTests
{
    [Fact]
    public void An_unmasked_exception_is_raised_at_its_instruction()
    {
        using var m = new BareMachine();
        m.Program(a =>
        {
            a.nop();
            a.divsd(xmm0, xmm1);
        });
        m.State.Mxcsr = 0;
        m.State.Ymm[0].Q0 = BitConverter.DoubleToUInt64Bits(1);
        m.Expect(Vectors.XM, rip: BareMachine.Code + 1);
        Assert.Equal((4u, 1.0), (m.State.Mxcsr, BitConverter.UInt64BitsToDouble(m.State.Ymm[0].Q0)));
        m.Enter(Mode.Long);
        m.State.Cr4 &= ~ControlRegisters.OSXMMEXCPT;
        m.State.Mxcsr = 0;
        m.State.Ymm[0].Q0 = BitConverter.DoubleToUInt64Bits(1);
        m.Expect(Vectors.UD, rip: BareMachine.Code + 1);
    }

    [Fact]
    public void A_store_that_did_not_happen_is_not_written_back_over_the_end_of_a_page()
    {
        using var m = new BareMachine();
        const ulong operand = BareMachine.Data + 0xFFE;
        m.Program(a => a.fistp(__dword_ptr[(long)operand]));
        var image = (Span<byte>)m.State.X87;
        BitConverter.TryWriteBytes(image, (ushort)0x37E); // IM clear
        image[4] = 0xFF;
        BitConverter.TryWriteBytes(image[40..], (ushort)0x7FFF); // ST(0): an infinity
        BitConverter.TryWriteBytes(image[32..], 1UL << 63);
        m.Write(operand, 0x1234_5678u);
        m.RunToHalt();
        Assert.Equal(0x1234_5678u, m.Read32(operand));
        Assert.Equal(0x8081, BitConverter.ToUInt16(((ReadOnlySpan<byte>)m.State.X87)[2..]) & 0x80FF);
    }

    [Fact]
    public void Reserved_bits_of_a_given_mxcsr_never_reach_the_host()
    {
        using var m = new BareMachine();
        m.Program(a => a.addsd(xmm0, xmm1));
        m.State.Mxcsr = 0xFFFF_1F80;
        m.RunToHalt();
        Assert.Equal(0x1F80u, m.State.Mxcsr);
    }

    [Fact]
    public void A_guest_can_think_of_more_instructions_than_are_kept()
    {
        const int count = 20_000; // a vCPU holds 16,384 thunks
        using var m = new BareMachine();
        var code = new byte[(count * 5) + 1];
        for (var i = 0; i < count; i++)
        {
            // pshufd or pshufhw xmm, xmm, imm8: each only once
            new byte[] { (byte)(i < 16384 ? 0x66 : 0xF3), 0x0F, 0x70, (byte)(0xC0 | (i & 63)), (byte)(i >> 6) }.CopyTo(code, i * 5);
        }

        code[^1] = 0xF4;
        const ulong start = 0x200000;
        m.Write(start, code);
        for (ulong page = 0; page < (ulong)code.Length; page += 0x1000)
            m.Map(start + page, start + page);
        m.State.Rip = start;
        for (var i = 0; i < 2; i++)
        {
            m.RunToHalt(10 * count);
            Assert.Equal(start + (ulong)code.Length, m.State.Rip);
            (m.State.Rip, m.State.Activity) = (start, ActivityState.Active);
        }
    }
}
