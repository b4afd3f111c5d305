// The virtio PCI transport: a function with the registers of legacy drivers, of modern ones, or of both (transitional).
// Follows: VIRTIO 1.2, 4.1; ids, class codes, address registers and offsets in them as QEMU's virtio-*-pci on its pc
// machine. As there, a legacy driver that forgets to make the function a bus master gets it all the same.
// Leaves out: notifications by ports of modern drivers, PCI Express capabilities, the options of 1.2 (queue reset,
// notification data).

using System.Numerics;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Virtio.Transports;

/// <summary>A virtio device as a PCI function.</summary>
public sealed class VirtioPci : PciFunction, IVirtioTransport
{
    /// <summary>VIRTIO_MSI_NO_VECTOR.</summary>
    internal const ushort NoVector = 0xFFFF;

    private const int LegacyBar = 0, MsixBar = 1, ModernBar = 4;
    private const ushort FirstTransitionalId = 0x1000, FirstModernId = 0x1040;
    private const byte QueueInterrupt = 1, ConfigurationInterrupt = 2;

    private readonly VirtioModernRegisters? _modern;
    private readonly VirtioPciAccessWindow? _window;
    private readonly MsixCapability? _msix;
    private readonly int _vectors;
    private readonly ushort[] _queueVectors;
    private ushort _configurationVector = NoVector;
    private byte _interruptStatus;

    /// <exception cref="ArgumentException">The options leave no registers.</exception>
    public VirtioPci(VirtioDevice device, VirtioPciOptions options)
        : base($"{device.Name}-pci", Identify(device.Type, options), interruptPin: 1)
    {
        if (options is { DisableModern: true, DisableLegacy: true })
            throw new ArgumentException("neither legacy nor modern", nameof(options));
        Device = device;
        _queueVectors = new ushort[device.Queues.Count];
        _vectors = options.Vectors ?? device.Queues.Count + 1;
        if (!options.DisableModern)
        {
            _modern = new VirtioModernRegisters(this);
            AddMemoryBar(ModernBar, VirtioModernRegisters.Length, _modern, prefetchable: true, is64: true);
            AddCapabilities();
            _window = new VirtioPciAccessWindow(Config, _modern, ModernBar);
        }

        if (_vectors > 0)
            _msix = AddMsix(_vectors, MsixBar);
        if (!options.DisableLegacy)
        {
            var length = VirtioLegacyRegisters.LengthOfHeader(hasMsix: _msix is not null) + (uint)device.ConfigurationLength;
            AddPortBar(LegacyBar, BitOperations.RoundUpToPowerOf2(length), new VirtioLegacyRegisters(this));
        }

        Array.Fill(_queueVectors, NoVector);
        device.Connect(this);
    }

    public VirtioDevice Device { get; }

    public GuestMemory Memory => Bus.Memory;

    public bool CanAccessMemory => IsBusMaster;

    internal bool IsMsixEnabled => _msix is { IsEnabled: true };

    internal ushort ConfigurationVector
    {
        get => _configurationVector;
        set => _configurationVector = Vector(value);
    }

    public override void Reset()
    {
        base.Reset();
        Device.Reset();
    }

    public override uint ReadConfig(int offset, int size)
    {
        _window?.OnRead(offset, size);
        return base.ReadConfig(offset, size);
    }

    public override void WriteConfig(int offset, int size, uint value)
    {
        base.WriteConfig(offset, size, value);
        _window?.OnWritten(offset, size);
    }

    void IVirtioTransport.InterruptQueue(int queue)
    {
        _interruptStatus |= QueueInterrupt;
        Raise(_queueVectors[queue]);
    }

    void IVirtioTransport.InterruptConfiguration()
    {
        _interruptStatus |= QueueInterrupt | ConfigurationInterrupt; // both, as QEMU
        Raise(_configurationVector);
    }

    void IVirtioTransport.OnDeviceReset()
    {
        ClearInterruptStatus();
        _modern?.Reset();
        _configurationVector = NoVector;
        Array.Fill(_queueVectors, NoVector);
    }

    internal ushort GetQueueVector(int queue) => queue < _queueVectors.Length ? _queueVectors[queue] : NoVector;

    internal void SetQueueVector(int queue, ushort vector)
    {
        if (queue < _queueVectors.Length)
            _queueVectors[queue] = Vector(vector);
    }

    /// <summary>Reading the ISR register clears it, and with it the pin.</summary>
    internal byte ClearInterruptStatus()
    {
        var status = _interruptStatus;
        _interruptStatus = 0;
        Interrupt.Set(false);
        return status;
    }

    /// <summary>For legacy drivers.</summary>
    internal void BecomeBusMaster() => WriteConfig(PciRegister.Command, 2, Config.Get16(PciRegister.Command) | (uint)PciRegister.CommandBusMaster);

    private static PciIdentity Identify(VirtioDeviceType type, VirtioPciOptions options)
    {
        var (transitional, classCode) = type switch
        {
            VirtioDeviceType.Network => (0, 0x020000u),
            VirtioDeviceType.Block => (1, 0x010000u),
            VirtioDeviceType.Balloon => (2, 0x00FF00u),
            VirtioDeviceType.Console => (3, 0x078000u),
            VirtioDeviceType.ScsiHost => (4, 0x010000u),
            VirtioDeviceType.Entropy => (5, 0x00FF00u),
            _ => throw new ArgumentOutOfRangeException(nameof(type), type, "has no PCI id"),
        };
        return options.DisableLegacy
            ? new PciIdentity(PciIdentity.QemuSubsystemVendor, (ushort)(FirstModernId + (int)type), classCode, 1)
            : new PciIdentity(PciIdentity.QemuSubsystemVendor, (ushort)(FirstTransitionalId + transitional), classCode, 0) { SubsystemId = (ushort)type };
    }

    private void Raise(ushort vector)
    {
        if (!IsMsixEnabled)
            Interrupt.Set(true);
        else if (vector != NoVector)
            _msix!.Notify(vector);
    }

    private ushort Vector(ushort value) => value < _vectors ? value : NoVector;

    /// <summary>struct virtio_pci_cap of 4.1.4 for each part of the modern registers.</summary>
    private void AddCapabilities()
    {
        foreach (var part in VirtioModernRegisters.Parts)
        {
            var length = part.NotifyMultiplier == 0 ? 16 : 20;
            var at = Config.AddCapability(PciRegister.VendorCapability, length);
            Config.Define(at + 2, 1, (uint)length);
            Config.Define(at + 3, 1, part.Type);
            Config.Define(at + 4, 1, ModernBar);
            Config.Define(at + 8, 4, part.Offset);
            Config.Define(at + 12, 4, part.Length);
            if (part.NotifyMultiplier != 0)
                Config.Define(at + 16, 4, part.NotifyMultiplier);
        }
    }
}
