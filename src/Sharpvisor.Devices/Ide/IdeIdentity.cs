// Who a drive says it is, by IDENTIFY (PACKET) DEVICE and INQUIRY.
// Follows: ATA/ATAPI-7 volume 1, 6.17 and 6.18.
namespace Sharpvisor.Devices.Ide;

/// <summary>Who a device says it is.</summary>
/// <param name="Serial">Up to 20 characters.</param>
/// <param name="Model">Up to 40 characters; a CD-ROM drive shows 16 of them to INQUIRY.</param>
/// <param name="Firmware">Up to 8 characters, of which INQUIRY shows 4.</param>
public sealed record IdeIdentity(string Serial, string Model, string Firmware = "1.0")
{
    public const string DiskModel = "Sharpvisor HARDDISK", CdromModel = "Sharpvisor DVD";
}
