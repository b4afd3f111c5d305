using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Firmware;

namespace Sharpvisor.Devices.Tests.Firmware;

public sealed class FwCfgTests : IDisposable
{
    private const ulong Request = 0x1000, Target = 0x2000;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly FwCfg _config;

    public FwCfgTests() => _config = new FwCfg(_memory);

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void ItemsAreReadByteByByte()
    {
        Assert.Equal("QEMU\0\0", Encoding.ASCII.GetString(Read(0, 6)));
        Assert.Equal<byte>([3, 0, 0, 0], Read(1, 4));
        _config.AddItem(FwCfgItem.ProcessorCount, [4, 0]);
        Assert.Equal<byte>([4, 0, 0], Read(5, 3));
        Assert.Equal<byte>([0, 0], Read(0x1234, 2)); // there is no such item
        Select(0);
        Assert.Equal((ulong)'Q', _config.Registers.Read(0, 1)); // the selector's port gives data as well
    }

    [Fact]
    public void FilesAreListedByNameAndMadeWhenLookedAt()
    {
        var made = 0;
        _config.AddFile("etc/b", () => [1, 2, (byte)++made]);
        _config.AddFile("etc/a", [9]);
        Assert.Equal(0, made);
        var directory = Read(0x19, 4 + (2 * 64));
        Assert.Equal(2, BinaryPrimitives.ReadInt32BigEndian(directory));
        Assert.Equal(("etc/a", 1, 0x21), Entry(directory, 0));
        Assert.Equal(("etc/b", 3, 0x20), Entry(directory, 1));
        Assert.Equal<byte>([1, 2, 1], Read(0x20, 3));
        Assert.Equal(1, made);
        _config.Reset();
        Assert.Equal<byte>([1, 2, 2], Read(0x20, 3));
        _config.AddFile("etc/a", [7, 7]);
        Assert.Equal(("etc/a", 2, 0x21), Entry(Read(0x19, 68), 0));
        Assert.Throws<ArgumentException>(() => _config.AddFile(new string('x', 56), []));
    }

