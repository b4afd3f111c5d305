using Sharpvisor.Cli.Parsing.Xl;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Tests.Parsing.Xl;

/// <summary>The examples of xl-disk-configuration(5), and what there is beside them.</summary>
public sealed class XlDiskTests
{
    [Theory]
    [InlineData("/dev/vg/guest-volume,,hda")]
    [InlineData("/dev/vg/guest-volume,raw,hda,rw")]
    [InlineData("format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume")]
    [InlineData("raw:/dev/vg/guest-volume,hda,w")]
    [InlineData("phy:/dev/vg/guest-volume,hda,w")]
    [InlineData("tap:aio:/dev/vg/guest-volume,hda,w")]
    [InlineData("vg/guest-volume,,hda")]
    public void The_same_volume(string spec)
    {
        var disk = XlDisk.Parse(spec);
        Assert.Equal(("/dev/vg/guest-volume", "raw", "hda", 0, false, false, false), (disk.Target, disk.Format, disk.Device, disk.Place, disk.IsXvd, disk.IsCdrom, disk.IsReadOnly));
        Assert.True(disk.Discards);
    }

    [Theory]
    [InlineData("/root/image.iso,,hdc,cdrom")]
    [InlineData("/root/image.iso,,hdc,,cdrom")]
    [InlineData("/root/image.iso,raw,hdc,devtype=cdrom")]
    [InlineData("format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso")]
    [InlineData("raw:/root/image.iso,hdc:cdrom,ro")]
    public void The_same_CD(string spec)
    {
        var disk = XlDisk.Parse(spec);
        Assert.Equal(("/root/image.iso", "raw", 2, true, true), (disk.Target, disk.Format, disk.Place, disk.IsCdrom, disk.IsReadOnly));
    }

    [Theory]
    [InlineData(",hdc:cdrom,r", "", "raw", 2, true)]
    [InlineData("tap:qcow2:/x/y,xvdb,r", "/x/y", "qcow2", 1, true)]
    [InlineData("vdev=xvdaa,format=vhd,access=r,target=/a,b:c", "/a,b:c", "vhd", 26, true)]
    [InlineData("/x,qcow2,xvdz,w,no-discard,backendtype=qdisk", "/x", "qcow2", 25, false)]
    public void Others(string spec, string target, string format, int place, bool isReadOnly)
    {
        var disk = XlDisk.Parse(spec);
        Assert.Equal((target, format, place, isReadOnly), (disk.Target, disk.Format, disk.Place, disk.IsReadOnly));
        Assert.Equal(!spec.Contains("no-discard", StringComparison.Ordinal), disk.Discards);
    }

    [Theory]
    [InlineData("/x,,sda", "no SCSI disks in this version; give xvda")]
    [InlineData("/x,,xvda1", "vdev xvda1: give a whole disk")]
    [InlineData("/x,,", "no vdev")]
    [InlineData("/x,qcow,xvda", "format qcow: is not in this version")]
    [InlineData("/x,raw,xvda,q", "access q: give r or w")]
    [InlineData(",,xvda", "no target")]
    [InlineData("/x,raw,xvda,w,z", "\"z\" is one too many")]
    [InlineData("/x,,xvda,script=block-iscsi", "no script is run")]
    [InlineData("iscsi:iqn.x,xvda,w", "no script is run")]
    [InlineData("/x,,xvda,backend=storage", "there are no other domains")]
    [InlineData("/x,,xvda,vdev=xvdb", "vdev is there twice")]
    [InlineData("/x,,xvda,speed=9", "speed: is not in this version")]
    public void Mistakes(string spec, string error) =>
        Assert.Contains(error, Assert.Throws<ConfigurationException>(() => XlDisk.Parse(spec)).Message, StringComparison.Ordinal);
}
