// One channel of an IDE bus master: a table of memory ranges, a start bit, a status.
// Follows: "Programming Interface for Bus Master IDE Controller" 1.0 (SFF-8038i); Intel 82371SB (290550), 2.7.
// The direction bit is ignored, as in QEMU: the device's command says where the data go. A stop while the host's disk is
// at work does not tear the transfer apart: the channel stays active until it is done.
// Leaves out: simplex operation.

using System.Buffers.Binary;
using Sharpvisor.Core.Block;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Ide;

/// <summary>How much memory the host has described.</summary>
internal enum DmaMapping
{
    Whole,

    /// <summary>Less than the transfer.</summary>
    Short,

    /// <summary>Something that is not memory.</summary>
    Fault,
}

/// <summary>Eight registers of a PCI function. Data go between the host's files and guest memory without a copy.</summary>
public sealed class BusMaster
{
    private const byte CommandStart = 0x01, CommandToMemory = 0x08;
    private const byte StatusActive = 0x01, StatusError = 0x02, StatusInterrupt = 0x04, StatusDrives = 0x60;

    private const int DescriptorSize = 8;
    private const int TableLimit = 0x10000 / DescriptorSize; // a table does not leave its 64 KiB
    private const uint LastDescriptor = 1u << 31;

    private readonly IdeChannel _channel;
    private readonly List<(ulong Address, int Length)> _ranges = [];
    private Memory<byte>[] _pieces = new Memory<byte>[16];
    private PciFunction? _function;
    private byte _command, _status;
    private uint _table;
    private bool _isBusy, _isLonger;

    internal BusMaster(IdeChannel channel)
    {
        _channel = channel;
    }

    /// <summary>The host has set the start bit, and no transfer has used it up.</summary>
    internal bool IsStarted => (_command & CommandStart) != 0 && (_status & StatusActive) != 0 && !_isBusy;

    /// <summary>Gives it the function whose memory accesses it makes.</summary>
    public void Connect(PciFunction function) => _function = function;

    internal void Reset()
    {
        _command = _status = 0;
        _table = 0;
    }

    internal byte Read(uint register) => register switch
    {
        0 => _command,
        2 => _status,
        >= 4 => (byte)(_table >> (8 * ((int)register - 4))),
        _ => 0xFF,
    };

    internal void Write(uint register, byte value)
    {
        switch (register)
        {
            case 0:
                WriteCommand((byte)(value & (CommandStart | CommandToMemory)));
                break;
            case 2:
                _status = (byte)((value & StatusDrives) | (_status & StatusActive) | (_status & ~value & (StatusError | StatusInterrupt)));
                break;
            case >= 4:
                var shift = 8 * ((int)register - 4);
                _table = ((_table & ~(0xFFu << shift)) | ((uint)value << shift)) & ~3u;
                break;
        }
    }

    /// <summary>The channel's interrupt has risen.</summary>
    internal void OnInterrupt() => _status |= StatusInterrupt;

    /// <summary>Makes a view of the memory that the table describes, for a transfer until <see cref="Finish"/>.</summary>
    internal DmaMapping Map(int length, out BlockBuffers buffers)
    {
        buffers = default;
        _ranges.Clear();
        if (_function is not { } function)
            return DmaMapping.Fault;
        var dma = function.Dma;
        Span<byte> descriptor = stackalloc byte[DescriptorSize];
        var left = length;
        var count = 0;
        _isLonger = false;
        for (var i = 0; i < TableLimit && left > 0; i++)
        {
            if (!dma.TryRead(_table + (ulong)(i * DescriptorSize), descriptor))
                return Fault();
            var address = BinaryPrimitives.ReadUInt32LittleEndian(descriptor) & ~1u;
            var control = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[4..]);
            var size = (int)(control & 0xFFFE);
            size = size == 0 ? 0x10000 : size;
            var used = Math.Min(size, left);
            if (!dma.TrySlice(address, used, out var piece))
                return Fault();
            if (count == _pieces.Length)
                Array.Resize(ref _pieces, count * 2);
            _pieces[count++] = piece;
            _ranges.Add((address, used));
            left -= used;
            _isLonger = used < size || (left == 0 && (control & LastDescriptor) == 0);
            if ((control & LastDescriptor) != 0)
                break;
        }

        if (left > 0)
        {
            _status &= unchecked((byte)~StatusActive);
            return DmaMapping.Short;
        }

        buffers = new BlockBuffers(_pieces.AsMemory(0, count));
        _isBusy = true;
        return DmaMapping.Whole;
    }

    internal void Finish(bool toMemory)
    {
        if (!_isBusy)
            return;
        _isBusy = false;
        if (toMemory)
        {
            foreach (var (address, length) in _ranges)
                _function!.Dma.MarkWritten(address, (ulong)length);
        }

        // It stays active when the table goes on, and the host has not stopped it.
        if (!_isLonger || (_command & CommandStart) == 0)
            _status &= unchecked((byte)~StatusActive);
    }

    private DmaMapping Fault()
    {
        _status = (byte)((_status | StatusError) & ~StatusActive);
        return DmaMapping.Fault;
    }

    private void WriteCommand(byte value)
    {
        var started = (value & ~_command & CommandStart) != 0;
        var stopped = (_command & ~value & CommandStart) != 0;
        _command = value;
        if (stopped && !_isBusy)
            _status &= unchecked((byte)~StatusActive);
        if (!started)
            return;
        _status |= StatusActive;
        _channel.OnBusMasterStarted();
    }
}
