using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Testing.Interrupts;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Interrupts;

public class LocalApicTests
{
    private const uint MsrBase = 0x1B, MsrDeadline = 0x6E0;

    private readonly ManualClock _clock = new();
    private readonly ApicBus _bus = new();
    private readonly LocalApic[] _apics;
    private readonly RecordingProcessor[] _cpus;

    public LocalApicTests()
    {
        _apics = new LocalApic[4];
        _cpus = new RecordingProcessor[4];
        for (var i = 0; i < 4; i++)
        {
            _apics[i] = new LocalApic(i, _clock, _bus);
            _cpus[i] = new RecordingProcessor();
            _apics[i].Connect(_cpus[i]);
            _apics[i].Write(0xF0, 4, 0x1FF);
        }
    }

    private LocalApic Apic => _apics[0];

    [Fact]
    public void PowersOnAsTheManualSays()
    {
        var bus = new ApicBus();
        LocalApic bsp = new(0, _clock, bus), ap = new(1, _clock, bus);
        Assert.Equal(0xFEE00000UL, bsp.MmioBase);
        Assert.Equal(0xFEE00900UL, Msr(bsp, MsrBase));
        Assert.Equal(0xFEE00800UL, Msr(ap, MsrBase));
        Assert.Equal(0x01000000UL, ap.Read(0x20, 4));
        Assert.Equal(0x00050014UL, bsp.Read(0x30, 4));
        Assert.Equal(0xFFUL, bsp.Read(0xF0, 4));
        Assert.Equal(0xFFFFFFFFUL, bsp.Read(0xE0, 4));
        for (var lvt = 0x320u; lvt <= 0x370; lvt += 0x10)
        {
            Assert.Equal(lvt == 0x350 ? 0x700UL : 0x10000UL, bsp.Read(lvt, 4)); // as QEMU: the PIC reaches the first one
            Assert.Equal(0x10000UL, ap.Read(lvt, 4));
        }
    }

    [Fact]
    public void HigherVectorNestsAndEoiReturnsToTheLower()
    {
        _bus.Send(0xFEE00000, 0x41);
        Assert.True(_cpus[0].InterruptRequest);
        Assert.Equal(0x41, Apic.AcknowledgeInterrupt());
        Assert.False(_cpus[0].InterruptRequest);
        Assert.Equal(0x40UL, Apic.Read(0xA0, 4));

        _bus.Send(0xFEE00000, 0x4F); // the same class waits
        Assert.False(_cpus[0].InterruptRequest);
        _bus.Send(0xFEE00000, 0x52);
        Assert.Equal(0x52, Apic.AcknowledgeInterrupt());
        Assert.Equal((1UL << (0x52 - 0x40)) | (1UL << 1), Apic.Read(0x120, 4));
        Apic.Write(0xB0, 4, 0);
        Assert.False(_cpus[0].InterruptRequest);
        Apic.Write(0xB0, 4, 0);
        Assert.True(_cpus[0].InterruptRequest);
        Assert.Equal(0x4F, Apic.AcknowledgeInterrupt());
    }

    [Fact]
    public void TaskPriorityHoldsInterruptsBack()
    {
        Apic.TaskPriority = 5;
        Assert.Equal(0x50UL, Apic.Read(0x80, 4));
        _bus.Send(0xFEE00000, 0x5F);
        Assert.False(_cpus[0].InterruptRequest);
        Assert.Equal(-1, Apic.AcknowledgeInterrupt());
        Apic.TaskPriority = 4;
        Assert.True(_cpus[0].InterruptRequest);
        Assert.Equal(0x5F, Apic.AcknowledgeInterrupt());
    }

    [Theory]
    [InlineData(0xB, 1)]
    [InlineData(0x0, 2)]
    [InlineData(0x3, 16)]
    [InlineData(0xA, 128)]
    public void OneShotTimerCountsBusClocksByTheDivider(uint divide, int divider)
    {
        Apic.Write(0x3E0, 4, divide);
        Apic.Write(0x320, 4, 0x30);
        Apic.Write(0x380, 4, 1000);
        _clock.Advance((1000 * divider) - 1);
        Assert.Equal(1UL, Apic.Read(0x390, 4));
        Assert.False(_cpus[0].InterruptRequest);
        _clock.Advance(1);
        Assert.True(_cpus[0].InterruptRequest);
        Assert.Equal(0UL, Apic.Read(0x390, 4));
        Assert.Equal(0x30, Apic.AcknowledgeInterrupt());
        Apic.Write(0xB0, 4, 0);
        _clock.Advance(10_000_000);
        Assert.False(_cpus[0].InterruptRequest);
    }

