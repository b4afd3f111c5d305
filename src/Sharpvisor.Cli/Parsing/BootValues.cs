// -boot as qemu(1) describes it.
using System.Globalization;
using Sharpvisor.Boot;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

internal static class BootValues
{
    /// <summary>-boot cd; -boot order=cd,once=d,menu=on,splash-time=5000,reboot-timeout=1000,strict=on.</summary>
    public static void Boot(RunSettings settings, string value)
    {
        var boot = settings.Boot;
        foreach (var part in value.Split(','))
        {
            var equals = part.IndexOf('=', StringComparison.Ordinal);
            var (key, text) = equals < 0 ? ("order", part) : (part[..equals], part[(equals + 1)..]);
            var what = $"-boot {value}";
            boot = key switch
            {
                "order" => boot with { Order = BootOptions.CheckOrder(text, what) },
                "once" => boot with { Once = BootOptions.CheckOrder(text, what) },
                "menu" => boot with { Menu = OnOff(what, key, text) },
                "strict" => boot with { Strict = OnOff(what, key, text) },
                "splash-time" => boot with { SplashTime = Milliseconds(what, key, text, 0) },
                "reboot-timeout" => boot with { RebootTimeout = Milliseconds(what, key, text, -1) },
                "splash" => throw new ConfigurationException($"{what}: splash pictures are not in this version; leave splash= out"),
                _ => throw new ConfigurationException($"{what}: unknown option \"{key}\"; there are order, once, menu, splash-time, reboot-timeout and strict"),
            };
        }

        settings.Boot = boot;
    }

    private static bool OnOff(string what, string key, string text) => text switch
    {
        "on" => true,
        "off" => false,
        _ => throw new ConfigurationException($"{what}: {key}={text}; give on or off"),
    };

    private static int Milliseconds(string what, string key, string text, int minimum) =>
        int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var number) && number >= minimum && number <= 0xFFFF
            ? number
            : throw new ConfigurationException($"{what}: {key}={text}; give milliseconds from {minimum} to 65535");
}
