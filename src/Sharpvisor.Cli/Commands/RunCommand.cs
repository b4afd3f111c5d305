using System.Runtime.InteropServices;
using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Cli.Display;
using Sharpvisor.Cli.Output;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Cpu;
using Sharpvisor.Cpu.Translator;
using Sharpvisor.Debugging.Profiling;
using Sharpvisor.Servers.Secrets;
using Sharpvisor.Servers.Vnc;

namespace Sharpvisor.Cli.Commands;

/// <summary>Starts a machine from its flags and lives as long as it does.</summary>
internal static class RunCommand
{
    private const int UserSignal1 = 10, StandardError = 2;

    public static async Task<int> RunAsync(RunSettings settings, TextWriter output, TextWriter errors)
    {
        if (settings.Kernel is null && (settings.Initrd is not null || settings.Append is not null))
            throw new ConfigurationException($"{(settings.Initrd is not null ? "-initrd" : "-append")} needs a kernel: give one with -kernel");

        if (!settings.IsCurses)
            return await RunAsync(settings, null, errors).ConfigureAwait(false);
        CursesDisplay.Check();
        if (!Terminal.IsTerminal(StandardError))
            return await RunAsync(settings, null, errors).ConfigureAwait(false);
        using var held = new HeldLines(errors);
        return await RunAsync(settings, held, held).ConfigureAwait(false);
    }

    /// <param name="held">What keeps the lines of <paramref name="errors"/> from the terminal while it shows the screen.</param>
    private static async Task<int> RunAsync(RunSettings settings, HeldLines? held, TextWriter errors)
    {
        var logger = new StandardErrorLogger(errors);
        var log = new DebugLog(settings.TraceFile, errors);
        await using (log.ConfigureAwait(false))
        {
            var ends = new List<IAsyncDisposable>();
            Machine? machine = null;
            VncServer? vnc = null;
            ControlServers? control = null;
            Profiler? profiler = null;
            try
            {
                using var files = BootFiles.Open(settings);
                Action quit = () => machine?.Stop("ended by Ctrl-A x");
                machine = Build(settings, files, ends, logger, log, quit);
                if (settings.Log.Events.Count > 0)
                    machine.TracePoints.Set(settings.Log.Events, log.WriteLine);
                vnc = StartVnc(settings, machine, logger);
                control = await ControlServers.StartAsync(settings, machine, vnc, ends, logger, log, quit).ConfigureAwait(false);
                profiler = settings.ProfileFrequency is { } frequency ? machine.StartProfile(frequency) : null;
                return await LiveAsync(machine, control, settings, quit, held, errors).ConfigureAwait(false);
            }
            finally
            {
                if (profiler is not null)
                    await profiler.DisposeAsync().ConfigureAwait(false);
                if (control is not null)
                    await control.DisposeAsync().ConfigureAwait(false);
                if (vnc is not null)
                    await vnc.DisposeAsync().ConfigureAwait(false);
                if (machine is not null)
                    await machine.DisposeAsync().ConfigureAwait(false);
                foreach (var end in ends)
                    await end.DisposeAsync().ConfigureAwait(false);
                if (profiler is not null)
                    ProfileCommand.Write(settings.ProfileFile, profiler.Fold());
            }
        }
    }

