// NICs: -device virtio-net-pci and e1000, -nic, and the old -net, as qemu(1) describes them.
using Sharpvisor.Core.Guests;
using Sharpvisor.Core.Net;
using Sharpvisor.Devices.Virtio;

namespace Sharpvisor.Cli.Parsing;

internal static class NicValues
{
    public const string Virtio = "virtio-net", E1000 = "e1000", Xen = "xen", Xenbus = "virtio-net-xenbus";

    /// <summary>The hub that -net connects everything to.</summary>
    private const int LegacyHub = 0;

    /// <summary>QEMU's names of models for -nic and -net, and the devices that they are.</summary>
    private static readonly Dictionary<string, string> Models = new(StringComparer.Ordinal)
    {
        ["virtio"] = "virtio-net-pci",
        ["virtio-net-pci"] = "virtio-net-pci",
        [E1000] = E1000,
        ["e1000-82540em"] = E1000,
        [Xen] = Xen,
        [Xenbus] = Xenbus,
    };

    /// <summary>What a NIC's -device has beside what all devices have.</summary>
    public static IReadOnlyList<string> Keys { get; } = ["netdev", "mac", "bootindex", "romfile", "rombar"];

    /// <summary>What virtio-net's has beside that.</summary>
    public static IReadOnlyList<string> VirtioKeys { get; } = ["mq", "queues", "host_mtu", "rx_queue_size", "tx_queue_size", "mrg_rxbuf", "csum", "guest_csum", "gso"];

    /// <summary>-device e1000,netdev=ID.</summary>
    public static void E1000Device(RunSettings settings, string value)
    {
        var keys = new KeyValues("-device", value, "driver", ["driver", "id", "bus", "addr", .. Keys]);
        settings.Nics.Add(E1000Nic($"-device {value}", keys, VirtioValues.Slot(keys)));
    }

    /// <summary>A -device virtio-net-pci.</summary>
    /// <param name="place">Where it is, and how drivers see it.</param>
    public static NicSpec VirtioNic(string what, string model, KeyValues keys, Func<VirtioPciDevice, VirtioPciDevice> place)
    {
        const int mergeBit = 15, checksumBit = 0, guestChecksumBit = 1;
        var queueSize = VirtioValues.PowerOfTwo(keys, "rx_queue_size", 64, 1024) ?? VirtioValues.PowerOfTwo(keys, "tx_queue_size", 64, 1024);
        var options = new VirtioNetOptions
        {
            // As many as processors, which the driver then uses.
            QueuePairs = keys.Number("queues", 1, VirtioNet.MaximumQueuePairs) ?? 1,
            Mtu = keys.Number("host_mtu", 68, ushort.MaxValue),
            QueueSize = queueSize ?? new VirtioNetOptions().QueueSize,
        };
        if (options.QueuePairs > 1 && !keys.OnOff("mq", true))
            throw keys.Error($"queues={options.QueuePairs} and mq=off; leave one of them out");
        const ulong segmentBits = (1UL << 7) | (1UL << 8) | (1UL << 11) | (1UL << 12);
        var withheld = (keys.OnOff("mrg_rxbuf", true) ? 0 : 1UL << mergeBit) | (keys.OnOff("csum", true) ? 0 : (1UL << checksumBit) | segmentBits)
            | (keys.OnOff("guest_csum", true) ? 0 : (1UL << guestChecksumBit) | segmentBits) | (keys.OnOff("gso", true) ? 0 : segmentBits);
        if (model == Xenbus)
            RefuseFirmware(keys, "a NIC on xenbus");
        var bootIndex = keys.Number("bootindex", 0, int.MaxValue);
        return Common(new NicSpec(what, model, (backend, address, rom) =>
        {
            var nic = place(new VirtioNic(backend) { Options = options with { Address = address }, BootIndex = bootIndex, Rom = rom });
            return nic with { WithheldFeatures = nic.WithheldFeatures | withheld };
        }), keys);
    }

    /// <summary>-nic user[,model=virtio-net-pci][,mac=M] with what -netdev user has, and the same for other kinds; -nic none.</summary>
    public static void Nic(RunSettings settings, string value)
    {
        if (value.Split(',')[0] == "none")
        {
            settings.HasNoNic = true;
            return;
        }

        var kind = NetdevValues.KindOf("-nic", value);
        var keys = new KeyValues("-nic", value, "type", [.. NetdevValues.KeysOf(kind), "type", "id", "model", "mac", "addr", "bootindex", "romfile", "rombar"]);
        var id = keys["id"] ?? $"#nic{settings.Nics.Count}";
        settings.Netdevs.Add(NetdevValues.Create(kind, keys, $"-nic {value}", id));
        settings.Nics.Add(Model(settings, $"-nic {value}", keys) with { NetdevId = id });
    }

