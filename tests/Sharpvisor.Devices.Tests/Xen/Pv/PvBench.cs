using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Pv;
using Sharpvisor.Testing.Guests;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Xen.Pv;

/// <summary>
/// A paravirtual domain without processors: its first 512 frames are mapped at <see cref="Base"/>, but for the page tables (frames 1
/// to 4) writable. Calls are made as the kernel makes them, with arguments in its memory.
/// </summary>
internal sealed class PvBench : IDisposable
{
    public const ulong Base = 0xFFFF_FFFF_8000_0000, Page = GuestMemory.PageSize;

    public const ulong P = 1, W = 2, U = 4, A = 0x20, D = 0x40, NoExecute = 1UL << 63, FrameMask = 0x000F_FFFF_FFFF_F000;

    public const int EPERM = -1, ESRCH = -3, E2BIG = -7, ENOMEM = -12, EACCES = -13, EFAULT = -14, EBUSY = -16, EINVAL = -22, ENOSYS = -38, EOPNOTSUPP = -95;

    public const int Root = 1, StoreFrame = 5, ConsoleFrame = 6, FirstUnmapped = 512, DomainNumber = 7;

    private const ulong Arguments = Base + (8 * Page);

    /// <param name="isDomain">There is all that a domain has.</param>
    public PvBench(int size = 8 << 20, ulong below4G = 3UL << 30, int processors = 2, bool isDomain = false)
    {
        Memory = new GuestMemory((ulong)size, below4G);
        Layout = new PvLayout(Memory.Below4G, Memory.Above4G);
        Errors = new GuestErrorLog(NullLogger.Instance);
        if (isDomain)
        {
            var (clock, bus, machine) = (new ManualClock(), new ApicBus(), new RecordingMachine());
            Xen = new XenDomain(DomainNumber, [.. Enumerable.Range(0, processors).Select(i => new LocalApic(i, clock, bus))], Memory, clock, machine, Errors, NullLogger.Instance);
            Xen.Paravirtual = new PvDomain(Xen, Layout, Memory, machine, Errors, NullLogger.Instance);
            (Xen.StorePage, Xen.ConsolePage) = (Mfn(StoreFrame) * Page, Mfn(ConsoleFrame) * Page);
        }

        Mmu = Xen?.Paravirtual?.Mmu ?? new PvMmu(Memory, Layout, DomainNumber, processors, Errors);
        Processors = [.. Enumerable.Range(0, processors).Select(i => new PvProcessor(i, Memory))];
        Reset();
    }

    public GuestMemory Memory { get; }

    public PvLayout Layout { get; }

    public PvMmu Mmu { get; }

    /// <summary>The domain, if there is one.</summary>
    public XenDomain? Xen { get; }

    public GuestErrorLog Errors { get; }

    public IReadOnlyList<PvProcessor> Processors { get; }

    public PvProcessor Processor => Processors[0];

    /// <summary>What the next calls get as their last argument: whose frames.</summary>
    public ulong Domain { get; set; } = 0x7FF0;

    public void Dispose() => Memory.Dispose();

    public void Reset()
    {
        Memory.Clear();
        Put(1, 511, Entry(2, P | W | U));
        Put(2, 510, Entry(3, P | W | U));
        Put(3, 0, Entry(4, P | W | U));
        for (var i = 0; i < 512; i++)
            Put(4, i, Entry(i, P | (i is >= 1 and <= 4 ? 0 : W)));
        Xen?.Reset();
        if (Xen?.Paravirtual is { } paravirtual)
            paravirtual.Build(Mfn(Root) * Page);
        else
            Mmu.Reset(Mfn(Root) * Page);
        foreach (var processor in Processors)
        {
            (processor.KernelRoot, processor.UserRoot) = (0, 0);
            Assert.Equal(XenError.None, Mmu.SetRoots(processor, Mfn(Root) * Page, 0));
            processor.Flushes.Clear();
        }
    }

    public ulong Mfn(int pfn) => Layout.ToMachine((ulong)pfn);

    public ulong Entry(int pfn, ulong bits) => (Mfn(pfn) * Page) | bits;

    /// <summary>Machine address of an entry.</summary>
    public ulong At(int pfn, int index) => (Mfn(pfn) * Page) + (ulong)(index * 8);

    public PvFrameInfo Frame(int pfn) => Mmu.Describe(Mfn(pfn));

    /// <summary>What the domain does by an ordinary store.</summary>
    public void Put(int pfn, int index, ulong value) => Assert.True(Memory.TryWrite(At(pfn, index), value));

    public ulong Get(int pfn, int index)
    {
        Assert.True(Memory.TryRead(At(pfn, index), out ulong value));
        return value;
    }

    public long Call(ulong number, ulong first = 0, ulong second = 0, ulong third = 0, ulong fourth = 0, PvProcessor? processor = null)
    {
        processor ??= Processor;
        var call = new Hypercall(processor.Index, 0, true, number, first, second, third, fourth, 0);
        if (Xen is not null)
            return (long)Xen.Call(call, processor).Value;
        Assert.True(Mmu.TryCall(call, processor, out var result));
        return (long)result;
    }

