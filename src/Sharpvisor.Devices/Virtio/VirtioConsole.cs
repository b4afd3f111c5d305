// Consoles and named channels between guest and host: virtio-serial with its ports.
// Follows: VIRTIO 1.2, 5.3. Order of the queues and of control messages, and the number of queues, as QEMU's
// virtio-serial; unlike there, messages that the driver has no buffer for are not lost: it gets them with the next one.
// Leaves out: VIRTIO_CONSOLE_F_SIZE (the host's terminal does not tell its size), ports that come and go, and whether the
// host's side is connected: what a guest sends meanwhile is dropped by the backend, as on an unplugged cable.

using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Devices.Virtio;

/// <summary>Up to <see cref="MaximumPorts"/> ports, each with a character backend.</summary>
public sealed class VirtioConsole : VirtioDevice
{
    /// <summary>As many as the queues of a device allow in QEMU.</summary>
    public const int MaximumPorts = 511;

    private const int Multiport = 1, EmergencyWrite = 2;
    private const int MaxNrPorts = 4, EmergWr = 8, ConfigLength = 12;
    private const int QueueSize = 128, ControlQueueSize = 32;
    private const int ControlReceive = 2, ControlTransmit = 3;
    private const int MessageLength = 8;

    private readonly VirtioConsolePort[] _ports;
    private readonly News[] _news;
    private readonly DescriptorChain _chain = new();

    /// <param name="maximumPorts">How many there could be: what the driver is told, and prepares queues for.</param>
    /// <exception cref="ArgumentException">A port has a number that another one has, or that is out of range.</exception>
    public VirtioConsole(IReadOnlyList<VirtioConsolePortOptions> ports, int maximumPorts, MachineGate gate, GuestErrorLog errors)
        : base("virtio-serial", VirtioDeviceType.Console, ConfigLength, QueueSizes(maximumPorts), errors)
    {
        if (ports.Select(p => p.Number).Distinct().Count() != ports.Count || ports.Any(p => p.Number < 0 || p.Number >= maximumPorts))
            throw new ArgumentException("two ports of one number, or one out of range", nameof(ports));
        BinaryPrimitives.WriteInt32LittleEndian(Configuration[MaxNrPorts..], maximumPorts);
        _ports = [.. ports.OrderBy(p => p.Number).Select(p => new VirtioConsolePort(this, p, Queues[ReceiveQueueOf(p.Number)], Queues[ReceiveQueueOf(p.Number) + 1]))];
        _news = new News[_ports.Length];
        foreach (var port in _ports)
            port.Options.Backend?.Attach(port, gate);
    }

    /// <summary>VIRTIO_CONSOLE_DEVICE_READY and so on.</summary>
    private enum Event : ushort
    {
        DeviceReady = 0,
        PortAdd = 1,
        PortReady = 3,
        ConsolePort = 4,
        PortOpen = 6,
        PortName = 7,
    }

    /// <summary>What the driver has not been told yet of a port; it is told in this order.</summary>
    [Flags]
    private enum News
    {
        None = 0,
        Add = 1,
        Console = 2,
        Name = 4,
        Open = 8,
    }

    protected override ulong Features => (MaximumPortsOffered > 1 ? 1UL << Multiport : 0) | (1UL << EmergencyWrite);

    private int MaximumPortsOffered => (Queues.Count / 2) - 1;

    protected override void OnQueueNotify(Virtqueue queue)
    {
        if (queue.Index is ControlReceive or ControlTransmit)
        {
            if (queue.Index == ControlTransmit)
                TakeMessages(queue);
            if (Has(Multiport))
                TellNews();
        }
        else if (FindPort(p => ReceiveQueueOf(p.Number) == (queue.Index & ~1)) is not { } port)
        {
            DropAll(queue);
        }
        else if ((queue.Index & 1) == 0)
        {
            port.OnReceiveNotify();
        }
        else
        {
            port.Transmit();
        }
    }

    protected override void OnDriverReady()
    {
        if (!Has(Multiport))
            FindPort(p => p.Number == 0)?.SetOpen(true); // such a driver can't say so
    }

    protected override void OnReset()
    {
        Array.Clear(_news);
        foreach (var port in _ports)
            port.Reset();
    }

