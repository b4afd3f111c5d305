// Paths of the Xen store.
// Follows: docs/misc/xenstore.txt of Xen, "Data Model", and io/xs_wire.h for the lengths.

using System.Globalization;
using System.Text;

namespace Sharpvisor.Devices.Xen.Store;

internal static class StorePath
{
    private const int AbsoluteLimit = 3072, RelativeLimit = 2048;

    /// <summary>Where the relative paths of a domain begin.</summary>
    public static string HomeOf(int domain) => string.Create(CultureInfo.InvariantCulture, $"/local/domain/{domain}");

    /// <summary>The absolute form of what a domain names; null if it names nothing that can be.</summary>
    public static string? Resolve(ReadOnlySpan<byte> name, int domain)
    {
        if (name.Length == 0 || name.Length > (name[0] == '/' ? AbsoluteLimit : RelativeLimit))
            return null;
        var previous = (byte)0;
        foreach (var b in name)
        {
            if (!(char.IsAsciiLetterOrDigit((char)b) || b is (byte)'-' or (byte)'/' or (byte)'_' or (byte)'@') || (b == '/' && previous == '/'))
                return null;
            previous = b;
        }

        var text = Encoding.ASCII.GetString(name);
        if (text == "/")
            return text;
        if (previous == '/' || text[0] == '@')
            return null;
        return text[0] == '/' ? text : HomeOf(domain) + "/" + text;
    }

    /// <summary>The names from the root down.</summary>
    public static string[] Parts(string path) => path.Split('/', StringSplitOptions.RemoveEmptyEntries);

    /// <summary>Whether one is the other, or lies below it.</summary>
    public static bool IsWithin(string path, string ancestor) =>
        ancestor == "/" || (path.StartsWith(ancestor, StringComparison.Ordinal) && (path.Length == ancestor.Length || path[ancestor.Length] == '/'));
}
