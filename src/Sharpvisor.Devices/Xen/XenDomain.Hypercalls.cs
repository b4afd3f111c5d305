using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Timers;
using Sharpvisor.Devices.Xen.Pv;

namespace Sharpvisor.Devices.Xen;

/// <content>The hypercalls, by their numbers in xen.h.</content>
public sealed partial class XenDomain
{
    private const int Self = EventChannels.Self;

    /// <summary>Pages that the domain has given back.</summary>
    private long _given;

    /// <summary>What the domain is told of its memory: start, length, and type as in E820.</summary>
    public IReadOnlyList<(ulong Start, ulong Length, uint Type)> MemoryMap { get; set; } = [];

    /// <summary>Bytes of a pointer and of an unsigned long of the caller.</summary>
    private static int WordOf(in Hypercall call) => call.Is64 ? 8 : 4;

    /// <summary>Field number <paramref name="index"/> of a structure of words.</summary>
    private static ulong ReadWord(in Hypercall call, ReadOnlySpan<byte> words, int index) => call.Is64
        ? BinaryPrimitives.ReadUInt64LittleEndian(words[(index * 8)..])
        : BinaryPrimitives.ReadUInt32LittleEndian(words[(index * 4)..]);

    internal bool IsSelf(int domain) => domain == Self || domain == Number;

    private ulong VersionOp(in Hypercall call, ILinearMemory memory)
    {
        const int version = 0, extraVersion = 1, capabilities = 3, changeSet = 4, platformParameters = 5, getFeatures = 6, pageSize = 7, guestHandle = 8;
        const uint autoTranslated = 1 << 2, callbackVector = 1 << 8, safePvClock = 1 << 9;
        switch ((int)call.Arg1)
        {
            case version:
                return Version;
            case pageSize:
                return GuestMemory.PageSize;
            case extraVersion:
                return WriteText(memory, call.Arg2, ".0-sharpvisor", 16);
            case capabilities:
                return WriteText(memory, call.Arg2, Paravirtual is not null ? "xen-3.0-x86_64 " : "hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ", 1024);
            case changeSet:
                return WriteText(memory, call.Arg2, "", 64);
            case platformParameters:
                Span<byte> start = stackalloc byte[8];
                BinaryPrimitives.WriteUInt64LittleEndian(start, Paravirtual is null ? 0 : IParavirtualDomain.HoleStart);
                return memory.TryWrite(call.Arg2, start[..WordOf(call)]) ? 0 : Result(XenError.EFAULT);
            case guestHandle:
                return memory.TryWrite(call.Arg2, stackalloc byte[16]) ? 0 : Result(XenError.EFAULT);
            case getFeatures:
                Span<byte> info = stackalloc byte[8];
                if (!memory.TryRead(call.Arg2, info))
                    return Result(XenError.EFAULT);
                var map = BinaryPrimitives.ReadUInt32LittleEndian(info);
                var vector = Callback.Offer == XenCallbackOffer.Line ? 0 : callbackVector;
                BinaryPrimitives.WriteUInt32LittleEndian(info[4..], map != 0 ? 0 : Paravirtual is not null ? PvDomain.Features : autoTranslated | vector | safePvClock);
                return memory.TryWrite(call.Arg2, info) ? 0 : Result(XenError.EFAULT);
            default:
                return Unknown(call.Number, "xen_version", call.Arg1);
        }
    }

