using System.Globalization;
using System.Text;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Interrupts;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Devices.Xen.Bus;
using Sharpvisor.Devices.Xen.Store;
using Sharpvisor.Testing.Time;

namespace Sharpvisor.Devices.Tests.Xen;

/// <summary>A domain with a bus of back ends, seen from the guest: its store, its grants, its event channels.</summary>
internal sealed class XenBench : IDisposable, IMachineControl
{
    public const int Number = 7;
    private const ulong SharedInfo = 0x1000, Table = 0x2000, FirstPage = 0x100000, End = 4 << 20;
    private const uint Permit = 1, ReadOnly = 4, FirstReference = 8;

    private ulong _nextPage = FirstPage;
    private uint _nextReference = FirstReference;

    public XenBench()
    {
        Domain = new XenDomain(Number, [new LocalApic(0, new ManualClock(), new ApicBus())], Memory, new ManualClock(), this, Errors, NullLogger.Instance);
        Bus = new XenBus(Domain, Memory, Gate, Errors, NullLogger.Instance);
        Domain.OnStore = store =>
        {
            store.Write(0, 0, Home + "/device", default);
            store.SetRights(0, 0, Home + "/device", [new StoreRight(0, StoreAccess.None), new StoreRight(Number, StoreAccess.Read)]);
            Bus.Start(store);
        };
        Reset();
    }

    public static string Home => "/local/domain/7";

    public GuestMemory Memory { get; } = new(End);

    public GuestErrorLog Errors { get; } = new(NullLogger.Instance);

    public MachineGate Gate { get; } = new();

    public XenDomain Domain { get; }

    public XenBus Bus { get; }

    /// <summary>References that were not given to anybody.</summary>
    public uint NextReference => _nextReference;

    public void Dispose() => Memory.Dispose();

    public void Reset()
    {
        using (Gate.Enter())
        {
            Domain.Reset();
            Domain.Events.SharedInfo = SharedInfo;
            Memory.TryWrite(SharedInfo, new byte[4096]);
            for (var i = 0; i < 4; i++)
                Assert.Equal(XenError.None, Domain.Grants.SetFrame(i, Table + (ulong)(i * 4096)));
        }

        (_nextPage, _nextReference) = (FirstPage, FirstReference);
    }

    public void Add(XenBackEnd device)
    {
        using (Gate.Enter())
            Bus.Add(device);
    }

    public void Remove(XenBackEnd device, bool isForced = false)
    {
        using (Gate.Enter())
            Bus.Remove(device, isForced);
    }

    // --- the store, as the guest sees it ---

    public string? Read(string path)
    {
        using (Gate.Enter())
            return Domain.Store.Read(Number, 0, path, out var value) == StoreError.None ? Encoding.ASCII.GetString(value.Span) : null;
    }

    public StoreError Write(string path, string value)
    {
        using (Gate.Enter())
            return Domain.Store.Write(Number, 0, path, Encoding.ASCII.GetBytes(value));
    }

    public StoreError Erase(string path)
    {
        using (Gate.Enter())
            return Domain.Store.Remove(Number, 0, path);
    }

    public string FrontOf(XenBackEnd device) => $"{Home}/device/{device.Kind}/{device.Number}";

    public string? BackKey(XenBackEnd device, string key) => Read($"/local/domain/0/backend/{device.Kind}/7/{device.Number}/{key}");

    public void SetFront(XenBackEnd device, string key, object value) =>
        Assert.Equal(StoreError.None, Write($"{FrontOf(device)}/{key}", Convert.ToString(value, CultureInfo.InvariantCulture)!));

    public void SetState(XenBackEnd device, XenbusState state) => SetFront(device, "state", (int)state);

    public XenbusState BackState(XenBackEnd device) => (XenbusState)int.Parse(BackKey(device, "state") ?? "0", CultureInfo.InvariantCulture);

    // --- memory and events ---

    public ulong AllocatePage()
    {
        Assert.True(_nextPage < End);
        _nextPage += 4096;
        return _nextPage - 4096;
    }

    public uint Grant(ulong page, bool readOnly = false)
    {
        SetGrant(_nextReference, Permit | (readOnly ? ReadOnly : 0) | page >> 12 << 32);
        return _nextReference++;
    }

