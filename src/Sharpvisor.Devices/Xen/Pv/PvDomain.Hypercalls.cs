using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <content>The hypercalls that only paravirtual domains have, by their numbers in xen.h.</content>
public sealed partial class PvDomain
{
    /// <summary>Calls in one multicall: Linux makes up to 32.</summary>
    private const ulong LongestMulticall = 1024;

    /// <summary>VCPUOP_send_nmi.</summary>
    private const ulong SendNmi = 11;

    /// <summary>VMASST_TYPE_architectural_iopl.</summary>
    private const int ArchitecturalIopl = 4;

    private bool _inMulticall;

    /// <summary>Serves a call, or leaves it to what all domains have.</summary>
    internal bool TryCall(in Hypercall call, ILinearMemory memory, out HypercallResult result)
    {
        if (memory is not IParavirtualProcessor processor)
            throw new InvalidOperationException("a paravirtual domain on a processor that is none");
        if (Mmu.TryCall(call, processor, out var value))
        {
            result = new HypercallResult(value);
            return true;
        }

        if (call is { Number: 20, Arg1: 2, Arg3: 1 })
        {
            result = new(SetupGrantTable(call, processor));
            return true;
        }

        result = call.Number switch
        {
            0 => new(SetTrapTable(call, processor)),
            2 => new(SetGdt(processor, call)),
            3 => new(SwitchStack(call, processor)),
            4 => new(SetCallbacks(call, processor)),
            5 => new(SetTaskSwitched(call, processor)),
            8 => new(Result(SetDebugRegister(call, processor))),
            9 => new(processor.FindDebugRegister(call.Arg1) is { } index ? processor.GetDebugRegister(index) : Result(XenError.ENODEV)),
            10 => new(UpdateDescriptor(call)),
            13 => new(Multicall(call, processor)),
            15 => new(SetTimer(call)),
            21 => new(VmAssist(call)),
            23 => new(processor.ReturnFromTrap()),
            24 when IsVcpuOp(call) => VcpuOp(call, memory),
            25 => new(Result(call.Arg1 <= 3 && processor.SetSegmentBase((ParavirtualSegmentBase)call.Arg1, call.Arg2) ? XenError.None : XenError.EINVAL)),
            28 => new(NmiOp(call, processor)),
            30 => new(CallbackOp(call, processor)),
            33 => new(PhysdevOp(call, processor)),
            34 => new(Result(XenError.ENOSYS)), // hvm_op
            _ => default,
        };
        return call.Number is 0 or (>= 2 and <= 5) or (>= 8 and <= 10) or 13 or 15 or 21 or 23 or 25 or 28 or 30 or 33 or 34 || IsVcpuOp(call);
    }

    private static ulong Result(XenError error) => (ulong)(long)error;

    private static bool IsCanonical(ulong linear) => (ulong)((long)(linear << 16) >> 16) == linear;

    /// <summary>Where a kernel may be entered.</summary>
    private static bool IsEntry(ulong linear) => IsCanonical(linear) && linear - IParavirtualDomain.HoleStart >= IParavirtualDomain.HoleLength;

    /// <summary>Those that concern the start of processors, and NMIs; the others are the same for all domains.</summary>
    private static bool IsVcpuOp(in Hypercall call) => call is { Number: 24, Arg1: <= 3 or SendNmi };

    private static XenError SetDebugRegister(in Hypercall call, IParavirtualProcessor processor)
    {
        if (processor.FindDebugRegister(call.Arg1) is not { } index)
            return XenError.ENODEV;
        if (processor.SetDebugRegister(index, call.Arg2))
            return XenError.None;
        // Bits that are reserved, or what there is but not for a domain.
        return index >= 6 && call.Arg2 >> 32 != 0 ? XenError.EINVAL : XenError.EPERM;
    }

    private static ulong SetTrapTable(in Hypercall call, IParavirtualProcessor processor)
    {
        const int size = 16, most = 256;
        if (call.Arg1 == 0)
        {
            for (var i = 0; i < most; i++)
                processor.SetTrap(i, default);
            return 0;
        }

        Span<byte> info = stackalloc byte[size];
        for (var i = 0UL; i < most; i++)
        {
            if (!processor.TryRead(call.Arg1 + (i * size), info))
                return Result(XenError.EFAULT);
            var gate = PvContext.ParseTrap(info, out var vector);
            if (gate.Address == 0)
                break;
            if (!IsEntry(gate.Address))
                return Result(XenError.EINVAL);
            processor.SetTrap(vector, gate);
        }

        return 0;
    }

