// The host bridge of a PC with Intel's 440FX: what lies between 640 KiB and 1 MiB, RAM or what is on the bus.
// Follows: Intel 82441FX (290549), 3.2.17 (PAM0 to PAM6), 3.2.22 (SMRAM); identity as QEMU's i440FX.
// Leaves out: DRAM timing, error and bus arbitration registers (bytes without effect); SMM itself: the processors have
// none, so G_SMRAME changes nothing and only D_OPEN shows the RAM under the VGA window.

using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Pci;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Device 0, function 0.</summary>
public sealed class HostBridge : PciFunction
{
    private const int Pam0 = 0x59, PamCount = 7, Smram = 0x72;
    private const byte ReadEnable = 1, WriteEnable = 2;
    private const byte SmramOpen = 0x40, SmramClosed = 0x20, SmramLocked = 0x10, SmramSegment = 0x02;

    private const ulong VgaStart = 0xA0000, VgaLength = 0x20000;
    private const ulong BiosStart = 0xE0000, BiosEnd = 0x100000;

    private readonly GuestMemory _memory;
    private readonly MemoryRegion? _firmware;

    // What is in force for each of the 13 segments, and for the window; null: nothing has been said yet.
    private readonly Segment?[] _segments = new Segment?[13];
    private MemoryMapping? _open;

    /// <param name="firmware">The ROM, whose last 128 KiB are seen below 1 MiB while that is not RAM.</param>
    public HostBridge(GuestMemory memory, MemoryRegion? firmware)
        : base("i440fx", new PciIdentity(0x8086, 0x1237, 0x060000, 2))
    {
        _memory = memory;
        _firmware = firmware;
        for (var offset = PciRegister.HeaderEnd; offset < PciConfigSpace.Size; offset++)
            Config.Define(offset, 1, 0, 0xFF);
        Config.Define(Smram, 1, SmramSegment, 0x78);
    }

    /// <summary>PAM0 to PAM6: for each segment from C0000h to FFFFFh, whether RAM or the bus is read and written.</summary>
    public IReadOnlyList<byte> MemoryAttributes
    {
        get => [.. Enumerable.Range(Pam0, PamCount).Select(Config.Get8)];
        set
        {
            for (var i = 0; i < PamCount; i++)
                Config.Set8(Pam0 + i, value[i]);
            Apply();
        }
    }

    public override void WriteConfig(int offset, int size, uint value)
    {
        var locked = (Config.Get8(Smram) & SmramLocked) != 0;
        var before = Config.Get8(Smram);
        base.WriteConfig(offset, size, value);
        if (locked)
            Config.Set8(Smram, (byte)(before & ~SmramOpen));
        else if ((Config.Get8(Smram) & SmramLocked) != 0)
            Config.Set8(Smram, (byte)(Config.Get8(Smram) & ~SmramOpen));
        Apply();
    }

    public override void Reset()
    {
        base.Reset();
        Apply();
    }

    /// <summary>Makes all of it RAM, as firmware leaves it that has put tables there.</summary>
    public void ShadowAll() => MemoryAttributes = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];

    private void Apply()
    {
        // PAM0 has the 64 KiB from F0000h on in its upper half; the others two segments of 16 KiB each from C0000h on.
        ApplySegment(12, 0xF0000, 0x10000, Config.Get8(Pam0) >> 4);
        for (var i = 0; i < 12; i++)
            ApplySegment(i, 0xC0000 + ((ulong)i * 0x4000), 0x4000, Config.Get8(Pam0 + 1 + (i / 2)) >> (4 * (i & 1)));
        var smram = Config.Get8(Smram);
        var open = (smram & (SmramOpen | SmramClosed)) == SmramOpen;
        if (open == _open is not null)
            return;
        if (_open is not null)
            _memory.Unmap(_open);
        _open = open ? _memory.Map(VgaStart, VgaLength, _memory.Ram, VgaStart, _memory.Ram, VgaStart, isOnTop: true) : null;
    }

    private void ApplySegment(int index, ulong start, ulong length, int attributes)
    {
        attributes &= ReadEnable | WriteEnable;
        var before = _segments[index];
        if (before?.Attributes == attributes)
            return;
        MemoryMapping? mapping = null;
        if (attributes != (ReadEnable | WriteEnable))
        {
            var (reads, readOffset) = (attributes & ReadEnable) != 0 ? (_memory.Ram, start) : Firmware(start, length);
            mapping = _memory.Map(start, length, reads, readOffset, (attributes & WriteEnable) != 0 ? _memory.Ram : null, start);
        }

        if (before?.Mapping is { } old)
            _memory.Unmap(old);
        _segments[index] = new Segment(attributes, mapping);
    }

    private (MemoryRegion? Region, ulong Offset) Firmware(ulong start, ulong length)
    {
        if (_firmware is null || start < BiosStart || BiosEnd - start > _firmware.Size || length > _firmware.Size)
            return (null, 0);
        return (_firmware, _firmware.Size - (BiosEnd - start));
    }

    private sealed record Segment(int Attributes, MemoryMapping? Mapping);
}
