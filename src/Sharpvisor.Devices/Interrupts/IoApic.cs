// The IOAPIC: 24 interrupt inputs, each with a redirection entry.
// Follows: Intel 82093AA data sheet (290566), 3.1 and 3.2; the EOI register as in Intel 82801 (ICH2 and later).
// Version 0x20, which is how an operating system knows that the EOI register is there.
// Leaves out: the arbitration id's bus protocol; the polarity bit is kept but inverts nothing, for lines carry
// "asserted", not a voltage.

using System.Globalization;
using System.Text;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Interrupts;

/// <summary>An IOAPIC: a window of 4 KiB at 0xFEC00000 on a PC.</summary>
public sealed class IoApic : IBusDevice, IResettable
{
    public const int PinCount = 24;

    public const ulong DefaultAddress = 0xFEC0_0000;

    private const ulong Masked = 1 << 16, LevelTriggered = 1 << 15, RemoteIrr = 1 << 14, LogicalDestination = 1 << 11;
    private const ulong ReadOnlyBits = RemoteIrr | (1 << 12);
    private const ulong Writable = 0xFF00_0000_0001_FFFF & ~ReadOnlyBits;
    private const uint Version = 0x20 | ((PinCount - 1) << 16);

    private readonly ApicBus _bus;
    private readonly ulong[] _redirection = new ulong[PinCount];
    private readonly InterruptInput[] _inputs = new InterruptInput[PinCount];
    private readonly long[] _assertions = new long[PinCount];
    private uint _asserted;
    private uint _select;
    private uint _id;

    /// <param name="bus">The APIC bus; the new IOAPIC joins it.</param>
    public IoApic(ApicBus bus)
    {
        _bus = bus;
        for (var pin = 0; pin < PinCount; pin++)
            _inputs[pin] = new InterruptInput(pin, SetInput);
        Reset();
        bus.Add(this);
    }

    /// <summary>An input pin, 0 to 23: the global system interrupt of that number.</summary>
    public IInterruptLine Input(int pin) => _inputs[pin];

    /// <summary>How often a pin was asserted.</summary>
    public long Assertions(int pin) => _assertions[pin];

    /// <summary>The state as QEMU's monitor shows it, with the gate held.</summary>
    public string Describe()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"ioapic0: ver=0x{Version & 0xFF:x} id=0x{_id >> 24:x2} sel=0x{_select:x2}\n");
        for (var pin = 0; pin < PinCount; pin++)
        {
            var entry = _redirection[pin];
            var mode = (DeliveryMode)((entry >> 8) & 7);
            text.Append(CultureInfo.InvariantCulture, $"  pin {pin,-2} 0x{entry:x16} dest={entry >> 56:x} vec={entry & 0xFF,-3} {((entry & LevelTriggered) != 0 ? "level" : "edge ")} ");
            text.Append(CultureInfo.InvariantCulture, $"{((entry & Masked) != 0 ? "masked" : "      ")} {mode,-14} {((entry & LogicalDestination) != 0 ? "logical" : "physical")}{((_asserted & (1u << pin)) != 0 ? " asserted" : "")}{((entry & RemoteIrr) != 0 ? " remote-irr" : "")}\n");
        }

        return text.ToString();
    }

    public void Reset()
    {
        Array.Fill(_redirection, Masked);
        _select = _id = 0;
    }

    public ulong Read(uint offset, int size)
    {
        var value = (offset & ~3u) switch
        {
            0x00 => _select,
            0x10 => ReadRegister(),
            _ => 0u,
        };
        return (ulong)value >> (int)(8 * (offset & 3));
    }

    public void Write(uint offset, int size, ulong value)
    {
        switch (offset)
        {
            case 0x00:
                _select = (byte)value;
                break;
            case 0x10 when size >= 4:
                WriteRegister((uint)value);
                break;
            case 0x40:
                EndOfInterrupt((byte)value);
                break;
        }
    }

    /// <summary>A local APIC ended a level-triggered vector: inputs that are still asserted interrupt again.</summary>
    internal void EndOfInterrupt(byte vector)
    {
        for (var pin = 0; pin < PinCount; pin++)
        {
            if ((_redirection[pin] & (RemoteIrr | 0xFF)) != (RemoteIrr | vector))
                continue;
            _redirection[pin] &= ~RemoteIrr;
            ServiceLevel(pin);
        }
    }

    private void SetInput(int pin, bool asserted)
    {
        var mask = 1u << pin;
        if (!asserted)
        {
            _asserted &= ~mask;
            return;
        }

        _asserted |= mask;
        _assertions[pin]++;
        if ((_redirection[pin] & LevelTriggered) != 0)
            ServiceLevel(pin);
        else if ((_redirection[pin] & Masked) == 0)
            Deliver(pin);
    }

    private void ServiceLevel(int pin)
    {
        var entry = _redirection[pin];
        if ((_asserted & (1u << pin)) == 0 || (entry & (Masked | LevelTriggered | RemoteIrr)) != LevelTriggered)
            return;
        // Remote IRR is for vectors that are ended by an EOI; set before, for the EOI may come at once.
        var hasEoi = (DeliveryMode)((entry >> 8) & 7) is DeliveryMode.Fixed or DeliveryMode.LowestPriority;
        if (hasEoi)
            _redirection[pin] |= RemoteIrr;
        if (!Deliver(pin) && hasEoi)
            _redirection[pin] &= ~RemoteIrr;
    }

    private bool Deliver(int pin)
    {
        var entry = _redirection[pin];
        var destination = (uint)(entry >> 56);
        var mode = (DeliveryMode)((entry >> 8) & 7);
        if (mode is DeliveryMode.StartUp or DeliveryMode.Reserved)
            return false;
        return _bus.Deliver(new ApicMessage(
            destination, (entry & LogicalDestination) != 0, destination == 0xFF, mode, (byte)entry, (entry & LevelTriggered) != 0));
    }

    private uint ReadRegister() => _select switch
    {
        0 or 2 => _id, // the arbitration id follows the id
        1 => Version,
        >= 0x10 and < 0x10 + (2 * PinCount) => (uint)(_redirection[(_select - 0x10) / 2] >> (int)(32 * (_select & 1))),
        _ => 0,
    };

    private void WriteRegister(uint value)
    {
        if (_select == 0)
            _id = value & 0x0F00_0000;
        if (_select is < 0x10 or >= 0x10 + (2 * PinCount))
            return;
        var pin = (int)(_select - 0x10) / 2;
        var shift = (int)(32 * (_select & 1));
        var entry = _redirection[pin];
        var written = (entry & ~(0xFFFF_FFFFUL << shift)) | ((ulong)value << shift);
        entry = (written & Writable) | (entry & RemoteIrr);
        if ((entry & LevelTriggered) == 0)
            entry &= ~RemoteIrr; // how an operating system frees a pin without an EOI register
        _redirection[pin] = entry;
        ServiceLevel(pin);
    }
}
