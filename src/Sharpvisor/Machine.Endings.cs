using Microsoft.Extensions.Logging;
using Sharpvisor.Core;
using Sharpvisor.Core.Guests;
using Sharpvisor.Cpu;
using Sharpvisor.Debugging;
using Sharpvisor.Debugging.Cores;

namespace Sharpvisor;

/// <content>What becomes of it when its guest is through.</content>
public sealed partial class Machine
{
    private void Reboot(MachineExit exit, int processor = 0)
    {
        switch (Actions.Reboot)
        {
            case RebootAction.Reset:
                _loop.RequestReset();
                break;
            case RebootAction.Shutdown when Actions.Shutdown != ShutdownAction.Pause:
                _loop.RequestEnd(exit);
                break;
            default:
                Preserve(exit, processor);
                break;
        }
    }

    private void ShutDown(MachineExit exit)
    {
        switch (Actions.Shutdown)
        {
            case ShutdownAction.PowerOff:
                _loop.RequestEnd(exit);
                break;
            case ShutdownAction.Pause:
                Preserve(exit);
                break;
            case ShutdownAction.Restart:
                _loop.RequestReset();
                break;
        }
    }

    /// <summary>The guest is through, and the machine stays for someone who looks at it.</summary>
    private void Preserve(MachineExit exit, int processor = 0)
    {
        _logger.LogInformation("{Message}; the machine stays paused", exit.Message);
        Raise(new MachineEvent(MachineEventKind.Shutdown, exit.Cause));
        _loop.ShutDown(processor);
    }

    private void Crash(MachineExit exit, int processor = 0)
    {
        var actions = Actions;
        var action = actions is { Panic: PanicAction.Shutdown, Shutdown: ShutdownAction.Pause } ? PanicAction.Pause : actions.Panic;
        var name = action switch { PanicAction.None => "run", PanicAction.Pause => "pause", _ => "poweroff" };
        Raise(new MachineEvent(MachineEventKind.GuestPanicked, ShutdownCause.GuestPanic, name));
        if (action != PanicAction.None && actions.CoreFile is { } core)
        {
            _loop.RequestPause(new DebugStop(DebugStopKind.ShutDown, processor), RunState.GuestPanicked);
            _ = DumpAsync(core, action, exit);
            return;
        }

        switch (action)
        {
            case PanicAction.None when exit.Reason == MachineExitReason.TripleFault:
                Reboot(exit, processor); // there is nothing that could go on
                break;
            case PanicAction.None:
                _logger.LogWarning("{Message}", exit.Message);
                break;
            case PanicAction.Pause:
                _logger.LogError("{Message}; the machine stays paused", exit.Message);
                _loop.RequestPause(new DebugStop(DebugStopKind.ShutDown, processor), RunState.GuestPanicked);
                break;
            case PanicAction.Restart:
                _logger.LogError("{Message}; the machine starts anew", exit.Message);
                _loop.RequestReset();
                break;
            default:
                _loop.RequestEnd(OfPanic(exit, action));
                break;
        }
    }

    private static MachineExit OfPanic(MachineExit exit, PanicAction action) =>
        action == PanicAction.ExitFailure && exit.Code == 0 ? exit with { Code = MachineExit.FailureCode } : exit;

    /// <summary>Writes the core of a crashed guest, whose processors are held, and does then what is to be done with it.</summary>
    /// <param name="path">Empty: one by name and time in the current directory.</param>
    private async Task DumpAsync(string path, PanicAction action, MachineExit exit)
    {
        if (path.Length == 0)
            path = $"{Name}-{DateTime.Now:yyyyMMdd-HHmmss}.core";
        try
        {
            await InspectAsync(view =>
            {
                GuestCore.Write(view, Memory.Ranges, path);
                return true;
            }).ConfigureAwait(false);
            _logger.LogError("{Message}; its core is {Path}", exit.Message, path);
        }
        catch (ConfigurationException e)
        {
            _logger.LogError("{Message}; {Reason}", exit.Message, e.Message);
        }
        catch (Exception e) when (e is not InvalidOperationException)
        {
            OnInternalError(e, "core");
            return;
        }
        catch (InvalidOperationException)
        {
            return; // the machine has ended meanwhile
        }

        switch (action)
        {
            case PanicAction.Pause:
                break;
            case PanicAction.Restart:
                await ResetAsync().ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                await ResumeAsync().ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
                break;
            default:
                _loop.End(OfPanic(exit, action));
                break;
        }
    }
}