    [Fact]
    public void PeriodicTimerRepeatsAndAMaskedOneStillCounts()
    {
        Apic.Write(0x3E0, 4, 0xB);
        Apic.Write(0x320, 4, 0x20030);
        Apic.Write(0x380, 4, 1_000_000);
        for (var i = 0; i < 3; i++)
        {
            _clock.Advance(1_000_000);
            Assert.Equal(0x30, Apic.AcknowledgeInterrupt());
            Apic.Write(0xB0, 4, 0);
        }

        Apic.Write(0x320, 4, 0x30030);
        _clock.Advance(1_250_000);
        Assert.False(_cpus[0].InterruptRequest);
        Assert.Equal(750_000UL, Apic.Read(0x390, 4));
        Apic.Write(0x320, 4, 0x20030);
        _clock.Advance(749_999);
        Assert.False(_cpus[0].InterruptRequest);
        _clock.Advance(1);
        Assert.True(_cpus[0].InterruptRequest);
    }

    [Fact]
    public void ChangingTheDividerKeepsTheCount()
    {
        Apic.Write(0x3E0, 4, 0xB);
        Apic.Write(0x320, 4, 0x30);
        Apic.Write(0x380, 4, 1000);
        _clock.Advance(400);
        Apic.Write(0x3E0, 4, 0x0);
        Assert.Equal(600UL, Apic.Read(0x390, 4));
        _clock.Advance(1199);
        Assert.False(_cpus[0].InterruptRequest);
        _clock.Advance(1);
        Assert.True(_cpus[0].InterruptRequest);
    }

    [Fact]
    public void TscDeadlineComparesAgainstTheGuestsTsc()
    {
        Apic.TscOffset = 1_000_000;
        Assert.True(Apic.TryWriteMsr(MsrDeadline, 5)); // ignored in another mode
        Assert.Equal(0UL, Msr(Apic, MsrDeadline));
        Apic.Write(0x320, 4, 0x40031);
        Apic.TryWriteMsr(MsrDeadline, 1_000_500);
        Assert.Equal(1_000_500UL, Msr(Apic, MsrDeadline));
        _clock.Advance(499);
        Assert.False(_cpus[0].InterruptRequest);
        _clock.Advance(1);
        Assert.Equal(0x31, Apic.AcknowledgeInterrupt());
        Assert.Equal(0UL, Msr(Apic, MsrDeadline));
    }

    [Fact]
    public void DeadlineInThePastFiresAtOnceAndOneFarOffNever()
    {
        _clock.Advance(1000);
        Apic.Write(0x320, 4, 0x40031);
        Apic.TryWriteMsr(MsrDeadline, 1);
        Assert.True(_cpus[0].InterruptRequest);
        Apic.AcknowledgeInterrupt();
        Apic.Write(0xB0, 4, 0);
        Apic.TryWriteMsr(MsrDeadline, ulong.MaxValue);
        Assert.False(_cpus[0].InterruptRequest);
        _clock.Advance(1L << 50);
        Assert.False(_cpus[0].InterruptRequest);
        Apic.TryWriteMsr(MsrDeadline, (1UL << 50) + 2000);
        Apic.TryWriteMsr(MsrDeadline, 0);
        _clock.Advance(1_000_000);
        Assert.False(_cpus[0].InterruptRequest);
    }

    [Fact]
    public void MovingTheTscMovesAnArmedDeadline()
    {
        Apic.Write(0x320, 4, 0x40031);
        Apic.TryWriteMsr(MsrDeadline, 10_000);
        Apic.TscOffset = 9_000;
        _clock.Advance(1000);
        Assert.True(_cpus[0].InterruptRequest);
    }