    private ulong SetGdt(IParavirtualProcessor processor, in Hypercall call)
    {
        const ulong perPage = 512;
        if (call.Arg2 > GdtPages * perPage)
            return Result(XenError.EINVAL);
        var frames = new ulong[(call.Arg2 + perPage - 1) / perPage];
        Span<byte> frame = stackalloc byte[8];
        for (var i = 0; i < frames.Length; i++)
        {
            if (!processor.TryRead(call.Arg1 + (ulong)(i * 8), frame))
                return Result(XenError.EFAULT);
            frames[i] = BinaryPrimitives.ReadUInt64LittleEndian(frame);
        }

        var error = TakeGdt(processor, _processors[processor.Index], frames);
        if (error == XenError.None)
            processor.SetGdt((int)call.Arg2);
        return Result(error);
    }

    /// <summary>The frames hold descriptors from now on: the domain may not write to them but by update_descriptor.</summary>
    private XenError TakeGdt(IParavirtualProcessor caller, PvProcessor state, ReadOnlySpan<ulong> frames)
    {
        for (var i = 0; i < frames.Length; i++)
        {
            if (Mmu.TryTakeSegmentPage(caller, frames[i]))
            {
                if (PvDescriptors.TryFixPage(_memory, frames[i] * PageSize))
                    continue;
                Mmu.ReleaseSegmentPage(frames[i]);
            }

            while (--i >= 0)
                Mmu.ReleaseSegmentPage(frames[i]);
            return XenError.EINVAL;
        }

        for (var i = 0; i < GdtPages; i++)
        {
            if (state.Gdt[i] != 0)
                Mmu.ReleaseSegmentPage(state.Gdt[i]);
            Volatile.Write(ref state.Gdt[i], i < frames.Length ? frames[i] : 0);
        }

        return XenError.None;
    }

    private static ulong SwitchStack(in Hypercall call, IParavirtualProcessor processor)
    {
        if (!IsCanonical(call.Arg2))
            return Result(XenError.EINVAL);
        processor.SetKernelStack((ushort)call.Arg1, call.Arg2);
        return 0;
    }

    private static ulong SetCallbacks(in Hypercall call, IParavirtualProcessor processor)
    {
        if (!IsEntry(call.Arg1) || !IsEntry(call.Arg2) || !IsEntry(call.Arg3))
            return Result(XenError.EINVAL);
        processor.SetEntry(ParavirtualEntry.Event, call.Arg1, masksEvents: true);
        processor.SetEntry(ParavirtualEntry.Failsafe, call.Arg2, masksEvents: false);
        processor.SetEntry(ParavirtualEntry.SystemCall, call.Arg3, masksEvents: false);
        return 0;
    }

    private static ulong CallbackOp(in Hypercall call, IParavirtualProcessor processor)
    {
        const int register = 0, unregister = 1;
        const ushort maskEvents = 1;
        Span<byte> arguments = stackalloc byte[16];
        if (call.Arg1 is not (register or unregister))
            return Result(XenError.ENOSYS);
        if (!processor.TryRead(call.Arg2, arguments))
            return Result(XenError.EFAULT);
        ParavirtualEntry? entry = BinaryPrimitives.ReadUInt16LittleEndian(arguments) switch
        {
            0 => ParavirtualEntry.Event,
            1 => ParavirtualEntry.Failsafe,
            2 => ParavirtualEntry.SystemCall,
            4 => ParavirtualEntry.Nmi,
            5 => ParavirtualEntry.SystemEnter,
            7 => ParavirtualEntry.SystemCall32,
            _ => null,
        };
        if (entry is null)
            return Result(XenError.ENOSYS);
        if (call.Arg1 == unregister)
        {
            if (entry != ParavirtualEntry.Nmi)
                return Result(XenError.EINVAL);
            processor.SetEntry(entry.Value, 0, masksEvents: false);
            return 0;
        }

        var address = BinaryPrimitives.ReadUInt64LittleEndian(arguments[8..]);
        if (!IsEntry(address))
            return Result(XenError.EINVAL);
        var masks = (BinaryPrimitives.ReadUInt16LittleEndian(arguments[2..]) & maskEvents) != 0;
        processor.SetEntry(entry.Value, address, masks || entry is ParavirtualEntry.Event or ParavirtualEntry.Nmi);
        return 0;
    }

