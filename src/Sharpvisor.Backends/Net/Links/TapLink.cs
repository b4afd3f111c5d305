// A cable into the host's own network: -netdev tap. The host's kernel does the rest: bridges, routes, filters.
// Follows: see Core/Host/TapInterface.cs; qemu(1) for the meaning of its options.
// Leaves out: vhost, several queues, bridge helpers.
using System.ComponentModel;
using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Host;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Backends.Net.Links;

/// <summary>An interface of the host to which the guest is connected. Linux only.</summary>
public sealed class TapLink : LinkBackend, ISocketHandler
{
    private const int RetryMs = 100;

    private readonly TapInterface _tap;
    private readonly PacketBuffer _outgoing = new(), _incoming = new();
    private readonly byte[] _header = new byte[NetHeader.ShortLength];
    private readonly string? _downScript;
    private ReceiveOffloads _offloads;
    private bool _mayRead = true, _isGone;
    private bool _hasOutgoing, _hasIncoming;

    private TapLink(string name, TapInterface tap, string? downScript, ILogger logger) : base(name, logger)
    {
        (_tap, _downScript) = (tap, downScript);
        tap.SetOffloads(default);
        Poller.Add(tap.Handle, this);
    }

    /// <summary>As the host lists it: tap0.</summary>
    public string InterfaceName => _tap.Name;

    /// <summary>The host's kernel finishes frames, if the interface was opened for that.</summary>
    public override bool TakesOffloads => _tap.HasHeader;

    private protected override int WaitMs => _hasOutgoing ? RetryMs : -1;

    /// <summary>Makes an interface, or connects to one that there is.</summary>
    /// <param name="name">For messages.</param>
    /// <param name="interfaceName">Null: the next free of tap0, tap1 ...</param>
    /// <param name="header">Whether frames may cross unfinished; null: if the host can.</param>
    /// <param name="script">Program that is run with the interface's name, to configure it.</param>
    /// <param name="downScript">The same, at the end.</param>
    /// <exception cref="ConfigurationException">The host has no such interface, or does not let this user.</exception>
    public static TapLink Open(string name, string? interfaceName, bool? header, string? script, string? downScript, ILogger logger)
    {
        if (!OperatingSystem.IsLinux())
            throw new ConfigurationException($"{name}: there are taps on Linux only; use a network of the kind user");
        if (interfaceName is { } given && (given.Length is 0 or > 15 || given.Any(c => c is <= ' ' or > '~' or '/')))
            throw new ConfigurationException($"{name}: {given} can't be the name of an interface; give 1 to 15 letters and digits, such as tap0");
        var make = $"as root, make one for this user: ip tuntap add {interfaceName ?? "tap0"} mode tap user {Environment.UserName}";
        TapInterface tap;
        try
        {
            tap = TapInterface.Open(interfaceName, header);
        }
        catch (Win32Exception e)
        {
            throw new ConfigurationException(
                $"{name}: " + e.NativeErrorCode switch
                {
                    2 or 6 or 19 => $"the host has no {TapInterface.Device}; load the module tun, or use a network of the kind user", // ENOENT, ENXIO, ENODEV
                    13 => $"this user may not open {TapInterface.Device}; run as one who may, or use a network of the kind user",
                    1 => $"this user may not connect to {interfaceName ?? "a new interface"}; {make}, and give ifname=",
                    16 => $"{interfaceName} is in use by another process; give another one",
                    22 => $"{interfaceName} is no tap, or was made without vnet_hdr; {make}, or add vnet_hdr=off",
                    _ => $"{TapInterface.Device}: {e.Message}; check the name of the interface",
                },
                e);
        }

        if (script is not null)
            Run(name, script, tap);
        return new TapLink(name, tap, downScript, logger);
    }

    /// <summary>Takes one that whoever started this process has opened.</summary>
    /// <exception cref="ConfigurationException">The descriptor is no tap.</exception>
    public static TapLink FromDescriptor(string name, int descriptor, ILogger logger)
    {
        if (!OperatingSystem.IsLinux())
            throw new ConfigurationException($"{name}: there are taps on Linux only; use a network of the kind user");
        try
        {
            return new TapLink(name, TapInterface.FromDescriptor(descriptor), null, logger);
        }
        catch (Win32Exception e)
        {
            throw new ConfigurationException($"{name}: the descriptor {descriptor} is no tap ({e.Message}); give one that is open and connected to an interface", e);
        }
    }

    void ISocketHandler.OnSocketEvent(SocketEvents events) => _mayRead |= (events & (SocketEvents.Readable | SocketEvents.Failed)) != 0;

    private protected override bool Work()
    {
        var hasMore = Send();
        return Receive() || hasMore;
    }

    private protected override void Close()
    {
        if (_downScript is not null)
        {
            try
            {
                Run(Name, _downScript, _tap);
            }
            catch (ConfigurationException e)
            {
                Logger.LogWarning("{Message}", e.Message);
            }
        }

        _tap.Dispose();
    }

    private static void Run(string name, string script, TapInterface tap)
    {
        try
        {
            using var process = Process.Start(script, [tap.Name]);
            process.WaitForExit();
            if (process.ExitCode == 0)
                return;
            tap.Dispose();
            throw new ConfigurationException($"{name}: {script} {tap.Name} failed with exit code {process.ExitCode}; see what it said, or give script=no");
        }
        catch (Win32Exception e)
        {
            tap.Dispose();
            throw new ConfigurationException($"{name}: {script} can't be run: {e.Message}; give another program, or script=no", e);
        }
    }

    private bool Send()
    {
        for (var i = 0; i < AtOnce; i++)
        {
            if (!_hasOutgoing && !TryTake(_outgoing))
                return false;
            _hasOutgoing = true;
            if (_tap.HasHeader)
                NetHeader.Write(_header, _outgoing.Offload, 0);
            if (!_tap.TryWrite(_header, _outgoing.Frame, out var isLost))
                return false; // a wake-up, or the time, brings it here again
            _hasOutgoing = false;
            if (isLost)
                CountDropped();
        }

        return true;
    }

    private bool Receive()
    {
        // Whatever the guest's driver has agreed to meanwhile.
        if (_mayRead && _tap.HasHeader && Device.ReceiveOffloads is var offloads && offloads != _offloads)
        {
            _offloads = offloads;
            _tap.SetOffloads(offloads);
        }

        for (var i = 0; i < AtOnce; i++)
        {
            if (_hasIncoming && !TryGive(new EthernetFrame(_incoming.Frame) { Offload = _incoming.Offload }))
                return false;
            _hasIncoming = false;
            if (!_mayRead || _isGone)
                return false;
            _incoming.Length = _tap.Read(_header, _incoming.Room.Span);
            if (_incoming.Length <= 0)
            {
                _mayRead = false;
                if (_incoming.Length < 0 && !_isGone)
                    Logger.LogWarning("{Link}: {Interface} has gone; nothing comes from there any more", Name, _tap.Name);
                _isGone |= _incoming.Length < 0;
                return false;
            }

            _incoming.Offload = default;
            if (_tap.HasHeader && !TryReadHeader())
                CountDropped();
            else
                _hasIncoming = true;
        }

        return true;
    }

    private bool TryReadHeader()
    {
        if (!NetHeader.TryRead(_header, _incoming.Length, out var offload))
            return false;
        _incoming.Offload = offload with { IsValid = NetHeader.IsChecked(_header) };
        return true;
    }
}
