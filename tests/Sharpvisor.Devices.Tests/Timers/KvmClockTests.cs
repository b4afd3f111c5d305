using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Timers;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Timers;

public sealed class KvmClockTests : IDisposable
{
    private readonly ManualClock _clock = new();
    private readonly GuestMemory _memory = new(1 << 20);
    private readonly KvmClock _kvmClock;

    public KvmClockTests() => _kvmClock = new KvmClock(_clock, _memory);

    public void Dispose() => _memory.Dispose();

    [Theory]
    [InlineData(0x4B564D01u)]
    [InlineData(0x12u)]
    public void SystemTimeIsAFunctionOfTheTsc(uint msr)
    {
        _clock.Advance(5_000_000_000);
        _kvmClock.TscOffset = -1_000_000_000;
        Assert.True(_kvmClock.TryWriteMsr(msr, 0x2001));
        Assert.Equal(5_000_000_000UL, TimeAt(4_000_000_000));
        Assert.Equal(5_123_456_789UL, TimeAt(4_123_456_789));
        Assert.Equal(1, Read<byte>(0x2000 + 29)); // stable
        var version = Read<uint>(0x2000);
        Assert.True(version != 0 && version % 2 == 0);

        _clock.Advance(1000);
        _kvmClock.TscOffset = 7;
        Assert.NotEqual(version, Read<uint>(0x2000));
        Assert.Equal(5_000_001_000UL, TimeAt(5_000_001_007));
        Assert.True(_kvmClock.TryReadMsr(msr, out var value));
        Assert.Equal(0x2001UL, value);
    }

    [Fact]
    public void DisabledItWritesNothing()
    {
        _kvmClock.TryWriteMsr(0x4B564D01, 0x2000);
        _kvmClock.TscOffset = 5;
        Assert.Equal(0UL, Read<ulong>(0x2000));
    }

    [Theory]
    [InlineData(0x4B564D00u)]
    [InlineData(0x11u)]
    public void WallClockIsTheTimeOfSystemTimeZero(uint msr)
    {
        _clock.Advance(77_000_000_000);
        Assert.True(_kvmClock.TryWriteMsr(msr, 0x3000));
        Assert.Equal(1_767_225_600u, Read<uint>(0x3004));
        Assert.Equal(0u, Read<uint>(0x3008));
        Assert.Equal(0u, Read<uint>(0x3000) % 2);
    }

    [Theory]
    [InlineData(0xFFFFFFFF_FFFFFFFFul)]
    [InlineData(0xA0001ul)]
    [InlineData(0x0FFFF1ul)]
    [InlineData(0x10_0001ul)]
    public void AddressesOutsideOfRamAreIgnored(ulong address)
    {
        Assert.True(_kvmClock.TryWriteMsr(0x4B564D01, address));
        Assert.True(_kvmClock.TryWriteMsr(0x4B564D00, address));
        _kvmClock.UpdateSystemTime();
    }

    [Fact]
    public void OtherRegistersAreNotThere()
    {
        Assert.False(_kvmClock.TryReadMsr(0x4B564D02, out _));
        Assert.False(_kvmClock.TryWriteMsr(0x4B564D03, 0));
    }

    /// <summary>As a guest computes it (pvclock).</summary>
    private ulong TimeAt(ulong tsc)
    {
        var delta = tsc - Read<ulong>(0x2008);
        var shift = Read<sbyte>(0x2000 + 28);
        delta = shift >= 0 ? delta << shift : delta >> -shift;
        return Read<ulong>(0x2010) + (ulong)(((UInt128)delta * Read<uint>(0x2018)) >> 32);
    }

    private T Read<T>(ulong address) where T : unmanaged
    {
        Assert.True(_memory.TryRead(address, out T value));
        return value;
    }
}