    /// <summary>The older way to say where NMIs go.</summary>
    private static ulong NmiOp(in Hypercall call, IParavirtualProcessor processor)
    {
        const int register = 0, unregister = 1;
        Span<byte> address = stackalloc byte[8];
        switch (call.Arg1)
        {
            case register when !processor.TryRead(call.Arg2, address):
                return Result(XenError.EFAULT);
            case register when !IsEntry(BinaryPrimitives.ReadUInt64LittleEndian(address)):
                return Result(XenError.EINVAL);
            case register or unregister:
                processor.SetEntry(ParavirtualEntry.Nmi, call.Arg1 == register ? BinaryPrimitives.ReadUInt64LittleEndian(address) : 0, masksEvents: true);
                return 0;
            default:
                return Result(XenError.ENOSYS);
        }
    }

    private static ulong SetTaskSwitched(in Hypercall call, IParavirtualProcessor processor)
    {
        processor.SetTaskSwitched(call.Arg1 != 0);
        return 0;
    }

    /// <summary>One descriptor, by its machine address: in a page of a GDT, or in one that may become one.</summary>
    private ulong UpdateDescriptor(in Hypercall call)
    {
        var descriptor = call.Arg2;
        if ((call.Arg1 & 7) != 0 || !PvDescriptors.TryFix(ref descriptor) || !Mmu.MayWriteDescriptor(call.Arg1 / PageSize))
            return Result(XenError.EINVAL);
        return _memory.TryWrite(call.Arg1, descriptor) ? 0 : Result(XenError.EINVAL);
    }

    /// <summary>Several calls in one. Each has its result written beside it.</summary>
    private ulong Multicall(in Hypercall call, IParavirtualProcessor processor)
    {
        const int size = 64;
        if (_inMulticall || call.Arg2 > LongestMulticall)
            return Result(XenError.EINVAL);
        _inMulticall = true;
        try
        {
            Span<byte> entry = stackalloc byte[size];
            Span<byte> value = stackalloc byte[8];
            for (var i = 0UL; i < call.Arg2; i++)
            {
                var at = call.Arg1 + (i * size);
                if (!processor.TryRead(at, entry))
                    return Result(XenError.EFAULT);
                var inner = call with
                {
                    Number = Word(entry, 0),
                    Arg1 = Word(entry, 2),
                    Arg2 = Word(entry, 3),
                    Arg3 = Word(entry, 4),
                    Arg4 = Word(entry, 5),
                    Arg5 = Word(entry, 6),
                };
                // What would not come back here, or not soon, has no place in a list.
                const ulong iret = 23, sched = 29;
                var answer = inner.Number is iret or sched ? Result(XenError.EINVAL) : _domain.Call(inner, processor).Value;
                BinaryPrimitives.WriteUInt64LittleEndian(value, answer);
                if (!processor.TryWrite(at + 8, value))
                    return Result(XenError.EFAULT);
            }

            return 0;
        }
        finally
        {
            _inMulticall = false;
        }

        static ulong Word(ReadOnlySpan<byte> entry, int index) => BinaryPrimitives.ReadUInt64LittleEndian(entry[(index * 8)..]);
    }

    private ulong SetTimer(in Hypercall call)
    {
        var processor = _domain.Processors[call.Processor];
        if (call.Arg1 == 0)
            processor.StopTimer();
        else
            processor.SetTimer(call.Arg1, onlyInFuture: false);
        return 0;
    }

    /// <summary>But for one, what these ask for is so, or makes no difference here.</summary>
    private ulong VmAssist(in Hypercall call)
    {
        const ulong enable = 0, disable = 1, fourGbSegments = 0, fourGbNotify = 1, writablePageTables = 2, largeTables = 3, runstateUpdateFlag = 5, strictTable = 32;
        if (call.Arg1 is not (enable or disable))
            return Result(XenError.ENOSYS);
        if (call.Arg2 == ArchitecturalIopl)
            _showsIoPrivilege = call.Arg1 == enable;
        if (call.Arg2 == runstateUpdateFlag)
            _domain.MarkRunstateUpdates(call.Arg1 == enable);
        return call.Arg2 is fourGbSegments or fourGbNotify or writablePageTables or largeTables or ArchitecturalIopl or runstateUpdateFlag or strictTable ? 0 : Result(XenError.EINVAL);
    }

