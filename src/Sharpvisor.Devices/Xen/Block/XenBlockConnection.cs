using Sharpvisor.Devices.Xen.Bus;

namespace Sharpvisor.Devices.Xen.Block;

/// <summary>What a disk has of its front end's, from the connection to its end.</summary>
internal sealed class XenBlockConnection(SharedRing ring, XenBlockLayout layout, uint port, bool isPersistent)
{
    /// <summary>As many as Linux's back end keeps for a ring of one page with indirect requests.</summary>
    public const int PersistentLimit = 1056;

    public SharedRing Ring => ring;

    public XenBlockLayout Layout => layout;

    /// <summary>0: the front end has closed it.</summary>
    public uint Port { get; set; } = port;

    /// <summary>The front end leaves pages granted and uses them again.</summary>
    public bool IsPersistent => isPersistent;

    public Dictionary<uint, GrantedPage> Persistent { get; } = [];

    /// <summary>Requests that are with the drive.</summary>
    public int InFlight { get; set; }

    /// <summary>Waits for all that came before it; nothing behind it begins.</summary>
    public XenBlockRequest? Barrier { get; set; }

    public bool IsServing { get; set; }

    /// <summary>Nothing new is begun.</summary>
    public bool IsStopped { get; set; }

    /// <summary>The domain is gone: what ends now is told to nobody.</summary>
    public bool IsAbandoned { get; set; }
}
