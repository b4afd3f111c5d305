using System.Buffers.Binary;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Xen;

public sealed class XenDomainTests : XenDomainBench
{
    [Fact]
    public void Cpuid_says_Xen_and_who_the_processor_is()
    {
        var (eax, ebx, ecx, edx) = Xen.QueryCpuid(1, 0x4000_0000, 0);
        Span<byte> name = stackalloc byte[12];
        BinaryPrimitives.WriteUInt32LittleEndian(name, ebx);
        BinaryPrimitives.WriteUInt32LittleEndian(name[4..], ecx);
        BinaryPrimitives.WriteUInt32LittleEndian(name[8..], edx);
        Assert.Equal("XenVMMXenVMM", Encoding.ASCII.GetString(name));
        Assert.Equal(0x4000_0005u, eax);
        Assert.Equal((1u, 7u), (Xen.QueryCpuid(1, 0x4000_0004, 0).Ebx, Xen.QueryCpuid(1, 0x4000_0004, 0).Ecx));
        Assert.Equal(default, Xen.QueryCpuid(0, 0x4000_0010, 0));
    }

    [Fact]
    public void The_hypercall_page_holds_calls()
    {
        Assert.True(Xen.Processors[0].TryWriteMsr(0x4000_0000, 0x3000));
        var stub = new byte[9];
        Memory.TryRead(0x3000 + (32 * 17), stub);
        Assert.Equal([0xB8, 17, 0, 0, 0, 0x0F, 0x01, 0xC1, 0xC3], stub);
        Assert.True(Xen.Processors[0].TryWriteMsr(0x4000_0000, 0xFEE0_0000));
        Assert.Single(Errors.Counts);
        Assert.False(Xen.Processors[0].TryWriteMsr(0x4000_0001, 0));
    }

    [Fact]
    public void Features_and_version()
    {
        Assert.Equal(4 << 16 | 17, Call(17, 0, 0));
        Put32(0, 0);
        Assert.Equal(0, Call(17, 6, Arguments));
        Assert.Equal(1u << 2 | 1u << 8 | 1u << 9, Get32(4));
        Put32(0, 1);
        Call(17, 6, Arguments);
        Assert.Equal(0u, Get32(4));
        Assert.Equal(Fault, Call(17, 6, Nowhere));
        Assert.Equal(NotThere, Call(17, 99, Arguments));
    }

    [Fact]
    public void Only_the_kernel_may_call()
    {
        Assert.Equal(-1, (long)Xen.Call(new Hypercall(0, 3, true, 17, 0, 0, 0, 0, 0), this).Value);
        Assert.Equal(NotThere, Call(55, 0, 0));
    }

    [Fact]
    public void Events_reach_the_processor_by_its_vector()
    {
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        RegisterVcpuInfo(1, 0x11, 0x40);
        Assert.Equal(-1, Apics[1].AcknowledgeInterrupt());
        Put32(0, 1);
        Put32(4, 0xF3);
        Assert.Equal(0, Call(34, 23, Arguments));
        Assert.Equal(0xF3, Interrupt(1)); // at once: something may have come before
        RegisterVcpuInfo(1, 0x11, 0x40);
        Assert.Equal(0xF3, Interrupt(1));
        Take(0x11040);

        Put32(0, 1);
        Assert.Equal(0, Call(32, 7, Arguments)); // bind_ipi
        var port = Get32(4);
        Put32(0, port);
        Assert.Equal(0, Call(32, 9, Arguments)); // unmask: the mask was all ones
        Assert.Equal(0, Call(32, 4, Arguments)); // send
        Assert.Equal(0xF3, Interrupt(1));
        Assert.Equal(0, Call(32, 3, Arguments)); // close
        Assert.Equal(Invalid, Call(32, 4, Arguments));
    }

