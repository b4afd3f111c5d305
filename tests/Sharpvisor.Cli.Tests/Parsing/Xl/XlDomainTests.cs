using Sharpvisor.Cli.Parsing;
using Sharpvisor.Cli.Parsing.Xl;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Tests.Parsing.Xl;

/// <summary>Domain configuration files, as the flags and settings that they become.</summary>
public sealed class XlDomainTests : IDisposable
{
    private readonly string _file = Path.GetTempFileName();

    [Fact]
    public void A_PVH_domain()
    {
        var settings = Parse("""
            # A comment
            name = "web"; type = "pvh"
            uuid = "11111111-2222-3333-4444-555555555555"
            memory = 512
            maxmem = 1024
            vcpus = 2
            kernel = "/boot/vmlinuz"
            ramdisk = "/boot/initrd"
            root = "/dev/xvda1 ro"
            extra = "console=hvc0 a,b"
            disk = [ 'format=qcow2, vdev=xvda, access=rw, target=/images/web.qcow2',
                     '/images/data.raw,,xvdc,r' ]
            vif = [ 'mac=00:16:3e:01:02:03, bridge=xenbr0' ]
            on_crash = "coredump-restart"
            cpu_weight = 256
            """);
        Assert.Equal(("web", MachineKind.XenPvh, 512UL << 20, 2), (settings.Name, settings.Machine, settings.Memory, settings.Processors));
        Assert.Equal(Guid.Parse("11111111-2222-3333-4444-555555555555"), settings.Uuid);
        Assert.Equal(("/boot/vmlinuz", "/boot/initrd", "root=/dev/xvda1 ro console=hvc0 a,b"), (settings.Kernel, settings.Initrd, settings.Append));
        Assert.Equal(
            [("/images/web.qcow2", "qcow2", 0, false), ("/images/data.raw", "raw", 2, true)],
            settings.Drives.Select(d => (d.File!, d.Options.Format!, d.Index!.Value, d.Options.IsReadOnly)));
        Assert.All(settings.Drives, d => Assert.Equal(DriveInterface.Xen, d.Interface));
        Assert.Empty(settings.PlacedDrives);
        var nic = Assert.Single(settings.Nics);
        Assert.Equal((NicValues.Xen, "00:16:3e:01:02:03"), (nic.Model, nic.Address.ToString()));
        Assert.Equal((ShutdownAction.PowerOff, RebootAction.Reset, PanicAction.Restart, ""), (settings.Actions.Shutdown, settings.Actions.Reboot, settings.Actions.Panic, settings.Actions.CoreFile));
        Assert.Equal(
            [
                $"{_file}:5: maxmem: memory is not added later: the guest has 512 MiB",
                $"{_file}:13: vif: bridge=xenbr0: the NIC is on a user network; -nic tap beside --xl is the host's",
                $"{_file}:15: cpu_weight: says nothing here",
            ],
            settings.Notes);
    }

    [Theory]
    [InlineData("type = 'pv'")]
    [InlineData("builder = 'linux'")]
    [InlineData("builder = 'generic'")]
    [InlineData("on_crash = 'preserve'")]
    public void A_PV_domain(string type)
    {
        var settings = Parse($$"""
            {{type}}
            kernel = "/boot/vmlinuz"
            extra = "console=hvc0"
            disk = [ '/images/data.raw,,xvda,w' ]
            vif = [ '' ]
            boot = "c"
            """);
        Assert.Equal((MachineKind.XenPv, "/boot/vmlinuz", "console=hvc0"), (settings.Machine, settings.Kernel, settings.Append));
        Assert.Equal(DriveInterface.Xen, Assert.Single(settings.Drives).Interface);
        Assert.Equal(NicValues.Xen, Assert.Single(settings.Nics).Model);
        Assert.Contains(settings.Notes, n => n.EndsWith("boot: a PV domain starts its kernel", StringComparison.Ordinal));
    }

