// Intel's 82540EM gigabit Ethernet controller, the e1000 that QEMU's pc machine has by default.
// Follows: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (Intel 317453), 3, 5 and 13; ids,
// address registers and the values at reset as QEMU's e1000.
// Leaves out: interrupt moderation (ITR, RDTR, RADV, TIDV, TADV: what they delay comes at once), wake on LAN, management,
// flow control, LEDs, header splitting, TBI and SerDes, half duplex.

using System.Buffers.Binary;
using Sharpvisor.Core;
using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.E1000;

/// <summary>A NIC that every operating system has a driver for. Slower than virtio: each frame is finished and copied here.</summary>
public sealed class E1000Nic : PciFunction, INetworkDevice, IBusDevice
{
    public const ushort VendorId = 0x8086, DeviceId = 0x100E;

    private const uint MemoryLength = 0x20000, RegistersEnd = 0x8000, PortsLength = 0x40;
    private const uint ControlAtReset = 0x0014_0240, ReceiveDescriptorLength = 16;

    private readonly uint[] _registers = new uint[RegistersEnd / 4];
    private readonly MacAddress _address;
    private readonly INetworkBackend? _backend;
    private readonly MachineGate _gate;
    private readonly GuestErrorLog _errors;
    private readonly E1000Eeprom _eeprom;
    private readonly E1000Phy _phy = new();
    private readonly E1000Transmitter _transmitter;
    private readonly E1000Receiver _receiver;
    private bool _isReceiveWaited;

    /// <param name="backend">What the cable leads to; null: nothing, the link is down.</param>
    public E1000Nic(MacAddress address, INetworkBackend? backend, MachineGate gate, GuestErrorLog errors)
        : base("e1000", new PciIdentity(VendorId, DeviceId, 0x020000, 3), interruptPin: 1)
    {
        _address = address;
        _backend = backend;
        _gate = gate;
        _errors = errors;
        _eeprom = new E1000Eeprom(address, DeviceId, VendorId);
        _transmitter = new E1000Transmitter(this);
        _receiver = new E1000Receiver(this);
        _phy.IsLinkUp = backend is not null;
        AddMemoryBar(0, MemoryLength, this);
        AddPortBar(1, PortsLength, new E1000Ports(this));
        ResetRegisters();
    }

    public MacAddress Address => _address;

    /// <summary>Frames come to it finished.</summary>
    public ReceiveOffloads ReceiveOffloads => default;

    /// <summary>Whether the cable is plugged in. With the machine's gate held.</summary>
    public bool IsLinkUp
    {
        get => _phy.IsLinkUp;
        set
        {
            if (_phy.IsLinkUp == value)
                return;
            _phy.IsLinkUp = value;
            SetLinkStatus();
            Raise(E1000Registers.LSC);
            WakeBackend();
        }
    }

    /// <summary>Descriptors between head and tail of each ring.</summary>
    internal int TransmitCount => Count(E1000Registers.TDH, E1000Registers.TDT, E1000Registers.TDLEN);

    internal int ReceiveCount => Count(E1000Registers.RDH, E1000Registers.RDT, E1000Registers.RDLEN);

    /// <summary>Fewer receive descriptors are left than RCTL.RDMTS asks to be told of.</summary>
    internal bool IsReceiveLow => ReceiveCount < (int)(this[E1000Registers.RDLEN] / ReceiveDescriptorLength) >> (int)((this[E1000Registers.RCTL] >> 8 & 3) + 1);

    internal bool TagsVlans => (this[E1000Registers.CTRL] & E1000Registers.VME) != 0;

    internal ushort VlanType => (ushort)this[E1000Registers.VET];

    internal bool PadsShortFrames => (this[E1000Registers.TCTL] & E1000Registers.PSP) != 0;

    /// <summary>A register as it is stored.</summary>
    internal uint this[uint offset]
    {
        get => _registers[offset / 4];
        private set => _registers[offset / 4] = value;
    }

    public bool TryTransmit(PacketBuffer packet)
    {
        using (_gate.Enter())
            return (this[E1000Registers.TCTL] & E1000Registers.TxEnable) != 0 && IsBusMaster && _phy.IsLinkUp && _transmitter.TryTransmit(packet);
    }

