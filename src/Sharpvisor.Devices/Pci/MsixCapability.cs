// MSI-X: message-signalled interrupts with a table of addresses in memory.
// Follows: PCI Local Bus Specification 3.0, 6.8.2.
// Leaves out: nothing.

using System.Buffers.Binary;
using System.Numerics;
using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Pci;

/// <summary>The MSI-X capability with its table, which it shows in a base address register of its own.</summary>
public sealed class MsixCapability : IBusDevice
{
    private const ushort Enable = 0x8000, FunctionMask = 0x4000;
    private const int EntrySize = 16, VectorControl = 12;

    private readonly PciFunction _function;
    private readonly int _offset, _vectors;
    private readonly uint _pendingOffset;
    private readonly byte[] _table;
    private readonly ulong[] _pending;

    internal MsixCapability(PciFunction function, int vectors, int barIndex, int offset)
    {
        if (vectors is < 1 or > 2048)
            throw new ArgumentOutOfRangeException(nameof(vectors), vectors, "1 to 2048");
        _function = function;
        _vectors = vectors;
        _table = new byte[vectors * EntrySize];
        _pending = new ulong[(vectors + 63) / 64];
        // As QEMU's devices have it: table and pending bits half of the range each, one page at least.
        _pendingOffset = BitOperations.RoundUpToPowerOf2((uint)Math.Max(2048, _table.Length));
        function.AddMemoryBar(barIndex, 2 * _pendingOffset, this);
        _offset = function.Config.AddCapability(PciRegister.MsixCapability, 12, offset);
        function.Config.Define(_offset + 2, 2, (uint)(vectors - 1), Enable | FunctionMask);
        function.Config.Define(_offset + 4, 4, (uint)barIndex);
        function.Config.Define(_offset + 8, 4, _pendingOffset | (uint)barIndex);
        Reset();
    }

    /// <summary>The guest wants messages; it gets no INTx then.</summary>
    public bool IsEnabled => (_function.Config.Get16(_offset + 2) & Enable) != 0;

    private bool IsMasked => (_function.Config.Get16(_offset + 2) & (Enable | FunctionMask)) != Enable;

    /// <summary>Sends a vector's message, or keeps it pending while it is masked. Does nothing while MSI-X is off.</summary>
    public void Notify(int vector)
    {
        if (!IsEnabled || vector < 0 || vector >= _vectors)
            return;
        var entry = _table.AsSpan(vector * EntrySize, EntrySize);
        if (IsMasked || (entry[VectorControl] & 1) != 0)
        {
            _pending[vector / 64] |= 1UL << (vector % 64);
            return;
        }

        _pending[vector / 64] &= ~(1UL << (vector % 64));
        _function.SendMessage(BinaryPrimitives.ReadUInt64LittleEndian(entry) & ~3UL, BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]));
    }

    public ulong Read(uint offset, int size)
    {
        ulong value = 0;
        for (var i = 0; i < size; i++)
            value |= (ulong)ReadByte(offset + (uint)i) << (8 * i);
        return value;
    }

    /// <summary>Writes the table; the pending bits are read-only. Only accesses of 4 and 8 bytes are defined.</summary>
    public void Write(uint offset, int size, ulong value)
    {
        for (var i = 0; i < size && offset + i < _table.Length; i++)
            _table[offset + i] = (byte)(value >> (8 * i));
        if (offset < _table.Length)
            SendPending((int)(offset / EntrySize));
    }

    internal void OnConfigWritten()
    {
        for (var vector = 0; vector < _vectors; vector++)
        {
            if (_pending[vector / 64] == 0)
                vector |= 63;
            else
                SendPending(vector);
        }
    }

    internal void Reset()
    {
        Array.Clear(_pending);
        Array.Clear(_table);
        for (var vector = 0; vector < _vectors; vector++)
            _table[(vector * EntrySize) + VectorControl] = 1; // masked
    }

    private void SendPending(int vector)
    {
        if (!IsMasked && (_pending[vector / 64] & (1UL << (vector % 64))) != 0)
            Notify(vector);
    }

    private byte ReadByte(uint offset)
    {
        if (offset < _table.Length)
            return _table[offset];
        var at = offset - _pendingOffset;
        return offset >= _pendingOffset && at / 8 < _pending.Length ? (byte)(_pending[at / 8] >> (int)(8 * (at % 8))) : (byte)0;
    }
}