    private ulong MemoryOp(in Hypercall call, ILinearMemory memory)
    {
        const int maximumRamPage = 2, currentReservation = 3, maximumReservation = 4, addToPhysmap = 7, memoryMap = 9, maximumPage = 14, removeFromPhysmap = 15;
        const int decreaseReservation = 1, populatePhysmap = 6;
        const uint sharedInfo = 0, grantTable = 1;
        const int header = 8;
        Span<byte> arguments = stackalloc byte[24];
        switch ((int)call.Arg1)
        {
            case maximumRamPage or maximumPage:
                return (_memory.Above4G > 0 ? (4UL << 30) + _memory.Above4G : _memory.Below4G) / GuestMemory.PageSize;
            case currentReservation:
                return (_memory.Size / GuestMemory.PageSize) - (ulong)_given;
            case maximumReservation:
                return _memory.Size / GuestMemory.PageSize;
            case memoryMap:
                return WriteMemoryMap(call, memory);
            case decreaseReservation or populatePhysmap:
                return ChangeReservation(call, memory, isGiven: (int)call.Arg1 == decreaseReservation);
            case addToPhysmap:
                if (!memory.TryRead(call.Arg2, arguments[..(header + (2 * WordOf(call)))]))
                    return Result(XenError.EFAULT);
                if (!IsSelf(BinaryPrimitives.ReadUInt16LittleEndian(arguments)))
                    return Result(XenError.ESRCH);
                var index = ReadWord(call, arguments[header..], 0);
                var page = ReadWord(call, arguments[header..], 1);
                if (page >= GuestMemory.MapLimit / GuestMemory.PageSize)
                    return Result(XenError.EINVAL);
                page *= GuestMemory.PageSize;
                return BinaryPrimitives.ReadUInt32LittleEndian(arguments[4..]) switch
                {
                    sharedInfo when index == 0 => Overlay(0, page) ? SetSharedInfo(page, call.Is64) : Result(XenError.EINVAL),
                    grantTable when index < GrantTable.MaximumFrames => Overlay(1 + (int)index, page) ? Result(Grants.SetFrame((int)index, page)) : Result(XenError.EINVAL),
                    _ => Result(XenError.EINVAL),
                };
            case removeFromPhysmap:
                if (!memory.TryRead(call.Arg2, arguments[..(2 * WordOf(call))]))
                    return Result(XenError.EFAULT);
                if (!IsSelf(BinaryPrimitives.ReadUInt16LittleEndian(arguments)))
                    return Result(XenError.ESRCH);
                page = ReadWord(call, arguments, 1);
                return Array.FindIndex(_overlays, o => o?.Start == page * GuestMemory.PageSize) is >= 0 and var found
                    ? RemoveOverlay(found)
                    : Result(XenError.EINVAL);
            default:
                return Unknown(call.Number, "memory_op", call.Arg1);
        }
    }