    [Fact]
    public void A_processor_has_its_time_and_a_timer()
    {
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        Assert.True(Memory.TryRead(0x10C04, out uint seconds));
        Assert.Equal((uint)(Clock.UnixEpochNs / 1_000_000_000), seconds);
        SetVector(0);
        Clock.Advance(5_000_000_000);
        RegisterVcpuInfo(0, 0x11, 0);
        Assert.True(Memory.TryRead(0x11000 + 32 + 16, out ulong system));
        Assert.Equal(5_000_000_000UL, system);
        Put64(0, 0x12345);
        Assert.Equal(Fault, Call(24, 13, 0, Nowhere));
        Put64(0, 0x13000);
        Assert.Equal(0, Call(24, 13, 0, Arguments)); // a second place for the time
        Assert.True(Memory.TryRead(0x13000 + 16, out system));
        Assert.Equal(5_000_000_000UL, system);
        Put64(0, 0x14000);
        Assert.Equal(0, Call(24, 5, 0, Arguments)); // runstate
        Put64(0, 0x14FF0);
        Assert.Equal(Fault, Call(24, 5, 0, Arguments)); // over a page's end
        Assert.False(Xen.Processors[0].Runstate.MarksUpdates);
        Assert.Equal(0, Call(21, 0, 5)); // vm_assist enable runstate_update_flag
        Assert.True(Xen.Processors[1].Runstate.MarksUpdates);
        Assert.Equal(Invalid, Call(21, 0, 6));
        Assert.Equal(NotThere, Call(21, 2, 5));
        Assert.Equal(0, Call(24, 4, 0, Arguments)); // get_runstate_info
        Assert.Equal(unchecked((uint)5_000_000_000), Get32(16));
        Assert.Equal(Fault, Call(24, 4, 0, Nowhere));

        Put32(0, 0);
        Put32(4, 0);
        Assert.Equal(0, Call(32, 1, Arguments)); // bind_virq TIMER
        Unmask(Get32(8));
        Take(0x11000);
        Assert.Equal(0, TrySetTimer(5_000_000_100, flags: 1));
        Interrupt(0);
        Clock.Advance(99);
        Assert.Equal(-1, Interrupt(0));
        Clock.Advance(1);
        Assert.Equal(0xF3, Interrupt(0));
        Assert.Equal(-62, TrySetTimer(1, flags: 1));
        Assert.Equal(0, TrySetTimer(Clock.NowNs + 50, flags: 0));
        Assert.Equal(0, Call(24, 9, 0)); // stop_singleshot
        Assert.Equal(Invalid, TrySetPeriod(10));
        Take(0x11000);
        Memory.TryWrite(0x10800, 0UL);
        Assert.Equal(0, TrySetPeriod(1_000_000));
        Clock.Advance(999_999);
        Assert.Equal(-1, Interrupt(0));
        Clock.Advance(5_000_000);
        Assert.Equal(0xF3, Interrupt(0));
        Assert.Equal(0, Call(24, 7, 0));

        long TrySetTimer(long at, uint flags)
        {
            Put64(0, (ulong)at);
            Put32(8, flags);
            return Call(24, 8, 0, Arguments);
        }

        long TrySetPeriod(ulong period)
        {
            Put64(0, period);
            return Call(24, 6, 0, Arguments);
        }
    }

    [Fact]
    public void A_poll_ends_with_an_event_or_its_time()
    {
        const ulong ports = Arguments + 64;
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        Put32(0, 0);
        Assert.Equal(0, Call(32, 7, Arguments)); // bind_ipi
        var port = Get32(4);
        Put32(64, port);
        Assert.True(Poll(timeout: 0).IsAgain);
        Assert.NotNull(Poll(timeout: 0).Rest);
        Put32(0, port);
        Assert.Equal(0, Call(32, 4, Arguments)); // sent, though masked
        Assert.Equal(new HypercallResult(0), Poll(timeout: 0));
        Memory.TryWrite(0x10800, 0UL);
        Assert.True(Poll(timeout: 1000).IsAgain);
        Clock.Advance(1000);
        Assert.Equal(new HypercallResult(0), Poll(timeout: 1000));
        Put32(64, 4096);
        Assert.Equal(Invalid, (long)Poll(timeout: 1).Value);
        Assert.Equal(Fault, (long)CallOnce(29, 3, Nowhere).Value);
        Assert.Equal(default, CallOnce(29, 0, 0)); // yield
        Assert.False(CallOnce(29, 1, 0).IsAgain); // block

        HypercallResult Poll(ulong timeout)
        {
            Put64(0, ports);
            Put32(8, 1);
            Put64(16, timeout);
            return CallOnce(29, 3, Arguments);
        }
    }

    [Fact]
    public void A_balloon_gives_pages_back_and_takes_them_again()
    {
        Memory.TryWrite(0x20000, 0x1234);
        Put64(64, 0x20);
        Put64(72, 0xFFFF);
        Put64(0, Arguments + 64);
        Put64(8, 2);
        Put32(16, 0);
        Put32(24, 0x7FF0);
        Assert.Equal(256, Call(12, 3, 0));
        Assert.Equal(1, Call(12, 1, Arguments)); // the second one is not there
        Assert.Equal(255, Call(12, 3, 0));
        Assert.True(Memory.TryRead(0x20000, out int value));
        Assert.Equal(0, value);
        Assert.Equal(1, Call(12, 6, Arguments));
        Assert.Equal(0, Call(12, 6, Arguments)); // more than was given
        Assert.Equal(256, Call(12, 3, 0));
    }

