// A parallel ATA channel: two devices behind one set of ports, one interrupt.
// Follows: ATA/ATAPI-7 volume 1 (T13 1532D), 5 (registers) and 6.1 (device 0 and device 1); volume 2, 9 and 11.
// What an absent device shows, and which writes are ignored while one is busy, is as in QEMU.
// Leaves out: overlapped and queued commands, 8-bit data transfers, the passing of a diagnosis from device 1 to device 0.

using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Interrupts;

namespace Sharpvisor.Devices.Ide;

/// <summary>The board maps <see cref="CommandBlock"/> (1F0h, 8 ports) and <see cref="ControlBlock"/> (3F6h, 1 port).</summary>
public sealed class IdeChannel : IResettable
{
    // Device control.
    private const byte HighOrderByte = 0x80, SoftReset = 0x04, InterruptsOff = 0x02;

    private const byte DeviceBit = 0x10;
    private const byte CommandDeviceReset = 0x08, CommandDiagnostic = 0x90;

    private readonly IInterruptLine _irq;
    private readonly TaskFile[] _registers = [new(), new()];
    private readonly IdeDevice?[] _devices = new IdeDevice?[2];
    private readonly IdeDevice?[] _unplugged = new IdeDevice?[2];
    private byte _control;
    private bool _asserted;

    public IdeChannel(IInterruptLine irq)
    {
        _irq = irq;
        CommandBlock = new CommandPorts(this);
        ControlBlock = new BytePorts(_ => Status, (_, value) => WriteControl(value));
        BusMaster = new BusMaster(this);
    }

    public IBusDevice CommandBlock { get; }

    public IBusDevice ControlBlock { get; }

    /// <summary>Moves data between its devices and memory.</summary>
    public BusMaster BusMaster { get; }

    /// <summary>Device 0 and device 1, null where there is none.</summary>
    public IReadOnlyList<IdeDevice?> Devices => _devices;

    internal IdeDevice? Selected => _devices[SelectedIndex];

    /// <summary>The host holds both devices in reset.</summary>
    internal bool IsInReset => (_control & SoftReset) != 0;

    private int SelectedIndex => (_registers[0].Device & DeviceBit) != 0 ? 1 : 0;

    private TaskFile Registers => _registers[SelectedIndex];

    private bool IsEmpty => _devices[0] is null && _devices[1] is null;

    private byte Status => Selected is null ? (byte)0 : Registers.Status;

    /// <exception cref="InvalidOperationException">There is a device already.</exception>
    public void Attach(int index, IdeDevice device)
    {
        if (_devices[index] is { } other)
            throw new InvalidOperationException($"{device.Name}: its place is taken by {other.Name}");
        _devices[index] = device;
        device.Join(this, _registers[index]);
    }

    /// <summary>Takes a device away until the next reset.</summary>
    public void Unplug(int index)
    {
        if (_devices[index] is not { } device)
            return;
        device.Reset();
        (_devices[index], _unplugged[index]) = (null, device);
        UpdateInterrupt();
    }

    public void Reset()
    {
        for (var i = 0; i < _devices.Length; i++)
        {
            _devices[i] ??= _unplugged[i];
            _unplugged[i] = null;
        }

        _control = 0;
        BusMaster.Reset();
        foreach (var device in _devices)
            device?.PowerOn();
        ResetDevices();
    }

    internal void OnBusMasterStarted()
    {
        foreach (var device in _devices)
            device?.OnDmaStarted();
    }

    /// <summary>The interrupt of the selected device, unless the host masks it.</summary>
    internal void UpdateInterrupt()
    {
        var asserted = Selected is { HasInterrupt: true } && (_control & InterruptsOff) == 0;
        if (asserted == _asserted)
            return;
        _asserted = asserted;
        if (asserted)
            BusMaster.OnInterrupt();
        _irq.Set(asserted);
    }

    private void ResetDevices()
    {
        for (var i = 0; i < 2; i++)
        {
            if (_devices[i] is { } device)
                device.Reset();
            else
                _registers[i].SetSignature(0, 0);
        }

        UpdateInterrupt();
    }

    private byte ReadRegister(uint register)
    {
        if (IsEmpty)
            return 0;
        if (register < 7)
            return register == 1 && Selected is null ? (byte)0 : Registers.Read(register, (_control & HighOrderByte) != 0);
        var status = Status;
        if (Selected is { } device)
            device.HasInterrupt = false;
        UpdateInterrupt();
        return status;
    }

    private void WriteRegister(uint register, byte value)
    {
        _control &= unchecked((byte)~HighOrderByte);
        if (register == 7)
        {
            Execute(value);
            return;
        }

        if (Selected is not null && (Registers.Status & (AtaStatus.Bsy | AtaStatus.Drq)) != 0)
            return;
        foreach (var registers in _registers)
            registers.Write(register, value);
        if (register == 6)
            UpdateInterrupt();
    }

    private void Execute(byte command)
    {
        if (IsInReset)
            return;
        if (command == CommandDiagnostic && !IsEmpty && (Status & (AtaStatus.Bsy | AtaStatus.Drq)) == 0)
        {
            ResetDevices();
            Selected?.RaiseInterrupt();
            return;
        }

        if (Selected is not { } device)
            return;
        if ((Registers.Status & (AtaStatus.Bsy | AtaStatus.Drq)) != 0 && (command != CommandDeviceReset || !device.IsPacketDevice))
            return;
        device.HasInterrupt = false;
        UpdateInterrupt();
        device.Start(command);
    }

    private void WriteControl(byte value)
    {
        var released = IsInReset && (value & SoftReset) == 0;
        var entered = !IsInReset && (value & SoftReset) != 0;
        _control = value;
        if (entered)
        {
            foreach (var device in _devices)
                device?.HoldInReset();
        }

        if (released)
            ResetDevices();
        UpdateInterrupt();
    }

    /// <summary>Eight registers of a byte; the first is the data port, of words.</summary>
    private sealed class CommandPorts(IdeChannel channel) : ByteWideDevice
    {
        public override ulong Read(uint offset, int size)
        {
            if (offset != 0 || size == 1)
                return base.Read(offset, size);
            ulong value = 0;
            for (var i = 0; i < size; i += 2)
                value |= (ulong)(channel.Selected?.ReadData() ?? 0) << (8 * i);
            return value;
        }

        public override void Write(uint offset, int size, ulong value)
        {
            if (offset != 0 || size == 1)
            {
                base.Write(offset, size, value);
                return;
            }

            for (var i = 0; i < size; i += 2)
                channel.Selected?.WriteData((ushort)(value >> (8 * i)));
        }

        protected override byte ReadByte(uint offset) => offset switch
        {
            0 => 0xFF, // the data port has no byte accesses
            > 7 => 0xFF,
            _ => channel.ReadRegister(offset),
        };

        protected override void WriteByte(uint offset, byte value)
        {
            if (offset is > 0 and < 8)
                channel.WriteRegister(offset, value);
        }
    }
}