    private HypercallResult VcpuOp(in Hypercall call, ILinearMemory memory)
    {
        const ulong initialise = 0, up = 1, down = 2;
        if (call.Arg2 >= (ulong)_processors.Length)
            return new(Result(XenError.ENOENT));
        var state = _processors[call.Arg2];
        switch (call.Arg1)
        {
            case initialise:
                if (state.IsUp || state.Context is not null)
                    return new(Result(XenError.EEXIST));
                return new(Initialise((int)call.Arg2, state, call.Arg3, (IParavirtualProcessor)memory));
            case up:
                if (state.Context is null && call.Arg2 != 0)
                    return new(Result(XenError.EINVAL));
                if (!state.IsUp)
                {
                    state.IsUp = true;
                    state.Signals?.RaiseStartup(0);
                }

                return default;
            case down:
                // Another processor can't be stopped from here: it goes down by itself, as Linux has it.
                if ((int)call.Arg2 != call.Processor)
                    return new(Result(state.IsUp ? XenError.EINVAL : XenError.None));
                state.IsUp = false;
                if (!_processors.Any(p => p.IsUp))
                    _control.RequestPowerOff("Xen");
                return new(0, After: AfterHypercall.Offline);
            case SendNmi:
                if (state.IsUp)
                    state.Signals?.RaiseNmi();
                return default;
            default:
                return new(state.IsUp ? 1UL : 0);
        }
    }

    private ulong Initialise(int processor, PvProcessor state, ulong address, IParavirtualProcessor caller)
    {
        var bytes = new byte[PvContext.Length];
        if (!caller.TryRead(address, bytes))
            return Result(XenError.EFAULT);
        if (PvContext.Parse(bytes) is not { } context)
            return Result(XenError.EINVAL);
        if (!IsCanonical(context.Registers.Rip) || !IsCanonical(context.EventEntry) || !IsCanonical(context.FailsafeEntry) || !IsCanonical(context.SystemCallEntry)
            || context.Traps.Any(t => !IsEntry(t.Gate.Address)))
        {
            return Result(XenError.EINVAL);
        }

        var frames = context.GdtFrames.Take((context.GdtEntries + 511) / 512).ToArray();
        if (TakeGdt(caller, state, frames) is not XenError.None and var error)
            return Result(error);
        if (Mmu.ReserveRoots(caller, processor, context.KernelRoot * PageSize, context.UserRoot * PageSize) is not XenError.None and var rootError)
        {
            TakeGdt(caller, state, []);
            return Result(rootError);
        }

        state.Context = context;
        return 0;
    }

    /// <summary>GNTTABOP_setup_table: where the frames of the table are in the machine.</summary>
    private ulong SetupGrantTable(in Hypercall call, IParavirtualProcessor processor)
    {
        const short good = 0, badDomain = -2, general = -1;
        Span<byte> arguments = stackalloc byte[24];
        Span<byte> frame = stackalloc byte[8];
        if (!processor.TryRead(call.Arg2, arguments))
            return Result(XenError.EFAULT);
        var count = BinaryPrimitives.ReadUInt32LittleEndian(arguments[4..]);
        var status = !_domain.IsSelf(BinaryPrimitives.ReadUInt16LittleEndian(arguments)) ? badDomain : count > GrantTable.MaximumFrames ? general : good;
        for (var i = 0; status == good && i < count; i++)
        {
            var page = PvLayout.SharedPages + ((ulong)(i + 1) * PageSize);
            if (i >= _domain.Grants.FrameCount)
            {
                _domain.Grants.SetFrame(i, page);
                Mmu.Share(page);
            }

            BinaryPrimitives.WriteUInt64LittleEndian(frame, page / PageSize);
            if (!processor.TryWrite(BinaryPrimitives.ReadUInt64LittleEndian(arguments[16..]) + (ulong)(i * 8), frame))
                return Result(XenError.EFAULT);
        }

        BinaryPrimitives.WriteInt16LittleEndian(arguments[8..], status);
        return processor.TryWrite(call.Arg2, arguments) ? 0 : Result(XenError.EFAULT);
    }

    private static ulong PhysdevOp(in Hypercall call, IParavirtualProcessor processor)
    {
        const ulong setIopl = 6, setIoBitmap = 7, mostPorts = 0x10000;
        Span<byte> argument = stackalloc byte[4];
        switch (call.Arg1)
        {
            case setIopl:
                if (!processor.TryRead(call.Arg2, argument))
                    return Result(XenError.EFAULT);
                var level = BinaryPrimitives.ReadUInt32LittleEndian(argument);
                if (level > 3)
                    return Result(XenError.EINVAL);
                processor.IoPrivilege = (int)level;
                return 0;
            case setIoBitmap:
                Span<byte> bitmap = stackalloc byte[12];
                if (!processor.TryRead(call.Arg2, bitmap))
                    return Result(XenError.EFAULT);
                var ports = BinaryPrimitives.ReadUInt32LittleEndian(bitmap[8..]);
                if (ports > mostPorts)
                    return Result(XenError.EINVAL);
                processor.SetIoBitmap(BinaryPrimitives.ReadUInt64LittleEndian(bitmap), (int)ports);
                return 0;
            default:
                return Result(XenError.ENOSYS);
        }
    }
}
