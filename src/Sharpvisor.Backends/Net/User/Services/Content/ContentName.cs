// Names of files from URLs (RFC 3986, 3.3) and TFTP requests: what would lead out of a folder is none.
using System.Diagnostics.CodeAnalysis;

namespace Sharpvisor.Backends.Net.User.Services.Content;

/// <summary>What a guest may write as the name of a file.</summary>
internal static class ContentName
{
    /// <summary>
    /// Brings a name to segments with one slash between. It begins at the root of what is served, with or without a
    /// slash: boot loaders write both.
    /// </summary>
    /// <returns>False: empty, the name of a directory, with "..", a backslash or control characters.</returns>
    public static bool TryNormalize(string name, [NotNullWhen(true)] out string? normal)
    {
        normal = null;
        if (name.EndsWith('/') || name.Any(c => char.IsControl(c) || c is '\\'))
            return false;
        var segments = name.Split('/').Where(s => s is not ("" or ".")).ToArray();
        if (segments.Length == 0 || segments.Contains(".."))
            return false;
        normal = string.Join('/', segments);
        return true;
    }
}