    [Fact]
    public void PeriodOfOneTickDoesNotStopTheHost()
    {
        Apic.Write(0x3E0, 4, 0xB);
        Apic.Write(0x320, 4, 0x20030);
        Apic.Write(0x380, 4, 1);
        _clock.Advance(10_000_000_000 / 100); // with an interrupt each ns this would take 10^8 steps
        Assert.True(_cpus[0].InterruptRequest);
    }

    [Fact]
    public void PhysicalLogicalAndShorthandIpisReachWhomTheyName()
    {
        Ipi(0, 0x4050, 2);
        AssertPending(0x50, 2);
        Ipi(0, 0x4051, 0xFF);
        AssertPending(0x51, 0, 1, 2, 3);
        for (var i = 0; i < 4; i++)
            _apics[i].Write(0xD0, 4, 1u << (24 + i));
        Ipi(0, 0x4852, 0b1010);
        AssertPending(0x52, 1, 3);
        foreach (var apic in _apics)
        {
            apic.Write(0xE0, 4, 0x0FFFFFFF); // cluster model
            apic.Write(0xD0, 4, (0x20u | 1u << (apic.Index & 3)) << 24);
        }

        Ipi(0, 0x4853, 0x24);
        AssertPending(0x53, 2);
        Ipi(0, 0x4854, 0x34);
        AssertPending(0x54);
        Ipi(1, 0x44055, 0);
        AssertPending(0x55, 1);
        Ipi(1, 0x84056, 0);
        AssertPending(0x56, 0, 1, 2, 3);
        Ipi(1, 0xC4057, 0);
        AssertPending(0x57, 0, 2, 3);
    }

    [Fact]
    public void LowestPriorityGoesToTheIdlest()
    {
        foreach (var apic in _apics)
        {
            apic.Write(0xD0, 4, 1u << (24 + apic.Index));
            apic.TaskPriority = 9;
        }

        _apics[2].TaskPriority = 3;
        _bus.Send(0xFEE0F004, 0x161);
        AssertPending(0x61, 2);
        _apics[2].Write(0xF0, 4, 0xFF); // switched off by software it is no candidate
        _apics[3].TaskPriority = 8;
        _bus.Send(0xFEE0F004, 0x162);
        AssertPending(0x62, 3);
    }

    [Fact]
    public void InitAndStartUpStartAProcessor()
    {
        _apics[1].Write(0x80, 4, 0x50);
        Ipi(0, 0xC500, 1);
        Ipi(0, 0x8500, 1); // the de-assert does nothing
        Assert.Equal(1, _cpus[1].Inits);
        Assert.Equal(0UL, _apics[1].Read(0x80, 4));
        Assert.Equal(0xFFUL, _apics[1].Read(0xF0, 4));
        Ipi(0, 0x4699, 1);
        Ipi(0, 0x4699, 1);
        Assert.Equal<byte>([0x99, 0x99], _cpus[1].Startups);
        Ipi(0, 0x4400, 1);
        Ipi(0, 0x4200, 1);
        Assert.Equal((1, 1), (_cpus[1].Nmis, _cpus[1].Smis));
        Assert.Equal(0, _cpus[0].Inits + _cpus[0].Nmis + _cpus[2].Nmis);
    }

    [Fact]
    public void SoftwareDisabledApicRefusesFixedAndMasksItsTable()
    {
        Apic.Write(0x370, 4, 0x33);
        Apic.Write(0xF0, 4, 0xFF);
        Assert.Equal(0x10033UL, Apic.Read(0x370, 4));
        Apic.Write(0x370, 4, 0x34);
        Assert.Equal(0x10034UL, Apic.Read(0x370, 4));
        Assert.False(_bus.Deliver(new ApicMessage(0, false, false, DeliveryMode.Fixed, 0x40, false)));
        Assert.True(_bus.Deliver(new ApicMessage(0, false, false, DeliveryMode.Nmi, 0, false)));
        Assert.Equal(1, _cpus[0].Nmis);
    }

    [Fact]
    public void ErrorsAreLatchedByAWriteAndInterruptOnce()
    {
        Apic.Write(0x370, 4, 0x3F);
        Ipi(0, 0x4005, 1); // vectors below 16 are illegal
        Assert.Equal(0x3F, Apic.AcknowledgeInterrupt());
        Apic.Write(0xB0, 4, 0);
        Assert.Equal(0UL, Apic.Read(0x280, 4));
        Ipi(0, 0x4005, 1);
        Assert.False(_cpus[0].InterruptRequest);
        _bus.Send(0xFEE00000, 0x07);
        Apic.Read(0x3A0, 4);
        Apic.Write(0x280, 4, 0);
        Assert.Equal(0xE0UL, Apic.Read(0x280, 4));
        Apic.Write(0x280, 4, 0);
        Assert.Equal(0UL, Apic.Read(0x280, 4));
    }