    private static Machine Build(RunSettings settings, BootFiles files, List<IAsyncDisposable> ends, StandardErrorLogger logger, DebugLog log, Action quit)
    {
        foreach (var note in settings.Notes)
            logger.LogWarning("{Note}", note);
        var builder = Machine.CreateBuilder()
            .WithName(settings.Name)
            .WithMemory(settings.Memory)
            .WithProcessors(settings.Processors)
            .WithBoot(settings.Boot)
            .WithActions(settings.Actions)
            .WithUuid(settings.Uuid)
            .WithSuspend(settings.HasSuspendToRam, settings.HasSuspendToDisk)
            .WithCommandLine(settings.Append ?? "")
            .WithLogger(logger);
        if (settings.Engine is null && CpuEngines.Default != "translator")
            logger.LogWarning("no translator on this host (it needs x86-64 Linux with AVX2 and BMI2): the interpreter executes the guest");
        builder.WithEngine(CpuEngines.Create(settings.Engine ?? CpuEngines.Default, settings.PerfMap ? new PerfMap(PerfMap.DefaultPath) : null));
        if (settings.Cpu is not null)
            builder.WithCpu(settings.Cpu);
        if (settings.MaximumBelow4G is { } below)
            builder.WithMemoryBelow4G(below);
        files.AddTo(builder);
        if (OpenVgaBios(settings, files.Firmware is not null) is { } vga)
            builder.WithVga(vga);
        if (settings.KernelBoot is { } way)
            builder.WithKernelBoot(way);
        if (settings.HasPanicDevice)
            builder.WithPanicDevice();
        if (settings.HasPciPanicDevice)
            builder.WithPanicDevice(onPci: true);
        if (settings.StartPaused)
            builder.WithStartPaused();
        if (settings.HasTestDevice)
            builder.WithTestDevice();
        if (!settings.HasVmwarePort)
            builder.WithoutVmwarePort();
        if (settings.HasPciTestDevice)
            builder.WithPciTestDevice();
        if (settings.DebugExit is { } exit)
            builder.WithDebugExit(exit.Port, exit.Count);
        builder.WithTrace(new CpuTrace(settings.Log.Kinds, log.WriteLine), settings.Log.HasGuestErrors ? log.WriteLine : null);

        foreach (var placed in settings.PlacedDrives)
        {
            var drive = OpenDrive(placed, ends, logger);
            builder.WithIdeDrive(drive);
            // As libxl does: the same disk by Xen's driver, for a guest that takes the emulated ones away.
            if (settings.Machine == MachineKind.XenHvm && !drive.IsCdrom && drive.Drive.HasMedium)
                builder.WithXenDevice(new XenDisk(drive.Drive) { Place = placed.Place });
        }

        var disks = new Dictionary<VirtioSpec, BlockDrive>(ReferenceEqualityComparer.Instance);
        foreach (var virtio in settings.VirtioDevices)
        {
            if (virtio.Drive is { } spec)
                disks[virtio] = OpenDrive(spec, spec.Id ?? VirtioDisk.NameOf(disks.Count), ends, logger);
        }

        List<DriveSpec> xenDrives = [.. settings.Drives.Where(d => d.Interface == DriveInterface.Xen)];
        for (var i = 0; i < xenDrives.Count; i++)
        {
            var drive = OpenDrive(xenDrives[i], xenDrives[i].Id ?? XenDisk.NameOf(i), ends, logger);
            builder.WithXenDevice(new XenDisk(drive) { IsCdrom = xenDrives[i].IsCdrom, Place = xenDrives[i].Index });
        }

        // The terminal goes last: nothing that fails after it has to undo its raw mode.
        var opened = new Dictionary<CharSpec, ICharBackend>(ReferenceEqualityComparer.Instance);
        List<WantedChar> wanted = [.. settings.Serial.Select((s, i) => new WantedChar(s, $"serial{i}"))];
        if (settings.DebugConsole is { } console)
            wanted.Add(new WantedChar(console, "debugcon"));
        if (settings.XenConsole?.Where is { } xenConsole)
            wanted.Add(new WantedChar(xenConsole, "xencons"));
        wanted.AddRange(settings.VirtioDevices.SelectMany(d => d.Ports).Where(p => p.Where is not null)
            .Select(p => new WantedChar(p.Where!, settings.Chardevs.First(c => ReferenceEquals(c.Where, p.Where)).Id)));
        foreach (var (spec, label) in wanted.Where(w => !w.Spec.IsNone).OrderBy(w => w.Spec.IsStdio))
        {
            var backend = spec.Open(logger, quit);
            ends.Add(backend);
            opened[spec] = backend;
            if (backend is PtyCharBackend pty)
                logger.LogInformation("char device redirected to {Path} (label {Label})", pty.Path, label);
        }

        foreach (var spec in settings.Serial)
            builder.WithSerial(opened.GetValueOrDefault(spec));
        if (settings.Serial.Count == 0)
            builder.WithSerial(null);
        if (settings.Machine != MachineKind.Pc)
        {
            var where = settings.XenConsole?.Where;
            builder.WithXen(settings.XenDomain ?? XenOptions.DefaultDomain, where is null ? null : opened.GetValueOrDefault(where), settings.Machine, settings.XenCallback ?? default);
        }

        if (settings.DebugConsole is { IsNone: false } debug)
            builder.WithDebugConsole(opened[debug], settings.DebugConsolePort);
        foreach (var virtio in settings.VirtioDevices)
            builder.WithVirtioDevice(Describe(virtio, disks.GetValueOrDefault(virtio), opened));
        MachineNetworks.Add(settings, builder, ends, logger, files.Firmware is not null);
        return builder.Build();
    }

