using Sharpvisor.Cpu.HostCpu;

namespace Sharpvisor.Cpu.Tests.HostCpu;

/// <summary>The x87 state as a guest sees it (SDM vol. 1, chapter 8).</summary>
public unsafe class HostX87Tests
{
    private static readonly byte[] s_fld1 = [0xD9, 0xE8], s_fldz = [0xD9, 0xEE], s_fldpi = [0xD9, 0xEB], s_faddp = [0xDE, 0xC1], s_fdivp = [0xDE, 0xF9];
    private static readonly byte[] s_fnstswAx = [0xDF, 0xE0], s_fnstcw = [0xD9, 0x39], s_fldcw = [0xD9, 0x29], s_wait = [0x9B], s_fnclex = [0xDB, 0xE2];
    private static readonly byte[] s_fninit = [0xDB, 0xE3], s_fnstenv = [0xD9, 0x31], s_fldenv = [0xD9, 0x21], s_fnsave = [0xDD, 0x31], s_frstor = [0xDD, 0x21];
    private static readonly byte[] s_fnstenv16 = [0x66, 0xD9, 0x31], s_fnop = [0xD9, 0xD0], s_fstpQword = [0xDD, 0x19], s_pxor = [0x0F, 0xEF, 0xC0];

    [Fact]
    public void The_stack_lives_from_instruction_to_instruction()
    {
        using var guest = new Guest();
        HostX87.Load(guest.State);
        guest.Run(s_fld1);
        guest.Run(s_fldpi);
        guest.Run(s_faddp);
        guest.Run(s_fstpQword);
        guest.Run(s_fldz);
        HostX87.Save(guest.State);
        Assert.Equal(1 + Math.PI, *(double*)guest.Memory);
        Assert.Equal((7, 0x80, (UInt128)0), (guest.StatusWord >> 11 & 7, guest.Tags, guest.Stack(0)));
    }

    [Theory]
    [InlineData(0x0000, 0x0040)]
    [InlineData(0xFFFF, 0x1F7F)]
    [InlineData(0x027F, 0x027F)]
    public void The_control_word_keeps_the_bits_that_exist(int written, int read)
    {
        using var guest = new Guest();
        *(ushort*)guest.Memory = (ushort)written;
        guest.RunX87(s_fldcw);
        *(ushort*)guest.Memory = 0;
        guest.RunX87(s_fnstcw);
        Assert.Equal(read, *(ushort*)guest.Memory);
        Assert.Equal(read, guest.ControlWord);
    }

    [Fact]
    public void An_unmasked_exception_is_reported_by_the_next_waiting_instruction()
    {
        using var guest = new Guest();
        guest.ControlWord = 0x37B; // ZM clear
        HostX87.Load(guest.State);
        guest.Run(s_fld1);
        guest.Run(s_fldz);
        Assert.Equal(ThunkResult.Done, guest.Run(s_fdivp));
        Assert.True(HostX87.IsExceptionPending(guest.State));
        foreach (var waiting in (byte[][])[s_fld1, s_wait, s_fnop, s_fldcw, s_frstor, s_fldenv, s_pxor])
            Assert.Equal(ThunkResult.X87Exception, guest.Run(waiting));
        guest.State->Gpr[0] = 0;
        foreach (var silent in (byte[][])[s_fnstswAx, s_fnstcw])
            Assert.Equal(ThunkResult.Done, guest.Run(silent));
        Assert.Equal(0xB084ul, guest.State->Gpr[0]); // B, TOP 6 (nothing was popped), ES, ZE
        Assert.Equal(0x37B, *(ushort*)guest.Memory);
        Assert.Equal(ThunkResult.Done, guest.Run(s_fnclex));
        Assert.Equal(ThunkResult.Done, guest.Run(s_wait));
        HostX87.Save(guest.State);
        Assert.Equal((0x3000, 0x37B), (guest.StatusWord, guest.ControlWord));
        Assert.Equal((UInt128)0, guest.Stack(0));
    }

    [Theory]
    [InlineData(0x37E, ThunkResult.NotStored, 7)] // IM clear: neither stored nor popped
    [InlineData(0x37F, ThunkResult.Done, 0)]
    public void An_unmasked_exception_before_a_store_prevents_it(int control, ThunkResult result, int top)
    {
        using var guest = new Guest();
        guest.ControlWord = (ushort)control;
        *(double*)guest.Memory = 1e10;
        HostX87.Load(guest.State);
        guest.Run(0xDD, 0x01); // fld qword
        *(ulong*)guest.Memory = ulong.MaxValue;
        Assert.Equal(result, guest.Run(0xDB, 0x19)); // fistp dword: too large
        Assert.Equal(result == ThunkResult.Done, HostX87.IsExceptionPending(guest.State) == false);
        HostX87.Save(guest.State);
        Assert.Equal((top, result == ThunkResult.Done ? 0x8000_0000 : uint.MaxValue), (guest.StatusWord >> 11 & 7, *(uint*)guest.Memory));
    }

    [Fact]
    public void An_inexact_result_is_stored_whether_masked_or_not()
    {
        using var guest = new Guest();
        guest.ControlWord = 0x35F; // PM clear
        Assert.Equal(ThunkResult.Done, guest.RunX87(s_fldpi, s_fstpQword));
        Assert.Equal((0xB8A0, Math.PI), (guest.StatusWord | 0x3800, *(double*)guest.Memory));
    }

