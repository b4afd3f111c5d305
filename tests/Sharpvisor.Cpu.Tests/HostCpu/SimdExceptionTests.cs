using Sharpvisor.Cpu.HostCpu;

namespace Sharpvisor.Cpu.Tests.HostCpu;

/// <summary>MXCSR (SDM vol. 1, 10.2.3 and 11.5).</summary>
public unsafe class SimdExceptionTests
{
    private const uint Default = 0x1F80;
    private const uint Invalid = 1, Denormal = 2, ZeroDivide = 4, Overflow = 8, Underflow = 0x10, Precision = 0x20;

    private static readonly byte[] s_addsd = [0xF2, 0x0F, 0x58, 0xC1], s_mulsd = [0xF2, 0x0F, 0x59, 0xC1], s_divsd = [0xF2, 0x0F, 0x5E, 0xC1];
    private static readonly byte[] s_divpd = [0x66, 0x0F, 0x5E, 0xC1];

    [Theory]
    [InlineData(1.0, 2.0, 0)]
    [InlineData(1.0, 3.0, Precision)]
    [InlineData(1.0, 0.0, ZeroDivide)]
    [InlineData(0.0, 0.0, Invalid)]
    [InlineData(1e300, 1e-300, Overflow | Precision)]
    [InlineData(3e-300, 1e300, Underflow | Precision)]
    [InlineData(double.Epsilon, 1.0, Denormal)]
    public void Masked_exceptions_are_sticky(double dividend, double divisor, uint flags)
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default | Denormal;
        (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (dividend, divisor);
        Assert.Equal(ThunkResult.Done, guest.Run(s_divsd));
        Assert.Equal(Default | Denormal | flags, guest.State->Mxcsr);
        Assert.Equal(dividend / divisor, guest.Doubles(0)[0]);
    }

    [Theory]
    [InlineData(Invalid, 0.0, 0.0, Invalid)]
    [InlineData(ZeroDivide, 1.0, 0.0, ZeroDivide)]
    [InlineData(Precision, 1.0, 3.0, Precision)]
    [InlineData(Overflow, 1e300, 1e-300, Overflow | Precision)]
    [InlineData(Underflow, 3e-300, 1e300, Underflow | Precision)]
    [InlineData(Denormal, double.Epsilon, 3.0, Denormal)] // found before the division: no precision flag
    [InlineData(Underflow, 2.2250738585072014E-308, 2.0, Underflow)] // tiny and exact: raised only because it is unmasked
    public void An_unmasked_exception_changes_nothing_but_flags(uint unmasked, double dividend, double divisor, uint flags)
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default & ~(unmasked << 7);
        (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (dividend, divisor);
        Assert.Equal(ThunkResult.SimdException, guest.Run(s_divsd));
        Assert.Equal(Default & ~(unmasked << 7) | flags, guest.State->Mxcsr);
        Assert.Equal(dividend, guest.Doubles(0)[0]);
    }

    [Fact]
    public void Unmasked_but_not_raised_is_executed()
    {
        using var guest = new Guest();
        guest.State->Mxcsr = 0;
        (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (1, 2);
        Assert.Equal(ThunkResult.Done, guest.Run(s_addsd));
        Assert.Equal((3.0, 0u), (guest.Doubles(0)[0], guest.State->Mxcsr));
        guest.State->Mxcsr = Precision; // an old flag does not count
        Assert.Equal(ThunkResult.Done, guest.Run(s_mulsd));
        Assert.Equal((6.0, Precision), (guest.Doubles(0)[0], guest.State->Mxcsr));
    }

    [Fact]
    public void Of_a_vector_one_element_is_enough()
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default & ~(ZeroDivide << 7);
        (guest.Doubles(0)[0], guest.Doubles(0)[1]) = (1, 1);
        (guest.Doubles(1)[0], guest.Doubles(1)[1]) = (3, 0);
        Assert.Equal(ThunkResult.SimdException, guest.Run(s_divpd));
        Assert.Equal([1, 1], guest.Doubles(0)[..2].ToArray());
        Assert.Equal(ZeroDivide, guest.State->Mxcsr & 0x3F); // the inexact element was not begun
    }