    public bool TryReceive(in EthernetFrame frame)
    {
        using (_gate.Enter())
        {
            if (!IsBusMaster || !_phy.IsLinkUp || frame.Offload is not { NeedsChecksum: false, Segmentation: Segmentation.None })
                return true;
            _isReceiveWaited = !_receiver.TryReceive(frame);
            return !_isReceiveWaited;
        }
    }

    public ulong Read(uint offset, int size)
    {
        // Registers have 32 bits; of narrower accesses the part is given, as QEMU does.
        var aligned = offset & ~3u;
        if (aligned >= RegistersEnd)
            return 0;
        var value = (ulong)ReadRegister(aligned);
        return size == 8 ? value | (Read(offset + 4, 4) << 32) : value >> (int)(8 * (offset & 3));
    }

    public void Write(uint offset, int size, ulong value)
    {
        if (offset % 4 != 0 || offset >= RegistersEnd)
            return;
        WriteRegister(offset, (uint)value);
        if (size == 8)
            Write(offset + 4, 4, value >> 32);
    }

    public override void Reset()
    {
        base.Reset();
        ResetRegisters();
    }

    /// <summary>Interrupts for these causes, where IMS lets them.</summary>
    internal void Raise(uint causes)
    {
        this[E1000Registers.ICR] |= causes;
        UpdateInterrupt();
    }

    /// <summary>Takes the next transmit descriptor's address.</summary>
    internal bool TryTakeTransmit(out ulong address)
    {
        address = default;
        if (TransmitCount == 0)
            return false;
        address = Take(E1000Registers.TDH, E1000Registers.TDLEN, E1000Registers.TDBAL);
        return true;
    }

    /// <summary>Takes the next receive descriptor's address; there must be one.</summary>
    internal ulong TakeReceive() => Take(E1000Registers.RDH, E1000Registers.RDLEN, E1000Registers.RDBAL);

    internal void ReportBadFrame(int length) => _errors.Report(Name, "a frame that makes no sense", $"{length} bytes");

    internal void CountTransmitted(int length)
    {
        this[E1000Registers.TPT]++;
        this[E1000Registers.GPTC]++;
        Add64(E1000Registers.TOTL, length);
        Add64(E1000Registers.GOTCL, length);
    }

    internal void CountReceived(ReadOnlySpan<byte> frame, int length)
    {
        var to = MacAddress.Read(frame);
        this[E1000Registers.TPR]++;
        this[E1000Registers.GPRC]++;
        if (to.IsGroup)
            this[to == MacAddress.Broadcast ? E1000Registers.BPRC : E1000Registers.MPRC]++;
        Add64(E1000Registers.TORL, length);
        Add64(E1000Registers.GORCL, length);
    }

    private uint ReadRegister(uint offset)
    {
        switch (offset)
        {
            case E1000Registers.EECD:
                return _eeprom.Wires;
            case E1000Registers.EERD:
                return _eeprom.Read(this[offset]);
            case E1000Registers.ICS:
                return this[E1000Registers.ICR];
            case E1000Registers.IMC:
                return this[E1000Registers.IMS];
            case E1000Registers.ICR:
                var causes = this[offset];
                this[offset] = 0;
                UpdateInterrupt();
                return causes | ((causes & this[E1000Registers.IMS]) != 0 ? 1u << 31 : 0);
            case >= E1000Registers.StatisticsStart and < E1000Registers.StatisticsEnd:
                var count = this[offset];
                this[offset] = 0;
                return count;
            default:
                return this[offset];
        }
    }