    [Fact]
    public void A_32_bit_domain_has_its_own_structures()
    {
        Put32(0, 0x7FF0);
        Put32(4, 0);
        Put32(8, 0);
        Put32(12, 0x10);
        Assert.Equal(0, Call32(12, 7, Arguments));
        Assert.True(Memory.TryRead(0x10880, out ulong mask) && mask == ulong.MaxValue);
        Assert.True(Memory.TryRead(0x10904, out uint seconds));
        Assert.Equal((uint)(Clock.UnixEpochNs / 1_000_000_000), seconds);
        SetVector(0);
        Interrupt(0);
        Memory.TryWrite(0x10000, 0UL);
        uint port;
        do
        {
            Put32(0, 0);
            Assert.Equal(0, Call32(32, 7, Arguments)); // bind_ipi
            port = Get32(4);
        }
        while (port < 70);
        Put32(0, port);
        Assert.Equal(0, Call32(32, 9, Arguments)); // unmask
        Assert.Equal(0, Call32(32, 4, Arguments)); // send
        Assert.Equal(0xF3, Interrupt(0));
        Assert.True(Memory.TryRead(0x10000, out ulong info));
        Assert.Equal(1UL | 1UL << (32 + 2), info); // pending, and the third word of 32 bits
        Assert.True(Memory.TryRead(0x10808, out uint word));
        Assert.Equal(1u << 6, word);

        Put32(64, port);
        Put32(0, (uint)Arguments + 64);
        Put32(4, 1);
        Put64(8, 0);
        Assert.Equal(0, Call32(29, 3, Arguments)); // poll
        Put32(0, 0x14000);
        Assert.Equal(0, Call32(24, 5, 0, Arguments)); // runstate
        Put32(0, (uint)Arguments + 64);
        Put32(64, 0x20);
        Put32(4, 1);
        Put32(8, 0);
        Put32(16, 0x7FF0);
        Assert.Equal(1, Call32(12, 1, Arguments)); // decrease_reservation
        Assert.Equal(255, Call32(12, 3, 0));
        Put32(0, 1023);
        Assert.Equal(Invalid, Call32(32, 4, Arguments));
        Put32(0, 1024);
        Assert.Equal(Invalid, Call32(32, 4, Arguments));

        long Call32(ulong number, ulong a, ulong b, ulong c = 0) => (long)Xen.Call(new Hypercall(0, 0, false, number, a, b, c, 0, 0), this).Value;
    }

    [Fact]
    public void An_INIT_loses_no_event()
    {
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        Put32(0, 1);
        Put32(4, 0xF3);
        Assert.Equal(0, Call(34, 23, Arguments));
        RegisterVcpuInfo(1, 0x11, 0x40);
        Apics[0].Write(0xF0, 4, 0x1FF);
        Apics[0].Write(0x310, 4, 1 << 24);
        Apics[0].Write(0x300, 4, 0x4500); // INIT to processor 1
        Assert.Equal(0xF3, Interrupt(1));
    }

    [Fact]
    public void Parameters_lead_to_the_pages()
    {
        Assert.Equal(0xFEFFCUL, GetParameter(1));
        Assert.NotEqual(0UL, GetParameter(2));
        Assert.Equal(0UL, GetParameter(17)); // no console here
        Put16(0, 0x7FF0);
        Put32(4, 1000);
        Assert.Equal(Invalid, Call(34, 1, Arguments));
        Put16(0, 5);
        Put32(4, 1);
        Assert.Equal(NoProcess, Call(34, 1, Arguments));
        Put16(0, 0x7FF0);
        Assert.Equal(-1, Call(34, 0, Arguments)); // whose page the store is, is not the domain's to say
    }

    [Fact]
    public void The_store_answers_on_its_page()
    {
        const ulong page = 0xFEFF_C000;
        var port = (uint)GetParameter(2);
        AddToPhysmap(space: 0, index: 0, page: 0x10);
        byte[] request = [10, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, (byte)'7', 0];
        Assert.True(Memory.TryWrite(page, request));
        Assert.True(Memory.TryWrite(page + 2052, (uint)request.Length));
        Put32(0, port);
        Assert.Equal(0, Call(32, 4, Arguments));
        var answer = new byte[16 + 16];
        Memory.TryRead(page + 1024, answer);
        Assert.Equal("/local/domain/7\0", Encoding.ASCII.GetString(answer, 16, 16));
        Assert.True(Xen.Events.IsPending(port));
    }

