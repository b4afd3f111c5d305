using System.Buffers.Binary;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Xen;

/// <content>GNTTABOP_setup_table.</content>
public sealed partial class XenDomain
{
    /// <summary>Makes frames of the table, and lists where the domain has laid them; where it has not, all ones.</summary>
    private ulong SetupGrantTable(in Hypercall call, ILinearMemory memory)
    {
        const short okay = 0, generalError = -1, badDomain = -2, badAddress = -5, permissionDenied = -8;
        const int countAt = 4, statusAt = 8;
        var word = WordOf(call);
        Span<byte> arguments = stackalloc byte[word == 8 ? 24 : 16];
        Span<byte> frame = stackalloc byte[8];
        if (!memory.TryRead(call.Arg2, arguments))
            return Result(XenError.EFAULT);
        var domain = BinaryPrimitives.ReadUInt16LittleEndian(arguments);
        var count = BinaryPrimitives.ReadUInt32LittleEndian(arguments[countAt..]);
        var list = ReadWord(call, arguments[(word == 8 ? 16 : 12)..], 0);
        var status = IsSelf(domain) ? okay : domain == EventChannels.BackEnd ? permissionDenied : badDomain;
        if (status == okay && !Grants.TryGrow(count))
            status = generalError;
        for (var i = 0; status == okay && i < count; i++)
        {
            var page = Grants.PageOf(i);
            BinaryPrimitives.WriteUInt64LittleEndian(frame, page == 0 ? ulong.MaxValue : page / GuestMemory.PageSize);
            if (!memory.TryWrite(list + ((ulong)i * (ulong)word), frame[..word]))
                status = badAddress;
        }

        BinaryPrimitives.WriteInt16LittleEndian(arguments[statusAt..], status);
        return memory.TryWrite(call.Arg2, arguments) ? 0 : Result(XenError.EFAULT);
    }
}