    private static IdeDrive OpenDrive(PlacedDrive placed, List<IAsyncDisposable> ends, StandardErrorLogger logger)
    {
        var (channel, unit, spec, device) = placed;
        var name = spec.Id ?? IdeDrive.NameOf(channel, unit, device.IsCdrom);
        var drive = OpenDrive(spec, name, ends, logger);
        return new IdeDrive(drive, channel, unit)
        {
            IsCdrom = device.IsCdrom,
            Serial = device.Serial ?? spec.Serial,
            Model = device.Model,
            Firmware = device.Version,
            BootIndex = device.BootIndex,
            Geometry = device.Geometry,
        };
    }

    private static BlockDrive OpenDrive(DriveSpec spec, string name, List<IAsyncDisposable> ends, StandardErrorLogger logger)
    {
        var drive = spec.File is null ? new BlockDrive(name, null, spec.Options, logger) : BlockDrive.Open(name, spec.File, spec.Options, logger);
        ends.Add(drive);
        return drive;
    }

    private static VirtioPciDevice Describe(VirtioSpec virtio, BlockDrive? drive, Dictionary<CharSpec, ICharBackend> opened) => virtio switch
    {
        { Disk: { } disk } => disk(drive!),
        { Device: VirtioSerialBus bus } => bus with
        {
            Ports = [.. virtio.Ports.Select(p => new VirtioSerialPort(p.Where is null ? null : opened[p.Where]) { IsConsole = p.IsConsole, Name = p.Name, Number = p.Number })],
        },
        _ => virtio.Device,
    };

    /// <summary>
    /// The option ROM of a machine that has a VGA: one that is asked for, or that shows its screen, or that starts by
    /// firmware, which wants to show something, where the host has the file. A kernel finds its own way without.
    /// </summary>
    private static BootSource? OpenVgaBios(RunSettings settings, bool hasFirmware)
    {
        if (settings.HasVga == true || settings.IsCurses || settings.Vnc is not null)
            return BootSource.FromFile(FirmwareFiles.RequireVgaBios(GuestCache.Firmware));
        var isWanted = settings.HasVga is null && hasFirmware && !settings.NoDefaults;
        return isWanted && FirmwareFiles.Find(FirmwareFiles.StandardVgaBios, GuestCache.Firmware) is { } path ? BootSource.FromFile(path) : null;
    }

    private static VncServer? StartVnc(RunSettings settings, Machine machine, StandardErrorLogger logger)
    {
        if (settings.Vnc is not { } spec)
            return null;
        var password = spec.PasswordSecret is { } id ? Secret.Find(settings.Secrets, id, $"-vnc {spec.Text}").Data : [];
        return VncServer.Start(spec, VncConsole.Of(machine, settings.Name), password, logger);
    }

    private static async Task<int> LiveAsync(Machine machine, ControlServers control, RunSettings settings, Action quit, HeldLines? held, TextWriter errors)
    {
        var display = settings.IsCurses ? CursesDisplay.Open(machine, quit, held) : null;
        try
        {
            return await LiveAsync(machine, control, display, settings.Gdb is { IsStdio: true }, errors).ConfigureAwait(false);
        }
        finally
        {
            if (display is not null)
                await display.DisposeAsync().ConfigureAwait(false);
        }
    }

