// screendump, eject and change of QEMU's monitor (hmp-commands.hx).
using Sharpvisor.Servers.Control;

namespace Sharpvisor.Servers.Monitor;

/// <summary>Commands for screens and removable media.</summary>
internal sealed class MediaCommands(ControlContext context)
{
    private MachineOperations Operations => context.Operations;

    public IEnumerable<MonitorCommand> All =>
    [
        new(["screendump"], "filename [-f ppm|png]", "save screen into PPM or PNG image 'filename'", MachineCommands.Text(call =>
        {
            var words = call.Words.ToList();
            var format = "ppm";
            var flag = words.IndexOf("-f");
            if (flag >= 0)
            {
                format = flag + 1 < words.Count ? words[flag + 1] : throw call.Missing();
                words.RemoveRange(flag, 2);
            }

            if (words.Count == 0)
                throw call.Missing();
            if (words.Count > 1)
                throw new ControlException("there is one console only: leave device and head out");
            Operations.Screendump(words[0], format);
            return "";
        })) { Complete = i => i == 0 ? null : ["-f", "png", "ppm"] },
        new(["eject"], "[-f] device", "eject a removable medium (use -f to force it)", async call =>
        {
            call = call.TakeFlag("-f", out var isForced);
            call.CheckCount(1);
            await Operations.EjectAsync(call.Word(0), isForced).ConfigureAwait(false);
            return "";
        }) { Complete = i => i == 0 ? Drives : [] },
        new(["change"], "device [-f] filename [format] | vnc password TEXT", "change a removable medium, or the vnc password", async call =>
        {
            call = call.TakeFlag("-f", out var isForced);
            call.CheckCount(4);
            if (call.Word(0) == "vnc")
            {
                if (call.Word(1) is not ("password" or "passwd"))
                    throw new ControlException("change vnc: give password and the new one");
                (context.Vnc ?? throw new ControlException("No vnc device has been activated")).SetPassword(System.Text.Encoding.UTF8.GetBytes(call.Word(2)));
                return "";
            }

            await Operations.ChangeMediumAsync(call.Word(0), call.Word(1), call.OptionalWord(2), isForced).ConfigureAwait(false);
            return "";
        }) { Complete = i => i == 0 ? Drives : null },
    ];

    private IEnumerable<string> Drives => context.Machine.Parts.Disks.Where(d => d.IsRemovable).Select(d => d.Drive.Name);
}
