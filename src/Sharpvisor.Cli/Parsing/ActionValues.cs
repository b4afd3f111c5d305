// What becomes of a machine whose guest is through: -action as qemu(1) describes it, and -on-poweroff, -on-reboot and
// -on-crash with the words of Xen's xl.cfg(5). A triple fault is a crash for -on-crash; for -action it is a reset.
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Cli.Parsing;

internal static class ActionValues
{
    private const string Events = "reboot=reset|shutdown, shutdown=poweroff|pause, panic=none|pause|shutdown|exit-failure, watchdog=ACTION";

    /// <summary>-action reboot=reset|shutdown,shutdown=poweroff|pause,panic=…,watchdog=….</summary>
    public static void Action(RunSettings settings, string value)
    {
        var actions = settings.Actions;
        foreach (var part in value.Split(','))
        {
            actions = part switch
            {
                "reboot=reset" => actions with { Reboot = RebootAction.Reset },
                "reboot=shutdown" => actions with { Reboot = RebootAction.Shutdown },
                "shutdown=poweroff" => actions with { Shutdown = ShutdownAction.PowerOff },
                "shutdown=pause" => actions with { Shutdown = ShutdownAction.Pause },
                "panic=none" => actions with { Panic = PanicAction.None },
                "panic=pause" => actions with { Panic = PanicAction.Pause },
                "panic=shutdown" => actions with { Panic = PanicAction.Shutdown },
                "panic=exit-failure" => actions with { Panic = PanicAction.ExitFailure },
                // There is no watchdog here that could run out.
                "watchdog=reset" or "watchdog=shutdown" or "watchdog=poweroff" or "watchdog=pause" or "watchdog=debug" or "watchdog=none" or "watchdog=inject-nmi" => actions,
                _ => throw new ConfigurationException($"-action {value}: \"{part}\" is unknown; there are {Events}"),
            };
        }

        settings.Actions = actions;
    }

    public static void OnPowerOff(RunSettings settings, string value) => settings.Actions = settings.Actions with
    {
        Shutdown = value switch
        {
            "destroy" => ShutdownAction.PowerOff,
            "restart" => ShutdownAction.Restart,
            "preserve" => ShutdownAction.Pause,
            _ => throw Unknown("-on-poweroff", value, ["destroy", "restart", "preserve"]),
        },
    };

    public static void OnReboot(RunSettings settings, string value) => settings.Actions = settings.Actions with
    {
        Reboot = value switch
        {
            "destroy" => RebootAction.Shutdown,
            "restart" => RebootAction.Reset,
            "preserve" => RebootAction.Pause,
            _ => throw Unknown("-on-reboot", value, ["destroy", "restart", "preserve"]),
        },
    };

    /// <summary>-on-crash destroy|restart|preserve|coredump-destroy|coredump-restart|coredump-preserve[,core=FILE].</summary>
    public static void OnCrash(RunSettings settings, string value)
    {
        const string withCore = "coredump-";
        var keys = new KeyValues("-on-crash", value, implied: "action", ["action", "core"]);
        var text = keys["action"] ?? throw keys.Error("there is no action; give preserve");
        var hasCore = text.StartsWith(withCore, StringComparison.Ordinal);
        if (keys["core"] is not null && !hasCore)
            throw keys.Error($"core= is for {withCore}ACTION; give {withCore}{text}, or leave it out");
        settings.Actions = settings.Actions with
        {
            IsTripleFaultPanic = true,
            CoreFile = hasCore ? keys["core"] ?? "" : null,
            Panic = (hasCore ? text[withCore.Length..] : text) switch
            {
                "destroy" => PanicAction.ExitFailure,
                "restart" => PanicAction.Restart,
                "preserve" => PanicAction.Pause,
                _ => throw Unknown("-on-crash", value, ["destroy", "restart", "preserve", "coredump-destroy", "coredump-restart", "coredump-preserve"]),
            },
        };
    }

    private static ConfigurationException Unknown(string flag, string value, string[] words) =>
        new($"{flag} {value}: the nearest is {Nearest.Of(value, words)} of {string.Join(", ", words)}");
}
