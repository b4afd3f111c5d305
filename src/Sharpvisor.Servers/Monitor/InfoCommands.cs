// info of QEMU's monitor (hmp-commands-info.hx), with its text where scripts read it.
using System.Globalization;
using System.Text;
using Sharpvisor.Backends.Block;
using Sharpvisor.Backends.Net;
using Sharpvisor.Backends.Net.User;
using Sharpvisor.Devices.Pci;
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>What follows info.</summary>
internal sealed class InfoCommands(ControlContext context)
{
    private Machine Machine => context.Machine;

    public IReadOnlyList<MonitorCommand> All =>
    [
        Make("balloon", "show balloon information", _ => Machine.Balloon is { } balloon ? $"balloon: actual={balloon.Actual >> 20}" : throw new ControlException("No balloon device has been activated")),
        Make("block", "show the block devices", call => Devices(() => Blocks(call.OptionalWord(0))), mostArguments: 1),
        Make("chardev", "show the character devices", _ => Lines([.. Machine.Parts.Chars.Select(c => $"{c.Label}: filename={c.Backend.Name}"), .. context.Chars.Select(c => $"{c.Label}: filename={c.Name}")])),
        Make("cpus", "show infos for each CPU", call => Lines(Machine.Processors.Select(p => $"{(p.Index == call.State.Processor ? '*' : ' ')} CPU #{p.Index}: thread_id={ProcessorThreads.IdOf(p.Index)}"))),
        Make("dump", "show the status of a memory dump", _ => Dump(context.Operations.Dump)),
        Make("history", "show the command line history", call => Lines(call.State.History.Select((line, i) => $"{i}: '{line}'"))),
        Make("irq", "show how often each input of the interrupt controllers was asserted", _ => Devices(Interrupts)),
        Inspect("jit", "show what the engine has done", (_, _) => Lines(Machine.Processors.Select(p => p.DescribeEngine()))),
        Make("kvm", "show KVM information", _ => "kvm support: not compiled"),
        Inspect("mem", "show the active virtual memory mappings", (view, call) => PageTables.DescribeRanges(view, view.GetState(call.State.Processor))),
        Make("mice", "show which guest mouse is receiving events", _ => Devices(() => Machine.Mouse is not { } mouse ? "No mouse devices connected" : $"* Mouse #0: {(mouse.IsAbsolute ? "vmmouse (absolute)" : "QEMU PS/2 Mouse")}")),
        Make("mtree", "show memory tree", _ => Devices(MemoryTree)),
        Make("name", "show the current VM name", _ => Machine.Name),
        Make("network", "show the network state", _ => Networks()),
        Make("pci", "show PCI info", _ => Devices(() => string.Concat((Machine.Parts.Pci?.Functions ?? []).Select(PciText.Describe)))),
        Make("pic", "show PIC and I/O APIC state", _ => Devices(() => Machine.Parts is { Pic: { } pic, IoApic: { } ioApic } ? pic.Describe() + ioApic.Describe() : "this machine has no PIC and no I/O APIC")),
        Make("qtree", "show device tree", _ => Devices(() => DeviceTree.Describe(Machine))),
        Inspect("registers", "show the cpu registers (-a: all - show register info for all cpus)", Registers, "[-a]"),
        Make("roms", "show roms", _ => Lines(Machine.Memory.Mappings.Where(m => m.Writes is null && m.Reads is not null).Select(m => $"addr={m.Start:x16} size=0x{m.Length:x6} mem=rom name=\"{m.Reads!.Name}\""))),
        Make("status", "show the current VM status", _ => Status()),
        Inspect("tlb", "show virtual to physical memory mappings", (view, call) => PageTables.DescribePages(view, view.GetState(call.State.Processor))),
        Make("trace-events", "show available trace-events & their state", _ => new ContextCommands(context).Traced()),
        Make("uuid", "show the current VM UUID", _ => Machine.Parts.Options.Uuid.ToString("D")),
        Make("version", "show the version of Sharpvisor", _ => context.Version),
        Make("vnc", "show the vnc server status", _ => context.Vnc is { } vnc ? $"default:\n  Server: :{vnc.Port} (ipv4)\n    Auth: {(vnc.HasPassword ? "vnc" : "none")}\n  Clients: {vnc.ClientCount}" : "Server: disabled"),
    ];

    private static string Lines(IEnumerable<string> lines) => string.Join('\n', lines);

    private static MonitorCommand Make(string name, string help, Func<MonitorCall, string> run, int mostArguments = 0) => new([name], "", help, call =>
    {
        call.CheckCount(mostArguments);
        return Task.FromResult(run(call));
    });

    /// <summary>A command that looks at processors.</summary>
    private MonitorCommand Inspect(string name, string help, Func<Debugging.MachineDebugger, MonitorCall, string> run, string parameters = "") =>
        new([name], parameters, help, call => Machine.InspectAsync(view => run(view, call), call.Cancellation));

    /// <summary>Looks at devices, which must not change meanwhile.</summary>
    private string Devices(Func<string> run)
    {
        using (Machine.Gate.Enter())
            return Machine.Exit.IsCompleted ? throw new InvalidOperationException("the machine has ended") : run();
    }

    private static string Registers(Debugging.MachineDebugger view, MonitorCall call)
    {
        call = call.TakeFlag("-a", out var isAll);
        call.CheckCount(0);
        return string.Concat((isAll ? Enumerable.Range(0, view.ProcessorCount) : [call.State.Processor]).Select(i => GuestRegisters.Describe(view.GetState(i), i)));
    }

    private static string Dump(DumpProgress dump) =>
        $"Status: {Words.Of(dump.Status)}{(dump.Status == DumpStatus.Active ? string.Create(CultureInfo.InvariantCulture, $"\nFinished: {100.0 * dump.Completed / Math.Max(1, dump.Total):f2} %") : "")}";