    /// <summary>-net nic[,model=M][,macaddr=A][,netdev=ID], -net user and others with what -netdev has, -net none.</summary>
    public static void Net(RunSettings settings, string value)
    {
        var kind = value.Split(',')[0];
        if (kind == "none")
        {
            settings.HasNoNic = true;
        }
        else if (kind == "nic")
        {
            var keys = new KeyValues("-net", value, "type", ["type", "model", "macaddr", "netdev", "addr", "vectors", "name", "bootindex", "romfile", "rombar", "vlan"]);
            var nic = Model(settings, $"-net {value}", keys);
            settings.Nics.Add(nic with { Hub = nic.NetdevId is null ? HubOf(keys) : null });
        }
        else
        {
            NetdevValues.KindOf("-net", value);
            var keys = new KeyValues("-net", value, "type", [.. NetdevValues.KeysOf(kind), "type", "id", "name", "vlan"]);
            settings.Netdevs.Add(NetdevValues.Create(kind, keys, $"-net {value}", keys["id"] ?? $"#net{settings.Netdevs.Count}") with { Hub = HubOf(keys) });
        }
    }

    /// <summary>vlan=, as QEMU called hubs until it had no more of them; OpenXT's lines still do.</summary>
    private static int HubOf(KeyValues keys) => keys.Number("vlan", 0, int.MaxValue) ?? LegacyHub;

    /// <summary>
    /// As QEMU: a machine about whose network nothing is said has a NIC on a user network, what -nic user is. A domain of
    /// Xen's has Xen's, for its drivers take all others away.
    /// </summary>
    public static void AddDefault(RunSettings settings)
    {
        if (settings is { Nics.Count: 0, Netdevs.Count: 0, HubPorts.Count: 0, HasNoNic: false, NoDefaults: false })
            Nic(settings, settings.Machine == MachineKind.Pc ? NetdevValues.UserKind : $"{NetdevValues.UserKind},model={Xen}");
    }

    /// <summary>Connects what belongs together, and checks that cables have two ends.</summary>
    public static void Check(RunSettings settings)
    {
        foreach (var nic in settings.Nics.Where(n => n.NetdevId is not null))
        {
            if (settings.Nics.Count(n => n.NetdevId == nic.NetdevId) > 1)
                throw new ConfigurationException($"{nic.What}: another NIC has netdev={nic.NetdevId}; give each its own -netdev");
            if (!settings.Netdevs.Exists(d => d.Id == nic.NetdevId) && !settings.HubPorts.Exists(p => p.Id == nic.NetdevId && p.NetdevId is null))
                throw new ConfigurationException($"{nic.What}: there is no -netdev with id={nic.NetdevId} that is free; give one, such as -netdev user,id={nic.NetdevId}");
        }

        PlaceOnHubs(settings);
        foreach (var dev in settings.Netdevs)
        {
            if (dev.Hub is { } hub && !settings.Nics.Exists(n => n.Hub == hub))
                throw new ConfigurationException($"{dev.What}: no NIC is on hub {hub}; give -netdev hubport,id=p,hubid={hub} -device virtio-net-pci,netdev=p");
            if (dev.Hub is null && !settings.Nics.Exists(n => n.NetdevId == dev.Id))
                throw new ConfigurationException($"{dev.What}: no NIC uses it; give -device virtio-net-pci,netdev={dev.Id}");
        }

        foreach (var dump in settings.Dumps)
        {
            if (!settings.Netdevs.Exists(d => d.Id == dump.Netdev) && !settings.HubPorts.Exists(p => p.Id == dump.Netdev && p.NetdevId is null))
                throw new ConfigurationException($"{dump.What}: there is no -netdev with id={dump.Netdev}; give one, or -nic with id={dump.Netdev}");
        }

        if (settings.BootFile is { } file && !settings.Netdevs.Exists(d => d.Kind == NetdevValues.UserKind))
            throw new ConfigurationException($"-bootp {file}: there is no network to load it from; give -nic user");
    }

