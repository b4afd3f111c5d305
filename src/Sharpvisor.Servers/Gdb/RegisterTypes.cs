// Target descriptions: GDB manual, appendix G (Target Descriptions): G.2 format, G.3 types, G.5.15 the standard features
// of i386. The flags' and unions' names are those that gdb's users know from QEMU.
using System.Globalization;
using System.Text;

namespace Sharpvisor.Servers.Gdb;

/// <summary>The types of registers in a target description, and the description itself.</summary>
internal static class RegisterTypes
{
    public static readonly string Flags = MakeFlags("x64_eflags", 4, "CF:0 PF:2 AF:4 ZF:6 SF:7 TF:8 IF:9 DF:10 OF:11 IOPL:12-13 NT:14 RF:16 VM:17 AC:18 VIF:19 VIP:20 ID:21");

    public static readonly string Control =
        MakeFlags("x64_cr0", 8, "PE:0 MP:1 EM:2 TS:3 ET:4 NE:5 WP:16 AM:18 NW:29 CD:30 PG:31")
        + MakeFlags("x64_cr3", 8, "PCID:0-11 PDBR:12-63")
        + MakeFlags("x64_cr4", 8, "VME:0 PVI:1 TSD:2 DE:3 PSE:4 PAE:5 MCE:6 PGE:7 PCE:8 OSFXSR:9 OSXMMEXCPT:10 UMIP:11 LA57:12 VMXE:13 SMXE:14 FSGSBASE:16 PCIDE:17 OSXSAVE:18 SMEP:20 SMAP:21 PKE:22")
        + MakeFlags("x64_efer", 8, "SCE:0 LME:8 LMA:10 NXE:11 SVME:12 LMSLE:13 FFXSR:14 TCE:15");

    public static readonly string Vectors =
        MakeVectors(("v4f", "ieee_single", 4, "v4_float"), ("v2d", "ieee_double", 2, "v2_double"), ("v16i8", "int8", 16, "v16_int8"), ("v8i16", "int16", 8, "v8_int16"), ("v4i32", "int32", 4, "v4_int32"), ("v2i64", "int64", 2, "v2_int64"))
        + MakeFlags("x64_mxcsr", 4, "IE:0 DE:1 ZE:2 OE:3 UE:4 PE:5 DAZ:6 IM:7 DM:8 ZM:9 OM:10 UM:11 PM:12 RC:13-14 FZ:15");

    /// <summary>Numbers are given, so that they do not depend on how a reader counts.</summary>
    public static byte[] Describe(RegisterView view)
    {
        var xml = new StringBuilder("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">\n");
        xml.Append(CultureInfo.InvariantCulture, $"<architecture>{view.Architecture}</architecture>\n");
        var number = 0;
        foreach (var feature in view.Features)
        {
            xml.Append(CultureInfo.InvariantCulture, $"<feature name=\"{feature.Name}\">\n{feature.Types}");
            foreach (var register in feature.Registers)
            {
                xml.Append(CultureInfo.InvariantCulture, $"<reg name=\"{register.Name}\" bitsize=\"{register.Bits}\" type=\"{register.Type}\" regnum=\"{number++}\"");
                if (register.Group is { } group)
                    xml.Append(CultureInfo.InvariantCulture, $" group=\"{group}\"");
                xml.Append("/>\n");
            }

            xml.Append("</feature>\n");
        }

        return Encoding.ASCII.GetBytes(xml.Append("</target>\n").ToString());
    }

    private static string MakeFlags(string id, int size, string fields)
    {
        var xml = new StringBuilder($"<flags id=\"{id}\" size=\"{size}\">\n");
        foreach (var field in fields.Split(' '))
        {
            var (name, bits) = (field.Split(':')[0], field.Split(':')[1].Split('-'));
            xml.Append(CultureInfo.InvariantCulture, $"<field name=\"{name}\" start=\"{bits[0]}\" end=\"{bits[^1]}\"/>\n");
        }

        return xml.Append("</flags>\n").ToString();
    }

    private static string MakeVectors(params (string Id, string Element, int Count, string Field)[] vectors)
    {
        var xml = new StringBuilder();
        foreach (var (id, element, count, _) in vectors)
            xml.Append(CultureInfo.InvariantCulture, $"<vector id=\"{id}\" type=\"{element}\" count=\"{count}\"/>\n");
        xml.Append("<union id=\"vec128\">\n");
        foreach (var (id, _, _, field) in vectors)
            xml.Append(CultureInfo.InvariantCulture, $"<field name=\"{field}\" type=\"{id}\"/>\n");
        return xml.Append("<field name=\"uint128\" type=\"uint128\"/>\n</union>\n").ToString();
    }
}
