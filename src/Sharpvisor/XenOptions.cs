using Sharpvisor.Core.Char;
using Sharpvisor.Devices.Xen;

namespace Sharpvisor;

/// <summary>The Xen domain that a guest finds itself in.</summary>
/// <param name="Domain">Its number, 1 to <see cref="LastDomain"/>.</param>
/// <param name="Console">What its console (hvc0) leads to; null: nowhere.</param>
public sealed record XenOptions(int Domain, ICharBackend? Console)
{
    /// <summary>Numbers from DOMID_FIRST_RESERVED on mean something else.</summary>
    public const int DefaultDomain = 1, LastDomain = 0x7FEF;

    /// <summary>How the guest may have itself told of events; all ways by default.</summary>
    public XenCallbackOffer Callback { get; init; }
}