    /// <summary>The host's disk may take its time: others use devices meanwhile, and the guest finds the request done.</summary>
    [Fact]
    public void AFileIsReadWithoutTheGate()
    {
        var gate = new MachineGate();
        var config = new FwCfg(_memory, gate);
        List<bool> held = [];
        var key = config.AddFile("big", 0x1_8000, (offset, bytes) =>
        {
            held.Add(gate.IsHeld);
            bytes.Fill((byte)(1 + (offset >> 16)));
            return true;
        });
        _memory.TryWrite(Target + 0x1_8000, 0x5555_5555);
        Start(key, 0x1_8004);
        Assert.Equal([false, false], held);
        Assert.True(_memory.TryRead(Request, out uint status));
        Assert.Equal(0u, status);
        Assert.True(_memory.TryRead(Target + 0x1_7FFC, out ulong end));
        Assert.Equal(0x0202_0202UL, end); // and zeroes from behind the end
        key = config.AddFile("broken", 4, (_, _) => false);
        Start(key, 4);
        Assert.True(_memory.TryRead(Request, out status));
        Assert.Equal(1u, BinaryPrimitives.ReverseEndianness(status));

        void Start(ushort file, uint length)
        {
            var request = new byte[16];
            BinaryPrimitives.WriteUInt32BigEndian(request, ((uint)file << 16) | 8 | 2); // select, read
            BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(4), length);
            BinaryPrimitives.WriteUInt64BigEndian(request.AsSpan(8), Target);
            _memory.TryWrite(Request, request);
            using (gate.Enter())
                config.Dma.Write(4, 4, BinaryPrimitives.ReverseEndianness((uint)Request));
        }
    }

    [Fact]
    public void AFileMayBeReadWhereItLies()
    {
        var works = true;
        var key = _config.AddFile("big", 0x2_0005, (offset, bytes) =>
        {
            Assert.True(offset + (uint)bytes.Length <= 0x2_0005);
            for (var i = 0; i < bytes.Length; i++)
                bytes[i] = (byte)(offset + i + 1);
            return works;
        });
        Assert.Equal(("big", 0x2_0005, 0x20), Entry(Read(0x19, 68), 0));
        Assert.Equal(0x20, key);
        Assert.Equal<byte>([1, 2, 3], Read(key, 3));
        _memory.TryWrite(Target + 0x2_0004, ulong.MaxValue);
        Assert.Equal(0u, Run(((uint)key << 16) | 8 | 2, 0x2_0008, Target));
        Assert.True(_memory.TryRead(Target + 0xFFFF, out ushort middle));
        Assert.Equal(0x0100, middle);
        Assert.True(_memory.TryRead(Target + 0x2_0004, out ulong end));
        Assert.Equal(0xFFFFFFFF_00000005UL, end);

        // A file that the host can't read fails the request; the port gives zeroes.
        works = false;
        Assert.Equal(1u, Run(((uint)key << 16) | 8 | 2, 8, Target));
        Assert.Equal<byte>([0, 0], Read(key, 2));
    }

    [Fact]
    public void DmaReadsSkipsAndSaysWhatFails()
    {
        Assert.Equal("QEMU CFG"u8.ToArray(), BitConverter.GetBytes(_config.Dma.Read(0, 8)));
        Assert.Equal("CFG"u8.ToArray(), BitConverter.GetBytes(_config.Dma.Read(5, 4))[..3]);
        _config.AddFile("data", [.. Enumerable.Range(1, 8).Select(i => (byte)i)]);
        _memory.TryWrite(Target, ulong.MaxValue);
        Assert.Equal(0u, Run((0x20u << 16) | 8 | 2, 3, Target));
        Assert.Equal(0u, Run(4, 2, 0));
        Assert.Equal(0u, Run(2, 5, Target + 3)); // two more than there are: zeroes
        Assert.True(_memory.TryRead(Target, out ulong value));
        Assert.Equal(0x0000_0807_0603_0201UL, value);
        Assert.Equal(1u, Run((0x20u << 16) | 8 | 2, 4, 0xA0000)); // no memory
        Assert.Equal(1u, Run((0x20u << 16) | 8 | 16, 4, Target)); // read-only
        Assert.Equal(1u, Run((0x20u << 16) | 8 | 2, uint.MaxValue, Target)); // runs out of memory
        _config.Dma.Write(4, 4, 0xFFFF_FFFF); // a request that is nowhere
        Assert.Equal(0u, Run(8, 0, 0));
    }

    [Fact]
    public void AnchorAndStructuresAreLinked()
    {
        var tables = SmbiosTables.Build(new SmbiosOptions { ProcessorCount = 3, Below4G = 3UL << 30, Above4G = 20UL << 30 });
        var image = tables.LinkAt(0xF0000);
        Assert.Equal("_SM_", Encoding.ASCII.GetString(image, 0, 4));
        Assert.Equal(0, image.Take(31).Sum(b => b) & 255);
        Assert.Equal(0, image.Skip(16).Take(15).Sum(b => b) & 255);
        Assert.Equal(0xF0020u, BinaryPrimitives.ReadUInt32LittleEndian(image.AsSpan(24)));
        Assert.Equal(tables.Structures.Length, BinaryPrimitives.ReadUInt16LittleEndian(image.AsSpan(22)));
        List<int> types = [];
        var largest = 0;
        for (var at = 32; at < image.Length;)
        {
            types.Add(image[at]);
            var end = at + image[at + 1];
            while (image[end] != 0 || image[end + 1] != 0)
                end++;
            largest = Math.Max(largest, end + 2 - at);
            at = end + 2;
        }

        Assert.Equal([0, 1, 3, 4, 4, 4, 16, 17, 17, 19, 19, 32, 127], types);
        Assert.Equal((types.Count, largest), (BinaryPrimitives.ReadUInt16LittleEndian(image.AsSpan(28)), BinaryPrimitives.ReadUInt16LittleEndian(image.AsSpan(8))));
    }

    private uint Run(uint control, uint length, ulong address)
    {
        Span<byte> request = stackalloc byte[16];
        BinaryPrimitives.WriteUInt32BigEndian(request, control);
        BinaryPrimitives.WriteUInt32BigEndian(request[4..], length);
        BinaryPrimitives.WriteUInt64BigEndian(request[8..], address);
        Assert.True(_memory.TryWrite(Request, request));
        _config.Dma.Write(0, 4, 0);
        _config.Dma.Write(4, 4, BinaryPrimitives.ReverseEndianness((uint)Request));
        Assert.True(_memory.TryRead(Request, request));
        return BinaryPrimitives.ReadUInt32BigEndian(request);
    }

    private void Select(ushort item) => _config.Registers.Write(0, 2, item);

    private byte[] Read(ushort item, int count)
    {
        Select(item);
        return [.. Enumerable.Range(0, count).Select(_ => (byte)_config.Registers.Read(1, 1))];
    }

    private static (string Name, int Size, int Key) Entry(byte[] directory, int index)
    {
        var entry = directory.AsSpan(4 + (64 * index), 64);
        return (Encoding.ASCII.GetString(entry[8..]).TrimEnd('\0'), BinaryPrimitives.ReadInt32BigEndian(entry), BinaryPrimitives.ReadUInt16BigEndian(entry[4..]));
    }
}
