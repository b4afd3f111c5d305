using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Char;
using Sharpvisor.Boot;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;
using Sharpvisor.Servers.Control;
using Sharpvisor.Servers.Endpoints;

namespace Sharpvisor.Cli.Tests.Parsing;

public sealed class RunFlagsTests
{
    [Theory]
    [InlineData("512", 512UL << 20)]
    [InlineData("2G", 2UL << 30)]
    [InlineData("2g", 2UL << 30)]
    [InlineData("1.5G", 1536UL << 20)]
    [InlineData("size=768", 768UL << 20)]
    [InlineData("size=1G", 1UL << 30)]
    [InlineData("524288K", 512UL << 20)]
    [InlineData("1073741824b", 1UL << 30)]
    public void Sizes_are_MiB_or_have_a_suffix(string text, ulong bytes) => Assert.Equal(bytes, Parse("-m", text).Memory);

    [Theory]
    [InlineData("4", 4)]
    [InlineData("cpus=8", 8)]
    [InlineData("2,maxcpus=2", 2)]
    public void Processors(string text, int count) => Assert.Equal(count, Parse("-smp", text).Processors);

    [Fact]
    public void Flags_have_one_dash_or_two_and_values_after_a_space_or_an_equals_sign()
    {
        var settings = Parse("-kernel", "a", "--initrd", "b", "--append=-v root=/dev/ram", "--no-reboot");
        Assert.Equal(("a", "b", "-v root=/dev/ram", true), (settings.Kernel, settings.Initrd, settings.Append, settings.Actions.Reboot == RebootAction.Shutdown));
    }

    [Fact]
    public void A_value_may_start_with_a_dash() => Assert.Equal("-s", Parse("-append", "-s").Append);

    [Fact]
    public void Serial_goes_to_stdio_unless_told_otherwise()
    {
        Assert.Equal([new CharSpec.Stdio { SharesTerminal = true }], Parse().Serial);
        Assert.Equal([new CharSpec.Stdio { SharesTerminal = true }], Parse("-nographic").Serial);
        Assert.Equal([new CharSpec.Null(), new CharSpec.Stdio { HasMonitor = true }], Parse("-serial", "null", "-serial", "mon:stdio", "-nographic").Serial);
        Assert.Empty(Parse("-nodefaults").Serial);
        Assert.Empty(Parse("-debugcon", "stdio").Serial);
        Assert.Equal([new CharSpec.Null()], Parse("-display", "curses").Serial);
    }

