// The domain search list that DHCP gives.
// Follows: RFC 3397; RFC 1035, 4.1.4 (names by reference).

using System.Text;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

/// <summary>The value of the domain search option (RFC 3397): names in DNS' encoding, endings that were there before by reference.</summary>
internal static class DomainSearchList
{
    private const int LongestLabel = 63, LongestName = 255;

    /// <returns>Empty without domains. More than 255 bytes are to be split over several options (RFC 3396).</returns>
    /// <exception cref="ConfigurationException">Not a domain name, or all of them are too long.</exception>
    public static byte[] Encode(IReadOnlyList<string> domains)
    {
        const int longest = 1024, reach = 0x4000; // what fits into a message beside the rest; what a reference can name
        List<byte> bytes = [];
        Dictionary<string, int> places = new(StringComparer.OrdinalIgnoreCase);
        foreach (var domain in domains)
        {
            var labels = domain.TrimEnd('.').Split('.');
            if (domain.Length > LongestName || labels.Any(l => l.Length is 0 or > LongestLabel || !l.All(char.IsAscii) || l.Any(char.IsControl)))
                throw new ConfigurationException($"dnssearch={RequestLog.Clean(domain)}: no domain name; give labels of 1 to {LongestLabel} ASCII characters between dots");
            for (var i = 0; i <= labels.Length; i++)
            {
                var rest = string.Join('.', labels[i..]);
                if (i == labels.Length)
                {
                    bytes.Add(0);
                }
                else if (places.TryGetValue(rest, out var place))
                {
                    bytes.AddRange([(byte)(0xC0 | place >> 8), (byte)place]);
                    break;
                }
                else
                {
                    if (bytes.Count < reach)
                        places[rest] = bytes.Count;
                    bytes.Add((byte)labels[i].Length);
                    bytes.AddRange(Encoding.ASCII.GetBytes(labels[i]));
                }
            }
        }

        return bytes.Count <= longest ? [.. bytes] : throw new ConfigurationException($"dnssearch: the domains take {bytes.Count} bytes of DHCP's {longest}; give fewer");
    }
}
