using System.Buffers.Binary;
using Microsoft.Extensions.Logging.Abstractions;
using Sharpvisor.Backends.Net;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Tests.Net;

public sealed class PcapDumpTests : IDisposable
{
    private readonly string _path = Path.GetTempFileName();

    public void Dispose() => File.Delete(_path);

    [Fact]
    public async Task Both_directions_are_in_the_file_as_they_came()
    {
        var inner = new Inner();
        var device = new Device();
        await using (var dump = new PcapDump(inner, _path, NullLogger.Instance, frameLimit: 40))
        {
            dump.Attach(device);
            var packet = new PacketBuffer();
            device.Sends = new byte[60];
            device.Sends[59] = 1;
            device.Sends[39] = 2;
            Assert.True(inner.Device!.TryTransmit(packet));
            Assert.False(inner.Device.TryTransmit(packet));
            Assert.True(inner.Device.TryReceive(new EthernetFrame([1, 2, 3], [4, 5], [6])));
            device.HasRoom = false;
            Assert.False(inner.Device.TryReceive(new EthernetFrame([9]))); // not over the cable yet
        }

        var file = File.ReadAllBytes(_path);
        Assert.Equal(0xA1B2C3D4, BinaryPrimitives.ReadUInt32LittleEndian(file));
        Assert.Equal(40, BinaryPrimitives.ReadInt32LittleEndian(file.AsSpan(16)));
        Assert.Equal(1, BinaryPrimitives.ReadInt32LittleEndian(file.AsSpan(20)));
        Assert.Equal((40, 60), Lengths(file, 24));
        Assert.Equal(2, file[24 + 16 + 39]);
        Assert.Equal((6, 6), Lengths(file, 24 + 16 + 40));
        Assert.Equal([1, 2, 3, 4, 5, 6], file[(24 + 16 + 40 + 16)..]);
        Assert.True(inner.IsDisposed);
    }

    [Fact]
    public void A_place_that_can_not_be_written_is_one_line() =>
        Assert.Contains("/no/such/place", Assert.Throws<ConfigurationException>(() => new PcapDump(new Inner(), "/no/such/place", NullLogger.Instance)).Message, StringComparison.Ordinal);

    private static (int Kept, int Length) Lengths(byte[] file, int at) =>
        (BinaryPrimitives.ReadInt32LittleEndian(file.AsSpan(at + 8)), BinaryPrimitives.ReadInt32LittleEndian(file.AsSpan(at + 12)));

    private sealed class Inner : INetworkBackend
    {
        public INetworkDevice? Device { get; private set; }

        public bool IsDisposed { get; private set; }

        public string Name => "inner";

        public bool TakesOffloads => true;

        public void Attach(INetworkDevice device) => Device = device;

        public void OnTransmitReady()
        {
        }

        public void OnReceiveReady()
        {
        }

        public ValueTask DisposeAsync()
        {
            IsDisposed = true;
            return default;
        }
    }

    private sealed class Device : INetworkDevice
    {
        public byte[]? Sends { get; set; }

        public bool HasRoom { get; set; } = true;

        public MacAddress Address => MacAddress.Default(0);

        public ReceiveOffloads ReceiveOffloads => default;

        public bool TryTransmit(PacketBuffer packet)
        {
            if (Sends is not { } bytes)
                return false;
            packet.Length = bytes.Length;
            bytes.CopyTo(packet.Frame);
            Sends = null;
            return true;
        }

        public bool TryReceive(in EthernetFrame frame) => HasRoom;
    }
}