    [Fact]
    public void A_memory_destination_stays_untouched()
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default & ~(Overflow << 7);
        guest.Singles(0).Fill(1e30f);
        new Span<byte>(guest.Memory, 16).Fill(0xAA);
        byte[] vcvtps2ph = [0xC4, 0xE3, 0x7D, 0x1D, 0x01, 0x04]; // [rcx], ymm0, by MXCSR.RC
        Assert.Equal(ThunkResult.SimdException, guest.Run(vcvtps2ph));
        Assert.Equal(0xAA, guest.Memory[0]);
        guest.State->Mxcsr = Default & ~(Invalid << 7);
        Assert.Equal(ThunkResult.Done, guest.Run(vcvtps2ph));
        Assert.Equal(0x7C00, *(ushort*)(guest.Memory + 14));
        Assert.Equal(0, guest.Memory[16]);
    }

    [Fact]
    public void Rounding_and_flushing_are_the_guests_and_stay_there()
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default | 2 << 13; // up
        (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (1, 3);
        guest.Run(s_divsd);
        Assert.Equal(Math.BitIncrement(1.0 / 3), guest.Doubles(0)[0]);
        guest.State->Mxcsr = Default | 0x8040; // FTZ, DAZ
        (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (double.Epsilon, 1);
        guest.Run(s_addsd);
        Assert.Equal((1.0, Default | 0x8040), (guest.Doubles(0)[0], guest.State->Mxcsr)); // DAZ: no denormal flag, exact
        var (tiny, three) = (double.Epsilon, 3.0);
        Assert.Equal(0.333333333333333314829616256247, 1 / three); // the host rounds to nearest
        Assert.NotEqual(0, tiny * 1.0); // and does not flush
    }

    [Fact]
    public void A_conversion_to_mmx_writes_its_register_only_when_it_succeeds()
    {
        // Whether TOP and tags change with #XM differs from maker to maker: it is as the host does it.
        using var guest = new Guest();
        guest.RunX87([0x0F, 0xEF, 0xC0]); // pxor mm0, mm0
        guest.State->Mxcsr = Default & ~(Invalid << 7);
        guest.Singles(1).Fill(1e20f);
        Assert.Equal(ThunkResult.SimdException, guest.RunX87([0x0F, 0x2D, 0xC1])); // cvtps2pi mm0, xmm1
        Assert.Equal(0ul, (ulong)guest.Stack(0));
        guest.Singles(1).Fill(7);
        Assert.Equal(ThunkResult.Done, guest.RunX87([0x0F, 0x2D, 0xC1]));
        Assert.Equal((0, 0xFF, (UInt128)0x0000_0007_0000_0007 | (UInt128)0xFFFF << 64), (guest.StatusWord >> 11 & 7, guest.Tags, guest.Stack(0)));
    }

    [Theory]
    [InlineData(Overflow, 1.0715086071862673E+301, 1.0715086071862673E+301, Overflow)] // powers of two: exact with an unbounded exponent
    [InlineData(Overflow, 1e300, 1e300, Overflow | Precision)]
    [InlineData(Underflow, 2.2250738585072019E-308, 0.5, Underflow)] // the lost bit is there with an unbounded exponent
    [InlineData(Underflow, 1e-200, 1e-200, Underflow | Precision)]
    public void Precision_is_raised_only_if_the_result_with_an_unbounded_exponent_is_inexact(uint unmasked, double one, double other, uint flags)
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default & ~(unmasked << 7);
        (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (one, other);
        Assert.Equal(ThunkResult.SimdException, guest.Run(s_mulsd));
        Assert.Equal(flags, guest.State->Mxcsr & 0x3F);
    }

    [Fact]
    public void The_multiplication_of_a_dot_product_raises_before_its_addition()
    {
        using var guest = new Guest();
        guest.State->Mxcsr = Default & ~(Underflow << 7 | Denormal << 7);
        (guest.Doubles(0)[0], guest.Doubles(0)[1]) = (1e-200, 1);
        (guest.Doubles(1)[0], guest.Doubles(1)[1]) = (1e-200, 1);
        Assert.Equal(ThunkResult.SimdException, guest.Run(0x66, 0x0F, 0x3A, 0x41, 0xC1, 0x31)); // dppd xmm0, xmm1
        Assert.Equal(Underflow, guest.State->Mxcsr & (Underflow | Denormal));
    }

    [Fact]
    public void All_registers_survive()
    {
        using var guest = new Guest();
        guest.State->Mxcsr = 0;
        for (var i = 0; i < 16; i++)
        {
            guest.State->Gpr[i] = (ulong)i;
            guest.Quads(i).Fill(~(ulong)i);
        }

        guest.Doubles(1)[0] = 1e30;
        guest.Flags = 0x8D5;
        foreach (var code in (byte[][])[[0xF2, 0x0F, 0x2D, 0xD9], [0xF2, 0x4C, 0x0F, 0x2D, 0xF9], [0xF2, 0x0F, 0x2D, 0xE1], [0xF2, 0x0F, 0x2D, 0xF9]])
            Assert.Equal(ThunkResult.SimdException, guest.Run(code)); // cvtsd2si ebx, r15, esp, edi
        Assert.Equal(ThunkResult.SimdException, guest.Run(0xC5, 0xFD, 0x5A, 0xC1)); // vcvtpd2ps xmm0, ymm1
        for (var i = 0; i < 16; i++)
            Assert.Equal(((ulong)i, ~(ulong)i), (guest.State->Gpr[i], guest.Quads(i)[3]));
        Assert.Equal(0x8D5ul, guest.Flags);
    }

    [Fact]
    public void Threads_trap_under_garbage_collection_and_the_runtimes_own_exceptions_work()
    {
        using var stop = new ManualResetEventSlim();
        var collector = new Thread(() =>
        {
            while (!stop.IsSet)
                GC.Collect(0);
        });
        collector.Start();
        var wrong = 0;
        var threads = Enumerable.Range(0, 2).Select(_ => new Thread(() => Interlocked.Add(ref wrong, TrapAndDivide()))).ToArray();
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        stop.Set();
        collector.Join();
        Assert.Equal(0, wrong);
    }

    private static int TrapAndDivide()
    {
        using var guest = new Guest();
        var (wrong, zero) = (0, 0);
        for (var i = 0; i < 300; i++)
        {
            guest.State->Mxcsr = 0;
            (guest.Doubles(0)[0], guest.Doubles(1)[0]) = (i + 1, 0);
            if (guest.Run(s_divsd) != ThunkResult.SimdException || guest.State->Mxcsr != ZeroDivide || guest.Doubles(0)[0] != i + 1)
                wrong++;
            if (i % 10 != 0)
                continue;
            try
            {
                wrong += i / zero;
            }
            catch (DivideByZeroException)
            {
                zero = 0;
            }
        }

        return wrong;
    }
}