    private string Status() => Machine.State switch
    {
        RunState.Running => "VM status: running",
        RunState.Paused => "VM status: paused",
        var other => $"VM status: paused ({Words.Of(other)})",
    };

    private string Blocks(string? only)
    {
        var text = new StringBuilder();
        foreach (var disk in Machine.Parts.Disks.Where(d => only is null || d.Drive.Name == only))
        {
            var drive = disk.Drive;
            text.Append(text.Length > 0 ? "\n" : "");
            if (drive.Image is DiskImage image)
                text.Append(CultureInfo.InvariantCulture, $"{drive.Name}: {image.Name} ({image.Format}{(drive.IsReadOnly ? ", read-only" : "")})\n");
            else
                text.Append(CultureInfo.InvariantCulture, $"{drive.Name}: {drive.ImageName ?? "[not inserted]"}\n");
            text.Append(CultureInfo.InvariantCulture, $"    Attached to:      {disk.Kind}\n");
            if (disk.Cdrom is { } cdrom)
                text.Append(CultureInfo.InvariantCulture, $"    Removable device: {(cdrom.IsLocked ? "locked" : "not locked")}, tray {(cdrom.IsTrayOpen ? "open" : "closed")}\n");
            if (drive.HasMedium)
                text.Append(CultureInfo.InvariantCulture, $"    Cache mode:       {(drive.WriteCache ? "writeback" : "writethrough")}{(drive.Options.Cache is CacheMode.None or CacheMode.DirectSync ? ", direct" : "")}\n");
            if ((drive.Image as DiskImage)?.Backing is { } backing)
                text.Append(CultureInfo.InvariantCulture, $"    Backing file:     {backing.Name}\n");
            if (drive.WaitingRequests > 0)
                text.Append(CultureInfo.InvariantCulture, $"    I/O status:       nospace, {drive.WaitingRequests} requests wait for cont\n");
        }

        return text.Length > 0 || only is null ? text.ToString() : throw new ControlException($"Device '{only}' not found");
    }

    private string Interrupts()
    {
        var text = new StringBuilder("IRQ statistics for i8259 and ioapic:\n");
        for (var pin = 0; pin < PinCount; pin++)
        {
            if (Machine.Parts.IoApic?.Assertions(pin) is > 0 and var count)
                text.Append(CultureInfo.InvariantCulture, $"{pin,2}: {count}\n");
        }

        return text.ToString();
    }

    private const int PinCount = Sharpvisor.Devices.Interrupts.IoApic.PinCount;

    private string MemoryTree()
    {
        var text = new StringBuilder("address-space: memory\n");
        var memory = Machine.Memory;
        var lines = new List<(ulong Start, ulong End, string Name)> { (0, memory.Below4G, "ram") };
        if (memory.Above4G > 0)
            lines.Add((1UL << 32, (1UL << 32) + memory.Above4G, "ram-above-4g"));
        lines.AddRange(memory.Mappings.Select(m => (m.Start, m.Start + m.Length, $"{(m.Writes is null ? "rom" : m.Reads == m.Writes ? "ram" : "shadow")} {(m.Reads ?? m.Writes)!.Name}")));
        lines.AddRange(Machine.Mmio.Sections.Select(s => (s.Start, s.End, $"i/o {s.Mapping.Name}")));
        Append(text, lines);
        text.Append("\naddress-space: I/O\n");
        Append(text, Machine.Ports.Sections.Select(s => (s.Start, s.End, $"i/o {s.Mapping.Name}")));
        return text.ToString();
    }

    private static void Append(StringBuilder text, IEnumerable<(ulong Start, ulong End, string Name)> lines)
    {
        foreach (var (start, end, name) in lines.OrderBy(l => l.Start))
            text.Append(CultureInfo.InvariantCulture, $"  {start:x16}-{end - 1:x16}: {name}\n");
    }

    private string Networks()
    {
        var text = new StringBuilder();
        foreach (var (nic, i) in Machine.Parts.Nics.Select((n, i) => (n, i)))
        {
            text.Append(CultureInfo.InvariantCulture, $"{nic.Kind}.{i}: index=0,type=nic,model={nic.Kind},macaddr={nic.Address}\n");
            var backend = nic.Backend;
            while (backend is PcapDump dump)
                backend = dump.Inner;
            if (backend is not UserNetwork network)
                continue;
            var figures = network.Figures;
            text.Append(CultureInfo.InvariantCulture, $" \\ {network.Name}: index=0,type=user,net={network.Options.Network},restrict={(network.Options.Restrict ? "on" : "off")}\n");
            text.Append(CultureInfo.InvariantCulture, $"    from guest: {figures.FramesFromGuest} frames, {figures.BytesFromGuest} bytes; to guest: {figures.FramesToGuest} frames, {figures.BytesToGuest} bytes\n");
            text.Append(CultureInfo.InvariantCulture, $"    tcp: {figures.Connections} connections, {figures.ConnectionsOpened} opened, {figures.ConnectionsRefused} refused, {figures.Retransmissions} retransmissions; udp: {figures.UdpFlows} flows\n");
            text.Append(CultureInfo.InvariantCulture, $"    pool: {figures.Pool.InUse} of {figures.Pool.Limit} bytes, peak {figures.Pool.Peak}, refusals {figures.Pool.Refusals}\n");
            if (figures.Drops.Count > 0)
                text.Append(CultureInfo.InvariantCulture, $"    dropped: {string.Join(", ", figures.Drops.Select(d => $"{d.Key} {d.Value}"))}\n");
        }

        return text.ToString();
    }
}
