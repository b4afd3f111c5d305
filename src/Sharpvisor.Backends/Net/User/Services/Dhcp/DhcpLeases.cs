// Addresses that were given out (RFC 2131, 4.3.1), as long as the network lives.
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.User.Services.Dhcp;

/// <summary>Who has which address, by Ethernet address: a boot ROM and the system after it get the same one.</summary>
internal sealed class DhcpLeases
{
    /// <summary>As many guests as have one at a time at most.</summary>
    public const int Limit = 256;

    private readonly uint _first;
    private readonly Lease[] _leases;

    public DhcpLeases(DhcpSettings settings)
    {
        _first = IPv4EndPoint.ToUInt32(settings.First);
        var broadcast = _first | ~IPv4EndPoint.ToUInt32(settings.Mask);
        _leases = new Lease[Math.Min(Limit, broadcast - _first)];
        Array.Fill(_leases, new Lease(default, long.MinValue));
        foreach (var address in settings.Reserved)
        {
            if (IndexOf(IPv4EndPoint.ToUInt32(address)) is { } index)
                _leases[index] = new Lease(default, long.MaxValue);
        }
    }

    /// <summary>Chooses an address: what the client has or had, what it wants, one that nobody had, the one that has been free the longest.</summary>
    /// <returns>0: there is none left.</returns>
    public uint Choose(MacAddress client, uint wanted, long nowMs)
    {
        var own = Array.FindIndex(_leases, l => l.Client == client);
        if (own >= 0)
            return _first + (uint)own;
        if (CanTake(client, wanted, nowMs))
            return wanted;
        var (best, since) = (0u, long.MaxValue);
        for (var i = 0; i < _leases.Length; i++)
        {
            if (_leases[i].ExpiresMs < since)
                (best, since) = (_first + (uint)i, _leases[i].ExpiresMs);
        }

        return since <= nowMs ? best : 0;
    }

    /// <summary>Whether an address is the client's or free.</summary>
    public bool CanTake(MacAddress client, uint address, long nowMs) =>
        IndexOf(address) is { } index && (_leases[index].Client == client || _leases[index].ExpiresMs <= nowMs);

    /// <summary>Keeps an address that the client can take for it; a lease of it that lasts longer stays as it is.</summary>
    public void Offer(MacAddress client, uint address, long untilMs)
    {
        var lease = _leases[IndexOf(address)!.Value];
        Take(client, address, lease.Client == client ? Math.Max(lease.ExpiresMs, untilMs) : untilMs);
    }

    /// <summary>Gives an address to a client that can take it; another one that it had is free.</summary>
    public void Take(MacAddress client, uint address, long untilMs)
    {
        for (var i = 0; i < _leases.Length; i++)
        {
            if (_leases[i].Client == client)
                _leases[i] = new Lease(default, long.MinValue);
        }

        _leases[IndexOf(address)!.Value] = new Lease(client, untilMs);
    }

    /// <summary>The client needs it no longer; it is remembered in case that it comes back.</summary>
    /// <returns>False: it was not the client's.</returns>
    public bool Release(MacAddress client, uint address, long nowMs)
    {
        if (IndexOf(address) is not { } index || _leases[index].Client != client)
            return false;
        _leases[index] = new Lease(client, nowMs);
        return true;
    }

    /// <summary>The client found that somebody else uses it: nobody gets it for a while.</summary>
    /// <returns>False: it was not the client's.</returns>
    public bool Decline(MacAddress client, uint address, long untilMs)
    {
        if (IndexOf(address) is not { } index || _leases[index].Client != client)
            return false;
        _leases[index] = new Lease(default, untilMs);
        return true;
    }

    private int? IndexOf(uint address) => address - _first < _leases.Length ? (int)(address - _first) : null;

    /// <param name="Client">Whose it is or was last; none: nobody's.</param>
    /// <param name="ExpiresMs">From when on others can have it.</param>
    private readonly record struct Lease(MacAddress Client, long ExpiresMs);
}
