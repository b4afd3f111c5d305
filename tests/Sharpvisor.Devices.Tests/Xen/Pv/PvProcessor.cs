using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>What the memory management of a paravirtual domain asks of a processor; reads by the kernel's page tables.</summary>
internal sealed class PvProcessor(int index, GuestMemory memory) : IParavirtualProcessor
{
    public int Index => index;

    public ulong KernelRoot { get; set; }

    public ulong UserRoot { get; set; }

    public int IoPrivilege { get; set; }

    public void SetIoBitmap(ulong linear, int ports) => throw new NotSupportedException();

    /// <summary>What it was told to forget: (processors, address or null for all).</summary>
    public List<(ulong Processors, ulong? Linear)> Flushes { get; } = [];

    public (ulong Linear, int Entries) Ldt { get; private set; }

    public bool TryRead(ulong linear, Span<byte> destination)
    {
        if (!TryEach(linear, destination.Length, isWrite: false, out var parts))
            return false;
        foreach (var (address, offset, length) in parts)
            memory.TryRead(address, destination.Slice(offset, length));
        return true;
    }

    public bool TryWrite(ulong linear, ReadOnlySpan<byte> source)
    {
        if (!TryEach(linear, source.Length, isWrite: true, out var parts))
            return false;
        foreach (var (address, offset, length) in parts)
            memory.TryWrite(address, source.Slice(offset, length));
        return true;
    }

    public bool TryTranslate(ulong linear, out ulong physical) => TryWalk(linear, isWrite: false, out physical);

    public void FlushTlb(ulong? linear) => Flushes.Add((1UL << index, linear));

    public void FlushTlbOf(ulong processors, ulong? linear) => Flushes.Add((processors, linear));

    public void SetLdt(ulong linear, int entries) => Ldt = (linear, entries);

    public void SetTaskSwitched(bool value) => throw new NotSupportedException();

    public void SetTrap(int vector, in TrapGate gate) => throw new NotSupportedException();

    public void SetEntry(ParavirtualEntry entry, ulong address, bool masksEvents) => throw new NotSupportedException();

    public void SetKernelStack(ushort selector, ulong pointer) => throw new NotSupportedException();

    public void SetGdt(int entries) => throw new NotSupportedException();

    public bool SetSegmentBase(ParavirtualSegmentBase kind, ulong value) => throw new NotSupportedException();

    public int? FindDebugRegister(ulong number) => throw new NotSupportedException();

    public ulong GetDebugRegister(int index) => throw new NotSupportedException();

    public bool SetDebugRegister(int index, ulong value) => throw new NotSupportedException();

    public bool SetRegisters(ParavirtualRegisters registers) => throw new NotSupportedException();

    public ulong ReturnFromTrap() => throw new NotSupportedException();

    private bool TryEach(ulong linear, int length, bool isWrite, out List<(ulong Address, int Offset, int Length)> parts)
    {
        parts = [];
        for (var done = 0; done < length;)
        {
            var at = linear + (ulong)done;
            var part = Math.Min(length - done, (int)(4096 - (at & 4095)));
            if (!TryWalk(at, isWrite, out var physical))
                return false;
            parts.Add((physical, done, part));
            done += part;
        }

        return true;
    }

    private bool TryWalk(ulong linear, bool isWrite, out ulong physical)
    {
        var entry = KernelRoot | 3;
        physical = 0;
        for (var shift = 39; shift >= 12; shift -= 9)
        {
            if (!memory.TryRead((entry & PvBench.FrameMask) + ((linear >> shift & 511) * 8), out entry) || (entry & 1) == 0 || (isWrite && (entry & 2) == 0))
                return false;
        }

        physical = (entry & PvBench.FrameMask) | (linear & 4095);
        return true;
    }
}