    [Fact]
    public void AnErrorVectorThatIsItselfIllegalEnds()
    {
        Apic.Write(0x370, 4, 0x01);
        Apic.Read(0x3A0, 4);
        Apic.Write(0x280, 4, 0);
        Assert.Equal(0xC0UL, Apic.Read(0x280, 4));
    }

    [Theory]
    [InlineData(0xFEE00D00UL, true)] // to x2APIC
    [InlineData(0xFEE00100UL, true)] // off
    [InlineData(0xFEE00500UL, false)] // x2APIC without enable
    [InlineData(0xFEE00901UL, false)] // reserved bits
    [InlineData(0xFEE00B00UL, false)]
    [InlineData(0x00FFFFF0_00000800UL, false)]
    [InlineData(0x0000000F_00000900UL, true)]
    public void BaseTakesOnlyLegalModes(ulong value, bool legal)
    {
        Assert.Equal(legal, Apic.TryWriteMsr(MsrBase, value));
        Assert.Equal(legal ? value : 0xFEE00900, Msr(Apic, MsrBase));
    }

    [Fact]
    public void X2ApicLeavesOnlyThroughOff()
    {
        Assert.True(Apic.TryWriteMsr(MsrBase, 0xFEE00D00));
        Assert.Equal(ulong.MaxValue, Apic.MmioBase);
        Assert.False(Apic.TryWriteMsr(MsrBase, 0xFEE00900));
        Assert.True(Apic.TryWriteMsr(MsrBase, 0xFEE00100));
        Assert.False(Apic.TryWriteMsr(MsrBase, 0xFEE00D00));
        Assert.True(Apic.TryWriteMsr(MsrBase, 0xFEE00900));
        Assert.Equal(0xFEE00000UL, Apic.MmioBase);
        Assert.Equal(0xFFUL, Apic.Read(0xF0, 4)); // its state was lost
    }

    [Fact]
    public void X2ApicRegistersAreMsrs()
    {
        Assert.False(Apic.TryReadMsr(0x802, out _));
        foreach (var apic in _apics)
            Assert.True(apic.TryWriteMsr(MsrBase, Msr(apic, MsrBase) | 0x400));
        Assert.Equal(3UL, Msr(_apics[3], 0x802));
        Assert.Equal(8UL, Msr(_apics[3], 0x80D));
        Assert.False(Apic.TryReadMsr(0x80E, out _)); // no DFR
        Assert.False(Apic.TryReadMsr(0x80B, out _)); // EOI is write-only
        Assert.False(Apic.TryReadMsr(0x831, out _));
        Assert.False(Apic.TryReadMsr(0x8FF, out _));
        Assert.False(Apic.TryWriteMsr(0x802, 0));
        Assert.False(Apic.TryWriteMsr(0x80B, 1));
        Assert.False(Apic.TryWriteMsr(0x808, 0x100));
        Assert.False(Apic.TryWriteMsr(0x828, 1));
        Assert.False(Apic.TryWriteMsr(0x830, 1 << 13));
        Assert.False(Apic.TryWriteMsr(0x832, 1UL << 32));

        Assert.True(Apic.TryWriteMsr(0x830, (2UL << 32) | 0x40));
        AssertPending(0x40, 2);
        Assert.True(Apic.TryWriteMsr(0x830, (0x0000_000CUL << 32) | 0x841));
        AssertPending(0x41, 2, 3);
        Assert.True(Apic.TryWriteMsr(0x830, (0x0001_000FUL << 32) | 0x842)); // another cluster
        AssertPending(0x42);
        Assert.True(Apic.TryWriteMsr(0x830, (0xFFFF_FFFFUL << 32) | 0x43));
        AssertPending(0x43, 0, 1, 2, 3);
        Assert.True(Apic.TryWriteMsr(0x83F, 0x44));
        AssertPending(0x44, 0);
    }

