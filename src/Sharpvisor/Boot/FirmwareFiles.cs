// Firmware lies where distributions put it: Debian's and Ubuntu's seabios package, Fedora's seabios-bin, Arch's and
// openSUSE's, or beside QEMU.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

/// <summary>Finds and reads BIOS images.</summary>
public static class FirmwareFiles
{
    /// <summary>SeaBIOS, and its VGA BIOS for standard VGA.</summary>
    public const string SeaBios = "bios-256k.bin", StandardVgaBios = "vgabios-stdvga.bin";

    /// <summary>iPXE for NICs, and where the package ipxe-qemu puts it.</summary>
    public const string IpxeVirtio = "pxe-virtio.rom", IpxeE1000 = "pxe-e1000.rom", IpxeDirectory = "/usr/lib/ipxe/qemu";

    /// <summary>A directory that is looked in first.</summary>
    public const string DirectoryVariable = "SHARPVISOR_FIRMWARE";

    private const int BiosUnit = 64 << 10, LargestBios = 8 << 20, RomUnit = 512, LargestRom = 128 << 10;

    private static readonly string[] Directories =
        ["/usr/share/seabios", "/usr/share/qemu", "/usr/share/seavgabios", "/usr/local/share/qemu", "/usr/local/share/seabios"];

    /// <summary>The path of a file, or null.</summary>
    /// <param name="directories">More places, looked at last.</param>
    public static string? Find(string name, params IEnumerable<string> directories) =>
        new[] { Environment.GetEnvironmentVariable(DirectoryVariable) ?? "" }.Concat(Directories).Concat(directories)
            .Where(d => d.Length > 0)
            .Select(d => Path.Combine(d, name))
            .FirstOrDefault(File.Exists);

    /// <summary>As <see cref="Find"/>, for what must be there.</summary>
    /// <exception cref="ConfigurationException">It is nowhere.</exception>
    public static string Require(string name, string flag, params IEnumerable<string> directories) => Find(name, directories)
        ?? throw new ConfigurationException($"no {name} in {string.Join(", ", Directories)}: install the package seabios (apt-get install seabios), or give a file with {flag}");

    /// <summary>The option ROM of a standard VGA.</summary>
    /// <exception cref="ConfigurationException">It is nowhere.</exception>
    public static string RequireVgaBios(params IEnumerable<string> directories) => Find(StandardVgaBios, directories)
        ?? throw new ConfigurationException($"no {StandardVgaBios} in {string.Join(", ", Directories)}: install the package seabios (apt-get install seabios), name its directory in {DirectoryVariable}, or go without a screen (-vga none)");

    /// <summary>Checks that a file can be an option ROM (PCI Firmware Specification 3.0, 5.1: 55h, AAh, its size in blocks of 512 bytes).</summary>
    /// <exception cref="ConfigurationException">It is none.</exception>
    public static void CheckOptionRom(BootSource source)
    {
        var isRom = source.Length >= RomUnit && source.Length <= LargestRom && source.Read(0, 3) is [0x55, 0xAA, var units] && units * RomUnit <= source.Length;
        if (!isRom)
            throw new ConfigurationException($"{source.Name}: is no option ROM (one begins with 55h, AAh and its size, 128 KiB at most); give one, such as {StandardVgaBios} of the package seabios");
    }

    /// <summary>Checks that a file can be a BIOS.</summary>
    /// <exception cref="ConfigurationException">Its size says that it is none.</exception>
    public static void CheckBios(BootSource source)
    {
        if (source.Length == 0)
            throw new ConfigurationException($"{source.Name}: is empty; give a BIOS image, such as {SeaBios} of the package seabios");
        if (source.Length % BiosUnit != 0 || source.Length > LargestBios)
            throw new ConfigurationException($"{source.Name}: has {source.Length} bytes, a BIOS image has a multiple of 64 KiB up to 8 MiB; give one, such as {SeaBios} of the package seabios");
    }
}