    [Fact]
    public void Gdb_waits_where_it_is_told()
    {
        Assert.Null(Parse().Gdb);
        Assert.Equal(("", 1234), Parse("-s").Gdb is ServerAddress.Tcp tcp ? (tcp.Host, tcp.Port) : default);
        Assert.IsType<ServerAddress.Unix>(Parse("-gdb", "unix:/tmp/gdb,server=on,wait=off").Gdb);
        Assert.Null(Parse("-s", "-gdb", "none").Gdb);
        Assert.Empty(Parse("-gdb", "stdio").Serial);
        Assert.Contains("-gdb stdio", Assert.Throws<ConfigurationException>(() => Parse("-gdb", "stdio", "-serial", "stdio")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_screen_is_there_and_shown_as_told()
    {
        Assert.Null(Parse().HasVga);
        Assert.True(Parse("-vga", "std").HasVga);
        Assert.False(Parse("-vga", "none").HasVga);
        Assert.True(Parse("-display", "curses").IsCurses);
        Assert.False(Parse("-display", "curses", "-nographic").IsCurses);
    }

    [Fact]
    public void Parts_of_a_PC_can_be_left_out()
    {
        var settings = Parse();
        Assert.True(settings is { HasVmwarePort: true, HasSuspendToRam: true, HasSuspendToDisk: true });
        settings = Parse("-machine", "pc,vmport=off", "-global", "PIIX4_PM.disable_s3=1", "-global", "PIIX4_PM.disable_s4=0");
        Assert.True(settings is { HasVmwarePort: false, HasSuspendToRam: false, HasSuspendToDisk: true });
        Assert.True(Parse("-machine", "pc,vmport=auto").HasVmwarePort);
        Assert.False(Parse("-global", "PIIX4_PM.disable_s4=1").HasSuspendToDisk);
    }

    [Fact]
    public void Debug_devices_and_logs()
    {
        var settings = Parse("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-debugcon", "null", "-global", "isa-debugcon.iobase=0x402", "-d", "int,in_asm,guest_errors");
        Assert.Equal(((ushort)0xF4, 4), settings.DebugExit!.Value);
        Assert.Equal(0x402, settings.DebugConsolePort);
        Assert.Equal(TraceKinds.Int | TraceKinds.InAsm, settings.Log.Kinds);
        Assert.True(settings.Log.HasGuestErrors);
        Assert.Equal(((ushort)0x501, 2), Parse("-device", "isa-debug-exit").DebugExit!.Value);
    }

    [Fact]
    public void The_command_lines_of_low_level_test_kernels()
    {
        var settings = Parse(
            "--no-reboot", "-nodefaults", "-device", "pc-testdev", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-vnc", "none", "-serial", "stdio",
            "-device", "pci-testdev", "-machine", "accel=tcg", "-kernel", "apic.flat", "-initrd", "env", "-smp", "2", "-cpu", "max", "-append", "a b");
        Assert.True(settings.HasTestDevice && settings.HasPciTestDevice && settings.Actions.Reboot == RebootAction.Shutdown);
        Assert.Equal(("tcg", "max", 2), (settings.Engine, settings.Cpu, settings.Processors));
    }

    [Fact]
    public void Firmware_and_what_it_starts()
    {
        var settings = Parse("-bios", "bios.bin", "-boot", "order=dc,once=n,menu=on,splash-time=500,reboot-timeout=-1,strict=on", "-machine", "pc,max-ram-below-4g=2G");
        Assert.Equal("bios.bin", settings.Bios);
        Assert.Equal(new BootOptions { Order = "dc", Once = "n", Menu = true, SplashTime = 500, Strict = true }, settings.Boot);
        Assert.Equal(2UL << 30, settings.MaximumBelow4G);
        Assert.Equal("cd", Parse("-boot", "cd").Boot.Order);
        Assert.Equal(Guid.Parse("12345678-1234-1234-1234-123456789abc"), Parse("-uuid", "12345678-1234-1234-1234-123456789abc").Uuid);
    }

    [Fact]
    public void Virtio_devices_in_their_order()
    {
        var settings = Parse(
            "-drive", "file=a,if=virtio,serial=first", "-device", "virtio-rng-pci,addr=1e.0", "-drive", "file=b,if=none,id=b,werror=stop",
            "-device", "virtio-blk-pci,drive=b,disable-legacy=on,packed=on,num-queues=3,bootindex=2,rerror=ignore", "-device", "virtio-rng-pci-non-transitional,vectors=0");
        Assert.Empty(settings.PlacedDrives);
        Assert.Equal(["a", null, "b", null], settings.VirtioDevices.Select(d => d.Drive?.File));
        Assert.Equal(0x1E, settings.VirtioDevices[1].Device.Slot);
        Assert.Equal((ErrorPolicy.Stop, ErrorPolicy.Ignore), (settings.VirtioDevices[2].Drive!.Options.WriteErrors, settings.VirtioDevices[2].Drive!.Options.ReadErrors));
        var drive = new BlockDrive("b", null, new DriveOptions(), Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance);
        var disk = settings.VirtioDevices[2].Disk!(drive);
        Assert.True(disk is VirtioDisk { QueueCount: 3, BootIndex: 2, OffersPackedRings: true, Pci: { DisableLegacy: true, DisableModern: false } });
        Assert.Equal("first", ((VirtioDisk)settings.VirtioDevices[0].Disk!(drive)).Options.Serial);
        Assert.True(settings.VirtioDevices[3].Device.Pci is { DisableLegacy: true, Vectors: 0 });
    }

    [Fact]
    public void Virtio_devices_in_memory_and_a_balloon()
    {
        var settings = Parse(
            "-drive", "file=a,if=none,id=a", "-device", "virtio-blk-device,drive=a", "-device", "virtio-rng-device", "-device", "virtio-balloon-pci,free-page-reporting=on",
            "-device", "virtio-balloon,deflate-on-oom=on", "-device", "virtio-serial-device,max_ports=3");
        var disk = settings.VirtioDevices[0].Disk!(new BlockDrive("a", null, new DriveOptions(), Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance));
        Assert.Equal([true, true, false, false, true], [disk.Connection == VirtioConnection.Mmio, .. settings.VirtioDevices.Skip(1).Select(d => d.Device.Connection == VirtioConnection.Mmio)]);
        Assert.True(settings.VirtioDevices[2].Device is VirtioMemoryBalloon { Options: { ReportsFreePages: true, DeflatesOnOom: false } });
        Assert.True(settings.VirtioDevices[3].Device is VirtioMemoryBalloon { Options: { ReportsFreePages: false, DeflatesOnOom: true } });
        Assert.True(settings.VirtioDevices[4].Device is VirtioSerialBus { MaximumPorts: 3 });
    }

    [Fact]
    public void Ports_find_their_bus_and_their_chardev_wherever_these_are_said()
    {
        var settings = Parse(
            "-device", "virtio-serial-pci", "-device", "virtio-serial-pci,id=vs1", "-device", "virtconsole,chardev=c0", "-device", "virtserialport,bus=vs1.0,chardev=c1,name=org.x.0,nr=5",
            "-device", "virtconsole", "-chardev", "socket,id=c1,host=localhost,port=4555,server=on,wait=off", "-chardev", "stdio,id=c0,mux=on,signal=off",
            "-serial", "chardev:c2", "-chardev", "file,id=c2,path=a,,b", "-debugcon", "chardev:c3", "-chardev", "pty,id=c3");
        var (first, second) = (settings.VirtioDevices[0].Ports, settings.VirtioDevices[1].Ports);
        Assert.Equal([(true, new CharSpec.Stdio { HasMonitor = true }), (true, null)], first.Select(p => (p.IsConsole, p.Where)));
        var port = Assert.Single(second);
        Assert.Equal((false, "org.x.0", 5, new CharSpec.Tcp("localhost", 4555, true, false)), (port.IsConsole, port.Name, port.Number!.Value, port.Where));
        Assert.Equal([new CharSpec.FileOutput("a,b")], settings.Serial);
        Assert.Equal(new CharSpec.Pty(), settings.DebugConsole);
    }

    [Fact]
    public void Virtio_devices_on_xenbus()
    {
        var settings = Parse(
            "-machine", "xenpvh", "-drive", "file=a,if=none,id=a", "-device", "virtio-blk-xenbus,drive=a,foreign-map=on,packed=on", "-device", "virtio-serial-xenbus",
            "-device", "virtio-balloon-xenbus", "-nic", "user,model=virtio-net-xenbus", "-netdev", "user,id=n", "-device", "virtio-net-xenbus,netdev=n,foreign-map=on");
        var disk = settings.VirtioDevices[0].Disk!(new BlockDrive("a", null, new DriveOptions(), Microsoft.Extensions.Logging.Abstractions.NullLogger.Instance));
        Assert.True(disk is { Connection: VirtioConnection.Xenbus, OffersForeignMap: true, OffersPackedRings: true });
        Assert.True(settings.VirtioDevices[1].Device is VirtioSerialBus { Connection: VirtioConnection.Xenbus, OffersForeignMap: false });
        Assert.True(settings.VirtioDevices[2].Device is VirtioMemoryBalloon { Connection: VirtioConnection.Xenbus });
        Assert.Equal([false, true], settings.Nics.Select(n => (VirtioNic)n.Create(null, n.Address ?? default, null)).Select(n => n.Connection == VirtioConnection.Xenbus && n.OffersForeignMap));
    }

    [Fact]
    public void Disks_of_Xen_in_their_order()
    {
        var settings = Parse("-machine", "xenfv", "-drive", "file=a,if=xen,werror=stop", "-drive", "file=c", "-drive", "file=b,if=xen,media=cdrom");
        var disks = settings.Drives.FindAll(d => d.Interface == DriveInterface.Xen);
        Assert.Equal([("a", false, false), ("b", true, true)], disks.Select(d => (d.File!, d.IsCdrom, d.Options.IsReadOnly)));
        Assert.Equal(ErrorPolicy.Stop, disks[0].Options.WriteErrors);
        Assert.Equal("c", Assert.Single(settings.PlacedDrives).Drive.File);
    }

    [Theory]
    [InlineData("-machine xenfv, xenpvh or xenpv", "-drive", "file=a,if=xen")]
    [InlineData("-machine xenfv, xenpvh or xenpv", "-nic", "user,model=xen")]
    [InlineData("is not empty", "-machine", "xenfv", "-drive", "if=xen,media=cdrom")]
    [InlineData("serial=", "-machine", "xenfv", "-drive", "if=xen,file=a,serial=1")]
    [InlineData("bootindex=", "-machine", "xenfv", "-nic", "user,model=xen,bootindex=1")]
    [InlineData("which alone has a xenbus; give -machine xenfv, xenpvh or xenpv", "-device", "virtio-rng-xenbus")]
    [InlineData("there is no", "-drive", "file=a,if=none,id=a", "-device", "virtio-blk-xenbus,drive=b", "-machine", "xenpvh")]
    [InlineData("which alone has a xenbus", "-nic", "user,model=virtio-net-xenbus")]
    [InlineData("which alone has a xenbus", "-drive", "file=a,if=none,id=a", "-device", "virtio-blk-xenbus,drive=a")]
    [InlineData("bootindex=: firmware does not see", "-machine", "xenfv", "-drive", "file=a,if=none,id=a", "-device", "virtio-blk-xenbus,drive=a,bootindex=1")]
    [InlineData("romfile=: a NIC on xenbus", "-machine", "xenfv", "-netdev", "user,id=n", "-device", "virtio-net-xenbus,netdev=n,romfile=x")]
    [InlineData("vectors", "-machine", "xenfv", "-device", "virtio-rng-xenbus,vectors=2")]
    [InlineData("foreign-map", "-device", "virtio-rng-pci,foreign-map=on")]
    public void Mistakes_with_devices_of_Xen(string message, params string[] args) =>
        Assert.Contains(message, Assert.Throws<ConfigurationException>(() => Parse(args)).Message, StringComparison.Ordinal);

    [Fact]
    public void Block_nodes_and_temporary_disks()
    {
        var settings = Parse(
            "-blockdev", "driver=file,node-name=f,filename=a,,b.qcow2", "-blockdev", "driver=qcow2,node-name=d,file=f,read-only=on,discard=unmap",
            "-blockdev", "{\"driver\":\"vpc\",\"node-name\":\"e\",\"file\":{\"driver\":\"file\",\"filename\":\"x,y.vhd\"},\"detect-zeroes\":\"on\"}",
            "-device", "ide-hd,drive=d", "-device", "virtio-blk-pci,drive=e", "-drive", "file=z,if=virtio", "-drive", "file=w,format=raw", "-snapshot");
        var drives = settings.PlacedDrives.Select(p => p.Drive).Concat(settings.VirtioDevices.Select(v => v.Drive!)).ToDictionary(d => d.File!);
        Assert.Equal(new DriveOptions { Format = "qcow2", IsReadOnly = true, Discard = true }, drives["a,b.qcow2"].Options);
        Assert.Equal(new DriveOptions { Format = "vpc", DetectZeroes = ZeroDetection.On, IsTemporary = true }, drives["x,y.vhd"].Options);
        Assert.True(drives["z"].Options.IsTemporary && drives["w"].Options.IsTemporary);
    }

    [Fact]
    public void Actions()
    {
        Assert.True(Parse("-S").StartPaused && !Parse("-no-shutdown").StartPaused);
        Assert.True(Parse("-action", "reboot=shutdown,shutdown=pause,panic=pause").Actions is { Reboot: RebootAction.Shutdown, Shutdown: ShutdownAction.Pause, Panic: PanicAction.Pause });
        Assert.True(Parse("-no-shutdown", "-no-reboot", "-action", "reboot=reset", "-action", "shutdown=poweroff").Actions is { Reboot: RebootAction.Reset, Shutdown: ShutdownAction.PowerOff });
        Assert.True(Parse("-on-poweroff", "restart", "-on-reboot", "preserve", "-on-crash", "coredump-restart,core=/tmp/x").Actions
            is { Shutdown: ShutdownAction.Restart, Reboot: RebootAction.Pause, Panic: PanicAction.Restart, CoreFile: "/tmp/x", IsTripleFaultPanic: true });
        Assert.True(Parse("-on-crash", "preserve").Actions is { Panic: PanicAction.Pause, CoreFile: null });
        Assert.True(Parse("-on-crash", "coredump-destroy").Actions is { Panic: PanicAction.ExitFailure, CoreFile: "" });
    }

    [Fact]
    public void Monitors()
    {
        var settings = Parse("-monitor", "unix:/tmp/m,server=on,wait=off", "-qmp", "tcp::4444,server,nowait", "-chardev", "socket,id=c,path=/tmp/q,server=on,wait=off", "-mon", "chardev=c,mode=control,pretty=on");
        Assert.Equal(
            [
                (new CharSpec.Unix("/tmp/m", true, false), ControlProtocol.Monitor), (new CharSpec.Tcp("", 4444, true, false), ControlProtocol.Qmp),
                ((CharSpec)new CharSpec.Unix("/tmp/q", true, false), ControlProtocol.QmpPretty),
            ],
            settings.Monitors.Select(m => (m.Where, m.Protocol)));
        Assert.Equal(new CharSpec.Stdio(), settings.Serial[0]); // a monitor is elsewhere
        Assert.Equal(new CharSpec.Stdio { SharesTerminal = true }, Parse().Serial[0]);
        Assert.Equal(new CharSpec.Stdio { HasMonitor = true }, Parse("-serial", "mon:stdio").Serial[0]);
        var shared = Parse("-chardev", "stdio,mux=on,id=t", "-serial", "chardev:t", "-mon", "chardev=t");
        Assert.Equal((new CharSpec.Stdio { HasMonitor = true }, 0), (shared.Serial[0], shared.Monitors.Count));
        Assert.Contains("two devices on one stdio", Assert.Throws<ConfigurationException>(() => Parse("-monitor", "stdio", "-serial", "stdio")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("mem", "m")]
    [InlineData("cpus", "cpu")]
    [InlineData("init", "initrd")]
    [InlineData("Append", "append")]
    [InlineData("noreboot", "no-reboot")]
    public void The_nearest_flag_is_one_that_was_meant(string typed, string meant) => Assert.Equal(meant, Nearest.Of(typed, RunFlags.Names));

    private static RunSettings Parse(params string[] args) => RunFlags.Parse(args);
}