    [Fact]
    public void ManyProcessorsAreReachedByX2ApicIds()
    {
        var bus = new ApicBus();
        var apics = Enumerable.Range(0, 300).Select(i => new LocalApic(i, _clock, bus)).ToArray();
        foreach (var apic in apics)
        {
            apic.TryWriteMsr(MsrBase, Msr(apic, MsrBase) | 0x400);
            apic.TryWriteMsr(0x80F, 0x1FF);
        }

        apics[0].TryWriteMsr(0x830, (299UL << 32) | 0x40);
        Assert.Equal(0x40, apics[299].AcknowledgeInterrupt());
        apics[0].TryWriteMsr(0x830, ((299UL >> 4 << 16 | 1UL << (299 & 15)) << 32) | 0x841);
        apics[299].TryWriteMsr(0x80B, 0);
        Assert.Equal(0x41, apics[299].AcknowledgeInterrupt());
        Assert.Equal(-1, apics[43].AcknowledgeInterrupt());
    }

    [Fact]
    public void PicReachesTheProcessorThroughLint0OrPastADisabledApic()
    {
        var pic = NewPic();
        Apic.Write(0x350, 4, 0x10700);
        pic.Input(4).Set(true);
        Assert.False(_cpus[0].InterruptRequest); // LINT0 is masked
        Apic.SetVirtualWireMode();
        Assert.True(_cpus[0].InterruptRequest);
        Assert.False(_cpus[1].InterruptRequest);
        Apic.TaskPriority = 15; // does not hold ExtINT back
        Assert.Equal(0x24, Apic.AcknowledgeInterrupt());
        Assert.False(_cpus[0].InterruptRequest);
        pic.MasterPorts.Write(0, 1, 0x20);

        Apic.TryWriteMsr(MsrBase, 0xFEE00100);
        pic.Input(3).Set(true);
        Assert.True(_cpus[0].InterruptRequest);
        Assert.Equal(0x23, Apic.AcknowledgeInterrupt());
    }

    [Fact]
    public void Lint1IsNmiOnceProgrammed()
    {
        _bus.Lint1.Set(true);
        _bus.Lint1.Set(false);
        Apic.SetVirtualWireMode();
        _bus.Lint1.Set(true);
        Assert.Equal((1, 0), (_cpus[0].Nmis, _cpus[1].Nmis));
    }

    [Fact]
    public void LevelTriggeredLintInterruptsAgainWhileAsserted()
    {
        Apic.Write(0x350, 4, 0x8045);
        _bus.Lint0.Set(true);
        Assert.Equal(0x45, Apic.AcknowledgeInterrupt());
        Assert.Equal(0xC045UL, Apic.Read(0x350, 4));
        Apic.Write(0xB0, 4, 0);
        Assert.Equal(0x45, Apic.AcknowledgeInterrupt());
        _bus.Lint0.Set(false);
        Apic.Write(0xB0, 4, 0);
        Assert.Equal(-1, Apic.AcknowledgeInterrupt());
        Assert.Equal(0x8045UL, Apic.Read(0x350, 4));
    }

    private static ulong Msr(LocalApic apic, uint msr)
    {
        Assert.True(apic.TryReadMsr(msr, out var value));
        return value;
    }

    private Pic NewPic()
    {
        var pic = new Pic(_bus.Lint0);
        _bus.Pic = pic;
        foreach (var (offset, value) in new (uint, byte)[] { (0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0) })
            pic.MasterPorts.Write(offset, 1, value);
        return pic;
    }

    private void Ipi(int from, uint icr, uint destination)
    {
        _apics[from].Write(0x310, 4, destination << 24);
        _apics[from].Write(0x300, 4, icr);
    }

    /// <summary>The vector is in the IRR of exactly these processors.</summary>
    private void AssertPending(int vector, params int[] processors)
    {
        var word = (uint)vector >> 5;
        var pending = _apics.Where(apic =>
        {
            var irr = apic.IsX2Apic ? Msr(apic, 0x820 + word) : apic.Read(0x200 + (word * 16), 4);
            return (irr >> (vector & 31) & 1) != 0;
        });
        Assert.Equal(processors, pending.Select(apic => apic.Index));
    }
}
