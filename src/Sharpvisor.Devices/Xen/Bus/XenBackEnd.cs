// One end of a device of a Xen domain: how it finds the other, follows it, and lets go of it.
// Follows: Xen's public header io/xenbus.h; the order of states as Linux's drivers of both ends have it.
// Leaves out: reconfiguration (states 7 and 8), which only the back end of PCI knows.

using System.Globalization;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Devices.Xen.Bus;

/// <summary>
/// A back end. It looks at what state its front end is in, not at how that came there: a domain may skip states, go back,
/// or take everything away. Used with the machine's gate held.
/// </summary>
public abstract class XenBackEnd
{
    private bool _isDisconnecting;

    /// <param name="kind">As in paths: vbd, vif.</param>
    /// <param name="number">The domain's number for it.</param>
    protected XenBackEnd(string kind, int number)
    {
        Kind = kind;
        Number = number;
    }

    public string Kind { get; }

    public int Number { get; }

    /// <summary>For messages: "xen vbd 51712".</summary>
    public string Name => string.Create(CultureInfo.InvariantCulture, $"xen {Kind} {Number}");

    public XenbusState State { get; private set; }

    /// <summary>The domain is to have it; false: it is to give it back.</summary>
    public bool IsOnline { get; internal set; } = true;

    /// <summary>The domain has given it back, and all that was said of it in the store is gone.</summary>
    public Action? Forgotten { get; set; }

    /// <summary>Null: it belongs to no domain.</summary>
    internal XenBus? Bus { get; set; }

    /// <summary>Waits to look at its front end.</summary>
    internal bool IsMarked { get; set; }

    internal string Path => PathIn(Bus!.Domain);

    /// <summary>The front end may go on with what it has begun while it closes: somebody may still use it.</summary>
    protected virtual bool ServesWhileClosing => false;

    protected string FrontEndPath => FrontEndPathIn(Bus!.Domain);

    internal string PathIn(XenDomain domain) =>
        string.Create(CultureInfo.InvariantCulture, $"{StorePath.HomeOf(XenStore.PrivilegedDomain)}/backend/{Kind}/{domain.Number}/{Number}");

    internal string FrontEndPathIn(XenDomain domain) => string.Create(CultureInfo.InvariantCulture, $"{StorePath.HomeOf(domain.Number)}/device/{Kind}/{Number}");

    internal IEnumerable<(string Key, string Value)> FrontEndKeys(string back) =>
    [
        ("backend", back), ("backend-id", XenBus.Number(XenStore.PrivilegedDomain)), ("state", XenBus.Number((int)XenbusState.Initialising)), .. DescribeFrontEnd(),
    ];

    internal IEnumerable<(string Key, string Value)> BackEndKeys(string front) =>
    [
        ("frontend", front), ("frontend-id", XenBus.Number(Bus!.Domain.Number)), ("online", "1"), ("state", XenBus.Number((int)XenbusState.Initialising)), .. Describe(),
    ];

    /// <summary>All keys are there.</summary>
    internal void Begin()
    {
        _isDisconnecting = false;
        State = XenbusState.Unknown;
        SwitchTo(XenbusState.InitWait);
    }

    /// <summary>Its domain has been reset: nothing of what it had exists any more.</summary>
    internal void Abandon()
    {
        OnAbandoned();
        _isDisconnecting = false;
    }

    internal void RequestClose(bool isForced)
    {
        IsOnline = false;
        SwitchTo(XenbusState.Closing);
        if (isForced)
            Bus!.Write(FrontEndPath + "/state", XenBus.Number((int)XenbusState.Closed));
        Bus!.Mark(this);
    }

