// The power-on self-test port: firmware writes how far it has come, operating systems write to it to wait a little.
// Follows: IBM PC AT Technical Reference, manufacturing test port (80h).
// Leaves out: the DMA page register that shares the port on real boards.

using Sharpvisor.Core.Buses;

namespace Sharpvisor.Devices.Chipset;

/// <summary>Port 80h: keeps the last byte written.</summary>
public sealed class PostCodePort : ByteWideDevice, IResettable
{
    /// <summary>The last code, for a person who asks why firmware hangs.</summary>
    public byte LastCode { get; private set; }

    public void Reset() => LastCode = 0;

    protected override byte ReadByte(uint offset) => LastCode;

    protected override void WriteByte(uint offset, byte value) => LastCode = value;
}