    /// <param name="hasDebuggerOnStdio">Ctrl-C in a gdb that has started this process reaches both: it means a stop of the machine, not its end.</param>
    private static async Task<int> LiveAsync(Machine machine, ControlServers control, CursesDisplay? display, bool hasDebuggerOnStdio, TextWriter errors)
    {
        var signalCode = 0;
        using var start = new CancellationTokenSource();
        void OnSignal(PosixSignalContext context)
        {
            // The second time the machine may have failed to end by itself: let the signal do it.
            if (Interlocked.Exchange(ref signalCode, 128 + NumberOf(context.Signal)) != 0)
                return;
            context.Cancel = true;
            start.Cancel();
            machine.Stop($"ended by {context.Signal}", ShutdownCause.HostSignal);
        }

        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, context =>
        {
            if (!hasDebuggerOnStdio)
                OnSignal(context);
            else
                context.Cancel = true; // gdb sends its own word for it
        });
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal);
        using var report = PosixSignalRegistration.Create((PosixSignal)UserSignal1, context =>
        {
            context.Cancel = true;
            _ = ReportAsync(machine, errors);
        });
        using var goOn = OperatingSystem.IsWindows() ? null : PosixSignalRegistration.Create(PosixSignal.SIGCONT, context => _ = GoOnAsync(machine));
        using var hangUp = PosixSignalRegistration.Create(PosixSignal.SIGHUP, OnSignal);
        MachineExit exit;
        try
        {
            await control.WaitForClientsAsync(start.Token).ConfigureAwait(false);
            await machine.StartAsync(start.Token).ConfigureAwait(false);
            exit = await machine.WaitForExitAsync(CancellationToken.None).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (start.IsCancellationRequested)
        {
            return signalCode;
        }

        // Clients hear of the end; the guest's last words come before ours, and ours go to a terminal that is itself again.
        await control.DisposeAsync().ConfigureAwait(false);
        if (display is not null)
            await display.DisposeAsync().ConfigureAwait(false);
        await machine.DisposeAsync().ConfigureAwait(false);
        if (exit.Reason is MachineExitReason.TripleFault or MachineExitReason.GuestPanic or MachineExitReason.Stopped or MachineExitReason.Configuration)
            await errors.WriteLineAsync($"sharpvisor: {exit.Message}").ConfigureAwait(false);
        return signalCode != 0 ? signalCode : exit.Code;
    }

    /// <summary>SIGUSR1: what the engine has done so far, between two instructions of the guest.</summary>
    private static async Task ReportAsync(Machine machine, TextWriter errors)
    {
        try
        {
            var paused = machine.IsPaused;
            await machine.PauseAsync().ConfigureAwait(false);
            foreach (var processor in machine.Processors)
                await errors.WriteLineAsync(processor.DescribeEngine()).ConfigureAwait(false);
            if (!paused)
                await machine.ResumeAsync().ConfigureAwait(false);
        }
        catch (InvalidOperationException)
        {
            // The machine has ended meanwhile.
        }
    }

    /// <summary>SIGCONT: on after a pause, such as -S or one for a full disk of the host.</summary>
    private static async Task GoOnAsync(Machine machine)
    {
        try
        {
            if (machine.IsPaused)
                await machine.ResumeAsync().ConfigureAwait(false);
        }
        catch (InvalidOperationException)
        {
            // The machine has ended, or its guest has powered off.
        }
    }

    /// <summary>A character device to be opened. A class: code for lists of value types is compiled at each start.</summary>
    private sealed record WantedChar(CharSpec Spec, string Label);

    private static int NumberOf(PosixSignal signal) => signal switch
    {
        PosixSignal.SIGHUP => 1,
        PosixSignal.SIGINT => 2,
        _ => 15,
    };
}
