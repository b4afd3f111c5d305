using System.Runtime.InteropServices;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Cpu.Translator;

/// <summary>Where the code at an address is: what RET and other indirect jumps look at.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct JumpTarget
{
    public ulong Rip;

    /// <summary>Address of code that expects the canonical register map and saved flags.</summary>
    public uint Code;

    /// <summary><see cref="State.TranslatorContext.KeyNumber"/> under which the code was found.</summary>
    public uint Key;
}

/// <summary>A direct-mapped table of jump targets, below 2 GiB.</summary>
internal sealed unsafe class JumpTable : IDisposable
{
    /// <summary>The index is the low 16 bits of the address, which generated code has by one instruction.</summary>
    public const int Size = 1 << 16;
    public const int EntryShift = 4;

    private const ulong Bytes = (ulong)Size << EntryShift;

    public JumpTarget* Entries { get; } = (JumpTarget*)HostMemory.ReserveLow(Bytes);

    public JumpTarget* Find(ulong rip) => Entries + (rip & (Size - 1));

    /// <summary>Puts addresses into the entries that no look-up which comes there can have.</summary>
    public void Clear()
    {
        for (var i = 0; i < Size; i++)
            Entries[i] = new JumpTarget { Rip = (ulong)(i ^ 1) };
    }

    public void Dispose() => HostMemory.Release(Entries, Bytes);
}
