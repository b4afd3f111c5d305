using System.Runtime.InteropServices;

namespace Sharpvisor.Cpu.Translator;

/// <summary>An immediate that the host's instruction has as the guest's has it: both can be changed alike.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ImmediateField
{
    /// <summary>Where it begins, from the first byte of the block.</summary>
    public ushort Offset;

    /// <summary>1, 2, 4 or 8 bytes.</summary>
    public ushort Size;

    /// <summary>Where it begins in the code, from <see cref="Translation.EntryWithFlags"/>.</summary>
    public uint HostOffset;
}
