using Sharpvisor.Backends.Char;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Tests.Parsing;

/// <summary>Command lines of Xen's and OpenXT's tool stacks.</summary>
public sealed class XenFlagsTests
{
    [Fact]
    public void The_line_of_OpenXT()
    {
        var settings = RunFlags.Parse(
        [
            "-xen-domid", "5", "-nodefaults", "-machine", "xenfv,max-ram-below-4g=0xf0000000", "-boot", "cd", "-vga", "std", "-serial", "pty",
            "-drive", "file=cd.iso,if=ide,media=cdrom,readonly=on", "-soundhw", "ac97", "-name", "uivm", "-m", "1024",
        ]);
        Assert.Equal((5, MachineKind.XenHvm, 0xF000_0000UL, "cd", true, "uivm", 1UL << 30), (settings.XenDomain, settings.Machine, settings.MaximumBelow4G, settings.Boot.Order, settings.HasVga, settings.Name, settings.Memory));
        Assert.Equal(new CharSpec.Pty(), Assert.Single(settings.Serial));
        Assert.True(Assert.Single(settings.PlacedDrives).Device.IsCdrom);
        Assert.Equal(["-soundhw ac97: there is no sound in this version; the guest finds no sound card"], settings.Notes);
    }

    [Fact]
    public void The_line_of_libxl()
    {
        var settings = RunFlags.Parse(
        [
            "-xen-domid", "3", "-chardev", "socket,id=libxl-cmd,path=/tmp/qmp-libxl-3,server,nowait", "-mon", "chardev=libxl-cmd,mode=control",
            "-xen-domid-restrict", "-nodefaults", "-no-user-config", "-name", "vm", "-vnc", "none", "-display", "none", "-serial", "pty", "-device", "VGA,vgamem_mb=8",
            "-boot", "order=c", "-smp", "4,maxcpus=4", "-net", "none", "-machine", "xenfv,max-ram-below-4g=3758096384,igd-passthru=off", "-m", "512",
            "-drive", "file=/dev/loop0,if=ide,index=0,media=disk,format=raw,cache=writeback", "-k", "en-us", "-parallel", "none",
        ]);
        Assert.Equal((3, 4, 3758096384UL, true), (settings.XenDomain, settings.Processors, settings.MaximumBelow4G, settings.HasVga));
        Assert.Equal(new CharSpec.Unix("/tmp/qmp-libxl-3", Server: true, Wait: false), Assert.Single(settings.Monitors).Where);
        Assert.Empty(settings.Nics);
        Assert.Equal(["-xen-domid-restrict", "-device VGA,vgamem_mb=8", "-k en-us"], settings.Notes.Select(n => n.Split(':')[0]));
    }

    [Fact]
    public void NICs_with_vlan_are_on_hubs()
    {
        var settings = RunFlags.Parse(["-net", "nic,vlan=1,name=n,macaddr=00:16:3e:00:00:01,model=e1000", "-net", "user,vlan=1", "-net", "nic,vlan=2", "-net", "user,vlan=2"]);
        Assert.Equal([1, 2], settings.Nics.Select(n => n.Hub!.Value));
        Assert.Equal([1, 2], settings.Netdevs.Select(n => n.Hub!.Value));
        Assert.Equal("tap", RunFlags.Parse(["-netdev", "type=tap,id=net0,ifname=vif1.0-emu,script=no,downscript=no", "-device", "e1000,netdev=net0"]).Netdevs[0].Kind);
    }

    [Theory]
    [InlineData("-M", "xenfv")]
    [InlineData("-machine", "xenfv-4.2")]
    [InlineData("-machine", "type=xenfv")]
    [InlineData("-machine", "xenfv,accel=xen")]
    [InlineData("-machine", "xenfv", "-device", "xen-platform")]
    [InlineData("-machine", "xenfv", "-accel", "xen")]
    [InlineData("-machine", "xenfv", "-xen-attach", "-usb", "-usbdevice", "tablet", "-disable-audio-rec")]
    public void Also_an_HVM_domain(params string[] args) => Assert.Equal(MachineKind.XenHvm, RunFlags.Parse(args).Machine);

    [Theory]
    [InlineData("-display surfman: OpenXT's surfman is not here; give -display none", "-display", "surfman")]
    [InlineData("the commands of the host's drive are not passed through; give file=/dev/sr0,if=ide,media=cdrom", "-drive", "file=atapi-pt-local:/dev/sr0,media=cdrom,if=atapi-pt,format=raw,readonly=off")]
    [InlineData("-device xenmou: OpenXT's mouse is not here", "-device", "xenmou")]
    [InlineData("devices of the host are not given to guests", "-device", "xen-pci-passthrough,hostaddr=0000:00:02.0")]
    [InlineData("-device xen-platform: this machine is no HVM domain; give -machine xenfv", "-device", "xen-platform")]
    [InlineData("-serial: a PV domain has no serial ports", "-machine", "xenpv", "-serial", "pty", "-serial", "pty")]
    [InlineData("this machine is no HVM domain", "-machine", "xenpv", "-device", "xen-platform")]
    [InlineData("leave igd-passthru=on out", "-machine", "xenfv,igd-passthru=on")]
    [InlineData("xen-callback=gsi is no way to tell of events; give vcpu-vector, vector or line", "-machine", "xenfv,xen-callback=gsi")]
    [InlineData("xen-callback=line needs the interrupt controllers of a PC; give vector, or xenfv", "-machine", "xenpvh,xen-callback=line")]
    [InlineData("xen-callback= is of domains", "-machine", "pc,xen-callback=vector")]
    [InlineData("-surfman: OpenXT's surfman is not here", "-surfman")]
    [InlineData("-gfx_passthru: devices of the host", "-gfx_passthru")]
    [InlineData("-xen-acpi-pm: the host's battery", "-xen-acpi-pm")]
    [InlineData("model=rtl8139: not in this version", "-net", "nic,model=rtl8139")]
    [InlineData("-device rtl8139: not in this version", "-device", "rtl8139,netdev=n")]
    [InlineData("-incoming fd:3: machines do not move", "-incoming", "fd:3")]
    [InlineData("max-ram-below-4g=0xzz: not a size", "-machine", "xenfv,max-ram-below-4g=0xzz")]
    [InlineData("wait= and nowait say the same", "-chardev", "socket,id=c,path=x,server=on,wait=on,nowait")]
    public void Refused_by_name(string error, params string[] args) =>
        Assert.Contains(error, Assert.Throws<ConfigurationException>(() => RunFlags.Parse(args)).Message, StringComparison.Ordinal);
}
