// The host's resolvers out of its resolv.conf.
// Follows: the Linux manual page resolv.conf(5). Leaves out: search, sortlist and options, which are the guest's own business.
using System.Net;

namespace Sharpvisor.Backends.Net.User.Services.Dns;

/// <summary>The resolvers of the host, in the order in which they are to be asked.</summary>
internal interface IResolvers
{
    IReadOnlyList<IPEndPoint> Current { get; }
}

/// <summary>Looks into the file again when it is needed, at most once a second: a laptop changes its network.</summary>
internal sealed class ResolvConf(Func<long>? nowMs = null, string path = "/etc/resolv.conf") : IResolvers
{
    public const int Port = 53;

    private const int Most = 3; // MAXNS
    private const long GoodForMs = 1000;

    private readonly Func<long> _nowMs = nowMs ?? (() => Environment.TickCount64);
    private IReadOnlyList<IPEndPoint>? _current;
    private long _readMs;

    public IReadOnlyList<IPEndPoint> Current
    {
        get
        {
            var now = _nowMs();
            if (_current is null || now - _readMs >= GoodForMs)
            {
                _current = Read();
                _readMs = now;
            }

            return _current;
        }
    }

    private IReadOnlyList<IPEndPoint> Read()
    {
        try
        {
            return Parse(File.ReadLines(path));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return Parse([]);
        }
    }

    /// <summary>The name servers; without any it is the host itself, as the manual says.</summary>
    internal static IReadOnlyList<IPEndPoint> Parse(IEnumerable<string> lines)
    {
        IPEndPoint[] servers = [.. lines.Take(1000)
            .Select(l => l.Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries))
            .Where(w => w is ["nameserver", _, ..])
            .Select(w => IPAddress.TryParse(w[1], out var address) ? new IPEndPoint(address, Port) : null)
            .OfType<IPEndPoint>()
            .Take(Most)];
        return servers.Length > 0 ? servers : [new IPEndPoint(IPAddress.Loopback, Port)];
    }
}
