using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Core.Char;
using Sharpvisor.Cpu;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor;

/// <summary>
/// Describes a machine step by step:
/// <code>
/// await using var vm = await Machine.CreateBuilder().WithKernel("vmlinuz").WithInitrd("initrd.img")
///     .WithCommandLine("console=ttyS0").StartAsync(ct);
/// await vm.Serial.ExpectAsync("login:", ct);
/// </code>
/// </summary>
/// <remarks>Files are opened at once. The machine owns what it was given, and disposes it.</remarks>
public sealed class MachineBuilder
{
    private readonly List<ICharBackend?> _serial = [];

    internal MachineBuilder()
    {
    }

    /// <summary>What was described so far.</summary>
    public MachineOptions Options { get; private set; } = new();

    public MachineBuilder WithName(string name) => With(Options with { Name = name });

    /// <param name="bytes">Of RAM.</param>
    public MachineBuilder WithMemory(ulong bytes) => With(Options with { MemorySize = bytes });

    /// <param name="bytes">How much of the RAM lies below 4 GiB at most.</param>
    public MachineBuilder WithMemoryBelow4G(ulong bytes) => With(Options with { MaximumBelow4G = bytes });

    /// <summary>Starts from firmware: the SeaBIOS of the host's seabios package.</summary>
    /// <exception cref="Core.Guests.ConfigurationException">The package is not installed.</exception>
    public MachineBuilder WithFirmware() => WithFirmware(FirmwareFiles.Require(FirmwareFiles.SeaBios, "WithFirmware(path)"));

    /// <exception cref="Core.Guests.ConfigurationException">The file can't be opened.</exception>
    public MachineBuilder WithFirmware(string path) => WithFirmware(BootSource.FromFile(path));

    public MachineBuilder WithFirmware(BootSource image) => With(Options with { Firmware = image });

    /// <summary>Gives the machine a screen: a standard VGA with the BIOS of the host's seabios package.</summary>
    /// <exception cref="Core.Guests.ConfigurationException">The package is not installed.</exception>
    public MachineBuilder WithVga() => WithVga(BootSource.FromFile(FirmwareFiles.RequireVgaBios()));

    /// <param name="bios">The adapter's option ROM.</param>
    public MachineBuilder WithVga(BootSource bios) => With(Options with { VgaBios = bios });

    public MachineBuilder WithBoot(BootOptions boot) => With(Options with { Boot = boot });

    public MachineBuilder WithUuid(Guid uuid) => With(Options with { Uuid = uuid });

    public MachineBuilder WithProcessors(int count) => With(Options with { ProcessorCount = count });

    /// <param name="model">A processor model with optional ,+feature and ,-feature.</param>
    public MachineBuilder WithCpu(string model) => With(Options with { Cpu = model });

    /// <exception cref="Core.Guests.ConfigurationException">The file can't be opened.</exception>
    public MachineBuilder WithKernel(string path) => WithKernel(BootSource.FromFile(path));

    public MachineBuilder WithKernel(BootSource kernel) => With(Options with { Kernel = kernel });

    /// <summary>Says how the kernel is started, when that is not to follow from <see cref="WithFirmware()"/>.</summary>
    public MachineBuilder WithKernelBoot(BootWay way) => With(Options with { KernelBoot = way });

    /// <summary>The guest finds itself in a domain of Xen's, with event channels, grants and the store.</summary>
    /// <param name="domain">Its number, 1 to 32751.</param>
    /// <param name="console">What its console (hvc0) leads to; null: nowhere.</param>
    /// <param name="kind">The machine around the domain: a PC, or none.</param>
    public MachineBuilder WithXen(
        int domain = XenOptions.DefaultDomain, ICharBackend? console = null, MachineKind kind = MachineKind.XenHvm, XenCallbackOffer callback = XenCallbackOffer.ProcessorVector) =>
        With(Options with { Kind = kind, Xen = new XenOptions(domain, console) { Callback = callback } });

    /// <exception cref="Core.Guests.ConfigurationException">The file can't be opened.</exception>
    public MachineBuilder WithInitrd(string path) => WithInitrd(BootSource.FromFile(path));

    public MachineBuilder WithInitrd(BootSource initrd) => With(Options with { Initrd = initrd });

    /// <summary>Adds what a multiboot kernel, or that of a PVH domain, finds in memory.</summary>
    /// <param name="arguments">Of the module's command line, behind its name.</param>
    /// <exception cref="Core.Guests.ConfigurationException">The file can't be opened.</exception>
    public MachineBuilder WithModule(string path, string arguments = "") => WithModule(BootSource.FromFile(path), arguments);

    public MachineBuilder WithModule(BootSource module, string arguments = "") =>
        WithModules([new BootModule(module, arguments.Length == 0 ? module.Name : $"{module.Name} {arguments}")]);

    public MachineBuilder WithModules(IEnumerable<BootModule> modules) => With(Options with { Modules = [.. Options.Modules, .. modules] });

