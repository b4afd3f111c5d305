// What -boot says. Letters of devices as QEMU's pc machine has them: a and b floppy, c disk, d CD-ROM, n to p network.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Boot;

/// <summary>What firmware is asked to start from. A device's own boot index goes before <see cref="Order"/>.</summary>
public sealed record BootOptions
{
    public const string DefaultOrder = "cad";

    private const int MaximumDevices = 3;

    /// <summary>Letters of devices, first to last.</summary>
    public string Order { get; init; } = DefaultOrder;

    /// <summary>The order for the first start only; null: the same.</summary>
    public string? Once { get; init; }

    /// <summary>Firmware offers a menu.</summary>
    public bool Menu { get; init; }

    /// <summary>How long the menu's key is waited for, in milliseconds; null: as firmware likes.</summary>
    public int? SplashTime { get; init; }

    /// <summary>Milliseconds before the machine resets when nothing could be started; -1: never.</summary>
    public int RebootTimeout { get; init; } = -1;

    /// <summary>Start from devices with a boot index only.</summary>
    public bool Strict { get; init; }

    /// <exception cref="ConfigurationException">A letter is unknown or there twice, or there are too many.</exception>
    public static string CheckOrder(string order, string what)
    {
        foreach (var letter in order)
        {
            if (Nibble(letter) == 0)
                throw new ConfigurationException($"{what}: there is no boot device '{letter}'; give a (floppy), c (disk), d (CD-ROM), n (network)");
        }

        if (order.Distinct().Count() != order.Length)
            throw new ConfigurationException($"{what}: a boot device is named twice; name each once");
        if (order.Length is 0 or > MaximumDevices)
            throw new ConfigurationException($"{what}: give 1 to {MaximumDevices} boot devices, such as {DefaultOrder}");
        return order;
    }

    /// <summary>The order as firmware finds it in CMOS memory: four bits a device, the first one lowest.</summary>
    public static int ToNibbles(string order)
    {
        var nibbles = 0;
        for (var i = 0; i < Math.Min(order.Length, MaximumDevices); i++)
            nibbles |= Nibble(order[i]) << (4 * i);
        return nibbles;
    }

    private static int Nibble(char letter) => letter switch
    {
        'a' or 'b' => 1,
        'c' => 2,
        'd' => 3,
        'n' or 'o' or 'p' => 4,
        _ => 0,
    };
}