    private static void PlaceOnHubs(RunSettings settings)
    {
        foreach (var port in settings.HubPorts)
        {
            if (port.NetdevId is null)
            {
                var nic = settings.Nics.FindIndex(n => n.NetdevId == port.Id);
                if (nic < 0)
                    throw new ConfigurationException($"{port.What}: nothing is connected to it; give it netdev=ID, or -device virtio-net-pci,netdev={port.Id}");
                settings.Nics[nic] = settings.Nics[nic] with { Hub = port.Hub };
                continue;
            }

            var dev = settings.Netdevs.FindIndex(d => d.Id == port.NetdevId);
            if (dev < 0)
                throw new ConfigurationException($"{port.What}: there is no -netdev with id={port.NetdevId}; give one, such as -netdev user,id={port.NetdevId} (a hub has no port to another hub in this version)");
            if (settings.Netdevs[dev].Hub is not null || settings.Nics.Exists(n => n.NetdevId == port.NetdevId))
                throw new ConfigurationException($"{port.What}: something else has netdev={port.NetdevId}; give it another -netdev");
            settings.Netdevs[dev] = settings.Netdevs[dev] with { Hub = port.Hub };
        }

        var (devs, nics) = (settings.Netdevs.FindAll(d => d.Hub == LegacyHub), settings.Nics.FindAll(n => n.Hub == LegacyHub));
        if (devs.Count > 0 && nics.Count == 0 && settings.HubPorts.Count == 0)
        {
            // A network alone gets a NIC; QEMU's would stay without and warn.
            settings.Nics.Add(Model(settings, devs[0].What, new KeyValues("-net", "nic", "type", ["type"])) with { Hub = LegacyHub });
            nics = settings.Nics.FindAll(n => n.Hub == LegacyHub);
        }

        // Of two ends a cable does, which may carry unfinished frames.
        if (devs.Count > 1 || nics.Count > 1 || settings.HubPorts.Exists(p => p.Hub == LegacyHub))
            return;
        if (nics.Count == 1)
            settings.Nics[settings.Nics.IndexOf(nics[0])] = nics[0] with { NetdevId = devs.Count == 0 ? null : devs[0].Id, Hub = null };
        if (devs.Count == 1)
            settings.Netdevs[settings.Netdevs.IndexOf(devs[0])] = devs[0] with { Hub = null };
    }

    private static NicSpec Model(RunSettings settings, string what, KeyValues keys)
    {
        var name = keys["model"] ?? "virtio-net-pci";
        if (!Models.TryGetValue(name, out var model))
            throw keys.Error($"model={name}: not in this version; the nearest is {Nearest.Of(name, Models.Keys)} of {string.Join(", ", Models.Keys)}");
        var slot = VirtioValues.Slot(keys);
        if (model == Xen)
            return XenNic(what, keys);
        var connection = model == Xenbus ? VirtioConnection.Xenbus : VirtioConnection.Pci;
        return model == E1000 ? E1000Nic(what, keys, slot) : VirtioNic(what, model, keys, device => device with { Slot = slot, Connection = connection });
    }

    private static NicSpec E1000Nic(string what, KeyValues keys, int? slot)
    {
        var bootIndex = keys.Number("bootindex", 0, int.MaxValue);
        return Common(new NicSpec(what, E1000, (backend, address, rom) => new E1000Card(backend) { Address = address, Slot = slot, BootIndex = bootIndex, Rom = rom }), keys);
    }

    private static NicSpec XenNic(string what, KeyValues keys)
    {
        RefuseFirmware(keys, "a Xen domain's NIC");
        return Common(new NicSpec(what, Xen, (backend, address, _) => new XenNic(backend) { Address = address }), keys);
    }

    private static void RefuseFirmware(KeyValues keys, string nic)
    {
        foreach (var key in new[] { "addr", "bootindex", "romfile" })
        {
            if (keys[key] is not null)
                throw keys.Error($"{key}=: {nic} has no place on PCI and firmware does not see it; leave it out");
        }
    }

    private static NicSpec Common(NicSpec spec, KeyValues keys)
    {
        MacAddress? address = null;
        if ((keys["mac"] ?? keys["macaddr"]) is { } text)
        {
            address = MacAddress.TryParse(text, out var parsed) && !parsed.IsGroup
                ? parsed
                : throw keys.Error($"{text}: is no address of a NIC; give six bytes such as 52:54:00:12:34:56, the first of them even");
        }

        return spec with
        {
            NetdevId = keys["netdev"],
            Address = address,
            RomFile = keys["rombar"] == "0" ? "" : keys["romfile"],
        };
    }
}
