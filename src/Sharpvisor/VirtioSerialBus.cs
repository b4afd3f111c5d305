using Sharpvisor.Boards;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;
using Sharpvisor.Devices.Virtio;

namespace Sharpvisor;

/// <summary>Consoles and channels between guest and host: QEMU's virtio-serial.</summary>
/// <param name="Ports">In the order in which they get their numbers.</param>
public sealed record VirtioSerialBus(IReadOnlyList<VirtioSerialPort> Ports) : VirtioPciDevice
{
    /// <summary>How many ports the guest is told that there could be: 1 to 511.</summary>
    public int MaximumPorts { get; init; } = 31;

    internal override string Kind => "virtio-serial-pci";

    internal override int? DefaultVectors => MaximumPorts + 1;

    internal override IEnumerable<IAsyncDisposable> Backends => Ports.Select(p => p.Backend).OfType<IAsyncDisposable>();

    internal override VirtioDevice Create(BoardContext context, int processors)
    {
        if (MaximumPorts is < 1 or > VirtioConsole.MaximumPorts)
            throw new ConfigurationException($"{Kind}: {MaximumPorts} ports; give 1 to {VirtioConsole.MaximumPorts}");
        var options = new List<VirtioConsolePortOptions>();
        foreach (var port in Ports)
        {
            if (port.Name is { } name && options.Exists(o => o.Name == name))
                throw new ConfigurationException($"{Kind}: two ports have the name {name}; give each its own");
            if (port.Name is { Length: > VirtioSerialPort.MaximumName } || port.Name?.All(char.IsAscii) == false)
                throw new ConfigurationException($"{Kind}: the name {port.Name} is too long or has other characters than ASCII; give up to {VirtioSerialPort.MaximumName} of those");
            options.Add(new VirtioConsolePortOptions(NumberOf(port, options)) { IsConsole = port.IsConsole, Name = port.Name, Backend = port.Backend });
        }

        return new VirtioConsole(options, MaximumPorts, context.Gate, context.Errors) { OffersPackedRings = OffersPackedRings, WithheldFeatures = WithheldFeatures };
    }

    /// <summary>The first console gets number 0, which is all that old drivers know; other ports never do.</summary>
    private int NumberOf(VirtioSerialPort port, List<VirtioConsolePortOptions> others)
    {
        bool IsFree(int number) => !others.Exists(o => o.Number == number);
        if (port.Number is not { } wanted)
        {
            var reserved = Ports.Select(p => p.Number).ToHashSet();
            var number = Enumerable.Range(port.IsConsole ? 0 : 1, MaximumPorts).FirstOrDefault(n => IsFree(n) && !reserved.Contains(n), MaximumPorts);
            return number < MaximumPorts ? number : throw new ConfigurationException($"{Kind}: no number is left for one more port; give it more by max_ports=");
        }

        if (wanted < 0 || wanted >= MaximumPorts)
            throw new ConfigurationException($"{Kind}: a port number {wanted}; give 0 to {MaximumPorts - 1}");
        if (wanted == 0 && !port.IsConsole)
            throw new ConfigurationException($"{Kind}: port number 0 is for consoles; give another nr=");
        return IsFree(wanted) ? wanted : throw new ConfigurationException($"{Kind}: two ports have number {wanted}; give one another nr=");
    }
}

/// <summary>A port on a <see cref="VirtioSerialBus"/>.</summary>
/// <param name="Backend">Where it leads; null: nowhere.</param>
public sealed record VirtioSerialPort(ICharBackend? Backend)
{
    internal const int MaximumName = 255;

    /// <summary>For a console of the guest's system (virtconsole, hvc0), not for programs (virtserialport).</summary>
    public bool IsConsole { get; init; }

    /// <summary>By which programs in the guest find it: /dev/virtio-ports/NAME in Linux with udev.</summary>
    public string? Name { get; init; }

    /// <summary>Null: the first free one.</summary>
    public int? Number { get; init; }
}
