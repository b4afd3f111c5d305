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

/// <summary>A domain of two processors in 1 MiB, seen from its kernel, whose linear addresses are physical ones.</summary>
public abstract class XenDomainBench : IDisposable, ILinearMemory, IMachineControl
{
    protected const int Domain = 7;
    protected const ulong Arguments = 0x8000, Nowhere = 0xFFFF_8000_0000_0000;
    protected const long Fault = -14, Invalid = -22, NotThere = -38, NoEntry = -2, NoProcess = -3;

    protected GuestMemory Memory { get; } = new(1 << 20);

    protected GuestErrorLog Errors { get; } = new(NullLogger.Instance);

    protected ApicBus Bus { get; } = new();

    protected XenDomain Xen { get; }

    protected IReadOnlyList<LocalApic> Apics { get; }

    protected ManualClock Clock { get; } = new();

    /// <summary>What the domain wanted of the machine.</summary>
    protected IList<string> Asked { get; } = [];

    protected XenDomainBench()
    {
        Apics = [.. Enumerable.Range(0, 2).Select(i => new LocalApic(i, Clock, Bus))];
        foreach (var apic in Apics)
            apic.Reset();
        Xen = new XenDomain(Domain, Apics, Memory, Clock, this, Errors, NullLogger.Instance);
        Xen.Reset();
    }

    public void Dispose()
    {
        GC.SuppressFinalize(this);
        Memory.Dispose();
    }

    bool ILinearMemory.TryRead(ulong linear, Span<byte> destination) => Memory.TryRead(linear, destination);

    bool ILinearMemory.TryWrite(ulong linear, ReadOnlySpan<byte> source) => Memory.TryWrite(linear, source);

    bool ILinearMemory.TryTranslate(ulong linear, out ulong physical)
    {
        physical = linear;
        return Memory.IsRam(linear, 1);
    }

    void IMachineControl.RequestReset(string source) => Asked.Add("reset");

    void IMachineControl.RequestPowerOff(string source) => Asked.Add("off");

    void IMachineControl.RequestSuspend(string source) => Asked.Add("suspend");

    void IMachineControl.RequestWakeUp(string source) => Asked.Add("wake");

    void IMachineControl.RequestExit(int exitCode, string source) => Asked.Add("exit");

    void IMachineControl.ReportPanic(string source, bool isHandled) => Asked.Add("panic");

    void IMachineControl.RequestPause(string reason) => Asked.Add("pause");

    protected long Call(ulong number, ulong a, ulong b, ulong c = 0) => (long)CallOnce(number, a, b, c).Value;

    protected HypercallResult CallOnce(ulong number, ulong a, ulong b, ulong c = 0) => Xen.Call(new Hypercall(0, 0, true, number, a, b, c, 0, 0), this);

    protected void AddToPhysmap(uint space, ulong index, ulong page) => Assert.Equal(0, TryAddToPhysmap(space, index, page));

    protected long TryAddToPhysmap(uint space, ulong index, ulong page)
    {
        Put32(0, 0x7FF0);
        Put32(4, space);
        Put64(8, index);
        Put64(16, page);
        return Call(12, 7, Arguments);
    }

    protected void RegisterVcpuInfo(ulong processor, ulong page, uint offset)
    {
        Put64(0, page);
        Put32(8, offset);
        Assert.Equal(0, Call(24, 10, processor, Arguments));
    }

    protected ulong GetParameter(uint index)
    {
        Put32(0, 0x7FF0);
        Put32(4, index);
        Assert.Equal(0, Call(34, 1, Arguments));
        return Memory.TryRead(Arguments + 8, out ulong value) ? value : throw new InvalidOperationException();
    }

    protected void SetVector(uint processor)
    {
        Put32(0, processor);
        Put32(4, 0xF3);
        Assert.Equal(0, Call(34, 23, Arguments));
    }

    protected void Unmask(uint port)
    {
        Put32(0, port);
        Assert.Equal(0, Call(32, 9, Arguments));
    }

    /// <summary>The vector that a processor takes, -1 for none; it is through with it at once.</summary>
    protected int Interrupt(int processor)
    {
        var vector = Apics[processor].AcknowledgeInterrupt();
        Apics[processor].Write(0xB0, 4, 0);
        return vector;
    }

    /// <summary>The processor has seen its events.</summary>
    protected void Take(ulong vcpuInfo)
    {
        Memory.TryWrite(vcpuInfo, (byte)0);
        Memory.TryWrite(vcpuInfo + 8, 0UL);
    }

    protected void Put16(uint offset, ushort value) => Memory.TryWrite(Arguments + offset, value);

    protected void Put32(uint offset, uint value) => Memory.TryWrite(Arguments + offset, value);

    protected void Put64(uint offset, ulong value) => Memory.TryWrite(Arguments + offset, value);

    protected uint Get32(uint offset) => Memory.TryRead(Arguments + offset, out uint value) ? value : throw new InvalidOperationException();
}
