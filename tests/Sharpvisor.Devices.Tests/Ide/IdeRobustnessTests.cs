using Sharpvisor.Core.Block;

namespace Sharpvisor.Devices.Tests.Ide;

/// <summary>Whatever is written to the controller, nothing throws, hangs, or asks the drive for what it has not.</summary>
public sealed class IdeRobustnessTests
{
    private static readonly int[] Sizes = [1, 2, 4, 8];

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    public void Random_accesses_to_all_registers(int seed)
    {
        using var bench = new IdeBench(sectors: 1000, discard: true);
        var random = new Random(seed);
        var channel = bench.Ide.Channels[0];
        for (var i = 0; i < 60_000; i++)
        {
            var size = Sizes[random.Next(4)];
            switch (random.Next(9))
            {
                case 0:
                    channel.CommandBlock.Write((uint)random.Next(8), size, (ulong)random.NextInt64());
                    break;
                case 1:
                    channel.CommandBlock.Read((uint)random.Next(8), size);
                    break;
                case 2 when random.Next(20) == 0:
                    channel.ControlBlock.Write(0, size, (ulong)random.Next(256));
                    break;
                case 3:
                    bench.WriteBusMaster((uint)random.Next(16), random.Next(3) == 0 ? 0x09u : (ulong)random.NextInt64(), Sizes[random.Next(3)]);
                    break;
                case 4:
                    bench.ReadBusMaster((uint)random.Next(16), Sizes[random.Next(3)]);
                    break;
                case 5:
                    Drain(bench, random);
                    break;
                case 6:
                    bench.Memory.TryWrite((ulong)random.Next(0x2000), (ulong)random.NextInt64());
                    break;
                case 7:
                    bench.Disk.HoldsRequests = bench.Cd.HoldsRequests = random.Next(3) == 0;
                    bench.Disk.Error = bench.Cd.Error = random.Next(8) == 0 ? BlockError.Io : BlockError.None;
                    break;
                default:
                    // A whole command, else few of them would begin.
                    bench.Command((byte)random.Next(256), random.Next(1100), random.Next(256), random.Next(4), random.Next(2));
                    break;
            }
        }

        Settle(bench);
        bench.Ide.Reset();
        Assert.Equal(IdeBench.Idle, bench.Status);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void Random_packets(int seed)
    {
        using var bench = new IdeBench();
        var random = new Random(seed);
        byte[] known = [0x00, 0x03, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2B, 0x2F, 0x43, 0x46, 0x4A, 0x51, 0x52, 0x5A, 0xA8, 0xAD, 0xB9, 0xBD, 0xBE];
        for (var i = 0; i < 10_000; i++)
        {
            var packet = new byte[12];
            random.NextBytes(packet);
            packet[0] = random.Next(4) == 0 ? packet[0] : known[random.Next(known.Length)];
            for (var at = 1; at < 12; at++)
                packet[at] = random.Next(3) == 0 ? packet[at] : (byte)random.Next(3);
            if (random.Next(200) == 0)
                bench.Cd.ChangeMedium(random.Next(2) == 0 ? null : new byte[random.Next(3000) * 512]);
            if (random.Next(2) == 0)
            {
                bench.Packet(packet, random.Next(2) == 0 ? random.Next(1, 4000) : 0xFFFF);
                continue;
            }

            bench.WriteBusMaster(0, 0);
            bench.SetTable(((uint)random.Next(0x40000), random.Next(0x10000)), ((uint)random.Next(0x200000), random.Next(0x10000)));
            bench.Out(6, 0x10);
            bench.Out(1, 1);
            bench.Out(7, 0xA0);
            bench.WriteData(packet);
            bench.StartBusMaster();
            bench.WriteBusMaster(0, 0);
            // A transfer that lacks memory, or waits for a table, is ended by a reset of the device.
            if ((bench.Status & IdeBench.Busy) != 0)
                bench.Out(7, 0x08);
            Assert.Equal(0, bench.Status & (IdeBench.Busy | IdeBench.Request));
        }
    }

    [Fact]
    public void Every_command_on_both_devices_ends()
    {
        for (var command = 0; command < 256; command++)
        {
            for (var device = 0; device < 2; device++)
            {
                using var bench = new IdeBench(sectors: 100, discard: true);
                bench.SetTable((0x20000, 0x10000), (0x30000, 0x10000));
                bench.Command((byte)command, 1, 1, 1, device);
                bench.StartBusMaster();
                for (var i = 0; i < 2000 && (bench.Status & IdeBench.Request) != 0; i++)
                {
                    bench.Ide.Channels[0].CommandBlock.Read(0, 2);
                    bench.Ide.Channels[0].CommandBlock.Write(0, 2, 0);
                }

                Assert.True((bench.Status & (IdeBench.Busy | IdeBench.Request)) == 0, $"command 0x{command:x} on device {device}: status 0x{bench.Status:x}");
            }
        }
    }

    private static void Drain(IdeBench bench, Random random)
    {
        var channel = bench.Ide.Channels[0];
        for (var i = random.Next(3000); i > 0; i--)
        {
            if (random.Next(2) == 0)
                channel.CommandBlock.Read(0, 2);
            else
                channel.CommandBlock.Write(0, 2, (ulong)random.Next(0x10000));
        }

        Settle(bench);
    }

    private static void Settle(IdeBench bench)
    {
        while (bench.Disk.HeldRequests > 0)
            bench.Disk.CompleteNext();
        while (bench.Cd.HeldRequests > 0)
            bench.Cd.CompleteNext();
    }
}