    public MachineBuilder WithCommandLine(string commandLine) => With(Options with { CommandLine = commandLine });

    /// <summary>Connects the next serial port, COM1 first. Without any call COM1 leads to <see cref="Machine.Serial"/>.</summary>
    /// <param name="backend">Null: this port does not exist.</param>
    public MachineBuilder WithSerial(ICharBackend? backend)
    {
        _serial.Add(backend);
        return With(Options with { Serial = [.. _serial] });
    }

    /// <summary>Puts a hard disk on the IDE controller, at the first free place.</summary>
    /// <param name="path">A file or a block device. It is the machine's alone while it is open.</param>
    /// <exception cref="Core.Guests.ConfigurationException">It can't be opened, or there is no place left.</exception>
    public MachineBuilder WithDisk(string path, DriveOptions? options = null)
    {
        var (channel, unit) = FreeIdePlace(0);
        options ??= new DriveOptions { Format = ImageFormat.Raw };
        return WithIdeDrive(new IdeDrive(BlockDrive.Open(IdeDrive.NameOf(channel, unit, isCdrom: false), path, options, Options.Logger), channel, unit));
    }

    /// <summary>Puts a CD-ROM drive on the IDE controller, at the first free place from the secondary channel on.</summary>
    /// <param name="path">An ISO image; null: the drive is empty.</param>
    /// <exception cref="Core.Guests.ConfigurationException">It can't be opened, or there is no place left.</exception>
    public MachineBuilder WithCdrom(string? path)
    {
        var (channel, unit) = FreeIdePlace(2);
        var name = IdeDrive.NameOf(channel, unit, isCdrom: true);
        var options = new DriveOptions { Format = ImageFormat.Raw, IsReadOnly = true };
        var drive = path is null ? new BlockDrive(name, null, options, Options.Logger) : BlockDrive.Open(name, path, options, Options.Logger);
        return WithIdeDrive(new IdeDrive(drive, channel, unit) { IsCdrom = true });
    }

    /// <summary>Puts a drive on the IDE controller.</summary>
    public MachineBuilder WithIdeDrive(IdeDrive drive) => With(Options with { IdeDrives = [.. Options.IdeDrives, drive] });

    /// <summary>Adds a virtio disk.</summary>
    /// <param name="path">A file or a block device. It is the machine's alone while it is open.</param>
    /// <exception cref="Core.Guests.ConfigurationException">It can't be opened.</exception>
    public MachineBuilder WithVirtioDisk(string path, DriveOptions? options = null)
    {
        options ??= new DriveOptions { Format = ImageFormat.Raw };
        var name = VirtioDisk.NameOf(Options.VirtioDevices.OfType<VirtioDisk>().Count());
        return WithVirtioDevice(new VirtioDisk(BlockDrive.Open(name, path, options, Options.Logger)));
    }

    /// <summary>
    /// Adds a virtio device: a <see cref="VirtioDisk"/>, a <see cref="VirtioEntropy"/>, a <see cref="VirtioMemoryBalloon"/>,
    /// a <see cref="VirtioSerialBus"/>.
    /// </summary>
    public MachineBuilder WithVirtioDevice(VirtioPciDevice device) => With(Options with { VirtioDevices = [.. Options.VirtioDevices, device] });

    /// <summary>Adds a disk of the guest's Xen domain.</summary>
    /// <param name="path">A file or a block device. It is the machine's alone while it is open.</param>
    /// <exception cref="Core.Guests.ConfigurationException">It can't be opened.</exception>
    public MachineBuilder WithXenDisk(string path, DriveOptions? options = null)
    {
        options ??= new DriveOptions { Format = ImageFormat.Raw };
        var name = XenDisk.NameOf(Options.XenDevices.OfType<XenDisk>().Count());
        return WithXenDevice(new XenDisk(BlockDrive.Open(name, path, options, Options.Logger)));
    }

    /// <summary>Adds a device of the guest's Xen domain: a <see cref="XenDisk"/> or a <see cref="XenNic"/>.</summary>
    public MachineBuilder WithXenDevice(XenDevice device) => With(Options with { XenDevices = [.. Options.XenDevices, device] });

    /// <summary>A NIC that guests have a driver for though they have none of virtio.</summary>
    public MachineBuilder WithNetworkCard(E1000Card card) => With(Options with { NetworkCards = [.. Options.NetworkCards, card] });

    /// <summary>The machine ends when the guest resets it or takes a triple fault.</summary>
    public MachineBuilder WithoutReboot() => WithActions(Options.Actions with { Reboot = RebootAction.Shutdown });

    /// <summary>The machine stays, paused, when the guest powers it off.</summary>
    public MachineBuilder WithoutShutdown() => WithActions(Options.Actions with { Shutdown = ShutdownAction.Pause });

