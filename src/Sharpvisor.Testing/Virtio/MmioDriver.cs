using Sharpvisor.Core.Buses;
using Sharpvisor.Core.Memory;

namespace Sharpvisor.Testing.Virtio;

/// <summary>By the registers in memory of VIRTIO 1.2, 4.2.</summary>
/// <param name="registers">Where they lie, seen from their start.</param>
public sealed class MmioDriver(IBusDevice registers, GuestMemory memory) : VirtioDriver(memory)
{
    public override ulong OfferedFeatures
    {
        get
        {
            Write(0x14, 0);
            ulong low = Read(0x10);
            Write(0x14, 1);
            return low | ((ulong)Read(0x10) << 32);
        }
    }

    public override byte Status
    {
        get => (byte)Read(0x70);
        set => Write(0x70, value);
    }

    public uint Read(uint register) => (uint)registers.Read(register, 4);

    public void Write(uint register, uint value) => registers.Write(register, 4, value);

    public override void Notify(int queue) => Write(0x50, (uint)queue);

    /// <summary>Here reading clears nothing; it is acknowledged.</summary>
    public override byte ReadInterruptStatus()
    {
        var status = Read(0x60);
        Write(0x64, status);
        return (byte)status;
    }

    public override ulong ReadDeviceConfig(uint offset, int size) => registers.Read(0x100 + offset, size);

    public override void WriteDeviceConfig(uint offset, int size, ulong value) => registers.Write(0x100 + offset, size, value);

    protected override void AcceptFeatures(ulong features)
    {
        for (var half = 0; half < 2; half++)
        {
            Write(0x24, (uint)half);
            Write(0x20, (uint)(features >> (32 * half)));
        }

        Status = (byte)(Status | FeaturesOk);
        if ((Status & FeaturesOk) == 0)
            throw new InvalidOperationException($"the device refuses the features 0x{features:x}");
    }

    protected override DriverRing SetUpQueue(int queue, Func<int, DriverRing> create, int? size)
    {
        Write(0x30, (uint)queue);
        var ring = create(size ?? (int)Read(0x34));
        Write(0x38, (uint)ring.Size);
        foreach (var (register, area) in new[] { (0x80u, ring.DescriptorArea), (0x90u, ring.DriverArea), (0xA0u, ring.DeviceArea) })
        {
            Write(register, (uint)area);
            Write(register + 4, (uint)(area >> 32));
        }

        Write(0x44, 1);
        return ring;
    }
}
