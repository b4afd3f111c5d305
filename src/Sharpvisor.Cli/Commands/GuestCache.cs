namespace Sharpvisor.Cli.Commands;

/// <summary>Where eng/guests.sh puts kernels and RAM disks: .cache/guests below the repository.</summary>
internal static class GuestCache
{
    /// <summary>Set by the ./sharpvisor script.</summary>
    public const string HomeVariable = "SHARPVISOR_HOME";

    public static string Root => Path.Combine(
        Environment.GetEnvironmentVariable(HomeVariable) is { Length: > 0 } home ? home : Directory.GetCurrentDirectory(), ".cache", "guests");

    public static string DemoKernel => Path.Combine(Root, "cloud", "vmlinuz");

    public static string DemoInitrd => Path.Combine(Root, "demo", "initrd.img");

    /// <summary>The demo's home directory.</summary>
    public static string DemoDisk => Path.Combine(Root, "demo-disk", "disk.img");

    /// <summary>SeaBIOS and its VGA BIOS.</summary>
    public static string Firmware => Path.Combine(Root, "seabios");

    /// <summary>iPXE for NICs.</summary>
    public static string IpxeRoms => Path.Combine(Root, "ipxe-roms");
}