    /// <summary>Says what becomes of the machine when its guest powers off, resets or crashes.</summary>
    public MachineBuilder WithActions(MachineActions actions) => With(Options with { Actions = actions });

    /// <summary>Adds QEMU's pvpanic, by which a guest says that it has crashed.</summary>
    /// <param name="onPci">A function on PCI rather than a port that ACPI tells of.</param>
    public MachineBuilder WithPanicDevice(bool onPci = false) =>
        With(onPci ? Options with { HasPciPanicDevice = true } : Options with { HasPanicDevice = true });

    /// <summary>The machine starts paused: no processor executes anything until <see cref="Machine.ResumeAsync(CancellationToken)"/>.</summary>
    public MachineBuilder WithStartPaused() => With(Options with { StartPaused = true });

    /// <summary>Takes sleep states away from the guest, which has both otherwise.</summary>
    /// <param name="toRam">ACPI S3.</param>
    /// <param name="toDisk">ACPI S4.</param>
    public MachineBuilder WithSuspend(bool toRam, bool toDisk) => With(Options with { HasSuspendToRam = toRam, HasSuspendToDisk = toDisk });

    /// <summary>Leaves VMware's backdoor port out, and with it mice that tell positions.</summary>
    public MachineBuilder WithoutVmwarePort() => With(Options with { HasVmwarePort = false });

    /// <summary>Adds QEMU's pc-testdev.</summary>
    public MachineBuilder WithTestDevice() => With(Options with { HasTestDevice = true });

    /// <summary>Adds QEMU's pci-testdev.</summary>
    public MachineBuilder WithPciTestDevice() => With(Options with { HasPciTestDevice = true });

    /// <summary>Adds QEMU's isa-debug-exit: a guest that writes v ends the machine with the code (v &lt;&lt; 1) | 1.</summary>
    public MachineBuilder WithDebugExit(ushort port = 0x501, int count = 2) => With(Options with { DebugExit = (port, count) });

    /// <summary>Adds a port that prints each byte written to it.</summary>
    public MachineBuilder WithDebugConsole(ICharBackend backend, ushort port = 0xE9) => With(Options with { DebugConsole = (port, backend) });

    public MachineBuilder WithEngine(ICpuEngine engine) => With(Options with { Engine = engine });

    /// <param name="trace">Where the processors log, and what at first (<see cref="Machine.LoggedKinds"/>); null: they never do.</param>
    /// <param name="guestErrors">Is told of each mistake of the guest.</param>
    public MachineBuilder WithTrace(CpuTrace? trace, Action<string>? guestErrors = null) =>
        With(Options with { Trace = trace, GuestErrorTrace = guestErrors });

    public MachineBuilder WithLogger(ILogger logger) => With(Options with { Logger = logger });

    /// <summary>Makes the machine without starting it.</summary>
    /// <exception cref="Core.Guests.ConfigurationException">Something does not fit together. All that the machine was to own is closed.</exception>
    public Machine Build()
    {
        var options = WithDefaultConsole(Options);
        try
        {
            return new Machine(options);
        }
        catch
        {
            foreach (var backend in options.Backends)
                backend.DisposeAsync().AsTask().GetAwaiter().GetResult();
            foreach (var file in options.Files)
                file.Dispose();
            throw;
        }
    }

    /// <summary>Who wants to see what the guest says and has not said where: <see cref="Machine.Serial"/>.</summary>
    private static MachineOptions WithDefaultConsole(MachineOptions options) => options switch
    {
        { Kind: MachineKind.XenPvh or MachineKind.XenPv, Serial.Count: 0, Xen: { Console: null } xen } => options with { Xen = xen with { Console = new MemoryCharBackend() } },
        { Kind: not (MachineKind.XenPvh or MachineKind.XenPv), Serial.Count: 0 } => options with { Serial = [new MemoryCharBackend()] },
        _ => options,
    };

    /// <summary>Makes the machine and starts it.</summary>
    /// <exception cref="Core.Guests.ConfigurationException">Something does not fit together.</exception>
    public async Task<Machine> StartAsync(CancellationToken cancellation = default)
    {
        var machine = Build();
        try
        {
            await machine.StartAsync(cancellation).ConfigureAwait(false);
            return machine;
        }
        catch
        {
            await machine.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    private (int Channel, int Unit) FreeIdePlace(int first)
    {
        for (var i = 0; i < IdeDrive.MaximumCount; i++)
        {
            var (channel, unit) = Math.DivRem((first + i) % IdeDrive.MaximumCount, 2);
            if (!Options.IdeDrives.Any(d => d.Channel == channel && d.Unit == unit))
                return (channel, unit);
        }

        throw new Core.Guests.ConfigurationException($"{IdeDrive.MaximumCount + 1} drives: an IDE controller has room for {IdeDrive.MaximumCount}; give fewer");
    }

    private MachineBuilder With(MachineOptions options)
    {
        Options = options;
        return this;
    }
}