    [Fact]
    public void An_HVM_domain()
    {
        var settings = Parse("""
            builder = 'hvm'
            name = 'win'
            memory = 0x400
            boot = 'dc'
            disk = [ 'phy:/dev/vg/win,hda,w', '/iso/win.iso,,hdc,cdrom', '/x,,xvdf,w' ]
            vif = [ 'type=ioemu, model=e1000, mac=00:16:3e:00:00:01' ]
            serial = 'pty'
            vga = 'stdvga'
            vnc = 1
            vnclisten = '0.0.0.0:3'
            vncpasswd = 'a,b'
            sdl = 0
            usb = 1
            usbdevice = 'tablet'
            acpi = 1; apic = 1; pae = 1; nx = 1; hpet = 1
            xen_platform_pci = 1
            acpi_s4 = 0
            cpuid = 'host,x2apic=0'
            bios = 'seabios'
            pci = []
            on_poweroff = 'preserve'
            on_reboot = 'destroy'
            """);
        Assert.Equal(("win", MachineKind.XenHvm, 1UL << 30), (settings.Name, settings.Machine, settings.Memory));
        Assert.Equal("dc", settings.Boot.Order);
        Assert.Equal([(0, "/dev/vg/win", false), (2, "/iso/win.iso", true)], settings.PlacedDrives.Select(d => (d.Place, d.Drive.File!, d.Device.IsCdrom)));
        Assert.Equal((5, "/x"), settings.Drives.Where(d => d.Interface == DriveInterface.Xen).Select(d => (d.Index!.Value, d.File!)).Single());
        Assert.Equal(NicValues.E1000, Assert.Single(settings.Nics).Model);
        Assert.Equal(new Backends.Char.CharSpec.Pty(), Assert.Single(settings.Serial));
        Assert.Equal((true, 5903, "", "xl-vnc"), (settings.HasVga, settings.Vnc!.Port, settings.Vnc.Host, settings.Vnc.PasswordSecret));
        Assert.Equal("sharp64,-x2apic", settings.Cpu);
        Assert.False(settings.HasSuspendToDisk);
        Assert.Equal((ShutdownAction.Pause, RebootAction.Shutdown, PanicAction.ExitFailure), (settings.Actions.Shutdown, settings.Actions.Reboot, settings.Actions.Panic));
        Assert.Equal(["vif", "usb", "usbdevice"], settings.Notes.Select(n => n[(_file.Length + 1)..].Split(": ")[1]));
    }

    [Fact]
    public void Flags_behind_the_file_have_the_last_word()
    {
        File.WriteAllText(_file, "type='pvh'\nkernel='/k'\nmemory=64\n");
        var settings = RunFlags.Parse(["--xl", _file, "-m", "128", "-nic", "user,model=xen", "-xen-domid", "9"]);
        Assert.Equal((128UL << 20, 9), (settings.Memory, settings.XenDomain));
        Assert.Single(settings.Nics);
        Assert.True(settings.Actions.IsTripleFaultPanic); // a triple fault is a crash, as on Xen
        Assert.NotNull(settings.XenConsole);
    }

    [Fact]
    public void Flags_for_QEMU_are_flags()
    {
        var settings = Parse("type='pvh'\nkernel='/k'\ndevice_model_args=['-name', 'x', '-smp', '3']\n");
        Assert.Equal(("x", 3), (settings.Name, settings.Processors));
    }