    [Fact]
    public void Unmasking_an_old_flag_makes_it_pending()
    {
        using var guest = new Guest();
        guest.RunX87(s_fld1, s_fldz, s_fdivp);
        Assert.Equal(0x3804, guest.StatusWord);
        *(ushort*)guest.Memory = 0x340;
        Assert.Equal(ThunkResult.Done, guest.RunX87(s_fldcw));
        Assert.Equal(0xB884, guest.StatusWord);
        Assert.Equal(ThunkResult.X87Exception, guest.RunX87(s_fld1));
    }

    [Fact]
    public void A_masked_overflow_of_the_stack_makes_the_indefinite_number()
    {
        using var guest = new Guest();
        guest.RunX87(s_fld1, s_fld1, s_fld1, s_fld1, s_fld1, s_fld1, s_fld1, s_fld1, s_fld1);
        Assert.Equal(0x3A41, guest.StatusWord & 0x3E7F); // TOP 7, C1 (overflow), SF, IE
        Assert.Equal(new UInt128(0xFFFF, 0xC000_0000_0000_0000), guest.Stack(0));
    }

    [Fact]
    public void The_environment_has_no_host_addresses()
    {
        using var guest = new Guest();
        new Span<byte>(guest.Memory, 128).Fill(0xCC);
        guest.RunX87(s_fld1, s_fldz, s_fdivp, s_fnstenv);
        uint[] expected = [0xFFFF_037F, 0xFFFF_3804, 0xFFFF_3FFF, 0, 0, 0, 0];
        expected[2] = 0xFFFF_BFFF; // register 7 is special: infinity
        Assert.Equal(expected, new Span<uint>(guest.Memory, 7).ToArray());
        Assert.Equal(0xCC, guest.Memory[28]);

        new Span<byte>(guest.Memory, 128).Fill(0xCC);
        guest.RunX87(s_fnstenv16);
        Assert.Equal([0x037F, 0x3804, 0xBFFF, 0, 0, 0, 0], new Span<ushort>(guest.Memory, 7).ToArray());
        Assert.Equal(0xCC, guest.Memory[14]);
    }

    [Fact]
    public void Storing_the_environment_masks_everything()
    {
        using var guest = new Guest();
        guest.ControlWord = 0x340;
        guest.RunX87(s_fld1, s_fldz, s_fdivp);
        guest.RunX87(s_fnstenv);
        Assert.Equal((0xFFFF_0340u, 0xFFFF_B084u), (((uint*)guest.Memory)[0], ((uint*)guest.Memory)[1]));
        Assert.Equal((0x37F, 0x3004), (guest.ControlWord, guest.StatusWord));
        Assert.Equal(ThunkResult.Done, guest.RunX87(s_wait));
        guest.RunX87(s_fldenv);
        Assert.Equal((0x340, 0xB084), (guest.ControlWord, guest.StatusWord));
        Assert.Equal(ThunkResult.X87Exception, guest.RunX87(s_wait));
    }

    [Fact]
    public void Saving_initialises_and_restoring_brings_it_back()
    {
        using var guest = new Guest();
        guest.ControlWord = 0xC7F;
        guest.RunX87(s_fldpi, s_fld1);
        var (first, second, status) = (guest.Stack(0), guest.Stack(1), guest.StatusWord);
        guest.RunX87(s_fnsave);
        Assert.Equal((0x37F, 0, 0), (guest.ControlWord, guest.StatusWord, guest.Tags));
        guest.RunX87(s_frstor);
        Assert.Equal((0xC7F, status, 0xC0), (guest.ControlWord, guest.StatusWord, guest.Tags));
        Assert.Equal((first, second), (guest.Stack(0), guest.Stack(1)));
        guest.RunX87(s_fninit);
        Assert.Equal((0x37F, 0, 0), (guest.ControlWord, guest.StatusWord, guest.Tags));
    }

    [Fact]
    public void Threads_have_different_stacks_under_garbage_collection()
    {
        var results = new double[2];
        var threads = new Thread[2];
        using var stop = new ManualResetEventSlim();
        for (var i = 0; i < 2; i++)
        {
            var index = i;
            threads[i] = new Thread(() => results[index] = Count(index + 1));
        }

        var collector = new Thread(() =>
        {
            while (!stop.IsSet)
            {
                for (var i = 0; i < 1000; i++)
                    _ = new byte[100 + i];
                GC.Collect(0);
            }
        });
        collector.Start();
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        stop.Set();
        collector.Join();
        Assert.Equal([500_000, 1_000_000], results);
    }

    /// <summary>Adds <paramref name="step"/> half a million times in an x87 register, with SSE in between.</summary>
    private static double Count(int step)
    {
        using var guest = new Guest();
        guest.State->Mxcsr = 0x1F80 | (uint)step << 13;
        guest.Doubles(1)[0] = step;
        HostX87.Load(guest.State);
        *(int*)guest.Memory = step;
        guest.Run(s_fldz);
        var fiadd = Guest.Thunk(0xDA, 0x01);
        var addsd = Guest.Thunk(0xF2, 0x0F, 0x58, 0xC1);
        ulong flags = 0;
        for (var i = 0; i < 500_000; i++)
        {
            fiadd.Run(guest.State, guest.Memory, ref flags);
            addsd.Run(guest.State, null, ref flags);
            if (i % 1000 == 0)
                _ = new byte[1000];
        }

        guest.Run(s_fstpQword);
        HostX87.Save(guest.State);
        return guest.Doubles(0)[0] == *(double*)guest.Memory ? guest.Doubles(0)[0] : -1;
    }
}