    public void SetGrant(uint reference, ulong entry) => Assert.True(Memory.TryWrite(Table + (reference * 8), entry));

    /// <summary>The flags of a grant that say that it is in use.</summary>
    public uint UsesOf(uint reference) => Memory.TryRead(Table + (reference * 8), out ushort flags) ? flags & 0x18u : throw new InvalidOperationException();

    public uint MakePort()
    {
        using (Gate.Enter())
        {
            Assert.Equal(XenError.None, Domain.Events.AllocateUnbound(EventChannels.BackEnd, out var port));
            return port;
        }
    }

    public void Send(uint port)
    {
        using (Gate.Enter())
            Domain.Events.Send(port);
    }

    /// <summary>Whether an event has come since this was asked last.</summary>
    public bool TakeEvent(uint port)
    {
        Memory.TryClearBits(SharedInfo + 0x800 + (port / 64 * 8), 1UL << (int)(port % 64), out var old);
        return (old >> (int)(port % 64) & 1) != 0;
    }

    public void RequestReset(string source) => throw new NotSupportedException();

    public void RequestPowerOff(string source) => throw new NotSupportedException();

    public void RequestSuspend(string source) => throw new NotSupportedException();

    public void RequestWakeUp(string source) => throw new NotSupportedException();

    public void RequestExit(int exitCode, string source) => throw new NotSupportedException();

    public void ReportPanic(string source, bool isHandled) => throw new NotSupportedException();

    public void RequestPause(string reason) => throw new NotSupportedException();
}

/// <summary>The front end's side of a ring.</summary>
internal sealed class FrontRing
{
    private const int HeaderSize = 64;

    private readonly XenBench _bench;
    private readonly int _entrySize;
    private readonly ulong[] _pages;
    private uint _told;

    public FrontRing(XenBench bench, int pages, int entrySize)
    {
        _bench = bench;
        _entrySize = entrySize;
        _pages = [.. Enumerable.Range(0, pages).Select(_ => bench.AllocatePage())];
        foreach (var page in _pages)
            bench.Memory.TryWrite(page, new byte[4096]);
        References = [.. _pages.Select(p => bench.Grant(p))];
        Size = 1u << int.Log2(((pages * 4096) - HeaderSize) / entrySize);
        bench.Memory.TryWrite(_pages[0] + 4, 1u); // req_event
        bench.Memory.TryWrite(_pages[0] + 12, 1u); // rsp_event
    }

    public uint[] References { get; }

    public uint Size { get; }

    public uint Produced { get; set; }

    public uint Consumed { get; private set; }

    /// <summary>Of the page with the indices.</summary>
    public ulong Header => _pages[0];

    public void Put(ReadOnlySpan<byte> entry)
    {
        Move(Produced++, entry.ToArray(), isWrite: true);
    }

    /// <returns>Whether the other side wants an event.</returns>
    public bool Push()
    {
        _bench.Memory.TryWrite(_pages[0], Produced);
        _bench.Memory.TryRead(_pages[0] + 4, out uint wanted);
        var (old, _) = (_told, _told = Produced);
        return Produced - wanted < Produced - old;
    }

    /// <summary>The next answer; null: there is none, and the next one raises an event.</summary>
    public byte[]? Take()
    {
        _bench.Memory.TryRead(_pages[0] + 8, out uint produced);
        if (produced - Consumed - 1 >= Size) // none, or the test has written over it
        {
            _bench.Memory.TryWrite(_pages[0] + 12, Consumed + 1);
            return null;
        }

        var entry = new byte[_entrySize];
        Move(Consumed++, entry, isWrite: false);
        return entry;
    }

    private void Move(uint index, Span<byte> entry, bool isWrite)
    {
        for (var i = 0; i < entry.Length; i++)
        {
            var (page, offset) = Math.DivRem(HeaderSize + ((int)(index % Size) * _entrySize) + i, 4096);
            if (isWrite)
                _bench.Memory.TryWrite(_pages[page] + (ulong)offset, entry[i]);
            else
                _bench.Memory.TryRead(_pages[page] + (ulong)offset, out entry[i]);
        }
    }
}
