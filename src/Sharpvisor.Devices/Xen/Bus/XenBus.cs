// The back ends of one domain: their places in the store, and what happens there.
// Follows: docs/misc/xenstore-paths.pandoc of Xen for the paths; keys and rights as libxl writes them.
// Leaves out: domains with drivers for others (all back ends are in domain 0, which is this process).

using System.Globalization;
using System.Text;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Memory;
using Sharpvisor.Devices.Xen.Store;

namespace Sharpvisor.Devices.Xen.Bus;

/// <summary>Used with the machine's gate held.</summary>
public sealed class XenBus : IGateWork
{
    private const string Token = "backend";

    private readonly MachineGate _gate;
    private readonly List<XenBackEnd> _devices = [];
    private readonly Queue<XenBackEnd> _changed = new();
    private readonly ILogger _logger;
    private XenStore? _store;

    public XenBus(XenDomain domain, GuestMemory memory, MachineGate gate, GuestErrorLog errors, ILogger logger)
    {
        Domain = domain;
        Memory = memory;
        _gate = gate;
        Errors = errors;
        _logger = logger;
    }

    /// <summary>All that the domain has, those that are being taken out, too.</summary>
    public IReadOnlyList<XenBackEnd> Devices => _devices;

    internal XenDomain Domain { get; }

    internal GuestMemory Memory { get; }

    internal GuestErrorLog Errors { get; }

    /// <summary>Gives the domain a device, before it begins or while it runs.</summary>
    /// <exception cref="ConfigurationException">It has one of that kind and number.</exception>
    public void Add(XenBackEnd device)
    {
        if (_devices.Exists(d => d.Kind == device.Kind && d.Number == device.Number))
            throw new ConfigurationException($"{device.Name}: the domain has a {device.Kind} {device.Number} already; give another number");
        (device.Bus, device.IsOnline) = (this, true);
        _devices.Add(device);
        if (_store is not null)
            Start(device);
    }

    /// <summary>Asks the domain to give a device back, which it does when nothing there uses it any more.</summary>
    /// <param name="isForced">It is gone at once, as if it was torn out.</param>
    public void Remove(XenBackEnd device, bool isForced = false)
    {
        if (device.Bus != this)
            throw new InvalidOperationException("the device is not the domain's");
        Write(device.Path + "/online", "0");
        device.RequestClose(isForced);
    }

    /// <summary>A domain begins with a store that has its home and nothing of devices. What was before is forgotten.</summary>
    public void Start(XenStore store)
    {
        _store = store;
        foreach (var device in _devices.ToArray())
        {
            device.Abandon();
            if (device.IsOnline)
                Start(device);
            else
                Forget(device);
        }
    }

    bool IGateWork.TryPerform(object item) => true;

    void IGateWork.OnPerformed(object item)
    {
        while (_changed.TryDequeue(out var device))
        {
            device.IsMarked = false;
            if (device.Bus == this)
                device.Follow();
        }
    }

    /// <summary>Has a device look at its front end, when the store and the ring that the change came by are through with it.</summary>
    internal void Mark(XenBackEnd device)
    {
        if (device.IsMarked)
            return;
        device.IsMarked = true;
        _changed.Enqueue(device);
        if (_changed.Count == 1)
            _gate.AfterLeave(this, this);
    }

    /// <summary>A device is no more the domain's: all that was said of it goes.</summary>
    internal void Forget(XenBackEnd device)
    {
        _devices.Remove(device);
        device.Bus = null;
        if (_store is null)
            return;
        _store.Unwatch(XenStore.PrivilegedDomain, device.FrontEndPathIn(Domain) + "/state", Token);
        _store.Remove(XenStore.PrivilegedDomain, 0, device.FrontEndPathIn(Domain));
        _store.Remove(XenStore.PrivilegedDomain, 0, device.PathIn(Domain));
        device.OnForgotten();
    }

    internal string? Read(string path) =>
        _store is not null && _store.Read(XenStore.PrivilegedDomain, 0, path, out var value) == StoreError.None ? Encoding.ASCII.GetString(value.Span).TrimEnd('\0') : null;

    internal void Write(string path, string value) => _store?.Write(XenStore.PrivilegedDomain, 0, path, Encoding.UTF8.GetBytes(value));

    /// <summary>A device that works no more, or never did.</summary>
    internal void Report(XenBackEnd device, string kind, string detail)
    {
        Errors.Report(device.Name, kind, detail);
        _logger.LogWarning("{Device}: {Kind} {Detail}: it is closed", device.Name, kind, detail);
        Write($"/local/domain/{Number(XenStore.PrivilegedDomain)}/error/backend/{device.Kind}/{Number(Domain.Number)}/{Number(device.Number)}/error", $"22 {kind} {detail}".TrimEnd());
    }

    internal static string Number(long value) => value.ToString(CultureInfo.InvariantCulture);

    /// <summary>Writes what both ends are told. The front end's part is the domain's, which may change it.</summary>
    private void Start(XenBackEnd device)
    {
        var (front, back) = (device.FrontEndPathIn(Domain), device.PathIn(Domain));
        Put(front, "", Domain.Number, XenStore.PrivilegedDomain);
        Put(back, "", XenStore.PrivilegedDomain, Domain.Number);
        foreach (var (key, value) in device.FrontEndKeys(back))
            Put($"{front}/{key}", value, Domain.Number, XenStore.PrivilegedDomain);
        foreach (var (key, value) in device.BackEndKeys(front))
            Put($"{back}/{key}", value, XenStore.PrivilegedDomain, Domain.Number);
        device.Begin();
        _store!.Watch(XenStore.PrivilegedDomain, front + "/state", null, Token, (_, _) => Mark(device));

        void Put(string path, string value, int owner, int reader)
        {
            Write(path, value);
            _store!.SetRights(XenStore.PrivilegedDomain, 0, path, [new StoreRight(owner, StoreAccess.None), new StoreRight(reader, StoreAccess.Read)]);
        }
    }
}
