// pc-testdev: what low-level test kernels ask of a PC, such as an interrupt line to drive or registers of every size.
// Follows: QEMU's device of that name: a register at E0h as written and the same at E8h byte by byte, a page to flush
// at E4h, interrupt lines from 2000h on, 64 KiB of memory-mapped registers at FF000000h.
// Leaves out: nothing; a flush has no effect here, for translations of pages are never stale.

using System.Buffers.Binary;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;
using Sharpvisor.Devices.Interrupts;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Five ranges; the board places them where QEMU has them.</summary>
public sealed class PcTestDevice
{
    public const ushort DataPort = 0xE0, FlushPort = 0xE4, BytePort = 0xE8, InterruptPort = 0x2000;

    public const ulong MemoryAddress = 0xFF00_0000;

    /// <summary>Lengths of the ranges, in ports and in bytes.</summary>
    public const int PortLength = 4, InterruptLength = 24, MemoryLength = 0x10000;

    private readonly byte[] _data = new byte[4];

    public PcTestDevice(IsaInterrupts isa)
    {
        IInterruptLine[] lines = [.. Enumerable.Range(0, 16).Select(isa.Share)];
        Data = new Bytes(_data);
        Memory = new Bytes(new byte[MemoryLength]);
        Flush = new BytePorts(_ => 0xFF, (_, _) => { });
        Interrupts = new BytePorts(_ => 0, (offset, value) =>
        {
            if (offset < lines.Length)
                lines[offset].Set(value != 0);
        });
    }

    /// <summary>For <see cref="DataPort"/> and <see cref="BytePort"/>: one register, whichever way it is reached.</summary>
    public IBusDevice Data { get; }

    public IBusDevice Flush { get; }

    public IBusDevice Interrupts { get; }

    public IBusDevice Memory { get; }

    private sealed class Bytes(byte[] bytes) : IBusDevice
    {
        public ulong Read(uint offset, int size)
        {
            Span<byte> value = stackalloc byte[8];
            bytes.AsSpan((int)offset, Math.Min(size, bytes.Length - (int)offset)).CopyTo(value);
            return BinaryPrimitives.ReadUInt64LittleEndian(value);
        }

        public void Write(uint offset, int size, ulong value)
        {
            Span<byte> source = stackalloc byte[8];
            BinaryPrimitives.WriteUInt64LittleEndian(source, value);
            source[..Math.Min(size, bytes.Length - (int)offset)].CopyTo(bytes.AsSpan((int)offset));
        }
    }
}
