// The control queue: VIRTIO 1.2, 5.1.6.5, the commands for filters, addresses, VLANs, queue pairs and offloads.
using System.Buffers.Binary;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Devices.Virtio;

/// <summary>The commands that a driver gives a NIC by its control queue (VIRTIO 1.2, 5.1.6.5).</summary>
internal sealed class NetControl(VirtioNet device, ReceiveFilter filter)
{
    /// <summary>More than the longest command with full tables.</summary>
    private const int LongestCommand = 64 << 10;

    private readonly DescriptorChain _chain = new();

    private enum Class : byte
    {
        Rx = 0,
        Mac = 1,
        Vlan = 2,
        Mq = 4,
        GuestOffloads = 5,
    }

    public void Serve(Virtqueue queue)
    {
        while (queue.TryPop(_chain))
        {
            if (_chain.ReadableLength < 2 || _chain.WritableLength < 1)
            {
                device.Fail("a command without header or place for the answer", $"{_chain.ReadableLength} and {_chain.WritableLength} bytes");
                return;
            }

            var isDone = false;
            if (_chain.ReadableLength <= LongestCommand)
            {
                var command = new byte[_chain.ReadableLength]; // commands are rare
                _chain.Readable.CopyTo(command);
                isDone = TryPerform((Class)command[0], command[1], command.AsSpan(2));
            }

            _chain.Writable.CopyFrom([isDone ? (byte)0 : (byte)1]); // VIRTIO_NET_OK, _ERR
            queue.Push(_chain, 1);
        }

        queue.Interrupt();
    }

    private bool TryPerform(Class @class, byte command, ReadOnlySpan<byte> data) => (@class, command) switch
    {
        (Class.Rx, _) => data.Length >= 1 && TrySetReceive(command, data[0] != 0),
        (Class.Mac, 0) => TrySetTables(data),
        (Class.Mac, 1) => TrySetAddress(data),
        (Class.Vlan, 0 or 1) => TrySetVlan(data, isWanted: command == 0),
        (Class.Mq, 0) => data.Length >= 2 && device.TrySetPairs(BinaryPrimitives.ReadUInt16LittleEndian(data)),
        (Class.GuestOffloads, 0) => data.Length >= 8 && device.TrySetGuestOffloads(BinaryPrimitives.ReadUInt64LittleEndian(data)),
        _ => false,
    };

    private bool TrySetReceive(byte command, bool isOn)
    {
        switch (command)
        {
            case 0:
                filter.Promiscuous = isOn;
                return true;
            case 1:
                filter.AllMulticast = isOn;
                return true;
            case 2:
                filter.AllUnicast = isOn;
                return true;
            case 3:
                filter.NoMulticast = isOn;
                return true;
            case 4:
                filter.NoUnicast = isOn;
                return true;
            case 5:
                filter.NoBroadcast = isOn;
                return true;
            default:
                return false;
        }
    }

    /// <summary>Two tables, each with the number of its addresses before them.</summary>
    private bool TrySetTables(ReadOnlySpan<byte> data)
    {
        if (!TryReadTable(ref data, out var unicast, out var unicastOverflow) || !TryReadTable(ref data, out var multicast, out var multicastOverflow))
            return false;
        filter.SetTables(unicast, multicast, unicastOverflow, multicastOverflow);
        return true;
    }

    private static bool TryReadTable(ref ReadOnlySpan<byte> data, out List<MacAddress> table, out bool overflows)
    {
        table = [];
        overflows = false;
        if (data.Length < 4)
            return false;
        var count = BinaryPrimitives.ReadUInt32LittleEndian(data);
        data = data[4..];
        if (count > (uint)(data.Length / MacAddress.Length))
            return false;
        overflows = count > ReceiveFilter.TableLimit;
        for (var i = 0; i < count; i++)
        {
            if (!overflows)
                table.Add(MacAddress.Read(data));
            data = data[MacAddress.Length..];
        }

        return true;
    }

    private bool TrySetAddress(ReadOnlySpan<byte> data)
    {
        if (data.Length < MacAddress.Length)
            return false;
        device.Address = MacAddress.Read(data);
        return true;
    }

    private bool TrySetVlan(ReadOnlySpan<byte> data, bool isWanted)
    {
        if (data.Length < 2 || BinaryPrimitives.ReadUInt16LittleEndian(data) is not (< 4096 and var id))
            return false;
        filter.SetVlan(id, isWanted);
        return true;
    }
}
