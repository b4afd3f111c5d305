using Sharpvisor.Core.Buses;
using Sharpvisor.Devices.Ide;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Devices.Tests.Pci;
using Sharpvisor.Testing.Block;
using Sharpvisor.Testing.Interrupts;

namespace Sharpvisor.Devices.Tests.Ide;

/// <summary>The driver's side of the primary channel, with a disk as device 0 and a CD-ROM drive as device 1.</summary>
internal sealed class IdeBench : IDisposable
{
    public const byte Busy = 0x80, Ready = 0x40, Seek = 0x10, Request = 0x08, Error = 0x01, Idle = Ready | Seek;
    public const byte Abort = 0x04, IdNotFound = 0x10;

    private const uint BusMasterPort = 0xC000;
    private const int Function = 1, Device = 1;

    private readonly PciBench _pci = new();
    private readonly IBusDevice _command, _control;

    public IdeBench(int sectors = 4096, bool readOnly = false, bool discard = false)
    {
        Disk = new MemoryDrive(sectors, "ide0-hd0") { IsReadOnly = readOnly, CanDiscard = discard };
        Cd = new MemoryDrive(400, "ide0-cd1") { IsReadOnly = true };
        for (var i = 0; i < Disk.Bytes.Length; i++)
            Disk.Bytes[i] = (byte)((i * 7) ^ (i >> 9));
        for (var i = 0; i < Cd.Bytes.Length; i++)
            Cd.Bytes[i] = (byte)((i * 5) ^ (i >> 11));
        Ide = new PiixIde(Irq, SecondIrq);
        _pci.Bus.Add(Ide, Device, Function);
        AtaDisk = new AtaDisk(Disk, DiskGeometry.Of(sectors), new IdeIdentity("SERIAL", "A disk"));
        Cdrom = new AtapiCdrom(Cd, new IdeIdentity("CDSERIAL", "A drive"));
        Ide.Channels[0].Attach(0, AtaDisk);
        Ide.Channels[0].Attach(1, Cdrom);
        Ide.Reset();
        Ide.WriteConfig(0x20, 4, BusMasterPort);
        Ide.WriteConfig(0x04, 2, 5);
        _command = Ide.Channels[0].CommandBlock;
        _control = Ide.Channels[0].ControlBlock;
    }

    public RecordingLine Irq { get; } = new();

    public RecordingLine SecondIrq { get; } = new();

    public MemoryDrive Disk { get; }

    public MemoryDrive Cd { get; }

    public AtaDisk AtaDisk { get; }

    public AtapiCdrom Cdrom { get; }

    public PiixIde Ide { get; }

    public Core.Memory.GuestMemory Memory => _pci.Memory;

    /// <summary>Without the side effect of reading the status register.</summary>
    public byte Status => (byte)_control.Read(0, 1);

    public byte ErrorRegister => In(1);

    public void Dispose() => _pci.Dispose();

    public byte In(uint register) => (byte)_command.Read(register, 1);

    public void Out(uint register, int value) => _command.Write(register, 1, (byte)value);

    public void Control(byte value) => _control.Write(0, 1, value);

    public void Select(int device) => Out(6, device << 4);

    /// <summary>A command with a 28-bit address.</summary>
    public void Command(byte command, long lba = 0, int count = 0, int feature = 0, int device = 0)
    {
        Out(6, 0x40 | (device << 4) | (int)((lba >> 24) & 0x0F));
        Out(1, feature);
        Out(2, count);
        Out(3, (int)lba);
        Out(4, (int)(lba >> 8));
        Out(5, (int)(lba >> 16));
        Out(7, command);
    }

    /// <summary>A command with a 48-bit address.</summary>
    public void CommandExt(byte command, long lba, int count)
    {
        Out(6, 0x40);
        Out(2, count >> 8);
        Out(2, count);
        Out(3, (int)(lba >> 24));
        Out(3, (int)lba);
        Out(4, (int)(lba >> 32));
        Out(4, (int)(lba >> 8));
        Out(5, (int)(lba >> 40));
        Out(5, (int)(lba >> 16));
        Out(7, command);
    }

    public byte[] ReadData(int length, int size = 2)
    {
        var data = new byte[length];
        for (var i = 0; i < length; i += size)
        {
            Assert.Equal(Request, Status & Request);
            var value = _command.Read(0, size);
            for (var at = 0; at < size; at++)
                data[i + at] = (byte)(value >> (8 * at));
        }

        return data;
    }

    public void WriteData(ReadOnlySpan<byte> data, int size = 2)
    {
        for (var i = 0; i < data.Length; i += size)
        {
            Assert.Equal(Request, Status & Request);
            ulong value = 0;
            for (var at = 0; at < size; at++)
                value |= (ulong)data[i + at] << (8 * at);
            _command.Write(0, size, value);
        }
    }

    /// <summary>Takes the interrupt that must be there, and returns the status.</summary>
    public byte TakeInterrupt()
    {
        Assert.True(Irq.IsAsserted, $"no interrupt; status 0x{Status:x}");
        var status = In(7);
        Assert.False(Irq.IsAsserted);
        return status;
    }

    public ulong ReadBusMaster(uint register, int size = 1) => _pci.Ports.Read(BusMasterPort + register, size);

    public void WriteBusMaster(uint register, ulong value, int size = 1) => _pci.Ports.Write(BusMasterPort + register, size, value);

    /// <summary>Writes a table of memory ranges at 0x1000; the last one ends it.</summary>
    public void SetTable(params (uint Address, int Length)[] ranges)
    {
        for (var i = 0; i < ranges.Length; i++)
        {
            Memory.TryWrite(0x1000 + (8UL * (ulong)i), ranges[i].Address);
            Memory.TryWrite(0x1004 + (8UL * (ulong)i), (uint)(ranges[i].Length & 0xFFFF) | (i == ranges.Length - 1 ? 1u << 31 : 0));
        }

        WriteBusMaster(4, 0x1000, 4);
    }

    public void StartBusMaster() => WriteBusMaster(0, 0x09);

    public byte[] ReadMemory(ulong address, int length)
    {
        var data = new byte[length];
        Assert.True(Memory.TryRead(address, data));
        return data;
    }

    /// <summary>Sends a packet to the CD-ROM drive, data by PIO; the answer, or null when it fails.</summary>
    public byte[]? Packet(byte[] packet, int byteCount = 0xFFFE)
    {
        Out(6, 0x10);
        Out(1, 0);
        Out(4, byteCount);
        Out(5, byteCount >> 8);
        Out(7, 0xA0);
        Assert.Equal(1, In(2) & 3); // command, to the device
        WriteData([.. packet, .. new byte[12 - packet.Length]]);
        List<byte> answer = [];
        while (true)
        {
            var status = TakeInterrupt();
            if ((status & Error) != 0)
                return null;
            if ((status & Request) == 0)
            {
                Assert.Equal(3, In(2) & 3); // status
                return [.. answer];
            }

            Assert.Equal(2, In(2) & 3); // data, to the host
            var count = In(4) | (In(5) << 8);
            Assert.InRange(count, 1, byteCount);
            answer.AddRange(ReadData((count + 1) & ~1)[..count]);
        }
    }

    /// <summary>Sense key and additional sense code.</summary>
    public (int Key, int Code) Sense()
    {
        var sense = Packet([0x03, 0, 0, 0, 18])!;
        Assert.Equal(18, sense.Length);
        return (sense[2], sense[12]);
    }
}
