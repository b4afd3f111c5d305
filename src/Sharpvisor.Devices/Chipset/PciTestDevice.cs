// pci-testdev: registers that test kernels write to in a loop, to measure how long that takes.
// Follows: QEMU docs/specs/pci-testdev.rst and its device: three tests each by memory and by ports. Writes of the tests
// with an event are taken by the event, which nobody here waits for, and are not counted.
// Leaves out: the optional third memory register.

using System.Buffers.Binary;
using System.Text;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Chipset;

/// <summary>A function with 4 KiB of memory-mapped registers and 256 ports.</summary>
public sealed class PciTestDevice : PciFunction
{
    private static readonly string[] Tests = ["no-eventfd", "wildcard-eventfd", "datamatch-eventfd"];

    private readonly Registers _memory = new("mmio", 2048, 0), _ports = new("portio", 128, Tests.Length);

    public PciTestDevice()
        : base("pci-testdev", new PciIdentity(0x1B36, 0x0005, 0x00FF00, 0))
    {
        AddMemoryBar(0, 4096, _memory);
        AddPortBar(1, 256, _ports);
    }

    public override void Reset()
    {
        base.Reset();
        _memory.Stop();
        _ports.Stop();
    }

    private sealed class Registers : ByteWideDevice
    {
        private const int TestOffset = 0, CountOffset = 12, NameOffset = 16;
        private const byte Counted = 0xFA, Wildcard = 0xCE;

        private readonly byte[][] _headers;
        private readonly uint _firstData;
        private int _current = -1;

        /// <param name="kind">Start of the tests' names.</param>
        /// <param name="size">Half of the range: data are written in the other half.</param>
        /// <param name="firstNumber">Of the tests, which are numbered through.</param>
        public Registers(string kind, int size, int firstNumber)
        {
            _firstData = (uint)(size + firstNumber);
            _headers = [.. Tests.Select((test, i) =>
            {
                byte[] header = [.. new byte[NameOffset], .. Encoding.ASCII.GetBytes($"{kind}-{test}\0")];
                header[TestOffset] = (byte)(firstNumber + i);
                header[1] = 1; // width of an access
                BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(4), _firstData + (uint)i);
                header[8] = i == 1 ? Wildcard : Counted;
                return header;
            })];
        }

        public void Stop() => _current = -1;

        protected override byte ReadByte(uint offset)
        {
            // The byte before the end of the name is the last one, as in QEMU.
            return _current >= 0 && offset + 1 < _headers[_current].Length ? _headers[_current][offset] : (byte)0;
        }

        protected override void WriteByte(uint offset, byte value)
        {
            if (offset == TestOffset)
            {
                _current = value < Tests.Length ? value : -1;
                if (_current >= 0)
                    SetCount(0);
            }
            else if (_current == 0 && offset == _firstData && value == Counted)
            {
                SetCount(BinaryPrimitives.ReadUInt32LittleEndian(_headers[0].AsSpan(CountOffset)) + 1);
            }
        }

        private void SetCount(uint count) => BinaryPrimitives.WriteUInt32LittleEndian(_headers[_current].AsSpan(CountOffset), count);
    }
}
