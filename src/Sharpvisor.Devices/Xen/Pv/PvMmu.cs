using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen.Pv;

/// <summary>Stand-in.</summary>
public sealed class PvMmu
{
    private readonly PvLayout _layout;
    private readonly GuestMemory _memory;
    private readonly GuestErrorLog _errors;
    private readonly ulong _m2pLength;

    public PvMmu(PvLayout layout, GuestMemory memory, GuestErrorLog errors)
    {
        _layout = layout;
        _memory = memory;
        _errors = errors;
        _m2pLength = ((layout.MachineFrames * 8) + 4095) & ~4095UL;
        memory.Map(PvLayout.MachineToPhysical, memory.AddRegion("m2p", _m2pLength));
    }

    public void Build(ulong root)
    {
        for (ulong m = 0; m < _layout.MachineFrames; m++)
            _memory.TryWrite(PvLayout.MachineToPhysical + (m * 8), _layout.IsDomainRam(m) ? _layout.ToPhysical(m) : ulong.MaxValue);
    }

    public bool TryTranslateMachineToPhysical(ulong linear, out ulong physical)
    {
        var offset = linear - IParavirtualDomain.MachineToPhysical;
        physical = PvLayout.MachineToPhysical + offset;
        return offset < _m2pLength;
    }

    public bool BeginTableWrite(ulong physical) => true;

    public bool EndTableWrite(IParavirtualProcessor processor)
    {
        processor.FlushTlb(null);
        return true;
    }

    public XenError TakeSegmentPage(ulong mfn)
    {
        for (var i = 0UL; i < 512; i++)
        {
            _memory.TryRead((mfn * 4096) + (i * 8), out ulong d);
            var old = d;
            PvDescriptors.TryFix(ref d);
            if (d != old)
                _memory.TryWrite((mfn * 4096) + (i * 8), d);
        }

        return XenError.None;
    }

    public void ReleaseSegmentPage(ulong mfn)
    {
    }

    public bool IsWritableOrSegment(ulong mfn) => true;

    public XenError SetRoot(IParavirtualProcessor processor, ulong mfn, bool isUser)
    {
        if (isUser)
            processor.UserRoot = mfn * 4096;
        else
            processor.KernelRoot = mfn * 4096;
        return XenError.None;
    }

    public bool TryCall(in Hypercall call, IParavirtualProcessor cpu, out ulong result)
    {
        result = 0;
        Span<byte> a = stackalloc byte[32];
        switch (call.Number)
        {
            case 1:
                for (var i = 0UL; i < call.Arg2; i++)
                {
                    cpu.TryRead(call.Arg1 + (i * 16), a[..16]);
                    var ptr = BinaryPrimitives.ReadUInt64LittleEndian(a);
                    var val = BinaryPrimitives.ReadUInt64LittleEndian(a[8..]);
                    if ((ptr & 3) == 1)
                        _memory.TryWrite(PvLayout.MachineToPhysical + ((ptr >> 12) * 8), val);
                    else
                        _memory.TryWrite(ptr & ~7UL, val);
                }

                if (call.Arg3 != 0)
                    cpu.TryWrite(call.Arg3, BitConverter.GetBytes((uint)call.Arg2));
                return true;
            case 14:
                {
                    var table = cpu.KernelRoot;
                    for (var shift = 39; shift > 12; shift -= 9)
                    {
                        _memory.TryRead(table + (((call.Arg1 >> shift) & 511) * 8), out ulong e);
                        if ((e & 1) == 0)
                        {
                            result = unchecked((ulong)(long)XenError.EINVAL);
                            return true;
                        }

                        table = e & 0xF_FFFF_FFFF_F000;
                    }

                    _memory.TryWrite(table + (((call.Arg1 >> 12) & 511) * 8), call.Arg2);
                    cpu.FlushTlb(null);
                    cpu.FlushTlbOf(ulong.MaxValue, null);
                    return true;
                }

            case 26:
                for (var i = 0UL; i < call.Arg2; i++)
                {
                    cpu.TryRead(call.Arg1 + (i * 24), a[..24]);
                    var cmd = BinaryPrimitives.ReadUInt32LittleEndian(a);
                    var a1 = BinaryPrimitives.ReadUInt64LittleEndian(a[8..]);
                    var a2 = BinaryPrimitives.ReadUInt64LittleEndian(a[16..]);
                    switch (cmd)
                    {
                        case 5: cpu.KernelRoot = a1 * 4096; break;
                        case 15: cpu.UserRoot = a1 * 4096; break;
                        case 6: cpu.FlushTlb(null); break;
                        case 7: cpu.FlushTlb(a1); break;
                        case 8 or 9 or 10 or 11: cpu.FlushTlb(null); cpu.FlushTlbOf(ulong.MaxValue, null); break;
                        case 13: cpu.SetLdt(a1, (int)a2); break;
                    }
                }

                if (call.Arg3 != 0)
                    cpu.TryWrite(call.Arg3, BitConverter.GetBytes((uint)call.Arg2));
                return true;
            case 12 when (call.Arg1 & 63) == 12:
                BinaryPrimitives.WriteUInt64LittleEndian(a, IParavirtualDomain.MachineToPhysical);
                BinaryPrimitives.WriteUInt64LittleEndian(a[8..], IParavirtualDomain.MachineToPhysical + _m2pLength);
                BinaryPrimitives.WriteUInt64LittleEndian(a[16..], _layout.MachineFrames - 1);
                cpu.TryWrite(call.Arg2, a[..24]);
                return true;
        }

        return false;
    }
}