    /// <summary>XENMEM_memory_map: as many entries of the map as the domain has room for.</summary>
    private ulong WriteMemoryMap(in Hypercall call, ILinearMemory memory)
    {
        const int entrySize = 20;
        Span<byte> arguments = stackalloc byte[16];
        if (!memory.TryRead(call.Arg2, arguments[..(2 * WordOf(call))]))
            return Result(XenError.EFAULT);
        var buffer = ReadWord(call, arguments, 1);
        var count = (int)Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(arguments), (uint)MemoryMap.Count);
        Span<byte> entry = stackalloc byte[entrySize];
        for (var i = 0; i < count; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, MemoryMap[i].Start);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], MemoryMap[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], MemoryMap[i].Type);
            if (!memory.TryWrite(buffer + (ulong)(i * entrySize), entry))
                return Result(XenError.EFAULT);
        }

        BinaryPrimitives.WriteInt32LittleEndian(arguments, count);
        return memory.TryWrite(call.Arg2, arguments[..4]) ? 0 : Result(XenError.EFAULT);
    }

    /// <summary>The balloon: pages go back to the host and, when the domain wants them again, are there as zeroes.</summary>
    /// <returns>How many extents were served.</returns>
    private ulong ChangeReservation(in Hypercall call, ILinearMemory memory, bool isGiven)
    {
        const ulong atOnce = 4096;
        const uint largestOrder = 9;
        Span<byte> arguments = stackalloc byte[32];
        var word = WordOf(call);
        if (!memory.TryRead(call.Arg2, arguments[..((2 * word) + 10)]))
            return Result(XenError.EFAULT);
        var list = ReadWord(call, arguments, 0);
        var count = Math.Min(ReadWord(call, arguments, 1), atOnce);
        var order = BinaryPrimitives.ReadUInt32LittleEndian(arguments[(2 * word)..]);
        if (!IsSelf(BinaryPrimitives.ReadUInt16LittleEndian(arguments[((2 * word) + 8)..])) || order > largestOrder)
            return Result(XenError.EPERM);
        var pages = 1L << (int)order;
        Span<byte> page = stackalloc byte[8];
        for (ulong done = 0; done < count; done++)
        {
            if (!memory.TryRead(list + (done * (ulong)word), page[..word]))
                return done;
            var first = ReadWord(call, page, 0);
            if (first >= GuestMemory.MapLimit / GuestMemory.PageSize)
                return done;
            if (isGiven ? _given + pages > (long)(_memory.Size / GuestMemory.PageSize) || !_memory.TryDiscard(first * GuestMemory.PageSize, (ulong)pages * GuestMemory.PageSize)
                : _given < pages || !_memory.IsRam(first * GuestMemory.PageSize, (ulong)pages * GuestMemory.PageSize))
            {
                return done;
            }

            _given += isGiven ? pages : -pages;
        }

        return count;
    }

    /// <summary>
    /// Lays a page of Xen's own where the domain has none. A page of its RAM is used as it is: Xen would hide it, which
    /// no domain waits for.
    /// </summary>
    private bool Overlay(int index, ulong page)
    {
        RemoveOverlay(index);
        if (_memory.IsRam(page, GuestMemory.PageSize))
            return true;
        var offset = (ulong)index * GuestMemory.PageSize;
        _overlays[index] = _memory.Map(page, GuestMemory.PageSize, _overlay, offset, _overlay, offset, isOnTop: true);
        return true;
    }

    private ulong RemoveOverlay(int index)
    {
        if (_overlays[index] is { } mapping)
            _memory.Unmap(mapping);
        _overlays[index] = null;
        return 0;
    }

    private ulong SetSharedInfo(ulong page, bool is64)
    {
        const int vcpuInfoSize = 64, vcpusInSharedInfo = 32;
        var (mask, maskLength, wallClock) = is64 ? (0xA00, 512, 0xC00u) : (0x880, 128, 0x900u);
        const uint wallClockHigh = 0xC0C; // in a part of the structure that there is for 64 bits only
        var contents = new byte[GuestMemory.PageSize];
        var before = Events.SharedInfo;
        if (before == 0 || Events.Is32Bit == is64 || !_memory.TryRead(before, contents))
            contents.AsSpan(mask, maskLength).Fill(0xFF); // every port is masked at first
        if (!_memory.TryWrite(page, contents))
            return Result(XenError.EINVAL);
        Events.SharedInfo = page;
        Events.Is32Bit = !is64;
        PvClock.WriteWallClock(_memory, page + wallClock, version: 2, _clock.UnixEpochNs);
        if (is64)
            _memory.TryWrite(page + wallClockHigh, (uint)(_clock.UnixEpochNs / 1_000_000_000 >> 32));
        for (var i = 0; i < Math.Min(_processors.Length, vcpusInSharedInfo); i++)
        {
            if (Events.VcpuInfo(i) is var info && (info == 0 || info == before + (ulong)(i * vcpuInfoSize)))
            {
                Events.SetVcpuInfo(i, page + (ulong)(i * vcpuInfoSize));
                _processors[i].UpdateTime();
            }
        }

        return 0;
    }

    private ulong HvmOp(in Hypercall call, ILinearMemory memory)
    {
        const int setParameter = 0, getParameter = 1, setUpcallVector = 23;
        Span<byte> arguments = stackalloc byte[16];
        switch ((int)call.Arg1)
        {
            case setParameter or getParameter:
                if (!memory.TryRead(call.Arg2, arguments))
                    return Result(XenError.EFAULT);
                if (!IsSelf(BinaryPrimitives.ReadUInt16LittleEndian(arguments)))
                    return Result(XenError.ESRCH);
                var index = BinaryPrimitives.ReadUInt32LittleEndian(arguments[4..]);
                if (index >= ParameterCount)
                    return Result(XenError.EINVAL);
                if ((int)call.Arg1 == setParameter)
                    return SetParameter((HvmParam)index, BinaryPrimitives.ReadUInt64LittleEndian(arguments[8..]));
                BinaryPrimitives.WriteUInt64LittleEndian(arguments[8..], _parameters[index]);
                return memory.TryWrite(call.Arg2, arguments) ? 0 : Result(XenError.EFAULT);
            case setUpcallVector when Callback.Offer == XenCallbackOffer.ProcessorVector:
                if (!memory.TryRead(call.Arg2, arguments[..8]))
                    return Result(XenError.EFAULT);
                var processor = BinaryPrimitives.ReadUInt32LittleEndian(arguments);
                if (processor >= _processors.Length)
                    return Result(XenError.ENOENT);
                if (arguments[4] < 16)
                    return Result(XenError.EINVAL);
                _processors[processor].UpcallVector = arguments[4];
                TellAgain((int)processor);
                return 0;
            default:
                return Unknown(call.Number, "hvm_op", call.Arg1);
        }
    }

    private ulong SetParameter(HvmParam parameter, ulong value)
    {
        if (parameter is HvmParam.StorePage or HvmParam.StorePort or HvmParam.ConsolePage or HvmParam.ConsolePort)
            return Result(XenError.EPERM);
        if (parameter == HvmParam.CallbackIrq && Callback.Set(value) is not XenError.None and var error)
            return Result(error);
        _parameters[(int)parameter] = value;
        return 0;
    }

    private ulong VcpuOp(in Hypercall call, ILinearMemory memory)
    {
        const int isUp = 3, getRunstate = 4, registerRunstate = 5, setPeriodic = 6, stopPeriodic = 7, setSingleshot = 8, stopSingleshot = 9;
        const int registerVcpuInfo = 10, registerTime = 13;
        const uint onlyInFuture = 1;
        if (call.Arg2 >= (ulong)_processors.Length)
            return Result(XenError.ENOENT);
        var number = (int)call.Arg2;
        var processor = _processors[number];
        Span<byte> arguments = stackalloc byte[16];
        arguments.Clear();
        var length = (int)call.Arg1 switch { registerVcpuInfo or setSingleshot => 12, setPeriodic => 8, registerRunstate or registerTime => WordOf(call), _ => 0 };
        if (length > 0 && !memory.TryRead(call.Arg3, arguments[..length]))
            return Result(XenError.EFAULT);
        var first = BinaryPrimitives.ReadUInt64LittleEndian(arguments);
        switch ((int)call.Arg1)
        {
            case isUp:
                return 1;
            case getRunstate:
                return memory.TryWrite(call.Arg3, processor.Runstate.Get(call.Is64)) ? 0 : Result(XenError.EFAULT);
            case registerRunstate:
                if (!TryPlace(memory, first, call.Is64 ? XenRunstate.Length : XenRunstate.Length32, out var runstate) || Paravirtual?.TryHold(number, PvStructure.Runstate, runstate) == false)
                    return Result(XenError.EFAULT);
                processor.Runstate.SetArea(runstate, call.Is64);
                return 0;
            case registerTime:
                if (!TryPlace(memory, first, XenVcpu.TimeLength, out var time) || Paravirtual?.TryHold(number, PvStructure.Time, time) == false)
                    return Result(XenError.EFAULT);
                processor.TimeArea = time;
                return 0;
            case setPeriodic:
                return Result(processor.SetPeriod(first));
            case stopPeriodic:
                return Result(processor.SetPeriod(0));
            case setSingleshot:
                return Result(processor.SetTimer(first, (BinaryPrimitives.ReadUInt32LittleEndian(arguments[8..]) & onlyInFuture) != 0));
            case stopSingleshot:
                processor.StopTimer();
                return 0;
            case registerVcpuInfo:
                return RegisterVcpuInfo(number, first, BinaryPrimitives.ReadUInt32LittleEndian(arguments[8..]));
            default:
                return Unknown(call.Number, "vcpu_op", call.Arg1);
        }
    }

    /// <summary>Finds the place of a structure that is written to from now on. Null takes it away.</summary>
    private bool TryPlace(ILinearMemory memory, ulong linear, int length, out ulong address)
    {
        address = 0;
        return linear == 0 || (memory.TryTranslate(linear, out address) && (address & 0xFFF) + (ulong)length <= GuestMemory.PageSize && _memory.IsRam(address, (ulong)length)
            && Paravirtual?.Mmu.TryAcquire(address / GuestMemory.PageSize, writable: true) != false);
    }

    private ulong RegisterVcpuInfo(int processor, ulong page, uint offset)
    {
        const int size = 64;
        if (offset > GuestMemory.PageSize - size || offset % 8 != 0 || page >= 1UL << 40 || !_memory.IsRam((page * GuestMemory.PageSize) + offset, size))
            return Result(XenError.EINVAL);
        var address = (page * GuestMemory.PageSize) + offset;
        if (Paravirtual is { } paravirtual && (paravirtual.IsHeld(processor, PvStructure.VcpuInfo) || !paravirtual.TryHold(processor, PvStructure.VcpuInfo, address)))
            return Result(XenError.EINVAL); // as Xen: once only, and in a frame that the domain may write to
        Span<byte> old = stackalloc byte[size];
        if (Events.VcpuInfo(processor) is not 0 and var before && _memory.TryRead(before, old))
            _memory.TryWrite(address, old);
        Events.SetVcpuInfo(processor, address);
        _processors[processor].UpdateTime();
        return 0;
    }

    private HypercallResult SchedOp(in Hypercall call, ILinearMemory memory)
    {
        const int yield = 0, block = 1, shutdown = 2, poll = 3;
        var processor = _processors[call.Processor];
        if ((int)call.Arg1 != poll)
            processor.PollDeadline = null;
        switch ((int)call.Arg1)
        {
            case yield:
                return default;
            case block:
                // Waking up without a reason is allowed.
                Events.Unblock(call.Processor);
                if (Events.HasUpcall(call.Processor))
                    return default;
                return Paravirtual is null ? Rest(processor, isAgain: false) : new HypercallResult(0, After: AfterHypercall.Halt);
            case shutdown:
                Span<byte> reason = stackalloc byte[4];
                return new HypercallResult(memory.TryRead(call.Arg2, reason) ? ShutDown(BinaryPrimitives.ReadUInt32LittleEndian(reason)) : Result(XenError.EFAULT));
            case poll:
                return Poll(processor, call, memory);
            default:
                return new HypercallResult(Unknown(call.Number, "sched_op", call.Arg1));
        }
    }

    private static HypercallResult Rest(XenVcpu processor, bool isAgain)
    {
        processor.IsResting = true;
        return new HypercallResult(0, isAgain, processor.Rest);
    }

    /// <summary>SCHEDOP_poll: until one of some ports has an event, masked or not, or until a time.</summary>
    private HypercallResult Poll(XenVcpu processor, in Hypercall call, ILinearMemory memory)
    {
        const uint mostPorts = 128;
        Span<byte> arguments = stackalloc byte[24];
        Span<byte> port = stackalloc byte[4];
        var word = WordOf(call);
        if (!memory.TryRead(call.Arg2, arguments[..((2 * word) + 8)]))
            return End(XenError.EFAULT);
        var count = BinaryPrimitives.ReadUInt32LittleEndian(arguments[word..]);
        if (count > mostPorts)
            return End(XenError.EINVAL);
        for (var i = 0u; i < count; i++)
        {
            if (!memory.TryRead(ReadWord(call, arguments, 0) + (i * 4), port))
                return End(XenError.EFAULT);
            var number = BinaryPrimitives.ReadUInt32LittleEndian(port);
            if (number >= EventChannels.PortCount)
                return End(XenError.EINVAL);
            if (Events.IsPending(number))
                return End(XenError.None);
        }

        // Each poll of one processor ends before its next one begins, but for a guest that leaves it by an interrupt for good.
        var timeout = BinaryPrimitives.ReadUInt64LittleEndian(arguments[(2 * word)..]);
        processor.PollDeadline ??= timeout == 0 ? long.MaxValue : (long)Math.Min(timeout, long.MaxValue);
        return processor.PollDeadline <= _clock.NowNs ? End(XenError.None) : Rest(processor, isAgain: true);

        HypercallResult End(XenError error)
        {
            processor.PollDeadline = null;
            return new HypercallResult(Result(error));
        }
    }

    private ulong ShutDown(uint reason)
    {
        const uint powerOff = 0, reboot = 1, suspend = 2, crash = 3, softReset = 5;
        switch (reason)
        {
            case powerOff:
                _control.RequestPowerOff("Xen");
                return 0;
            case reboot:
                _control.RequestReset("Xen");
                return 0;
            case suspend:
                return Result(XenError.EOPNOTSUPP);
            case crash:
                _control.ReportPanic("Xen", isHandled: false);
                return 0;
            case softReset:
                SoftReset();
                return 0;
            default:
                return Result(XenError.EINVAL);
        }
    }

    private ulong ConsoleIo(in Hypercall call, ILinearMemory memory)
    {
        const int write = 0, limit = 4096;
        if ((int)call.Arg1 != write)
            return Unknown(call.Number, "console_io", call.Arg1);
        if (call.Arg2 > limit)
            return Result(XenError.E2BIG);
        var text = new byte[(int)call.Arg2];
        if (text.Length > 0 && !memory.TryRead(call.Arg3, text))
            return Result(XenError.EFAULT);
        _log.Add(text);
        return 0;
    }

    private ulong GrantTableOp(in Hypercall call, ILinearMemory memory)
    {
        const int setupTable = 2, querySize = 6, setVersion = 8, getVersion = 10;
        if (call is { Arg1: setupTable, Arg3: not 1 })
            return Result(XenError.EINVAL);
        if (call.Arg3 != 1)
            return Unknown(call.Number, "grant_table_op of many", call.Arg1);
        Span<byte> arguments = stackalloc byte[16];
        switch ((int)call.Arg1)
        {
            case setupTable:
                return SetupGrantTable(call, memory);
            case querySize:
                if (!memory.TryRead(call.Arg2, arguments))
                    return Result(XenError.EFAULT);
                BinaryPrimitives.WriteInt32LittleEndian(arguments[4..], Grants.FrameCount);
                BinaryPrimitives.WriteInt32LittleEndian(arguments[8..], GrantTable.MaximumFrames);
                BinaryPrimitives.WriteInt16LittleEndian(arguments[12..], IsSelf(BinaryPrimitives.ReadUInt16LittleEndian(arguments)) ? (short)0 : (short)XenError.EPERM);
                return memory.TryWrite(call.Arg2, arguments) ? 0 : Result(XenError.EFAULT);
            case setVersion:
                if (!memory.TryRead(call.Arg2, arguments[..4]))
                    return Result(XenError.EFAULT);
                var accepted = BinaryPrimitives.ReadUInt32LittleEndian(arguments) == 1;
                BinaryPrimitives.WriteUInt32LittleEndian(arguments, 1);
                memory.TryWrite(call.Arg2, arguments[..4]);
                return accepted ? 0 : Result(XenError.EINVAL);
            case getVersion:
                if (!memory.TryRead(call.Arg2, arguments[..8]))
                    return Result(XenError.EFAULT);
                BinaryPrimitives.WriteUInt32LittleEndian(arguments[4..], 1);
                return memory.TryWrite(call.Arg2, arguments[..8]) ? 0 : Result(XenError.EFAULT);
            default:
                return Unknown(call.Number, "grant_table_op", call.Arg1);
        }
    }

    private ulong EventChannelOp(in Hypercall call, ILinearMemory memory)
    {
        const int bindInterdomain = 0, bindVirq = 1, close = 3, send = 4, status = 5, allocUnbound = 6, bindIpi = 7, bindVcpu = 8, unmask = 9, reset = 10;
        const int initControl = 11, setPriority = 13;
        Span<byte> arguments = stackalloc byte[24];
        arguments.Clear();
        var command = (int)call.Arg1;
        var length = command switch
        {
            bindInterdomain or bindVirq => 12,
            close or send or unmask => 4,
            status => 24,
            allocUnbound or bindIpi or bindVcpu => 8,
            reset => 2,
            _ => 0,
        };
        if (length == 0)
            return command is initControl or setPriority ? Result(XenError.ENOSYS) : Unknown(call.Number, "event_channel_op", call.Arg1);
        if (!memory.TryRead(call.Arg2, arguments[..length]))
            return Result(XenError.EFAULT);
        var (a, b) = (BinaryPrimitives.ReadUInt32LittleEndian(arguments), BinaryPrimitives.ReadUInt32LittleEndian(arguments[4..]));
        XenError error;
        uint port;
        switch (command)
        {
            case bindInterdomain:
                error = Events.BindInterdomain((ushort)a, b, out port);
                BinaryPrimitives.WriteUInt32LittleEndian(arguments[8..], port);
                break;
            case bindVirq:
                error = Events.BindVirq((int)a, (int)b, out port);
                BinaryPrimitives.WriteUInt32LittleEndian(arguments[8..], port);
                break;
            case bindIpi:
                error = Events.BindIpi((int)a, out port);
                BinaryPrimitives.WriteUInt32LittleEndian(arguments[4..], port);
                break;
            case allocUnbound:
                error = IsSelf((ushort)a) ? Events.AllocateUnbound((ushort)(a >> 16), out port) : NoPort(out port);
                BinaryPrimitives.WriteUInt32LittleEndian(arguments[4..], port);
                break;
            case status:
                error = IsSelf((ushort)a) ? Events.GetStatus(b, out var found) : Fail(out found);
                BinaryPrimitives.WriteUInt32LittleEndian(arguments[8..], (uint)found.State);
                BinaryPrimitives.WriteInt32LittleEndian(arguments[12..], found.Processor);
                if (found.State is EventChannelState.Interdomain or EventChannelState.Unbound)
                {
                    BinaryPrimitives.WriteUInt16LittleEndian(arguments[16..], (ushort)found.Domain);
                    BinaryPrimitives.WriteUInt32LittleEndian(arguments[20..], found.Detail);
                }
                else
                {
                    BinaryPrimitives.WriteUInt32LittleEndian(arguments[16..], found.Detail);
                }

                break;
            case bindVcpu:
                return Result(Events.BindProcessor(a, (int)b));
            case close:
                return Result(Events.Close(a));
            case send:
                return Result(Events.Send(a));
            case unmask:
                return Result(Events.Unmask(a));
            default:
                if (!IsSelf((ushort)a))
                    return Result(XenError.ESRCH);
                Events.Reset();
                return 0;
        }

        return error != XenError.None ? Result(error) : memory.TryWrite(call.Arg2, arguments[..length]) ? 0 : Result(XenError.EFAULT);
    }

    private static XenError NoPort(out uint port)
    {
        port = 0;
        return XenError.EPERM;
    }

    private static XenError Fail(out EventChannelStatus status)
    {
        status = default;
        return XenError.EPERM;
    }

    private static ulong WriteText(ILinearMemory memory, ulong address, string text, int size)
    {
        var bytes = new byte[size];
        Encoding.ASCII.GetBytes(text, bytes);
        return memory.TryWrite(address, bytes) ? 0 : Result(XenError.EFAULT);
    }
}
