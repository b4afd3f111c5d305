// fw_cfg: what the machine tells its firmware, as numbered items and as files.
// Follows: QEMU docs/specs/fw_cfg.rst: selector and data port, the DMA interface, the file directory.
// Leaves out: writing items, which no item here allows: it is an error, as for every read-only one.

using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Devices.Firmware;

/// <summary>Ports 510h and 511h, and 514h to 51Bh for DMA.</summary>
public sealed class FwCfg : IResettable, IGateWork
{
    public const ushort SelectorPort = 0x510, DmaPort = 0x514;

    /// <summary>Ports from <see cref="SelectorPort"/> on that belong to it.</summary>
    public const int Length = 12;

    public const int FileNameLength = 56;

    private const ushort FileDirectory = 0x19, FirstFile = 0x20, LastFile = 0x3FFF;
    private const ulong DmaSignature = 0x51454D5520434647; // "QEMU CFG"
    private const uint DmaError = 1, DmaRead = 2, DmaSkip = 4, DmaSelect = 8, DmaWrite = 16;
    private const int ChunkLength = 0x10000;

    private readonly GuestMemory _memory;
    private readonly MachineGate? _gate;
    private readonly Dictionary<ushort, Item> _items = [];
    private readonly List<string> _files = [];
    private Item? _selected;
    private uint _offset;
    private ulong _dmaAddress;

    /// <param name="gate">Left while a file is read for a DMA request; null: nobody else is there.</param>
    public FwCfg(GuestMemory memory, MachineGate? gate = null)
    {
        _memory = memory;
        _gate = gate;
        Registers = new RegisterPorts(this);
        Dma = new DmaPorts(this);
        AddItem(FwCfgItem.Signature, "QEMU"u8.ToArray());
        AddItem(FwCfgItem.Id, 3); // the traditional interface and DMA
        _items[FileDirectory] = new ByteItem(Directory);
    }

    /// <summary>Two ports: selector and data.</summary>
    public IBusDevice Registers { get; }

    /// <summary>Eight ports: the address of a request in memory, big-endian.</summary>
    public IBusDevice Dma { get; }

    /// <summary>The names of the files, by number.</summary>
    public IReadOnlyList<string> Files => _files;

    public void AddItem(FwCfgItem item, byte[] value) => _items[(ushort)item] = new ByteItem(() => value);