    protected override void OnConfigurationWritten(int offset, byte value)
    {
        if (offset == EmergWr && value != 0)
            FindPort(p => p.IsConsole)?.SendAtOnce(value);
    }

    /// <summary>Those of control come behind those of port 0.</summary>
    private static int ReceiveQueueOf(int port) => port == 0 ? 0 : 2 + (2 * port);

    private static IEnumerable<int> QueueSizes(int maximumPorts)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(maximumPorts, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(maximumPorts, MaximumPorts);
        return Enumerable.Range(0, 2 * (maximumPorts + 1)).Select(i => i is ControlReceive or ControlTransmit ? ControlQueueSize : QueueSize);
    }

    private VirtioConsolePort? FindPort(Predicate<VirtioConsolePortOptions> isIt) => Array.Find(_ports, p => isIt(p.Options));

    /// <summary>What is sent to a port that is not there has to come back all the same; buffers for input stay.</summary>
    private void DropAll(Virtqueue queue)
    {
        while ((queue.Index & 1) != 0 && queue.TryPop(_chain))
            queue.Push(_chain, 0);
        queue.Interrupt();
    }

    private void TakeMessages(Virtqueue queue)
    {
        Span<byte> message = stackalloc byte[MessageLength];
        while (queue.TryPop(_chain))
        {
            if (_chain.ReadableLength < MessageLength)
            {
                ReportError("a control message that is cut");
            }
            else
            {
                _chain.Readable.Slice(0, MessageLength).CopyTo(message);
                Take(BinaryPrimitives.ReadUInt32LittleEndian(message), (Event)BinaryPrimitives.ReadUInt16LittleEndian(message[4..]), BinaryPrimitives.ReadUInt16LittleEndian(message[6..]));
            }

            queue.Push(_chain, 0);
        }

        queue.Interrupt();
    }

    private void Take(uint number, Event @event, ushort value)
    {
        if (@event == Event.DeviceReady && value != 0)
        {
            for (var i = 0; i < _news.Length; i++)
                _news[i] |= News.Add;
            return;
        }

        var port = Array.FindIndex(_ports, p => p.Options.Number == number);
        if (@event == Event.PortReady && value != 0 && port >= 0)
            _news[port] |= (_ports[port].Options.IsConsole ? News.Console : 0) | (_ports[port].Options.Name is null ? 0 : News.Name) | News.Open;
        else if (@event == Event.PortOpen && port >= 0)
            _ports[port].SetOpen(value != 0);
        else
            ReportError("a control message that makes no sense", $"port {number}, event {(ushort)@event}, value {value}");
    }

    /// <summary>Tells what there is to tell, as far as the driver has buffers for it.</summary>
    private void TellNews()
    {
        var queue = Queues[ControlReceive];
        for (var i = 0; i < _ports.Length; i++)
        {
            while (_news[i] != News.None)
            {
                if (!queue.TryPop(_chain))
                {
                    queue.Interrupt();
                    return;
                }

                var next = _news[i] & (News)(-(int)_news[i]); // the lowest bit
                _news[i] &= ~next;
                queue.Push(_chain, Tell(_ports[i].Options, next));
            }
        }

        queue.Interrupt();
    }

    /// <summary>Writes a control message to the chain, as much of it as there is room for.</summary>
    /// <returns>Its length.</returns>
    private int Tell(VirtioConsolePortOptions port, News news)
    {
        var name = news == News.Name ? Encoding.ASCII.GetBytes(port.Name + "\0") : [];
        var message = new byte[MessageLength + name.Length];
        BinaryPrimitives.WriteInt32LittleEndian(message, port.Number);
        BinaryPrimitives.WriteUInt16LittleEndian(message.AsSpan(4), (ushort)(news switch
        {
            News.Add => Event.PortAdd,
            News.Console => Event.ConsolePort,
            News.Name => Event.PortName,
            _ => Event.PortOpen,
        }));
        message[6] = 1;
        name.CopyTo(message, MessageLength);
        var length = Math.Min(message.Length, _chain.WritableLength);
        _chain.Writable.CopyFrom(message.AsSpan(0, length));
        return length;
    }
}