    [Theory]
    [InlineData("type='pv'", "1: kernel: is missing: a PV domain starts a kernel")]
    [InlineData("name='x'", "1: kernel: is missing: a PV domain starts a kernel")]
    [InlineData("kernel='/k'\nvnc=1", "2: vnc: a PV domain has no screen")]
    [InlineData("type='arm'", "1: type: \"arm\" is unknown")]
    [InlineData("type='pvh'", "1: kernel: is missing")]
    [InlineData("type='hvm'\nmemory='lots'", "2: memory: \"lots\" is no number")]
    [InlineData("type='hvm'\nmemory=0", "2: memory: -m 0: out of range")]
    [InlineData("type='hvm'\nmemory=64\nmaxmem=32", "3: maxmem: is less than memory=64")]
    [InlineData("type='hvm'\nvcpus=4\nmaxvcpus=2", "3: maxvcpus: is less than vcpus=4")]
    [InlineData("type='hvm'\nvcpus=400", "2: vcpus: -smp 400: out of range")]
    [InlineData("type='hvm'\nuuid='x'", "2: uuid: -uuid x: not a UUID")]
    [InlineData("type='hvm'\n\ndisk=[\n'/x,,hda',\n'/x,,sdb' ]", "5: disk: '/x,,sdb': sdb: there are no SCSI disks")]
    [InlineData("type='hvm'\ndisk=['/x,,hde']", "2: disk: hde: there are four places on IDE")]
    [InlineData("type='pvh'\nkernel='/k'\ndisk=[',,hdc,cdrom']", "3: disk: hdc: an empty drive is for IDE")]
    [InlineData("type='hvm'\nvif=['model=rtl8139']", "2: vif: model=rtl8139: is not in this version; give model=e1000")]
    [InlineData("type='hvm'\nvif=['mac=zz']", "2: vif: -nic user,model=xen,mac=zz: zz: is no address")]
    [InlineData("type='hvm'\nvif=['speed=1']", "2: vif: \"speed=1\" is unknown")]
    [InlineData("type='hvm'\nvif=[['x']]", "2: vif: a list within the list")]
    [InlineData("type='hvm'\non_crash='explode'", "2: on_crash: -on-crash explode: the nearest is")]
    [InlineData("type='hvm'\non_reboot='rename-restart'", "2: on_reboot: a machine is not kept beside a new one")]
    [InlineData("type='hvm'\non_poweroff='coredump-destroy'", "2: on_poweroff: cores are written of crashes; give \"destroy\"")]
    [InlineData("type='hvm'\nboot='z'", "2: boot: -boot order=z: there is no boot device 'z'")]
    [InlineData("type='hvm'\nbios='ovmf'", "2: bios: there is no UEFI firmware in this version")]
    [InlineData("type='hvm'\nfirmware='pvgrub64'", "2: firmware: \"pvgrub64\" is not in this version")]
    [InlineData("type='hvm'\nvga='qxl'", "2: vga: \"qxl\" is not in this version")]
    [InlineData("type='pvh'\nkernel='/k'\nvnc=1", "3: vnc: a PVH domain has no screen")]
    [InlineData("type='hvm'\nacpi=0", "2: acpi: an HVM machine always has it")]
    [InlineData("type='hvm'\nhpet=0", "2: hpet: an HVM machine always has it")]
    [InlineData("type='hvm'\nsdl=1", "2: sdl: there is no SDL window; give vnc=1")]
    [InlineData("type='hvm'\npci=['01:00.0']", "2: pci: devices of the host are not given to guests")]
    [InlineData("type='hvm'\nbootloader='pygrub'", "2: bootloader: no boot loader runs on the host")]
    [InlineData("type='hvm'\nnestedhvm=1", "2: nestedhvm: the processors have no virtualization")]
    [InlineData("type='hvm'\ncpuid=['1:eax=0']", "2: cpuid: \"1:eax=0\" is not in this version")]
    [InlineData("type='hvm'\nmemori=1", "2: memori: is unknown; the nearest is memory")]
    [InlineData("type='hvm'\nname=['x']", "2: name: a string is expected, not a list")]
    [InlineData("type='hvm'\nserial='nonsense'", "2: serial: -serial nonsense: unknown")]
    public void Mistakes_name_file_line_and_key(string text, string error) =>
        Assert.StartsWith($"{_file}:{error}", Assert.Throws<ConfigurationException>(() => Parse(text)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("nx=0", "cpu sharp64,-nx")]
    [InlineData("nx=0\ncpuid='host,aes=0,tsc=x'", "cpu sharp64,-nx,-aes")]
    [InlineData("acpi_s3=0", "global PIIX4_PM.disable_s3=1")]
    [InlineData("stdvga=1", "vga std")]
    [InlineData("vga='none'", "vga none")]
    [InlineData("firmware='/x/bios.bin'", "bios /x/bios.bin")]
    [InlineData("bios='ovmf'\nbios_path_override='/x/ovmf.fd'", "bios /x/ovmf.fd")]
    [InlineData("vnc=1", "vnc 127.0.0.1:0,to=99")]
    [InlineData("vnc=1\nvnclisten='192.0.2.1'\nvncdisplay=2", "vnc 192.0.2.1:2")]
    [InlineData("vnc=1\nvnclisten='[::1]:4'", "vnc [::1]:4")]
    [InlineData("serial=['pty','null']", "serial pty", "serial null")]
    [InlineData("vif=['']", "nic user,model=xen")]
    [InlineData("vif=['type=vif,model=e1000']", "nic user,model=xen")]
    [InlineData("vif=['model=virtio-net']", "nic user,model=virtio-net-pci")]
    [InlineData("disk=['vdev=hda,target=/a,b']", "drive file=/a,,b,format=raw,if=ide,index=0,discard=unmap")]
    [InlineData("cmdline='x'\nkernel='/k'\nextra='y'", "kernel /k", "append x")]
    public void Keys_become_flags(string text, params string[] expected)
    {
        var flags = XlDomain.Translate("f", XlFile.Parse("f", "type='hvm'\n" + text)).Flags.Select(f => $"{f.Name} {f.Value}").ToList();
        Assert.All(expected, e => Assert.Contains(e, flags));
    }

    public void Dispose() => File.Delete(_file);

    private RunSettings Parse(string text)
    {
        File.WriteAllText(_file, text);
        return RunFlags.Parse(["--xl", _file]);
    }
}