    /// <summary>A number of 32 bits, little-endian.</summary>
    public void AddItem(FwCfgItem item, uint value)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        AddItem(item, bytes);
    }

    /// <summary>Adds a file that is read where it lies, whenever the guest reads it.</summary>
    /// <param name="length">In bytes.</param>
    /// <returns>The key that selects it.</returns>
    public ushort AddFile(string name, uint length, FwCfgRead read) => Add(name, new ReadItem(length, read));

    public void AddFile(string name, byte[] content) => AddFile(name, () => content);

    /// <summary>Adds a file, or replaces the one of that name.</summary>
    /// <param name="content">Asked for once between two resets, when the guest looks at it or at the directory.</param>
    /// <exception cref="ArgumentException">The name is too long or not ASCII.</exception>
    public void AddFile(string name, Func<byte[]> content) => Add(name, new ByteItem(content));

    private ushort Add(string name, Item item)
    {
        if (name.Length is 0 or >= FileNameLength || !Ascii.IsValid(name))
            throw new ArgumentException($"\"{name}\" is no name of a fw_cfg file: 1 to {FileNameLength - 1} ASCII characters", nameof(name));
        var index = _files.IndexOf(name);
        if (index < 0)
        {
            index = _files.Count;
            if (FirstFile + index > LastFile)
                throw new ArgumentException("too many fw_cfg files", nameof(name));
            _files.Add(name);
        }

        var key = (ushort)(FirstFile + index);
        _items[key] = item;
        _items[FileDirectory].Forget();
        return key;
    }

    public void Reset()
    {
        foreach (var item in _items.Values)
            item.Forget();
        _selected = null;
        _offset = 0;
        _dmaAddress = 0;
    }

    private byte[] Directory()
    {
        var bytes = new byte[4 + (64 * _files.Count)];
        BinaryPrimitives.WriteInt32BigEndian(bytes, _files.Count);
        var entry = bytes.AsSpan(4);
        foreach (var (name, index) in _files.Select((n, i) => (n, i)).OrderBy(f => f.n, StringComparer.Ordinal))
        {
            var key = (ushort)(FirstFile + index);
            BinaryPrimitives.WriteUInt32BigEndian(entry, _items[key].Length);
            BinaryPrimitives.WriteUInt16BigEndian(entry[4..], key);
            Encoding.ASCII.GetBytes(name, entry[8..]);
            entry = entry[64..];
        }

        return bytes;
    }

    private void Select(ushort key)
    {
        // Bit 14 asked old versions for a write channel; the rest is the key.
        _selected = _items.GetValueOrDefault((ushort)(key & 0xBFFF));
        _offset = 0;
    }

    private byte ReadData()
    {
        Span<byte> value = stackalloc byte[1];
        if (_selected is null || _offset >= _selected.Length || !_selected.TryRead(_offset, value))
            return 0;
        _offset++;
        return value[0];
    }

    private void RunDma(ulong address)
    {
        Span<byte> request = stackalloc byte[16];
        if (!_memory.TryRead(address, request))
        {
            Answer(address, DmaError);
            return;
        }

        var control = BinaryPrimitives.ReadUInt32BigEndian(request);
        var length = BinaryPrimitives.ReadUInt32BigEndian(request[4..]);
        var target = BinaryPrimitives.ReadUInt64BigEndian(request[8..]);
        if ((control & DmaSelect) != 0)
            Select((ushort)(control >> 16));
        var done = true;
        if ((control & DmaRead) != 0)
        {
            BeginCopy(new Transfer(_selected, address, target, length) { Offset = _offset });
            return;
        }

        if ((control & DmaWrite) != 0)
            done = length == 0;
        else if ((control & DmaSkip) != 0 && _selected is not null)
            _offset = (uint)Math.Min(_offset + (ulong)length, _selected.Length);
        Answer(address, done ? 0 : DmaError);
    }

    /// <summary>Copies from the item, and zeroes from behind its end.</summary>
    private void BeginCopy(Transfer transfer)
    {
        if (transfer.Item is { } item && _offset < item.Length)
            _offset += Math.Min(transfer.Length, item.Length - _offset);
        if (_gate is { IsHeld: true } && transfer.Item is ReadItem)
        {
            GoOn(transfer);
            return;
        }

        while (!transfer.IsDone)
        {
            transfer.Read();
            Store(transfer);
        }

        Answer(transfer.Request, transfer.HasFailed ? DmaError : 0);
    }

    /// <summary>A file may keep its reader waiting: the other processors must not wait as well. The guest's instruction does.</summary>
    private void GoOn(Transfer transfer)
    {
        if (transfer.IsDone)
            Answer(transfer.Request, transfer.HasFailed ? DmaError : 0);
        else
            _gate!.AfterLeave(this, transfer);
    }

    bool IGateWork.TryPerform(object item)
    {
        ((Transfer)item).Read();
        return true;
    }

    void IGateWork.OnPerformed(object item)
    {
        Store((Transfer)item);
        GoOn((Transfer)item);
    }

    private void Store(Transfer transfer)
    {
        if (!transfer.HasFailed && !_memory.TryWrite(transfer.Target, transfer.Chunk))
            transfer.HasFailed = true;
        transfer.Advance();
    }

    private void Answer(ulong address, uint control)
    {
        Span<byte> answer = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(answer, control);
        _memory.TryWrite(address, answer);
    }

    /// <summary>A DMA request under way, a chunk at a time.</summary>
    private sealed class Transfer(Item? item, ulong request, ulong target, uint length)
    {
        private readonly byte[] _buffer = new byte[Math.Min(length, ChunkLength)];
        private bool _isClear = true;
        private int _count;

        public Item? Item => item;

        /// <summary>The address of the request, where the answer goes.</summary>
        public ulong Request => request;

        public ulong Target { get; private set; } = target;

        /// <summary>Bytes that are left.</summary>
        public uint Length { get; private set; } = length;

        public uint Offset { get; set; }

        public bool HasFailed { get; set; }

        public bool IsDone => HasFailed || Length == 0;

        public ReadOnlySpan<byte> Chunk => _buffer.AsSpan(0, _count);

        /// <summary>Fills the chunk.</summary>
        public void Read()
        {
            var rest = item is null || Offset >= item.Length ? 0 : item.Length - Offset;
            _count = (int)Math.Min(Math.Min(Length, ChunkLength), rest == 0 ? uint.MaxValue : rest);
            if (rest > 0)
                HasFailed = !item!.TryRead(Offset, _buffer.AsSpan(0, _count));
            else if (!_isClear)
                _buffer.AsSpan().Clear();
            _isClear = rest == 0;
        }

        public void Advance()
        {
            if (!_isClear)
                Offset += (uint)_count;
            Target += (ulong)_count;
            Length -= (uint)_count;
        }
    }

    private abstract class Item
    {
        public abstract uint Length { get; }

        /// <summary>Fills <paramref name="destination"/>, which lies within the item.</summary>
        public abstract bool TryRead(uint offset, Span<byte> destination);

        public virtual void Forget()
        {
        }
    }

    private sealed class ByteItem(Func<byte[]> content) : Item
    {
        private byte[]? _value;

        public override uint Length => (uint)Value.Length;

        private byte[] Value => _value ??= content();

        public override bool TryRead(uint offset, Span<byte> destination)
        {
            Value.AsSpan((int)offset, destination.Length).CopyTo(destination);
            return true;
        }

        public override void Forget() => _value = null;
    }

    private sealed class ReadItem(uint length, FwCfgRead read) : Item
    {
        public override uint Length => length;

        public override bool TryRead(uint offset, Span<byte> destination) => read(offset, destination);
    }

    private sealed class RegisterPorts(FwCfg device) : IBusDevice
    {
        public ulong Read(uint offset, int size)
        {
            // The data port gives a byte an access; a wider one finds bytes of the data only in its lowest.
            return size == 1 ? device.ReadData() : ulong.MaxValue;
        }

        public void Write(uint offset, int size, ulong value)
        {
            if (size == 2 && offset == 0)
                device.Select((ushort)value);
        }
    }

    private sealed class DmaPorts(FwCfg device) : IBusDevice
    {
        public ulong Read(uint offset, int size) => BinaryPrimitives.ReverseEndianness(DmaSignature) >> (int)(8 * (offset & 7));

        public void Write(uint offset, int size, ulong value)
        {
            if (offset == 0 && size == 4)
            {
                device._dmaAddress = (ulong)BinaryPrimitives.ReverseEndianness((uint)value) << 32;
            }
            else if (offset == 4 && size == 4)
            {
                var address = device._dmaAddress | BinaryPrimitives.ReverseEndianness((uint)value);
                device._dmaAddress = 0;
                device.RunDma(address);
            }
            else if (offset == 0 && size == 8)
            {
                device.RunDma(BinaryPrimitives.ReverseEndianness(value));
            }
        }
    }
}

/// <summary>Reads a part of a file, which lies within its length.</summary>
/// <returns>False: the host can't; the guest's request fails.</returns>
public delegate bool FwCfgRead(uint offset, Span<byte> destination);

/// <summary>Items with a number of their own; everything newer is a file.</summary>
public enum FwCfgItem : ushort
{
    Signature = 0,
    Id = 1,
    Uuid = 2,
    RamSize = 3,
    NoGraphic = 4,
    ProcessorCount = 5,
    MachineId = 6,
    KernelAddress = 7,
    KernelSize = 8,
    KernelCommandLine = 9,
    InitrdAddress = 0x0A,
    InitrdSize = 0x0B,
    BootDevice = 0x0C,
    Numa = 0x0D,
    BootMenu = 0x0E,
    MaximumProcessorCount = 0x0F,
    KernelEntry = 0x10,
    KernelData = 0x11,
    InitrdData = 0x12,
    CommandLineAddress = 0x13,
    CommandLineSize = 0x14,
    CommandLineData = 0x15,
    SetupAddress = 0x16,
    SetupSize = 0x17,
    SetupData = 0x18,

    /// <summary>Of x86: whether IRQ 0 is pin 2 of the IOAPIC.</summary>
    Irq0Override = 0x8002,
}