    [Fact]
    public void Grant_table_of_version_1()
    {
        Put32(0, 0x7FF0);
        Assert.Equal(0, Call(20, 6, Arguments, 1));
        Assert.Equal((0u, 64u), (Get32(4), Get32(8)));
        Put32(0, 2);
        Assert.Equal(Invalid, Call(20, 8, Arguments, 1));
        Assert.Equal(1u, Get32(0));
        Assert.Equal(0, Call(20, 8, Arguments, 1));
        AddToPhysmap(space: 1, index: 1, page: 0x20);
        AddToPhysmap(space: 1, index: 0, page: 0x21);
        Assert.Equal(2, Xen.Grants.FrameCount);
        Assert.Equal(Invalid, TryAddToPhysmap(1, 64, 0x22));
        Assert.Equal(Invalid, TryAddToPhysmap(9, 0, 0x22));
        Assert.Equal(Invalid, TryAddToPhysmap(0, 1, 0x22));
        Assert.Equal(Invalid, TryAddToPhysmap(0, 0, ulong.MaxValue));
    }

    [Fact]
    public void Where_there_is_no_memory_Xen_lays_its_own()
    {
        const ulong page = 0x12_3456;
        Assert.False(Memory.IsRam(page << 12, 4096));
        AddToPhysmap(space: 1, index: 2, page);
        Assert.True(Memory.TryWrite((page << 12) + 8, 0x55AAUL));
        AddToPhysmap(space: 1, index: 2, page + 1); // moved
        Assert.False(Memory.IsRam(page << 12, 4096));
        Put32(0, 0x7FF0);
        Put64(8, page);
        Assert.Equal(Invalid, Call(12, 15, Arguments));
        Put64(8, page + 1);
        Assert.Equal(0, Call(12, 15, Arguments));
        Assert.False(Memory.IsRam((page + 1) << 12, 4096));
        AddToPhysmap(space: 0, index: 0, page);
        Assert.True(Memory.TryRead((page << 12) + 0xA00, out ulong mask));
        Assert.Equal(ulong.MaxValue, mask);
        Xen.Reset();
        Assert.False(Memory.IsRam(page << 12, 4096));
    }

    [Fact]
    public void A_domain_shuts_down()
    {
        foreach (var reason in (uint[])[0, 1, 3])
        {
            Put32(0, reason);
            Assert.Equal(0, Call(29, 2, Arguments));
        }

        Assert.Equal(["off", "reset", "panic"], Asked);
        Put32(0, 9);
        Assert.Equal(Invalid, Call(29, 2, Arguments));
        Assert.Equal(Fault, Call(29, 2, Nowhere));
    }

    [Fact]
    public void Processors_that_are_none()
    {
        Assert.Equal(NoEntry, Call(24, 10, 2, Arguments));
        Assert.Equal(NoEntry, Call(24, 3, ulong.MaxValue, 0));
        Put64(0, 0x11);
        Put32(8, 0xFF0);
        Assert.Equal(Invalid, Call(24, 10, 0, Arguments)); // over the end of its page
        Put32(8, 4);
        Assert.Equal(Invalid, Call(24, 10, 0, Arguments)); // not aligned
        Put32(0, 5);
        Put32(4, 0xF3);
        Assert.Equal(NoEntry, Call(34, 23, Arguments));
    }

    [Fact]
    public void Random_hypercalls_harm_nobody()
    {
        var count = int.TryParse(Environment.GetEnvironmentVariable("SHARPVISOR_FUZZ_COUNT"), out var n) ? n : 50_000;
        var random = new Random(815);
        ulong[] pointers = [Arguments, Arguments + 0xFFD, 0xFFFF8, Nowhere, 0, ulong.MaxValue, 0xFEE0_0000, 0x10_0000 - 4];
        ulong[] numbers = [12, 17, 18, 20, 21, 24, 29, 32, 34];
        var bytes = new byte[32];
        for (var i = 0; i < count; i++)
        {
            random.NextBytes(bytes);
            if (random.Next(2) == 0)
                bytes.AsSpan(random.Next(4)).Clear();
            Memory.TryWrite(Arguments, bytes);
            var number = random.Next(20) == 0 ? (ulong)random.NextInt64() : numbers[random.Next(numbers.Length)];
            var second = random.Next(3) == 0 ? (ulong)random.NextInt64() : pointers[random.Next(pointers.Length)];
            var third = random.Next(2) == 0 ? 1 : pointers[random.Next(pointers.Length)];
            Xen.Call(new Hypercall(random.Next(2), 0, random.Next(3) > 0, number, (ulong)random.Next(32), second, third, 0, 0), this);
            if (i % 1000 == 0)
                Xen.Reset();
        }
    }
}
