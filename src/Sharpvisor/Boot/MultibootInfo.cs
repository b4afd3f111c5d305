// What a multiboot kernel is told: Multiboot Specification 0.6.96, section 3.3. Memory sizes, boot device, command line,
// modules, memory map, the loader's name. Left out: symbols and section headers, drives, BIOS configuration, APM, video modes (of text mode 3 the frame buffer is told).
using System.Buffers.Binary;
using System.Text;

namespace Sharpvisor.Boot;

internal static class MultibootInfo
{
    public const int Size = 116;

    /// <summary>Offsets of what a boot through firmware fills in when it runs.</summary>
    public const int MemLower = 4, MemUpper = 8, MapLength = 44;

    public const int MapEntrySize = 24;

    /// <summary>The size field of an entry does not count itself.</summary>
    public const uint MapEntryContent = 20;

    private const uint HasMemory = 1 << 0, HasBootDevice = 1 << 1, HasCommandLine = 1 << 2, HasModules = 1 << 3, HasMap = 1 << 6, HasLoaderName = 1 << 9, HasFrameBuffer = 1 << 12;
    private const uint FirstDiskNoPartition = 0x8000FFFF; // as QEMU says it, whatever the disks
    private const int ModuleSize = 16;

    /// <param name="map">What memory there is; null when firmware will tell.</param>
    /// <param name="hasScreen">There is a text screen, and the kernel asks for what it is.</param>
    /// <param name="moduleCount">Of the list at <see cref="BootLayout.CommandLine"/>.</param>
    /// <param name="commandLine">Address of the kernel's.</param>
    public static byte[] Build(IReadOnlyList<E820Entry>? map, bool hasScreen, int moduleCount, ulong commandLine, ulong loaderName)
    {
        var bytes = new byte[Size];
        U32(0, HasMemory | HasBootDevice | HasCommandLine | HasModules | HasMap | HasLoaderName);
        U32(12, FirstDiskNoPartition);
        U32(16, (uint)commandLine);
        U32(20, (uint)moduleCount);
        U32(24, (uint)BootLayout.CommandLine);
        U32(48, (uint)BootLayout.MemoryMap);
        U32(64, (uint)loaderName);
        if (hasScreen)
        {
            const byte egaText = 2;
            U32(0, HasMemory | HasBootDevice | HasCommandLine | HasModules | HasMap | HasLoaderName | HasFrameBuffer);
            U32(88, 0xB8000);
            U32(96, 160); // bytes a line
            U32(100, 80);
            U32(104, 25);
            bytes[108] = 16; // bits a character
            bytes[109] = egaText;
        }

        if (map is not null)
        {
            U32(MemLower, (uint)(map.First(e => e.Address == 0).Length >> 10));
            U32(MemUpper, (uint)(map.Where(e => e.Address == E820.OneMiB && e.Type == E820Type.Ram).Select(e => e.Length).FirstOrDefault() >> 10));
            U32(MapLength, (uint)(map.Count * MapEntrySize));
        }

        return bytes;

        void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(offset), value);
    }

    public static byte[] MemoryMap(IReadOnlyList<E820Entry> map)
    {
        var bytes = new byte[map.Count * MapEntrySize];
        for (var i = 0; i < map.Count; i++)
        {
            var entry = bytes.AsSpan(i * MapEntrySize);
            BinaryPrimitives.WriteUInt32LittleEndian(entry, MapEntryContent);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[4..], map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[12..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[20..], (uint)map[i].Type);
        }

        return bytes;
    }

    /// <summary>The list of modules and behind it all strings, as they lie at <see cref="BootLayout.CommandLine"/>.</summary>
    /// <returns>The bytes, and where the first string begins: the kernel's, then the loader's name.</returns>
    public static (byte[] Bytes, ulong CommandLine, ulong LoaderName) Strings(
        string commandLine, string loaderName, IReadOnlyList<(ulong Start, ulong End, string CommandLine)> modules)
    {
        using var strings = new MemoryStream();
        var start = BootLayout.CommandLine + (ulong)(modules.Count * ModuleSize);
        var list = new byte[modules.Count * ModuleSize];
        var kernel = Add(commandLine);
        var loader = Add(loaderName);
        for (var i = 0; i < modules.Count; i++)
        {
            var entry = list.AsSpan(i * ModuleSize);
            BinaryPrimitives.WriteUInt32LittleEndian(entry, (uint)modules[i].Start);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], (uint)modules[i].End);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], (uint)Add(modules[i].CommandLine));
        }

        return ([.. list, .. strings.ToArray()], kernel, loader);

        ulong Add(string text)
        {
            var address = start + (ulong)strings.Length;
            strings.Write(Encoding.UTF8.GetBytes(text + "\0"));
            return address;
        }
    }
}