    private void WriteRegister(uint offset, uint value)
    {
        switch (offset)
        {
            case E1000Registers.CTRL:
                if ((value & E1000Registers.RST) != 0)
                    ResetRegisters();
                else
                    this[offset] = value;
                break;
            case E1000Registers.EECD:
                _eeprom.Wires = value;
                break;
            case E1000Registers.MDIC:
                this[offset] = _phy.Access(value, out var isRestart);
                if (isRestart)
                    Raise(E1000Registers.LSC);
                if ((value & (1 << 29)) != 0)
                    Raise(E1000Registers.MDAC);
                break;
            case E1000Registers.ICR:
                this[offset] &= ~value;
                UpdateInterrupt();
                break;
            case E1000Registers.ICS:
                Raise(value);
                break;
            case E1000Registers.IMS:
                this[offset] |= value;
                UpdateInterrupt();
                break;
            case E1000Registers.IMC:
                this[E1000Registers.IMS] &= ~value;
                UpdateInterrupt();
                break;
            case E1000Registers.RDLEN or E1000Registers.TDLEN:
                this[offset] = value & 0xFFF80;
                break;
            case E1000Registers.RDBAL or E1000Registers.TDBAL:
                this[offset] = value & ~0xFu;
                break;
            case E1000Registers.RDH or E1000Registers.TDH:
                this[offset] = value & 0xFFFF;
                break;
            case E1000Registers.RDT:
                this[offset] = value & 0xFFFF;
                WakeReceiver();
                break;
            case E1000Registers.RCTL:
                this[offset] = value;
                WakeReceiver();
                break;
            case E1000Registers.TDT:
                this[offset] = value & 0xFFFF;
                _backend?.OnTransmitReady();
                break;
            case E1000Registers.TCTL:
                this[offset] = value;
                _backend?.OnTransmitReady();
                break;
            case E1000Registers.STATUS or (>= E1000Registers.StatisticsStart and < E1000Registers.StatisticsEnd):
                break; // read only
            default:
                this[offset] = value;
                break;
        }
    }

    private void WakeReceiver()
    {
        if (!_isReceiveWaited)
            return;
        _isReceiveWaited = false;
        _backend?.OnReceiveReady();
    }

    private void WakeBackend()
    {
        _backend?.OnTransmitReady();
        _backend?.OnReceiveReady();
    }

    private void ResetRegisters()
    {
        Array.Clear(_registers);
        _phy.Reset();
        _transmitter.Reset();
        _isReceiveWaited = false;
        this[E1000Registers.CTRL] = ControlAtReset;
        this[E1000Registers.VET] = 0x8100;
        Span<byte> bytes = stackalloc byte[MacAddress.Length];
        _address.Write(bytes);
        this[E1000Registers.RAL0] = BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        this[E1000Registers.RAL0 + 4] = BinaryPrimitives.ReadUInt16LittleEndian(bytes[4..]) | E1000Registers.AV;
        SetLinkStatus();
        UpdateInterrupt();
        WakeBackend(); // what waited for room is lost now
    }

    private void SetLinkStatus() =>
        this[E1000Registers.STATUS] = E1000Registers.FD | E1000Registers.Speed1000 | 0x8000_0000 | (_phy.IsLinkUp ? E1000Registers.LU : 0);

    private void UpdateInterrupt() => Interrupt.Set((this[E1000Registers.ICR] & this[E1000Registers.IMS]) != 0);

    private int Count(uint head, uint tail, uint length)
    {
        var size = (int)(this[length] / ReceiveDescriptorLength);
        var (from, to) = ((int)this[head], (int)this[tail]);
        return from >= size || to > size ? 0 : (to - from + size) % size; // out of the ring: the guest's mistake, nothing moves
    }

    private ulong Take(uint head, uint length, uint address)
    {
        var at = this[head];
        this[head] = (at + 1) % (this[length] / ReceiveDescriptorLength);
        return (((ulong)this[address + 4] << 32) | this[address]) + (at * ReceiveDescriptorLength);
    }

    private void Add64(uint low, int value)
    {
        var sum = (((ulong)this[low + 4] << 32) | this[low]) + (uint)value;
        (this[low], this[low + 4]) = ((uint)sum, (uint)(sum >> 32));
    }

    /// <summary>Two ports: an offset, and the register there (13.3).</summary>
    private sealed class E1000Ports(E1000Nic nic) : IBusDevice
    {
        private uint _offset;

        public ulong Read(uint offset, int size) => offset switch
        {
            0 => _offset,
            4 => nic.Read(_offset, 4),
            _ => 0,
        };

        public void Write(uint offset, int size, ulong value)
        {
            if (offset == 0)
                _offset = (uint)value & (MemoryLength - 1);
            else if (offset == 4)
                nic.Write(_offset, 4, value);
        }
    }
}
