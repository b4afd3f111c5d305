// Port E9h, where guests of Xen write what they have to say before they have a console.
// Follows: Xen's hvm_print_line (arch/x86/hvm/hvm.c): a line at a time to the log. What it reads is as on Bochs, whose port it was.

using Microsoft.Extensions.Logging;

namespace Sharpvisor.Devices.Xen;

/// <summary>One port.</summary>
public sealed class XenDebugPort(ILogger logger) : ByteWideDevice
{
    private readonly XenLog _log = new(logger);

    protected override byte ReadByte(uint offset) => 0xE9;

    protected override void WriteByte(uint offset, byte value) => _log.Add(value);
}
