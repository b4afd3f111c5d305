using System.Text;
using Sharpvisor.Core;
using Sharpvisor.Devices.Virtio;
using Sharpvisor.Testing.Char;
using Sharpvisor.Testing.Virtio;

namespace Sharpvisor.Devices.Tests.Virtio;

/// <summary>A console on port 0, a channel named org.test.0 on port 2, of 4.</summary>
public sealed class VirtioConsoleTests : IDisposable
{
    private const int ControlReceive = 2, ControlTransmit = 3, ChannelReceive = 6, ChannelTransmit = 7;
    private const ushort DeviceReady = 0, PortAdd = 1, PortReady = 3, ConsolePort = 4, PortOpen = 6, PortName = 7;
    private const ulong Multiport = 1UL << 1;

    private readonly LimitedCharBackend _console = new(), _channel = new();
    private readonly List<GuestBuffer> _offered = [];
    private VirtioBench? _bench;

    private VirtioBench Bench => _bench!;

    public void Dispose() => _bench?.Dispose();

    [Fact]
    public void The_configuration_tells_how_many_ports_there_could_be()
    {
        Start();
        Assert.Equal(4u, Bench.Driver.ReadDeviceConfig(4, 4));
        Assert.Equal(10, Bench.Function.Device.Queues.Count);
        Assert.Equal(6u, (uint)Bench.Driver.OfferedFeatures & 0xFF);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_driver_learns_of_ports_consoles_and_names(bool legacy)
    {
        Start(legacy: legacy);
        Send(0, DeviceReady, 1); // before there are buffers: nothing is lost
        Offer(ControlReceive, 8, 100);
        Assert.Equal(["0 1 1", "2 1 1"], TakeMessages());
        Send(2, PortReady, 1);
        Send(0, PortReady, 1);
        Assert.Equal(["2 7 1 org.test.0\0", "2 6 1", "0 4 1", "0 6 1"], TakeMessages());
        Assert.Empty(Bench.Errors.Counts);
    }

    [Fact]
    public void Messages_come_as_buffers_do_and_not_twice()
    {
        Start();
        for (var i = 0; i < 100; i++)
            Send(0, DeviceReady, 1);
        Offer(ControlReceive, 1, 100);
        Assert.Equal(["0 1 1"], TakeMessages());
        Offer(ControlReceive, 5, 100);
        Assert.Equal(["2 1 1"], TakeMessages());
    }

    [Fact]
    public void A_buffer_that_is_too_small_gets_what_fits()
    {
        Start();
        Offer(ControlReceive, 2, 100);
        Send(0, DeviceReady, 1);
        TakeMessages();
        Offer(ControlReceive, 3, 12);
        Send(2, PortReady, 1);
        Assert.Equal(["2 7 1 org.", "2 6 1"], TakeMessages());
    }

    [Theory]
    [InlineData(7u, PortReady, 1)]
    [InlineData(7u, PortOpen, 1)]
    [InlineData(1u, PortReady, 1)]
    [InlineData(0u, PortReady, 0)]
    [InlineData(0u, DeviceReady, 0)]
    [InlineData(0u, 99, 0)]
    [InlineData(uint.MaxValue, PortOpen, 1)]
    public void Messages_without_sense_are_counted(uint port, ushort type, ushort value)
    {
        Start();
        Send(port, type, value);
        Assert.Equal(1, Bench.Errors.Counts.Single().Value);
        Bench.Driver.Rings[ControlTransmit].Add([Bench.Driver.Put([1, 2, 3])], []);
        Bench.Driver.Notify(ControlTransmit);
        Assert.NotNull(Bench.Driver.Rings[ControlTransmit].TakeUsed());
        Assert.Equal(2, Bench.Errors.Counts.Sum(c => c.Value));
    }

    [Fact]
    public void What_the_guest_sends_waits_for_the_host()
    {
        Start();
        _channel.Room = 5;
        Transmit(ChannelTransmit, "hello ", "world");
        Assert.Equal("hello", _channel.OutputText);
        Assert.Null(Bench.Driver.Rings[ChannelTransmit].TakeUsed());
        Transmit(ChannelTransmit, "!");
        _channel.MakeRoom(3);
        Assert.Equal("hello wo", _channel.OutputText);
        Assert.Null(Bench.Driver.Rings[ChannelTransmit].TakeUsed());
        _channel.MakeRoom(100);
        Assert.Equal("hello world!", _channel.OutputText);
        Assert.NotNull(Bench.Driver.Rings[ChannelTransmit].TakeUsed());
        Assert.NotNull(Bench.Driver.Rings[ChannelTransmit].TakeUsed());
        Assert.True(Bench.TakeMessages(VirtioPciDriver.FirstMessage + ChannelTransmit) > 0);
    }

    [Fact]
    public void What_the_host_sends_waits_for_the_port_to_be_open_and_for_buffers()
    {
        Start();
        var buffers = Offer(ChannelReceive, 2, 4);
        _channel.Type("hello, world"u8);
        Assert.Null(Bench.Driver.Rings[ChannelReceive].TakeUsed());
        Send(2, PortOpen, 1);
        Assert.Equal(["h", "e"], buffers.Select(b => TakeInput(b))); // this backend gives a byte at a time
        Assert.Equal(10, _channel.InputWaiting);
    }

    [Fact]
    public void Input_fills_buffers_in_order_and_a_closed_port_gets_none()
    {
        Start();
        Send(2, PortOpen, 1);
        _channel.Type("abc"u8);
        Assert.Equal(3, _channel.InputWaiting);
        Offer(ChannelReceive, 2, 4);
        Assert.Equal(1, _channel.InputWaiting);
        Assert.Equal(1, Bench.TakeMessages(VirtioPciDriver.FirstMessage + ChannelReceive)); // for both: the driver has not seen the first one yet
        Send(2, PortOpen, 0);
        Offer(ChannelReceive, 2, 4);
        Assert.Equal(1, _channel.InputWaiting);
        Send(2, PortOpen, 1);
        Assert.Equal(0, _channel.InputWaiting);
    }

    [Fact]
    public void A_driver_without_multiport_has_the_console_alone()
    {
        Start(features: ~Multiport);
        _console.Type("x"u8);
        Assert.Equal("x", TakeInput(Offer(0, 1, 16)[0], 0));
        Transmit(1, "out");
        Assert.Equal("out", _console.OutputText);
        Offer(ControlReceive, 2, 100);
        Send(0, DeviceReady, 1);
        Assert.Null(Bench.Driver.Rings[ControlReceive].TakeUsed());
    }

    [Fact]
    public void What_is_sent_to_no_port_comes_back()
    {
        Start();
        Transmit(5, "lost");
        Assert.NotNull(Bench.Driver.Rings[5].TakeUsed());
        Offer(4, 1, 16);
        Assert.Null(Bench.Driver.Rings[4].TakeUsed());
    }

    [Fact]
    public void An_emergency_write_needs_no_queue()
    {
        Start(go: false);
        Bench.Driver.WriteDeviceConfig(8, 4, '!');
        Bench.Driver.WriteDeviceConfig(8, 4, 0);
        Assert.Equal("!", _console.OutputText);
        Assert.Equal("", _channel.OutputText);
    }

    [Fact]
    public void A_reset_closes_ports_and_takes_back_what_waits()
    {
        Start();
        Send(2, PortOpen, 1);
        _channel.Room = 0;
        Transmit(ChannelTransmit, "gone");
        Offer(ChannelReceive, 1, 4);
        Bench.Driver.Start(VirtioBench.AllFeatures, queues: 10);
        _channel.MakeRoom(100);
        _channel.Type("x"u8);
        Assert.Equal("", _channel.OutputText);
        Assert.Equal(1, _channel.InputWaiting);
        Transmit(ChannelTransmit, "new");
        Assert.Equal("new", _channel.OutputText);
    }

    [Fact]
    public void A_buffer_of_more_than_4_MiB_breaks_the_device()
    {
        Start();
        Bench.Driver.Rings[ChannelTransmit].Add([new(0, 0x8_0000), new(0x10_0000, 0x40_0000)], []);
        Bench.Driver.Notify(ChannelTransmit);
        Assert.Equal(VirtioPciDriver.NeedsReset, Bench.Driver.Status & VirtioPciDriver.NeedsReset);
        Assert.Empty(_channel.Output);
    }

    [Fact]
    public void A_receive_buffer_that_cannot_be_written_breaks_the_device()
    {
        Start();
        Send(2, PortOpen, 1);
        Bench.Driver.Rings[ChannelReceive].Add([new(0x10_0000, 16)], []);
        _channel.Type("x"u8);
        Assert.Equal(VirtioPciDriver.NeedsReset, Bench.Driver.Status & VirtioPciDriver.NeedsReset);
        Assert.Equal(1, _channel.InputWaiting);
    }

    private void Start(bool legacy = false, ulong features = VirtioBench.AllFeatures, bool go = true)
    {
        _bench = new VirtioBench(
            errors => new VirtioConsole(
                [new(2) { Name = "org.test.0", Backend = _channel }, new(0) { IsConsole = true, Backend = _console }], maximumPorts: 4, new MachineGate(), errors),
            legacy);
        if (go)
            _bench.Driver.Start(features, queues: 10);
    }

    private GuestBuffer[] Offer(int queue, int count, int size)
    {
        GuestBuffer[] buffers = [.. Enumerable.Range(0, count).Select(_ => Bench.Driver.Put(new byte[size]))];
        foreach (var buffer in buffers)
            Bench.Driver.Rings[queue].Add([], [buffer]);
        _offered.AddRange(buffers);
        Bench.Driver.NotifyIfNeeded(queue);
        return buffers;
    }

    private void Send(uint port, ushort type, ushort value)
    {
        byte[] message = [.. BitConverter.GetBytes(port), .. BitConverter.GetBytes(type), .. BitConverter.GetBytes(value)];
        Bench.Driver.Rings[ControlTransmit].Add([Bench.Driver.Put(message)], []);
        Bench.Driver.NotifyIfNeeded(ControlTransmit);
        Assert.Equal(0u, Bench.Driver.Rings[ControlTransmit].TakeUsed()?.Written);
    }

    /// <summary>Control messages to the driver, in order: port, event, value, and a name.</summary>
    private List<string> TakeMessages()
    {
        var messages = new List<string>();
        while (Bench.Driver.Rings[ControlReceive].TakeUsed() is { } used)
        {
            var bytes = Bench.Driver.Get(_offered[0] with { Length = used.Written });
            _offered.RemoveAt(0);
            var name = Encoding.ASCII.GetString(bytes, 8, bytes.Length - 8);
            messages.Add($"{BitConverter.ToUInt32(bytes)} {BitConverter.ToUInt16(bytes, 4)} {BitConverter.ToUInt16(bytes, 6)} {name}".TrimEnd(' '));
        }

        return messages;
    }

    private void Transmit(int queue, params string[] pieces)
    {
        Bench.Driver.Rings[queue].Add([.. pieces.Select(p => Bench.Driver.Put(Encoding.ASCII.GetBytes(p)))], []);
        Bench.Driver.NotifyIfNeeded(queue);
    }

    private string TakeInput(GuestBuffer buffer, int queue = ChannelReceive)
    {
        var used = Bench.Driver.Rings[queue].TakeUsed();
        Assert.NotNull(used);
        return Encoding.ASCII.GetString(Bench.Driver.Get(buffer with { Length = used.Value.Written }));
    }
}
