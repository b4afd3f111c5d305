using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Core.Tracing;
using Sharpvisor.Cpu;
using Sharpvisor.Devices.Xen;
using Sharpvisor.Servers.Endpoints;
using Sharpvisor.Servers.Secrets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Cli.Parsing;

/// <summary>What the flags of <c>run</c> say, nothing opened yet.</summary>
internal sealed class RunSettings
{
    public const ulong DefaultMemory = 512UL << 20;

    public string Name { get; set; } = "sharpvisor";

    /// <summary>In bytes.</summary>
    public ulong Memory { get; set; } = DefaultMemory;

    public int Processors { get; set; } = 1;

    public string? Cpu { get; set; }

    /// <summary>As <see cref="CpuEngines"/> knows it.</summary>
    public string? Engine { get; set; }

    public bool PerfMap { get; set; }

    public string? Bios { get; set; }

    public BootOptions Boot { get; set; } = new();

    /// <summary>In bytes; null for as much as there is room for.</summary>
    public ulong? MaximumBelow4G { get; set; }

    public Guid Uuid { get; set; }

    public MachineKind Machine { get; set; }

    /// <summary>-xen-domid; null: not given.</summary>
    public int? XenDomain { get; set; }

    /// <summary>-machine xen-callback=; null: not given.</summary>
    public XenCallbackOffer? XenCallback { get; set; }

    /// <summary>-device xen-console: hvc0 of a domain; null: nothing was said.</summary>
    public XenConsoleSpec? XenConsole { get; set; }

    /// <summary>-device xen-platform was given.</summary>
    public bool NeedsXenPlatform { get; set; }

    /// <summary>What was asked for and says nothing here: told once, at the start.</summary>
    public List<string> Notes { get; } = [];

    public string? Kernel { get; set; }

    /// <summary>Null: directly where that serves.</summary>
    public BootWay? KernelBoot { get; set; }

    public string? Initrd { get; set; }

    public string? Append { get; set; }

    public List<CharSpec> Serial { get; } = [];

    public List<ChardevSpec> Chardevs { get; } = [];

    /// <summary>Before <see cref="CharValues.Resolve"/> has given them to their devices.</summary>
    public List<SerialPortSpec> SerialPorts { get; } = [];

    /// <summary>Monitors and QMP servers, each with the flag that says so.</summary>
    public List<MonitorSpec> Monitors { get; } = [];

    /// <summary>-monitor was given: the serial port has the terminal to itself.</summary>
    public bool HasMonitorFlag { get; set; }

    public List<DriveSpec> Drives { get; } = [];

    /// <summary>What -blockdev names.</summary>
    public List<BlockNode> Nodes { get; } = [];

    /// <summary>-snapshot.</summary>
    public bool IsTemporary { get; set; }

    public List<IdeDeviceSpec> IdeDevices { get; } = [];

    /// <summary>In the order of the command line, which is that of their places.</summary>
    public List<VirtioSpec> VirtioDevices { get; } = [];

    public List<NetdevSpec> Netdevs { get; } = [];

    public List<HubPortSpec> HubPorts { get; } = [];

    public List<NicSpec> Nics { get; } = [];

    /// <summary>-nic none: no default one.</summary>
    public bool HasNoNic { get; set; }

    public List<DumpSpec> Dumps { get; } = [];

    /// <summary>-bootp: what boot ROMs are told to load.</summary>
    public string? BootFile { get; set; }

    /// <summary>Drives and devices together, each with its place.</summary>
    public IReadOnlyList<PlacedDrive> PlacedDrives { get; set; } = [];

    /// <summary>A standard VGA; null: nothing was said.</summary>
    public bool? HasVga { get; set; }

    /// <summary>The screen is shown on the terminal.</summary>
    public bool IsCurses { get; set; }

    /// <summary>Where the screen is shown to VNC viewers; null: nowhere.</summary>
    public VncSpec? Vnc { get; set; }

    /// <summary>Where gdb attaches; null: nowhere.</summary>
    public ServerAddress? Gdb { get; set; }

    public List<Secret> Secrets { get; } = [];

    public bool NoDefaults { get; set; }

    public MachineActions Actions { get; set; } = new();

    public bool HasPanicDevice { get; set; }

    public bool HasPciPanicDevice { get; set; }

    public bool StartPaused { get; set; }

    public bool HasTestDevice { get; set; }

    public bool HasPciTestDevice { get; set; }

    public bool HasSuspendToRam { get; set; } = true;

    public bool HasSuspendToDisk { get; set; } = true;

    public bool HasVmwarePort { get; set; } = true;

    public (ushort Port, int Count)? DebugExit { get; set; }

    public CharSpec? DebugConsole { get; set; }

    public ushort DebugConsolePort { get; set; } = 0xE9;

    /// <summary>-d and -trace.</summary>
    public LogItems Log { get; } = new();

    /// <summary>Samples a second of sharpvisor profile; null: there is no profile.</summary>
    public int? ProfileFrequency { get; set; }

    /// <summary>Where its stacks go.</summary>
    public string ProfileFile { get; set; } = "";

    /// <summary>Where the debug log goes; null for standard error.</summary>
    public string? TraceFile { get; set; }
}