    /// <summary>Does what the front end's state asks for.</summary>
    internal void Follow()
    {
        var front = ReadState();
        switch (front)
        {
            case XenbusState.Initialising or XenbusState.InitWait:
                // It begins, or begins anew, perhaps without having ended.
                if (front == XenbusState.InitWait && State != XenbusState.Closed)
                    break;
                if (State == XenbusState.InitWait || !Disconnect())
                    break;
                if (State != XenbusState.Closed)
                    SwitchTo(XenbusState.Closed);
                if (IsOnline)
                    SwitchTo(XenbusState.InitWait);
                else
                    Bus!.Forget(this);
                break;
            case XenbusState.Initialised or XenbusState.Connected:
                if (State == XenbusState.InitWait && !_isDisconnecting)
                    Connect();
                break;
            case XenbusState.Closing:
                if (State == XenbusState.Closed || (!ServesWhileClosing && !Disconnect()))
                    break;
                SwitchTo(XenbusState.Closing);
                break;
            case XenbusState.Closed or XenbusState.Unknown:
                if (!Disconnect())
                    break;
                SwitchTo(XenbusState.Closed);
                if (!IsOnline)
                    Bus!.Forget(this);
                break;
            default:
                Bus!.Errors.Report(Name, "a state that is none of its kind of device");
                break;
        }
    }

    internal void OnForgotten()
    {
        State = XenbusState.Unknown;
        Forgotten?.Invoke();
    }

    /// <summary>What the back end says of itself from the beginning.</summary>
    protected abstract IEnumerable<(string Key, string Value)> Describe();

    /// <summary>What the tool stack says to the front end, beside where its back end is.</summary>
    protected abstract IEnumerable<(string Key, string Value)> DescribeFrontEnd();

    /// <summary>The front end has said where its rings are: begins to serve them.</summary>
    /// <returns>Null, or what is wrong with it.</returns>
    protected abstract string? TryConnect();

    /// <summary>The front end works, and has been told so.</summary>
    protected virtual void OnConnected()
    {
    }

    /// <summary>Lets go of all that is the domain's; does nothing where there is nothing.</summary>
    /// <returns>False: something is under way there; <see cref="OnDisconnected"/> follows.</returns>
    protected abstract bool TryDisconnect();

    /// <summary>Forgets all that is the domain's, which has been reset.</summary>
    protected abstract void OnAbandoned();

    /// <summary>What was under way has ended.</summary>
    protected void OnDisconnected()
    {
        _isDisconnecting = false;
        Bus?.Mark(this);
    }

    /// <summary>The front end has broken the protocol: it is not served any more until it begins anew.</summary>
    protected void Fail(string kind, string detail = "")
    {
        if (Bus is not { } bus)
            return;
        bus.Report(this, kind, detail);
        Disconnect();
        SwitchTo(XenbusState.Closing);
    }

    /// <summary>A key of the front end; null: there is none.</summary>
    protected string? ReadFront(string key) => Bus!.Read($"{FrontEndPath}/{key}");

    /// <summary>A number of the front end; null: there is none.</summary>
    protected uint? ReadFrontNumber(string key) =>
        uint.TryParse(ReadFront(key), NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number : null;

    /// <summary>Says something to the front end.</summary>
    protected void Write(string key, string value) => Bus!.Write($"{Path}/{key}", value);

    protected void Write(string key, long value) => Write(key, XenBus.Number(value));

    private void Connect()
    {
        if (TryConnect() is { } wrong)
        {
            Fail("a front end that can't be connected to:", wrong);
            return;
        }

        SwitchTo(XenbusState.Connected);
        OnConnected();
    }

    private bool Disconnect()
    {
        if (_isDisconnecting)
            return false;
        _isDisconnecting = !TryDisconnect();
        return !_isDisconnecting;
    }

    private XenbusState ReadState() =>
        int.TryParse(ReadFront("state"), NumberStyles.None, CultureInfo.InvariantCulture, out var state) ? (XenbusState)state : XenbusState.Unknown;

    private void SwitchTo(XenbusState state)
    {
        if (State == state)
            return;
        State = state;
        Write("state", (int)state);
    }
}
