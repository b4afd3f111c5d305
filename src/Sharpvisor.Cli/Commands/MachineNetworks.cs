using Microsoft.Extensions.Logging;
using Sharpvisor.Backends.Net;
using Sharpvisor.Backends.Net.Links;
using Sharpvisor.Boot;
using Sharpvisor.Cli.Parsing;
using Sharpvisor.Core.Net;

namespace Sharpvisor.Cli.Commands;

/// <summary>Opens the networks of a machine, and plugs its NICs into them.</summary>
internal static class MachineNetworks
{
    /// <param name="ends">Get what is to be closed after the machine.</param>
    /// <param name="hasFirmware">Somebody runs the ROMs of NICs.</param>
    public static void Add(RunSettings settings, MachineBuilder builder, List<IAsyncDisposable> ends, ILogger logger, bool hasFirmware)
    {
        var hubs = new Dictionary<int, NetworkHub>();
        foreach (var number in settings.Netdevs.Select(d => d.Hub).Concat(settings.Nics.Select(n => n.Hub)).OfType<int>().Distinct())
        {
            hubs[number] = new NetworkHub($"hub{number}", logger);
            ends.Add(hubs[number]);
        }

        foreach (var netdev in settings.Netdevs.Where(d => d.Hub is not null))
            hubs[netdev.Hub!.Value].Connect(Open(netdev));
        for (var i = 0; i < settings.Nics.Count; i++)
        {
            var nic = settings.Nics[i];
            INetworkBackend? backend = null;
            if (nic.Hub is { } hub)
                backend = Record(hubs[hub].AddPort(), nic.NetdevId);
            else if (settings.Netdevs.Find(d => d.Id == nic.NetdevId) is { } netdev)
                backend = Open(netdev);
            if (backend is not null)
                ends.Add(backend);
            switch (nic.Create(backend, nic.Address ?? MacAddress.Default(i), hasFirmware && nic.Model is not (NicValues.Xen or NicValues.Xenbus) ? Rom(nic) : null))
            {
                case VirtioPciDevice device:
                    builder.WithVirtioDevice(device);
                    break;
                case E1000Card card:
                    builder.WithNetworkCard(card);
                    break;
                case XenDevice device:
                    builder.WithXenDevice(device);
                    break;
            }
        }

        INetworkBackend Open(NetdevSpec netdev) => Record(netdev.Open(netdev.Id.TrimStart('#'), settings.BootFile, logger), netdev.Id);

        INetworkBackend Record(INetworkBackend backend, string? id)
        {
            foreach (var dump in settings.Dumps.Where(d => d.Netdev == id))
                backend = new PcapDump(backend, dump.File, logger, dump.FrameLimit);
            return backend;
        }
    }

    /// <summary>What firmware runs to start from the network: the one that was named, or iPXE where the host has it.</summary>
    private static BootSource? Rom(NicSpec nic)
    {
        var directories = new[] { FirmwareFiles.IpxeDirectory, GuestCache.IpxeRoms };
        if (nic.RomFile is null)
            return FirmwareFiles.Find(nic.Model == NicValues.E1000 ? FirmwareFiles.IpxeE1000 : FirmwareFiles.IpxeVirtio, directories) is { } usual ? BootSource.FromFile(usual) : null;
        if (nic.RomFile.Length == 0)
            return null;
        return BootSource.FromFile(File.Exists(nic.RomFile) ? nic.RomFile : FirmwareFiles.Find(nic.RomFile, directories) ?? nic.RomFile);
    }
}
