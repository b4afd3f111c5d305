// What a PVH kernel is told: xen/include/public/arch-x86/hvm/start_info.h, version 1, with the list of modules behind it, in a page.
using System.Buffers.Binary;

namespace Sharpvisor.Boot;

internal static class PvhStartInfo
{
    /// <summary>Offsets of what a boot through firmware fills in when it runs.</summary>
    public const int Rsdp = 32, MapEntries = 48;

    public const int MapEntrySize = 24;

    private const uint Magic = 0x336EC578;
    private const int Size = 56, ModuleSize = 32, Space = 4096;

    /// <summary>How many modules there is room for.</summary>
    public const int ModuleLimit = (Space - Size) / ModuleSize;

    /// <param name="modules">Address, size, and address of the command line, 0 for none.</param>
    /// <param name="rsdp">0: the guest looks for it.</param>
    public static byte[] Build(int mapEntries, IReadOnlyList<(ulong Address, ulong Size, ulong CommandLine)> modules, ulong rsdp)
    {
        var bytes = new byte[Size + (modules.Count * ModuleSize)];
        U32(0, Magic);
        U32(4, 1); // version
        U32(12, (uint)modules.Count); // nr_modules
        U64(16, modules.Count == 0 ? 0 : BootLayout.StartInfo + Size); // modlist_paddr
        U64(24, BootLayout.CommandLine); // cmdline_paddr
        U64(Rsdp, rsdp);
        U64(40, BootLayout.MemoryMap); // memmap_paddr
        U32(MapEntries, (uint)mapEntries);
        for (var i = 0; i < modules.Count; i++)
        {
            U64(Size + (i * ModuleSize), modules[i].Address);
            U64(Size + (i * ModuleSize) + 8, modules[i].Size);
            U64(Size + (i * ModuleSize) + 16, modules[i].CommandLine);
        }

        return bytes;

        void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(offset), value);
        void U64(int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(offset), value);
    }

    public static byte[] MemoryMap(IReadOnlyList<E820Entry> map)
    {
        var bytes = new byte[map.Count * MapEntrySize];
        for (var i = 0; i < map.Count; i++)
        {
            var entry = bytes.AsSpan(i * MapEntrySize);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)map[i].Type);
        }

        return bytes;
    }
}