    /// <summary>mmu_update of one entry.</summary>
    /// <param name="kind">MMU_*: the low bits of the address.</param>
    public long Update(ulong address, ulong value, ulong kind = 0) => Updates((address | kind, value));

    public long Updates(params (ulong Address, ulong Value)[] requests)
    {
        for (var i = 0; i < requests.Length; i++)
        {
            PutArgument(16 + (i * 16), requests[i].Address);
            PutArgument(24 + (i * 16), requests[i].Value);
        }

        PutArgument(0, 0);
        return Call(1, Arguments + 16, (ulong)requests.Length, Arguments, Domain);
    }

    /// <summary>How many requests of the last batch were served.</summary>
    public int Done => BitConverter.ToInt32(GetArgument(0, 4));

    public long Extended(uint command, ulong first = 0, ulong second = 0) => Extended((command, first, second));

    public long Extended(params (uint Command, ulong First, ulong Second)[] requests)
    {
        for (var i = 0; i < requests.Length; i++)
        {
            PutArgument(16 + (i * 24), requests[i].Command);
            PutArgument(24 + (i * 24), requests[i].First);
            PutArgument(32 + (i * 24), requests[i].Second);
        }

        PutArgument(0, 0);
        return Call(26, Arguments + 16, (ulong)requests.Length, Arguments, Domain);
    }

    /// <param name="level">1 to 4.</param>
    public long Pin(int pfn, int level) => Extended((uint)(level - 1), Mfn(pfn));

    public long Unpin(int pfn) => Extended(4, Mfn(pfn));

    public long UseKernelRoot(int pfn) => Extended(5, Mfn(pfn));

    public long UseUserRoot(int? pfn) => Extended(15, pfn is { } p ? Mfn(p) : 0);

    /// <summary>update_va_mapping.</summary>
    public long Map(ulong linear, ulong entry, ulong flags = 0) => Call(14, linear, entry, flags);

    /// <summary>memory_op with a list of words in and out.</summary>
    public long Reserve(ulong command, ulong[] list, int order = 0, ushort domain = 0x7FF0, ulong count = 0)
    {
        const int at = 64;
        for (var i = 0; i < list.Length; i++)
            PutArgument(at + (i * 8), list[i]);
        PutArgument(0, Arguments + at);
        PutArgument(8, count == 0 ? (ulong)list.Length : count);
        PutArgument(16, (ulong)order);
        PutArgument(24, domain);
        var result = Call(12, command, Arguments);
        for (var i = 0; i < list.Length; i++)
            list[i] = GetArgument(at + (i * 8));
        return result;
    }

    public long Exchange(ulong[] given, int givenOrder, ulong[] wanted, int wantedOrder)
    {
        const int givenAt = 128, wantedAt = 2048;
        for (var i = 0; i < given.Length; i++)
            PutArgument(givenAt + (i * 8), given[i]);
        for (var i = 0; i < wanted.Length; i++)
            PutArgument(wantedAt + (i * 8), wanted[i]);
        PutReservation(0, Arguments + givenAt, given.Length, givenOrder);
        PutReservation(32, Arguments + wantedAt, wanted.Length, wantedOrder);
        PutArgument(64, 0);
        var result = Call(12, 11, Arguments);
        for (var i = 0; i < wanted.Length; i++)
            wanted[i] = GetArgument(wantedAt + (i * 8));
        return result;
    }

    public ulong Physical(ulong mfn)
    {
        Assert.True(Mmu.TryTranslateHole(IParavirtualDomain.MachineToPhysical + (mfn * 8), out var at));
        Assert.True(Memory.TryRead(at, out ulong pfn));
        return pfn;
    }

    /// <summary>A store to a page table that the processor traps.</summary>
    /// <returns>False: it was undone.</returns>
    public bool Store(ulong address, ReadOnlySpan<byte> bytes)
    {
        if (!Mmu.BeginTableWrite(address))
            return false;
        Assert.True(Memory.TryWrite(address, bytes));
        return Mmu.EndTableWrite(Processor);
    }

    public bool Store(ulong address, ulong value)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return Store(address, bytes);
    }

    public byte[] GetArgument(int offset, int length)
    {
        var bytes = new byte[length];
        Assert.True(Memory.TryRead((Mfn(8) * Page) + (ulong)offset, bytes));
        return bytes;
    }

    public ulong GetArgument(int offset) => BitConverter.ToUInt64(GetArgument(offset, 8));

    public void PutArgument(int offset, ulong value) => Assert.True(Memory.TryWrite((Mfn(8) * Page) + (ulong)offset, value));

    public static ulong ArgumentAt(int offset) => Arguments + (ulong)offset;

    private void PutReservation(int at, ulong list, int count, int order)
    {
        PutArgument(at, list);
        PutArgument(at + 8, (ulong)count);
        PutArgument(at + 16, (ulong)order);
        PutArgument(at + 24, 0x7FF0);
    }
}
